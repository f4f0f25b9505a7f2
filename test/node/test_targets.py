# SPDX-License-Identifier: Apache-2.0
"""Designation on an image of the past, catching up, and that a refusal changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from node_support import Scene

from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.imaging.frame import BgrFrame, Frame
from mlkd_ros.session.history import FrameHistory, HeldFrame
from mlkd_ros.session.targets import Code, Designation, DesignationError, TargetSet
from mlkd_ros.srv import InitTarget
from mlkd_ros.tracking import Tracker, TrackResult, TrackState, tracker
from mlkd_ros.tracking.geometry import iou

STEP = 33_333_333
START = 1_700_000_000_000_000_000


class Undecodable(Frame):
    """An image whose pixels turn out to be unusable only when they are looked at."""

    def _convert(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        raise UnusableImageError("encoding", "cannot be decoded")


def held(scene: Scene, index: int, frame: Frame | None = None) -> HeldFrame:
    frame = frame or BgrFrame(scene.image(index))
    return HeldFrame(frame, START + index * STEP, index + 1, 1)


@pytest.fixture(scope="module")
def history(scene: Scene) -> FrameHistory:
    """Images 0 to 29: one second."""
    history = FrameHistory(10.0, 10**9)
    for index in range(30):
        history.add(held(scene, index))
    return history


@pytest.fixture
def targets(shipped_tracker: Tracker) -> TargetSet:
    return TargetSet(shipped_tracker, 1)


def designate(targets: TargetSet, history: FrameHistory, box, index: int = 0, **fields):
    stamp = START + index * STEP if index is not None else 0
    return targets.designate(Designation(tuple(box), stamp, **fields), history, 5.0)


def refusal(targets: TargetSet, history: FrameHistory, box, **fields) -> DesignationError:
    with pytest.raises(DesignationError) as error:
        targets.designate(Designation(tuple(box), **fields), history, 5.0)
    return error.value


def test_the_codes_are_those_of_the_service() -> None:
    constants = {code.name: getattr(InitTarget.Response, code.name) for code in Code}
    assert constants == {code.name: code.value for code in Code}


def test_starts_on_the_image_seen_and_catches_up(
    targets: TargetSet, history: FrameHistory, scene: Scene
) -> None:
    done = designate(targets, history, scene.box(4), index=4)
    assert (done.start.number, done.newest.number, done.frames_caught_up) == (5, 30, 25)
    assert done.report.target_id == "1"
    assert done.report.result.state in (TrackState.TRACKING, TrackState.UNCERTAIN)
    assert iou(done.report.result.box, scene.box(29)) > 0.6
    report = targets.step(held(scene, 30))[0]
    assert iou(report.result.box, scene.box(30)) > 0.6


def test_no_stamp_means_the_newest_image(
    targets: TargetSet, history: FrameHistory, scene: Scene
) -> None:
    done = designate(targets, history, scene.box(29), index=None)
    assert (done.start.number, done.newest.number, done.frames_caught_up) == (30, 30, 0)
    assert iou(done.report.result.box, scene.box(29)) > 0.6


def test_a_box_in_pixels_of_the_operators_smaller_image(
    targets: TargetSet, history: FrameHistory, scene: Scene
) -> None:
    x, y, w, h = scene.box(29)
    small = (x / 2, y / 4, w / 2, h / 4)
    done = designate(targets, history, small, index=29, image_size=(160, 60))
    assert iou(done.report.result.box, scene.box(29)) > 0.6


class SlowTracking:
    """Counts the images tracked on, each of which takes `seconds` of a clock that only it moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now = 0.0
        self.images: list[Frame] = []
        self.seconds = seconds
        monkeypatch.setattr("mlkd_ros.session.targets.time.monotonic", lambda: self.now)
        monkeypatch.setattr("mlkd_ros.session.targets.update_together", self.update)

    def update(self, trackers, image, stamp=None):
        self.images.append(image)
        self.now += self.seconds
        return tracker.update_together(trackers, image, stamp)


@pytest.mark.parametrize(("seconds", "steps"), [(0.001, 29), (0.04, 10), (0.09, 5), (1.0, 2)])
def test_catching_up_skips_images_evenly_to_keep_to_its_time(
    shipped_tracker: Tracker, scene: Scene, history: FrameHistory, monkeypatch, seconds, steps
) -> None:
    """A tracker as slow as on a small computer must not fall ever further behind."""
    slow = SlowTracking(monkeypatch, seconds)
    done = TargetSet(shipped_tracker, 1).designate(
        Designation(scene.box(0), START), history, catch_up_duration=0.4
    )
    assert slow.now < 0.4 + 2 * seconds
    assert done.frames_caught_up == len(slow.images)
    assert len(slow.images) == pytest.approx(steps, abs=1)
    by_frame = {id(h.frame): h.number for h in history.after(0)}
    numbers = [by_frame[id(image)] for image in slow.images]
    assert numbers[-1] == done.newest.number == 30
    # The first step cannot know the pace; what is left is spread evenly.
    gaps = np.diff(numbers)
    assert gaps.max() <= 29 / max(steps - 2, 1) + 1


def test_catching_up_ends_though_images_come_faster_than_it_tracks(
    shipped_tracker: Tracker, scene: Scene, monkeypatch
) -> None:
    growing = FrameHistory(10.0, 10**9)
    growing.add(held(scene, 0))
    growing.add(held(scene, 1))
    slow = SlowTracking(monkeypatch, 0.02)

    def overtaken(trackers, image, stamp=None):
        for _ in range(3):
            growing.add(held(scene, growing.newest().number))
        return slow.update(trackers, image, stamp)

    monkeypatch.setattr("mlkd_ros.session.targets.update_together", overtaken)
    targets = TargetSet(shipped_tracker, 1)
    done = targets.designate(Designation(scene.box(0), START), growing, catch_up_duration=0.2)
    assert slow.now < 0.25
    assert growing.newest().number - done.newest.number == 3


@pytest.mark.parametrize(
    ("box", "fields", "code", "words"),
    [
        ((np.nan, 5, 20, 20), {}, Code.INVALID_BOX, "finite"),
        ((5, np.inf, 20, 20), {}, Code.INVALID_BOX, "finite"),
        ((5, 5, 0, 20), {}, Code.INVALID_BOX, "at least 2 pixels"),
        ((5, 5, 20, -3), {}, Code.INVALID_BOX, "at least 2 pixels"),
        ((5, 5, 20, 20), {"image_size": (160, 0)}, Code.INVALID_BOX, "both"),
        ((400, 5, 20, 20), {}, Code.BOX_OUTSIDE_IMAGE, "320x240"),
        ((5, -500, 20, 20), {}, Code.BOX_OUTSIDE_IMAGE, "320x240"),
        ((5, 5, 20, 20), {"target_id": "x" * 65}, Code.INVALID_TARGET_ID, "at most 64"),
        ((5, 5, 20, 20), {"target_id": "a\nb"}, Code.INVALID_TARGET_ID, "printable"),
        ((5, 5, 20, 20), {"stamp": 5}, Code.STAMP_OUTSIDE_HISTORY, "history of 30 images spans"),
    ],
)
def test_a_refused_designation_changes_nothing(
    targets: TargetSet, history: FrameHistory, scene: Scene, box, fields, code, words
) -> None:
    designate(targets, history, scene.box(29), index=29)
    error = refusal(targets, history, box, **fields)
    assert error.code == code
    assert words in str(error)
    assert targets.states == {"1": TrackState.TRACKING}
    report = targets.step(held(scene, 30))[0]
    assert (report.target_id, report.result.state) == ("1", TrackState.TRACKING)
    assert iou(report.result.box, scene.box(30)) > 0.6


def test_a_designation_that_fails_on_the_way_changes_nothing(
    targets: TargetSet, history: FrameHistory, scene: Scene, monkeypatch
) -> None:
    designate(targets, history, scene.box(29), index=29)
    with monkeypatch.context() as patch:

        def broken(trackers, image, stamp=None):
            raise RuntimeError("out of device memory")

        patch.setattr("mlkd_ros.session.targets.update_together", broken)
        error = refusal(targets, history, (10, 10, 30, 30), stamp=START)
    assert error.code == Code.INTERNAL_ERROR
    assert "RuntimeError: out of device memory" in str(error)
    assert iou(targets.step(held(scene, 30))[0].result.box, scene.box(30)) > 0.6


def test_no_image_yet(targets: TargetSet) -> None:
    assert refusal(targets, FrameHistory(1.0, 100), (5, 5, 20, 20)).code == Code.NO_IMAGE


def test_images_that_cannot_be_decoded(targets: TargetSet, scene: Scene) -> None:
    history = FrameHistory(10.0, 10**9)
    history.add(held(scene, 0, Undecodable(320, 240)))
    assert refusal(targets, history, scene.box(0)).code == Code.UNUSABLE_IMAGE
    history.add(held(scene, 1))
    history.add(held(scene, 2, Undecodable(320, 240)))
    history.add(held(scene, 3))
    done = designate(targets, history, scene.box(1), index=1)
    assert (done.newest.number, done.frames_caught_up) == (4, 1)
    with pytest.raises(UnusableImageError):
        targets.step(held(scene, 4, Undecodable(320, 240)))
    assert iou(targets.step(held(scene, 5))[0].result.box, scene.box(5)) > 0.6


def test_one_target_is_replaced_and_ids_are_never_mixed_up(
    targets: TargetSet, history: FrameHistory, scene: Scene
) -> None:
    box = scene.box(29)
    assert designate(targets, history, box, 29).report.target_id == "1"
    assert designate(targets, history, box, 29).report.target_id == "2"
    assert designate(targets, history, box, 29, target_id="car").report.target_id == "car"
    assert list(targets.states) == ["car"]
    assert designate(targets, history, box, 29, target_id="car").report.target_id == "car"
    assert designate(targets, history, box, 29, target_id="4").report.target_id == "4"
    assert targets.forget() == ["4"]
    assert targets.forget() == []
    assert targets.step(held(scene, 30)) == []


def test_several_targets(shipped_tracker: Tracker, history: FrameHistory, scene: Scene) -> None:
    targets = TargetSet(shipped_tracker, 2)
    box = scene.box(29)
    designate(targets, history, (20, 20, 40, 40), 29)
    designate(targets, history, box, 29, target_id="car")
    error = refusal(targets, history, box)
    assert error.code == Code.TOO_MANY_TARGETS
    assert "(1, car)" in str(error)
    # Designated anew, it is still one of the two.
    designate(targets, history, box, 29, target_id="car")
    reports = targets.step(held(scene, 30))
    assert [report.target_id for report in reports] == ["1", "car"]
    assert iou(reports[1].result.box, scene.box(30)) > 0.6
    assert targets.forget("bus") == []
    known = reports[0]
    assert {r.target_id for r in targets.step(held(scene, 31), known=known)} == {"1", "car"}
    assert targets.forget("1") == ["1"]
    assert list(targets.states) == ["car"]


def test_a_target_that_was_given_up_makes_room(
    shipped_tracker: Tracker, history: FrameHistory, scene: Scene, monkeypatch
) -> None:
    targets = TargetSet(shipped_tracker, 2)
    designate(targets, history, scene.box(29), 29)
    designate(targets, history, scene.box(29), 29)
    with monkeypatch.context() as patch:
        answers = [
            TrackResult(scene.box(30), 0.9, TrackState.TRACKING),
            TrackResult(None, 0.0, TrackState.GIVEN_UP),
        ]
        patch.setattr("mlkd_ros.session.targets.update_together", lambda *_: answers)
        targets.step(held(scene, 30))
    assert designate(targets, history, scene.box(29), 29).report.target_id == "3"
    assert list(targets.states) == ["1", "3"]
