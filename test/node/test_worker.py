# SPDX-License-Identifier: Apache-2.0
"""Newest image only, exact counts, commands in between, and failures that lose no target."""

from __future__ import annotations

import threading

import pytest
from node_support import Scene, wait_until

from mlkd_ros.imaging.frame import BgrFrame
from mlkd_ros.session.history import FrameHistory, HeldFrame
from mlkd_ros.session.targets import Designation, TargetSet
from mlkd_ros.session.worker import NotRunningError, TrackingWorker
from mlkd_ros.tracking import Tracker
from mlkd_ros.tracking.geometry import iou

STEP = 33_333_333


class Bench:
    """A worker whose publishing can be held up, and what came out of it."""

    def __init__(self, tracker: Tracker) -> None:
        self.history = FrameHistory(10.0, 10**9)
        self.may_load, self.may_publish = threading.Event(), threading.Event()
        self.may_load.set()
        self.may_publish.set()
        self.published: list[tuple[HeldFrame, list]] = []
        self.failures: list[tuple[str, Exception]] = []
        self.answers: list[tuple[object, Exception | None]] = []
        self.worker = TrackingWorker(
            lambda: self.may_load.wait(20) and TargetSet(tracker, 1),
            self._publish,
            lambda targets, error: self.recover(targets, error),
            self._failed,
        )
        self.recover = lambda targets, error: False

    def _publish(self, held: HeldFrame, reports: list) -> None:
        self.published.append((held, reports))
        assert self.may_publish.wait(20)

    def _failed(self, what: str, error: Exception) -> None:
        self.failures.append((what, error))

    def offer(self, scene: Scene, index: int) -> HeldFrame:
        held = HeldFrame(BgrFrame(scene.image(index)), index * STEP, index + 1, 1)
        self.history.add(held)
        self.worker.offer(held)
        return held

    def command(self, command) -> object:
        self.worker.submit(command, lambda result, error: self.answers.append((result, error)))

    def numbers(self) -> list[int]:
        return [held.number for held, _ in self.published]

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.published) >= count, 60, f"{count} processed images")


@pytest.fixture
def bench(shipped_tracker: Tracker):
    bench = Bench(shipped_tracker)
    yield bench
    bench.may_load.set()
    bench.may_publish.set()
    bench.worker.stop()


def test_newest_image_only_and_every_other_one_is_counted(bench: Bench, scene: Scene) -> None:
    bench.worker.start()
    bench.may_publish.clear()
    wait_until(lambda: bench.worker.targets is not None, 60, "the tracker")
    bench.offer(scene, 0)
    bench.wait_for(1)
    for index in range(1, 8):
        bench.offer(scene, index)
    bench.may_publish.set()
    bench.wait_for(2)
    assert bench.numbers() == [1, 8]
    assert (bench.worker.processed, bench.worker.dropped) == (2, {"busy": 6})


def test_images_while_loading_are_dropped_but_for_the_newest(bench: Bench, scene: Scene) -> None:
    bench.may_load.clear()
    bench.worker.start()
    for index in range(5):
        bench.offer(scene, index)
    with pytest.raises(NotRunningError, match="not running"):
        bench.command(TargetSet.forget)
    bench.may_load.set()
    bench.wait_for(1)
    assert bench.numbers() == [5]
    assert bench.worker.dropped == {"loading": 4}


def test_after_catching_up_the_image_in_between_is_not_tracked_twice(
    bench: Bench, scene: Scene
) -> None:
    bench.worker.start()
    wait_until(lambda: bench.worker.targets is not None, 60, "the tracker")
    bench.may_publish.clear()
    bench.offer(scene, 0)
    bench.wait_for(1)

    def designate(targets: TargetSet):
        done = targets.designate(Designation(scene.box(0), 0), bench.history, 5.0)
        bench.worker.caught_up(targets, done.newest, done.report)
        return done

    for index in range(1, 6):
        bench.offer(scene, index)
    bench.command(lambda targets: designate(targets))
    bench.may_publish.set()
    wait_until(lambda: len(bench.answers) == 1, 60, "an answer")
    done, error = bench.answers[0]
    assert error is None
    assert done.newest.number == 6
    # Image 6 was still waiting to be tracked live: it is published once, by catching up.
    bench.offer(scene, 6)
    bench.wait_for(3)
    assert bench.numbers() == [1, 6, 7]
    assert iou(bench.published[-1][1][0].result.box, scene.box(6)) > 0.6
    assert (bench.worker.processed, bench.worker.dropped) == (3, {"catching up": 4})


def test_a_failing_image_or_command_ends_nothing(bench: Bench, scene: Scene, monkeypatch) -> None:
    bench.worker.start()
    wait_until(lambda: bench.worker.targets is not None, 60, "the tracker")
    with monkeypatch.context() as patch:
        patch.setattr(TargetSet, "step", lambda *_: 1 / 0)
        bench.offer(scene, 0)
        wait_until(lambda: bool(bench.failures), 60, "a failure")
    assert bench.failures[0][0] == "tracking on image 1"
    assert bench.worker.dropped == {"failed": 1}
    bench.command(lambda _: 1 / 0)
    bench.command(TargetSet.forget)
    wait_until(lambda: len(bench.answers) == 2, 60, "two answers")
    assert isinstance(bench.answers[0][1], ZeroDivisionError)
    assert bench.answers[1] == ([], None)
    bench.offer(scene, 1)
    bench.wait_for(1)
    with monkeypatch.context() as patch:
        patch.setattr(bench.worker, "_publish", lambda *_: 1 / 0)
        bench.offer(scene, 2)
        wait_until(lambda: len(bench.failures) == 2, 60, "another failure")
    assert bench.failures[1][0] == "publishing about image 3"
    bench.offer(scene, 3)
    bench.wait_for(2)


def test_an_image_that_failed_is_tried_again_after_a_recovery(
    bench: Bench, scene: Scene, monkeypatch
) -> None:
    bench.worker.start()
    bench.worker.wait_loaded(10)
    errors = []

    def recover(targets: TargetSet, error: Exception) -> bool:
        errors.append(error)
        monkeypatch.undo()
        return True

    bench.recover = recover
    monkeypatch.setattr(TargetSet, "step", lambda *_: 1 / 0)
    bench.offer(scene, 0)
    bench.wait_for(1)
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert (bench.worker.processed, bench.worker.dropped, bench.failures) == (1, {}, [])


def test_commands_not_begun_when_it_stops_are_refused(bench: Bench, scene: Scene) -> None:
    bench.worker.start()
    wait_until(lambda: bench.worker.targets is not None, 60, "the tracker")
    bench.may_publish.clear()
    bench.offer(scene, 0)
    bench.wait_for(1)
    bench.command(TargetSet.forget)
    bench.worker.stop(timeout=0.05)
    bench.may_publish.set()
    bench.worker.stop()
    assert isinstance(bench.answers[0][1], NotRunningError)


def test_a_load_that_fails_is_told_to_who_waits_for_it() -> None:
    worker = TrackingWorker(lambda: 1 / 0, *[lambda *_: None] * 3)
    worker.start()
    with pytest.raises(ZeroDivisionError):
        worker.wait_loaded(10)
    worker.stop()


def test_an_image_withdrawn_is_not_tracked(bench: Bench, scene: Scene) -> None:
    bench.may_load.clear()
    bench.worker.start()
    assert not bench.worker.wait_loaded(0)
    bench.offer(scene, 0)
    bench.worker.withdraw()
    bench.may_load.set()
    assert bench.worker.wait_loaded(10)
    bench.offer(scene, 1)
    bench.wait_for(1)
    assert bench.numbers() == [2]
