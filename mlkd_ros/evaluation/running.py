# SPDX-License-Identifier: Apache-2.0
"""Run trackers over sequences: what has no result yet, several sequences at a time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlkd_ros.data.sequences import DatasetError, Sequence
from mlkd_ros.evaluation import trackers as adapters
from mlkd_ros.evaluation.one_pass import run_one_pass, write_result
from mlkd_ros.evaluation.workers import worker_pool

#: Seconds between two lines of progress.
_LINE_EVERY = 5.0


@dataclass(frozen=True)
class Work:
    """Trackers side by side on the frames of one sequence under one condition.

    ``todo`` holds for each tracker's specification the file of its result.
    """

    sequence: Sequence
    condition: str
    noise_seed: int
    todo: Mapping[str, Path]


def run_works(works: list[Work], jobs: int, problems: list[str]) -> None:
    """Do all works and write the results; a sequence that cannot be read is named in ``problems``.

    Args:
        works: Sent to other processes if there is more than one job.
        jobs: Number of sequences at a time, each in a process of its own.
        problems: Gets a sentence for each work that could not be finished.
    """
    with progress(sum(len(work.sequence) for work in works)) as advance:
        if jobs == 1 or len(works) < 2:
            for work in works:
                problems.extend(_do(work, lambda _: advance(1)))
            return
        with worker_pool(min(jobs, len(works))) as pool:
            futures = {pool.submit(_do_beside, work): work for work in works}
            for future in as_completed(futures):
                problems.extend(future.result())
                advance(len(futures[future].sequence))


#: Trackers of this process by specification: loading one takes a second or two.
_made: dict[str, adapters.EvaluatedTracker] = {}


def _do_beside(work: Work) -> list[str]:
    """`_do` in one thread: several sequences at a time already use the cores."""
    import cv2

    cv2.setNumThreads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when PyTorch is imported
    return _do(work)


def _do(work: Work, on_frame: Callable[[int], object] | None = None) -> list[str]:
    """Run and write one work; what went wrong."""
    for name in work.todo:
        if name not in _made:
            _made[name] = adapters.create_tracker(name)
    running = {name: _made[name] for name in work.todo}
    try:
        passes = run_one_pass(running, work.sequence, work.condition, work.noise_seed, on_frame)
    except DatasetError as error:
        return [f"sequence {work.sequence.name} was not finished: {error}"]
    for name, result in passes.items():
        write_result(work.todo[name], result)
    return []


def forget_trackers() -> None:
    """Let go of the trackers that this process has made."""
    _made.clear()


def progress(total: int) -> AbstractContextManager[Callable[[int], object]]:
    """Frames done of all, and how long the rest will take: a bar, or lines where tqdm is not
    installed or nobody looks.
    """
    return _bar(total)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], object]]:
    try:
        from tqdm import tqdm
    except ImportError:
        tqdm = None
    if tqdm is None or not sys.stderr.isatty():
        yield _Lines(total).advance
        return
    bar: Any = tqdm(total=total, unit="frame", disable=not total)
    with bar:
        yield bar.update


class _Lines:
    """A line every few seconds."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._begin = self._last = time.monotonic()

    def advance(self, frames: int) -> None:
        self._done += frames
        now = time.monotonic()
        if now - self._last < _LINE_EVERY or not self._total:
            return
        self._last = now
        left = (now - self._begin) * (self._total - self._done) / self._done
        print(f"{self._done} of {self._total} frames, {left:.0f} s to go", file=sys.stderr)
