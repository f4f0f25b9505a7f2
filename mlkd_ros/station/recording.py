# SPDX-License-Identifier: Apache-2.0
"""A recording that is started from the page: the executable `recorder` as a child process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlkd_ros.share import share_directory

__all__ = ["Recording", "RecordingError"]

#: Seconds in which the recorder says that it records, or why not; and in which it ends.
_BEGINS, _ENDS = 30.0, 30.0
#: What it says when it has begun, before the path of the bag.
_BEGUN = "recording to "
_LINES_KEPT = 5


class RecordingError(Exception):
    """It cannot be recorded; the message says why."""


class Recording:
    """At most one at a time, into `folder`. In the event loop.

    `changed` is called, with a sentence where the recording ended by itself, whenever it begins or
    ends; `path` and `since` (seconds, Unix) are of the one that runs.
    """

    def __init__(
        self, folder: Path | None, arguments: Sequence[str], changed: Callable[[str], None]
    ) -> None:
        self.path = ""
        self.since = 0.0
        self._folder, self._arguments, self._changed = folder, list(arguments), changed
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        self._lines: list[str] = []
        self._told_to_end = False
        self._busy = asyncio.Lock()

    @property
    def on(self) -> bool:
        """Whether something is recorded now."""
        return bool(self.path)

    @property
    def possible(self) -> bool:
        """Whether there is a folder to record into."""
        return self._folder is not None

    async def start(self) -> str:
        """Begin; the path of the bag. Raises RecordingError."""
        async with self._busy:
            if self.on:
                return self.path
            if self._folder is None:
                raise RecordingError("recording is switched off here (--recordings is empty)")
            await self._begin(self._folder)
            return self.path

    async def _begin(self, folder: Path) -> None:
        executable = share_directory().parents[1] / "lib" / "mlkd_ros" / "recorder"
        self._begun.clear()
        self._lines, self._told_to_end = [], False
        try:
            self._process = await asyncio.create_subprocess_exec(
                str(executable),
                f"{folder}/",
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                # Ctrl-C in the terminal is the station's: it ends the recorder itself.
                start_new_session=True,
            )
        except OSError as error:
            raise RecordingError(f"the recorder cannot be started: {error}") from error
        self._reader = asyncio.create_task(self._read(self._process))
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._begun.wait(), _BEGINS)
        if not self.on:
            why = self._lines[-1] if self._lines else f"it said nothing for {_BEGINS:g} s"
            await self._end()
            raise RecordingError(f"the recorder did not begin: {why}")
        self._changed("")

    async def stop(self) -> str:
        """End it; what the recorder says of the bag in the end."""
        async with self._busy:
            if not self.on:
                return "nothing was being recorded"
            return await self._end()

    async def _end(self) -> str:
        process, reader = self._process, self._reader
        self._told_to_end = True
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            try:
                await asyncio.wait_for(process.wait(), _ENDS)
            except asyncio.TimeoutError:
                process.kill()
        if reader is not None:
            await reader
        return self._lines[-1] if self._lines else ""

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for raw in process.stdout:
            line = raw.decode(errors="replace").strip()
            if _BEGUN in line and not self.on:
                self.path, self.since = line.split(_BEGUN)[-1], time.time()
                self._begun.set()
            elif line:
                self._lines = [*self._lines, _plain(line)][-_LINES_KEPT:]
        await process.wait()
        was_on, self.path = self.on, ""
        self._begun.set()
        if was_on:
            last = self._lines[-1] if self._lines else f"exit code {process.returncode}"
            self._changed("" if self._told_to_end else f"the recording has ended: {last}")


def _plain(line: str) -> str:
    """A line of the recorder without the marks of a log."""
    return line.split("]: ")[-1].removeprefix("recorder: ")
