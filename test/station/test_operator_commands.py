# SPDX-License-Identifier: Apache-2.0
"""`mlkd init`, `mlkd stop`, `mlkd status` as processes, against a real tracker and its camera."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from station_support import CAMERA, SIZE, TRACKER, Observer, mlkd, wait_until

from mlkd_ros.cli import main
from mlkd_ros.cli.fly import parse_stamp
from mlkd_ros.msg import TrackStatus

STAMP = r"(\d+\.\d{9})"


def test_a_target_is_designated_followed_and_stopped(
    start_node: Callable, observer: Observer, capsys: pytest.CaptureFixture
) -> None:
    start_node("night_camera", "--ros-args", *CAMERA)
    start_node("tracker", "--ros-args", *TRACKER)
    observer.meet("night_camera", "tracker")
    wait_until(observer.newest, "a processed image")
    result = mlkd("status", "--once", "--timeout", 60)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(rf"{STAMP}  -  IDLE  latency -?\d+ ms\n", result.stdout)

    # On the image of a stamp, to the nanosecond.
    stamp = observer.newest()
    text = f"{stamp // 10**9}.{stamp % 10**9:09d}"
    result = mlkd("init", "--box", *observer.truth[stamp], "--stamp", text, "--target-id", "car")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"on the image of {text}: target car designated")
    good = lambda s: s.target_id == "car" and observer.overlap(s) > 0.5  # noqa: E731
    wait_until(lambda: list(filter(good, observer.since(stamp))), "the target in its box")

    # On an image of the past, by the camera's own clock, drawn on a picture of half the size.
    stamp = wait_until(observer.newest, "an image")
    half = [value / 2 for value in observer.truth[stamp]]
    sizes = ("--image-size", SIZE[0] // 2, SIZE[1] // 2)
    code = main(["init", "--box", *map(str, (*half, *sizes)), "--ago", "1.0", "--timeout", "30"])
    output, error = capsys.readouterr()
    assert code == 0, error
    started, now = (parse_stamp(t) * 1e-9 for t in re.findall(STAMP, output)[:2])
    assert 0.65 < now - started < 4.0, output
    (width,) = re.findall(r"box \S+ \S+ (\S+) ", output)[:1] or [None]
    assert width is None or float(width) > 0.6 * observer.truth[stamp][2]

    # Refused: with the name of the code, and nothing has changed.
    for arguments, code in (
        (("init", "--box", "nan", 1, 20, 20), "INVALID_BOX"),
        (("init", "--box", 5000, 1, 20, 20), "BOX_OUTSIDE_IMAGE"),
        (("init", "--box", 10, 10, 20, 20, "--stamp", "12.5"), "STAMP_OUTSIDE_HISTORY"),
        (("stop", "--target-id", "nobody"), "UNKNOWN_TARGET"),
    ):
        assert main([*map(str, arguments)]) == 1
        assert f"refused, {code}: " in capsys.readouterr().err
    assert observer.statuses[-1].state != TrackStatus.IDLE

    stamp = observer.newest()
    assert main(["stop"]) == 0
    assert "no longer following" in capsys.readouterr().out
    wait_until(
        lambda: [s for s in observer.since(stamp) if s.state == TrackStatus.IDLE], "no target"
    )

    # The wrong namespace: told which is right.
    result = mlkd("stop", "--namespace", "/uav7", "--timeout", 3)
    assert result.returncode == 3
    assert "no service /uav7/stop within 3 s" in result.stderr
    assert "There is one in namespace /mlkd" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("init", "--box", 1, 2, 3, 4), ("no service /mlkd/init_target", "ROS_DOMAIN_ID")),
        (("init", "--box", 1, 2, 3, 4, "--ago", 1), ("no service /mlkd/init_target",)),
        (("stop",), ("no service /mlkd/stop", "--namespace")),
        (("status",), ("no tracker publishes /mlkd/status", "ROS_DOMAIN_ID")),
    ],
)
def test_nobody_there(arguments: tuple, words: tuple, capsys: pytest.CaptureFixture) -> None:
    assert main([*map(str, arguments), "--timeout", "1"]) == 3
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("init",), "--box"),
        (("init", "--box", "1", "2", "3"), "--box"),
        (("init", "--box", "1", "2", "3", "wide"), "invalid float"),
        (("init", "--box", "1", "2", "3", "4", "--ago", "-1"), "0 or more"),
        (("init", "--box", "1", "2", "3", "4", "--ago", "inf"), "0 or more"),
        (("init", "--box", "1", "2", "3", "4", "--ago", "1", "--stamp", "1"), "not allowed with"),
        (("init", "--box", "1", "2", "3", "4", "--stamp", "1e9"), "not a stamp"),
        (("init", "--box", "1", "2", "3", "4", "--stamp", "2147483648.0"), "below 2147483648"),
        (("init", "--box", "1", "2", "3", "4", "--image-size", "0", "5"), "whole number"),
        (("stop", "--timeout", "0"), "above 0"),
        (("status", "--timeout", "soon"), "above 0"),
    ],
)
def test_wrong_usage(arguments: tuple, word: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert word in capsys.readouterr().err


def test_a_namespace_that_is_none(capsys: pytest.CaptureFixture) -> None:
    assert main(["stop", "--namespace", "my drone"]) == 2
    assert "'my drone' is not a namespace" in capsys.readouterr().err


def test_stamps_are_read_to_the_nanosecond() -> None:
    assert parse_stamp("1764000000.123456789") == 1764000000123456789
    assert parse_stamp("3.5") == 3_500_000_000
    assert parse_stamp("7") == 7_000_000_000
