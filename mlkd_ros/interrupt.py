# SPDX-License-Identifier: Apache-2.0
"""How a process of this package ends on Ctrl-C, and when it is told to by other signals."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = [
    "Ended",
    "end_at_once",
    "ended_at_once",
    "ended_by_signals",
    "held_back",
    "leave_interrupts_to_rclpy",
]


class Ended(KeyboardInterrupt):
    """The process was told to end; raised where it was, so that files are finished."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end a command as Ctrl-C does, by an exception, and all of them wait
    where something is `held_back`.

    A terminal that is closed, a service manager and a shutdown send them, and their default is an
    end on the spot: files would stay half written. Only in the main thread; a signal that the
    process was started to ignore (nohup) stays ignored.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, _raise)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Held:
    """How many blocks hold signals back, and what has come meanwhile."""

    blocks = 0
    waiting: KeyboardInterrupt | None = None


def _raise(number: int, frame: FrameType | None) -> None:
    error = KeyboardInterrupt() if number == signal.SIGINT else Ended(number)
    if not _Held.blocks:
        raise error
    _Held.waiting = error


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Have the signals of `ended_by_signals` wait for the end of the block, which is not done by
    halves then. Only the main thread's matter: no other one is interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Held.blocks += 1
    try:
        yield
    finally:
        _Held.blocks -= 1
        waiting = _Held.waiting
        if waiting is not None and not _Held.blocks:
            _Held.waiting = None
            raise waiting


def end_at_once() -> None:
    """Have Ctrl-C end this process on the spot and in silence: it has nothing to finish."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def ended_at_once() -> Iterator[None]:
    """The same inside the block: around imports, where an exception can come up in a library that
    makes another error of it. A signal that the process was started to ignore stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    end_at_once()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave_interrupts_to_rclpy() -> None:
    """Have Ctrl-C end rclpy's context, and nothing else. To be called before `rclpy.init()`.

    Python's KeyboardInterrupt beside that comes up anywhere, also while rclpy converts a message,
    which makes another error of it: a process that was told to end would end as one that failed.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda *_: None)
