# SPDX-License-Identifier: Apache-2.0
"""A target that moves to another tracker: another engine, or the same node after a crash."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mlkd_ros.tracking import PresenceSettings, Tracker, TrackState, load_tracker
from mlkd_ros.tracking.geometry import iou

BOX = (130.0, 90.0, 44.0, 36.0)


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return load_tracker(device="cpu")


def picture(box: tuple[float, float, float, float] | None) -> np.ndarray:
    """A dim ground, with the one textured target at `box`."""
    rng = np.random.default_rng(5)
    ground = cv2.GaussianBlur(rng.normal(70, 60, (240, 320, 3)), (0, 0), 6)
    image = np.clip(ground * 3 - 130, 20, 110).astype(np.uint8)
    coarse = rng.integers(60, 255, (6, 7, 3)).astype(np.uint8)
    if box is not None:
        x, y, w, h = map(int, box)
        image[y : y + h, x : x + w] = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)
    return image


def test_another_tracker_goes_on_with_it(tracker: Tracker) -> None:
    first, second = tracker.sibling(), tracker.sibling()
    first.init(picture(BOX), BOX)
    moved = (134.0, 93.0, 44.0, 36.0)
    first.update(picture(moved))
    record = first.record()
    assert record.state == TrackState.TRACKING
    assert iou(record.box, moved) > 0.6
    second.restore(record)
    result = second.update(picture(moved))
    assert result.state == TrackState.TRACKING
    assert iou(result.box, moved) > 0.6
    np.testing.assert_array_equal(second.record().patch, record.patch)


def test_a_lost_one_is_searched_for_in_the_whole_image(tracker: Tracker) -> None:
    first, second = tracker.sibling(), tracker.sibling()
    first.init(picture(BOX), BOX)
    second.restore(replace(first.record(), state=TrackState.LOST))
    assert second.update(picture(None)).box is None
    elsewhere = (20.0, 180.0, 44.0, 36.0)
    result = None
    for _ in range(60):
        result = second.update(picture(elsewhere))
        if result.box is not None:
            break
    assert result.state == TrackState.TRACKING
    assert result.reacquisitions == 1
    assert iou(result.box, elsewhere) > 0.6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch": np.zeros((8, 8, 3), np.uint8)}, "this student needs"),
        ({"patch": np.zeros((127, 127, 3))}, "float64"),
        ({"box": (0.0, 0.0, np.nan, 5.0)}, "is no box"),
        ({"box": (0.0, 0.0, -3.0, 5.0)}, "is no box"),
    ],
)
def test_a_record_that_cannot_be_used_leaves_the_tracker_as_it_was(
    tracker: Tracker, changes: dict, words: str
) -> None:
    one = tracker.sibling()
    one.init(picture(BOX), BOX)
    record = one.record()
    with pytest.raises(ValueError, match=words):
        one.restore(replace(record, **changes))
    assert one.record().box == record.box


def test_thresholds_change_in_flight(tracker: Tracker) -> None:
    one = tracker.sibling()
    with pytest.raises(RuntimeError, match="no target"):
        one.record()
    one.init(picture(BOX), BOX)
    assert one.update(picture(BOX)).state == TrackState.TRACKING
    one.set_presence(PresenceSettings(uncertain_below=1.0, tracking_above=1.0))
    assert one.update(picture(BOX)).state == TrackState.UNCERTAIN
    assert one.settings.presence.tracking_above == 1.0
