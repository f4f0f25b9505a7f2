# SPDX-License-Identifier: Apache-2.0
"""Processes that work for this one, and end with it."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from mlkd_ros.interrupt import end_at_once

__all__ = ["results_in_order", "worker_pool"]


@contextlib.contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes. When the block ends with an exception, such as an interrupt, they
    are ended in silence, and what waits for them is not begun.

    Nothing that was submitted may be cancelled: up to Python 3.12 the pool stumbles over that when
    its processes end, and says so with a traceback.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=end_at_once) as pool:
        try:
            yield pool
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def results_in_order(
    pool: ProcessPoolExecutor, work: Callable[..., Any], *items: Iterable[Any]
) -> Iterator[Any]:
    """As `pool.map`, which cancels what is left when it is interrupted."""
    futures = [pool.submit(work, *arguments) for arguments in zip(*items, strict=False)]
    for future in futures:
        yield future.result()
