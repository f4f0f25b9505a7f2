# SPDX-License-Identifier: Apache-2.0
"""The tracking thread: always the newest image, and the operator's commands in between.

The executor thread offers images and submits commands; it never waits for the tracker. Between the
two there is room for one image: a newer one replaces it, because an old image is never worth a late
answer. No ROS in here.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from mlkd_ros.session.history import HeldFrame
from mlkd_ros.session.targets import TargetReport, TargetSet

__all__ = ["NotRunningError", "TrackingWorker"]

Command = Callable[[TargetSet], Any]


class NotRunningError(RuntimeError):
    """A command that was not carried out: the thread is loading, or ending."""


class TrackingWorker:
    """Runs a `TargetSet` on a thread of its own.

    load: makes the TargetSet; called on the thread, because it takes seconds.
    publish: called on the thread with each processed image and its reports.
    recover: called on the thread with the exception that an image met with; True if something was
        done about it that makes it worth trying that image again.
    failed: called on the thread with an exception and what was being done: the image that failed
        is dropped and the targets are kept.
    """

    def __init__(
        self,
        load: Callable[[], TargetSet],
        publish: Callable[[HeldFrame, list[TargetReport]], None],
        recover: Callable[[TargetSet, Exception], bool],
        failed: Callable[[str, Exception], None],
    ) -> None:
        self._load = load
        self._publish = publish
        self._recover = recover
        self._failed = failed
        self._wake = threading.Condition()
        self._slot: HeldFrame | None = None
        self._commands: deque[tuple[Command, Callable[[Any, Exception | None], None]]] = deque()
        self._targets: TargetSet | None = None
        self._load_error: Exception | None = None
        self._loaded = threading.Event()
        self._stopping = False
        self._seen = 0  # The number of the image looked at last.
        #: Images put through the tracker, and by reason those that were not.
        self.processed = 0
        self.dropped: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)

    def start(self) -> None:
        """Begin loading."""
        self._thread.start()

    def wait_loaded(self, timeout: float) -> bool:
        """Whether the targets are there within `timeout` seconds. Raises what `load` raised."""
        if self._loaded.wait(timeout) and self._load_error is not None:
            raise self._load_error
        return self._targets is not None

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread after the image at hand. Commands not yet begun are refused."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def targets(self) -> TargetSet | None:
        """What is being followed; None while loading."""
        return self._targets

    def offer(self, held: HeldFrame) -> None:
        """Put the newest image in; one that was still waiting is dropped."""
        with self._wake:
            self._slot = held
            self._wake.notify()

    def withdraw(self) -> None:
        """Take out an image that is still waiting."""
        with self._wake:
            self._slot = None

    def submit(self, command: Command, done: Callable[[Any, Exception | None], None]) -> None:
        """Run `command` between two images; `done` gets its result or its exception, on the thread.

        Raises NotRunningError while the tracker is loading and after `stop`.
        """
        with self._wake:
            if self._targets is None or self._stopping:
                raise NotRunningError("the tracker is not running")
            self._commands.append((command, done))
            self._wake.notify()

    def caught_up(self, targets: TargetSet, held: HeldFrame, report: TargetReport) -> None:
        """From a command that brought one target up to `held`: live tracking goes on after that.

        Publishes the image with the other targets stepped on to it too, unless it was already.
        """
        if held.number > self._seen:
            self._account(held, "catching up")
            self._follow(targets, held, known=report)

    def _run(self) -> None:
        try:
            targets = self._load()
        except Exception as error:
            self._load_error = error
            self._loaded.set()
            return
        # Garbage collections look at what came since, not at modules and networks: full ones over
        # those take longer than an image may.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        with self._wake:
            self._targets = targets
        self._loaded.set()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._commands or self._slot)
                if self._stopping:
                    break
                # Commands first: the operator waits for them, and they bring targets up to date.
                command = self._commands.popleft() if self._commands else None
                held = None
                if command is None:
                    held, self._slot = self._slot, None
            if command is not None:
                self._execute(targets, *command)
            elif held is not None:
                self._process(targets, held)
        for _, done in self._commands:
            done(None, NotRunningError("the tracker was stopped meanwhile"))

    def _execute(
        self, targets: TargetSet, command: Command, done: Callable[[Any, Exception | None], None]
    ) -> None:
        try:
            result = command(targets)
        except Exception as error:
            done(None, error)
        else:
            done(result, None)

    def _process(self, targets: TargetSet, held: HeldFrame) -> None:
        if held.number <= self._seen:
            return  # A command has caught up with it, or beyond.
        self._account(held, "busy" if self._seen else "loading")
        self._follow(targets, held)

    def _account(self, held: HeldFrame, reason: str) -> None:
        """Count the images between the last one looked at and this one as dropped."""
        if skipped := held.number - self._seen - 1:
            self.dropped[reason] += skipped
        self._seen = held.number

    def _follow(
        self, targets: TargetSet, held: HeldFrame, known: TargetReport | None = None
    ) -> None:
        """Track on one image and publish. What fails is reported, and the next one is tried."""
        try:
            reports = self._step(targets, held, known)
        except Exception as error:
            self.dropped["unusable" if isinstance(error, ValueError) else "failed"] += 1
            self._failed(f"tracking on image {held.number}", error)
            return
        self.processed += 1
        try:
            self._publish(held, reports)
        except Exception as error:
            self._failed(f"publishing about image {held.number}", error)
        try:
            # Now that the boxes are out.
            targets.settle()
        except Exception as error:
            self._failed(f"renewing templates after image {held.number}", error)

    def _step(
        self, targets: TargetSet, held: HeldFrame, known: TargetReport | None
    ) -> list[TargetReport]:
        try:
            return targets.step(held, known)
        except Exception as error:
            if not self._recover(targets, error):
                raise
        return targets.step(held, known)
