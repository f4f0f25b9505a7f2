# SPDX-License-Identifier: Apache-2.0
"""No tracker leaves shared memory behind for good, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mlkd_ros.shared_memory import remove_abandoned_segments

TRACKER = ("--ros-args", "-p", "device:=cpu", "-r", "__ns:=/whiskey")


def segments(pid: int) -> set[Path]:
    """Locks of the segments that a process holds (not those of ports, which several share)."""
    links = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink())
    return {
        Path(link) for link in links
        if link.endswith("_el") and "/fastdds_" in link and "fastdds_port" not in link
    }  # fmt: skip


def aged(lock: Path) -> Path:
    """As if it were a minute old."""
    os.utime(lock, (0, lock.stat().st_mtime - 60))
    return lock


def test_only_what_nobody_holds_is_removed(tmp_path: Path) -> None:
    for name in ("fastdds_aa", "fastdds_bb", "fastdds_cc", "fastdds_port7400", "other_dd"):
        (tmp_path / name).write_bytes(b"segment")
        lock = tmp_path / f"{name}_el"
        lock.touch()
        if name != "fastdds_cc":  # that one is young
            aged(lock)
    with open(tmp_path / "fastdds_bb_el", "r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert remove_abandoned_segments(tmp_path) == 1
    left = {path.name.removesuffix("_el") for path in tmp_path.iterdir()}
    assert left == {"fastdds_bb", "fastdds_cc", "fastdds_port7400", "other_dd"}
    assert remove_abandoned_segments(tmp_path / "nowhere") == 0


def test_of_a_tracker_that_ends_nothing_is_left(start_node: Callable[..., object]) -> None:
    tracker = start_node("tracker", *TRACKER)
    tracker.wait_for_output("ready: ")
    held = segments(tracker.process.pid)
    if not held:
        pytest.skip("this middleware is not Fast DDS, or uses no shared memory")
    assert tracker.stop() == 0
    assert not [lock for lock in held if lock.exists()]


def test_of_a_tracker_that_was_killed_the_next_one_removes_it(
    start_node: Callable[..., object],
) -> None:
    killed = start_node("tracker", *TRACKER)
    killed.wait_for_output("ready: ")
    held = segments(killed.process.pid)
    if not held:
        pytest.skip("this middleware is not Fast DDS, or uses no shared memory")
    killed.process.kill()
    killed.process.wait()
    assert all(aged(lock).exists() for lock in held)
    following = start_node("tracker", *TRACKER)
    following.wait_for_output("ready: ")
    assert not [lock for lock in held if lock.exists()]
    theirs = segments(following.process.pid)
    assert theirs and all(lock.exists() for lock in theirs)
