# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C ends everything that a user runs at any time, in silence."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from package_support import EXECUTABLES

from mlkd_ros.share import share_directory

PATIENCE = 120.0


def start(name: str, *arguments: str | Path) -> subprocess.Popen[str]:
    path = share_directory().parents[1] / "lib" / "mlkd_ros" / name
    return subprocess.Popen(
        [str(path), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait(process: subprocess.Popen[str], condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, what
        time.sleep(0.01)


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """As a terminal does, to all processes of it; the exit code as a shell has it, and stderr."""
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=PATIENCE)
    code = process.returncode
    return (128 - code if code < 0 else code), said


def loaded(process: subprocess.Popen[str], library: str) -> bool:
    """Whether the process is so far that it has begun to use that library."""
    try:
        return library in Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return False


def on_the_network(process: subprocess.Popen[str]) -> bool:
    """Whether it has a node: DDS has opened its sockets."""
    sockets = 0
    for file in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets += os.readlink(file).startswith("socket:")
    return sockets > 2


@pytest.mark.parametrize("name", EXECUTABLES)
def test_while_it_starts(name: str, tmp_path: Path) -> None:
    arguments = {"mlkd": ["fit", "--help"], "recorder": [tmp_path / "bag"], "replay": [tmp_path]}
    process = start(name, *arguments.get(name, []))
    wait(process, lambda: loaded(process, "numpy/_core/_multiarray_umath"), "numpy")
    code, said = end(process)
    assert code == 130
    assert said == ""


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("gimbal", [], ""),
        ("mavlink", ["--ros-args", "-p", "connections:=udpout:127.0.0.1:14999"], ""),
        ("ground_station", ["--port", "0"], "ground station: http"),
    ],
)
def test_a_node_ends_well(name: str, arguments: list[str], words: str) -> None:
    """With 0, as ROS nodes do: `ros2 launch` takes anything else for a crash."""
    process = start(name, *arguments)
    assert process.stdout is not None
    if words:
        assert process.stdout.readline().startswith(words)
    else:
        wait(process, lambda: on_the_network(process), "DDS")
        time.sleep(1.0)
    code, said = end(process)
    assert code == 0, said
    # What it has logged of its life before is no news of its end.
    assert [line for line in said.splitlines() if not line.startswith("[INFO]")] == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_command_that_serves(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = start("mlkd", "station", "--port", "0", "--recordings", tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ground station: http")
    assert end(process, number) == (code, "")


def test_a_command_that_waits_for_a_tracker() -> None:
    process = start("mlkd", "status", "--timeout", "100", "--namespace", "/nobody")
    wait(process, lambda: on_the_network(process), "DDS")
    assert end(process) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_with_processes_that_work_for_it(tmp_path: Path, number: signal.Signals) -> None:
    """All of them end at once. Ctrl-C reaches each of them, here while they import; SIGTERM only
    the first, here while they work.
    """
    process = start(
        "mlkd", "evaluate", "--dataset", "night-flights", "--jobs", "2", "--results", tmp_path
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    library = "numpy/_core/_multiarray_umath" if number == signal.SIGINT else "/cv2/"

    def working() -> bool:
        maps = [Path(f"/proc/{child}/maps").read_text() for child in children.read_text().split()]
        return sum(library in one for one in maps) == 2

    wait(process, working, "two processes with their libraries")
    begin = time.monotonic()
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert "Traceback" not in said and "Error" not in said
    assert time.monotonic() - begin < 20
