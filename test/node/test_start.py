# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the arguments, files and environment of a node is said in one line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mlkd_ros.share import share_directory

GOOD = "/mlkd/tracker:\n  ros__parameters:\n    threads: 1\n"


def run(
    name: str, *arguments: str, environment: dict[str, str | None] | None = None
) -> tuple[int, str]:
    """The exit code of an executable that is to end by itself, and what it said."""
    executable = share_directory().parents[1] / "lib" / "mlkd_ros" / name
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(
        [str(executable), *arguments],
        env={key: value for key, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    return done.returncode, said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no.yaml: No such file"),
        ("/mlkd/tracker:\n\tros__parameters:\n", "line 2: begins with a tab"),
        ("/mlkd/tracker: [1,\n", "line 2:"),
        (GOOD.replace("tracker", "follower"), "/mlkd/follower, but none of this"),
        ("threads: 1\n", "has parameters of none, but none of this node, /mlkd/tracker"),
        ("- 1\n", "should begin with '/mlkd/tracker:'"),
        ("/mlkd/tracker:\n  ros__parameters: 5\n", "are no names with values"),
        (f"{GOOD}    image_topic: nose-cam/image\n", "'image_topic' is"),
        ("/mlkd/tracker:\n  ros__parameters:\n    threads: many\n", "threads"),
    ],
)
def test_a_parameter_file_that_cannot_be_used(
    tmp_path: Path, content: str | None, words: str
) -> None:
    file = tmp_path / "no.yaml"
    if content is not None:
        file.write_text(content)
    code, said = run("tracker", "--ros-args", "--params-file", str(file))
    assert code == 2
    assert words in said


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"ROS_DOMAIN_ID": "abc"}, "ROS_DOMAIN_ID is 'abc', it must be a number from 0 to 232"),
        ({"ROS_DOMAIN_ID": "999"}, "ROS_DOMAIN_ID is '999'"),
        ({"HOME": None, "ROS_LOG_DIR": None}, "Set the environment variable ROS_LOG_DIR"),
        ({"ROS_LOG_DIR": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
@pytest.mark.parametrize("name", ["tracker", "recorder"])
def test_an_environment_that_cannot_be_used(
    name: str, environment: dict[str, str | None], words: str
) -> None:
    arguments = ["unused"] if name == "recorder" else []
    code, said = run(name, *arguments, environment=environment)
    assert code == 2
    assert words in said


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (("-r", "image:=a-b"), "letters, digits and _ only"),
        (("-r", "__ns:=/a-b"), "letters, digits and _ only"),
        (("-p", "point_topic:=a b"), "parameter 'point_topic' is 'a b', which is no topic"),
        (("-p", "threads"), "-p threads"),
        (("--log-level", "loud"), "loud"),
    ],
)
def test_arguments_that_cannot_be_used(rule: tuple[str, str], words: str) -> None:
    code, said = run("tracker", "--ros-args", *rule)
    assert code == 2
    assert words in said


def test_a_misspelt_parameter_is_named(tmp_path: Path) -> None:
    """It ends by itself only because of the other one."""
    file = tmp_path / "ours.yaml"
    more = ("devise: cpu", "presence.lost_after: 1.0", "qos_overrides.x: 1")
    file.write_text(GOOD + "".join(f"    {line}\n" for line in more))
    arguments = ("--params-file", str(file), "-p", "checkpoint:=/nowhere.safetensors")
    code, said = run("tracker", "--ros-args", *arguments)
    assert code == 1
    assert "there is no parameter 'devise', it is ignored; is 'device' meant?" in said
    assert said.count("there is no parameter") == 1


@pytest.mark.parametrize(
    "name", ["recorder", "replay", "camera", "night_camera", "ground_station", "mavlink", "gimbal"]
)
def test_every_node_says_so(tmp_path: Path, name: str) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text(f"/mlkd/{name}:\n\tros__parameters:\n")
    arguments = [str(tmp_path)] if name in ("recorder", "replay") else []
    code, said = run(name, *arguments, "--ros-args", "--params-file", str(file))
    assert code == 2
    assert f"{name}: parameter file {file}, line 2: begins with a tab" in said
    if name in ("gimbal", "mavlink"):
        code, said = run(name, environment={"ROS_DOMAIN_ID": "abc"})
        assert code == 2 and "ROS_DOMAIN_ID is 'abc'" in said


@pytest.mark.parametrize(
    "environment", [{"ROS_DOMAIN_ID": "abc"}, {"ROS_LOG_DIR": "/proc/nowhere"}]
)
def test_the_commands_that_speak_with_a_tracker(environment: dict[str, str | None]) -> None:
    code, said = run("mlkd", "status", "--once", environment=environment)
    assert code == 2
    assert said.startswith("mlkd status: ")
    assert all(value in said for value in environment.values() if value)


def test_a_misspelt_parameter_of_the_others_is_named() -> None:
    code, said = run("mavlink", "--ros-args", "-p", "conections:=udpin:127.0.0.1:14550")
    assert code == 2
    assert "there is no parameter 'conections', it is ignored; is 'connections' meant?" in said
