# SPDX-License-Identifier: Apache-2.0
"""Processes that work for this one, and end with it."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from mlkd_ros.interrupt import end_at_once

__all__ = ["worker_pool"]


@contextlib.contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes. When the block ends with an exception, such as an interrupt, they
    are ended in silence, and what waits for them is not begun.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=end_at_once) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
