# SPDX-License-Identifier: Apache-2.0
"""Shared memory that dead processes have left behind."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

__all__ = ["remove_abandoned_segments"]

_FOLDER = Path("/dev/shm")
#: Seconds after which a segment that nobody holds is taken for abandoned, not for just being made.
_YOUNG = 10.0


def remove_abandoned_segments(folder: Path = _FOLDER) -> int:
    """Remove the segments of Fast DDS whose processes are dead; returns how many.

    Each process holds an exclusive lock on `fastdds_<id>_el` as long as it uses the segment
    `fastdds_<id>`, up to 64 MiB large (config/fastdds.xml). One that is killed leaves it behind,
    and a tracker that is killed and respawned again and again would fill the memory of the
    computer. It is what `fastdds shm clean` does, by hand, where that tool is installed. Segments
    of other users, and the ports (which Fast DDS mends itself), are left alone.
    """
    removed = 0
    for lock in folder.glob("fastdds_*_el"):
        if lock.name.startswith("fastdds_port"):
            continue
        try:
            removed += _remove_if_abandoned(lock)
        except OSError:  # another user's, in use, or gone meanwhile
            continue
    return removed


def _remove_if_abandoned(lock: Path) -> bool:
    segment = lock.with_name(lock.name.removesuffix("_el"))
    descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.time() - os.fstat(descriptor).st_mtime < _YOUNG:
            return False
        segment.unlink(missing_ok=True)
        lock.unlink()
        return True
    finally:
        os.close(descriptor)
