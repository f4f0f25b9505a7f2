# SPDX-License-Identifier: Apache-2.0
"""The targets on disk, so that a tracker that crashed in flight finds them again when it is back.

One small file of plain arrays, without anything that could be executed on reading it. No ROS.
"""

from __future__ import annotations

import contextlib
import os
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlkd_ros.files import replacing
from mlkd_ros.session.targets import TargetSet
from mlkd_ros.tracking import TargetRecord, TrackState

if TYPE_CHECKING:
    from rclpy.impl.rcutils_logger import RcutilsLogger

__all__ = ["ResumeError", "ResumeFile", "Saved", "TargetKeeper", "default_path"]

_FORMAT = "mlkd-resume/1"
#: Seconds between two writes.
_WRITE_EVERY = 1.0


class ResumeError(ValueError):
    """A file to resume from that cannot be used; the message names it and what is wrong."""


@dataclass(frozen=True)
class Saved:
    """Targets by their ids, how the patches were cut out of their images (`context_amount` of the
    student), and how many seconds ago that was."""

    records: dict[str, TargetRecord]
    context_amount: float
    age: float


def default_path(node_name: str) -> Path:
    """Where a node keeps its targets: in the user's state directory, under its full name."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "mlkd_ros" / (node_name.strip("/").replace("/", ".") + ".npz")


class ResumeFile:
    """The file at `path`. One thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next_write = 0.0

    @property
    def due(self) -> bool:
        """Whether the last write is long enough ago."""
        return time.monotonic() >= self._next_write

    def write(self, records: dict[str, TargetRecord], context_amount: float) -> None:
        """Save the targets; without any, the file goes. A reader never sees half of it.

        OSError when the disk does not take it.
        """
        self._next_write = time.monotonic() + _WRITE_EVERY
        if not records:
            self.delete()
            return
        values = list(records.values())
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Not forced to the disk, for the tracker waits: a crash of the process loses nothing.
        with replacing(self.path, sync=False, private=True) as file:
            np.savez(
                file,
                format=np.array(_FORMAT),
                saved_at=np.array(time.time()),
                boot=np.array(_boot()),
                since_boot=np.array(time.clock_gettime(time.CLOCK_BOOTTIME)),
                context_amount=np.array(context_amount),
                names=np.array(list(records)),
                patches=np.stack([record.patch for record in values]),
                boxes=np.array([record.box for record in values], np.float64),
                image_sizes=np.array([record.image_size for record in values], np.int64),
                reacquisitions=np.array([record.reacquisitions for record in values]),
            )

    def delete(self) -> None:
        """Nothing to resume any more."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def read(self) -> Saved | None:
        """The saved targets; None when there is no file. Raises ResumeError."""
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                return _saved({name: arrays[name] for name in arrays.files})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ResumeError(
                f"{self.path}: not a file to resume from ({type(error).__name__}: {error})"
            ) from error


def _saved(arrays: dict[str, np.ndarray]) -> Saved:
    if str(arrays["format"]) != _FORMAT:
        raise ValueError(f"format is {arrays['format']}, needed is {_FORMAT}")
    columns = [arrays[name] for name in ("names", "patches", "boxes", "image_sizes")]
    records = {
        str(name): TargetRecord(
            patch=patch,
            box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
            image_size=(int(size[0]), int(size[1])),
            state=TrackState.LOST,
            reacquisitions=int(count),
        )
        for name, patch, box, size, count in zip(*columns, arrays["reacquisitions"], strict=True)
    }
    return Saved(records, float(arrays["context_amount"]), _age(arrays))


def _age(arrays: dict[str, np.ndarray]) -> float:
    """Seconds since it was saved; by the time since the computer's start, which nobody sets."""
    if "boot" in arrays and _boot() and str(arrays["boot"]) == _boot():
        return time.clock_gettime(time.CLOCK_BOOTTIME) - float(arrays["since_boot"])
    return time.time() - float(arrays["saved_at"])


def _boot() -> str:
    """What tells this start of the computer from others; empty where that is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class TargetKeeper:
    """Saves targets and brings them back; what goes wrong is logged and changes nothing else."""

    def __init__(self, path: Path, logger: RcutilsLogger) -> None:
        self._file = ResumeFile(path)
        self._logger = logger

    @property
    def due(self) -> bool:
        """Whether the last save is long enough ago."""
        return self._file.due

    def read(self, within: float) -> Saved | None:
        """The targets, if they were saved in the last `within` seconds."""
        try:
            saved = self._file.read()
        except ResumeError as error:
            self._logger.warning(f"nothing is resumed: {error}")
            return None
        if saved is not None and not 0 <= saved.age <= within:
            self._logger.info(
                f"nothing is resumed: {self._file.path} was saved {saved.age:.0f} s ago, "
                f"parameter resume_within is {within:g} s"
            )
            return None
        return saved

    def restore(self, targets: TargetSet, saved: Saved) -> None:
        """Have them searched for."""
        try:
            names = targets.restore(saved.records, saved.context_amount)
        except ValueError as error:
            self._logger.warning(
                f"nothing is resumed: {self._file.path} is of another student: {error}"
            )
            return
        self._logger.warning(
            f"resumed, saved {saved.age:.1f} s ago, searching: target {', '.join(names)}"
        )

    def save(self, targets: TargetSet) -> None:
        """Keep what is followed on disk, for after a crash."""
        try:
            self._file.write(targets.records(), targets.context_amount)
        except OSError as error:
            self._logger.error(
                f"the targets cannot be saved to resume from: {error}", throttle_duration_sec=60.0
            )

    def forget(self) -> None:
        """Nothing to resume any more."""
        try:
            self._file.delete()
        except OSError as error:
            self._logger.error(f"{self._file.path} cannot be deleted: {error}")
