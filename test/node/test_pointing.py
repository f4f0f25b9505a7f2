# SPDX-License-Identifier: Apache-2.0
"""What a click or a rectangle designates, and on which image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from node_support import Scene

from mlkd_ros.imaging.frame import as_frame
from mlkd_ros.node.parameters import default_settings
from mlkd_ros.node.pointing import Mark, designation, fitted
from mlkd_ros.session.history import FrameHistory, HeldFrame
from mlkd_ros.session.targets import Code, Designation, DesignationError, TargetSet
from mlkd_ros.tracking import Tracker
from mlkd_ros.tracking.geometry import iou

PERIOD = 33_000_000
SETTINGS = replace(default_settings(), click_size=40.0)


@pytest.fixture
def targets(shipped_tracker: Tracker) -> TargetSet:
    return TargetSet(shipped_tracker.sibling(), 1)


@pytest.fixture
def history(scene: Scene) -> FrameHistory:
    history = FrameHistory(3.0, 1 << 28)
    for index in range(5):
        frame = as_frame(scene.image(index * 10))
        history.add(HeldFrame(frame, (index + 1) * PERIOD, index + 1, 1))
    return history


def test_a_square_around_a_click(targets: TargetSet, history: FrameHistory) -> None:
    asked = designation(Mark("/t", 100.0, 90.0), targets, history, SETTINGS)
    assert asked.box == (80.0, 70.0, 40.0, 40.0)
    assert asked.stamp == 5 * PERIOD


def test_a_box_is_fitted(targets: TargetSet, history: FrameHistory, scene: Scene) -> None:
    x, y, w, h = scene.box(40)
    mark = Mark("/t", x + 0.4 * w, y + 0.6 * h)
    asked = designation(mark, targets, history, default_settings())
    assert iou(asked.box, scene.box(40)) > 0.45, asked.box


@pytest.mark.parametrize(
    ("stamp", "image"),
    [
        (0, 5),
        (2 * PERIOD, 2),
        (2 * PERIOD + PERIOD // 3, 2),
        (5 * PERIOD, 5),
        (10**18, 5),  # the time of the click
    ],
)
def test_the_image_of_a_click(
    targets: TargetSet, history: FrameHistory, stamp: int, image: int
) -> None:
    asked = designation(Mark("/t", 50.0, 50.0, stamp=stamp), targets, history, SETTINGS)
    assert asked.stamp == image * PERIOD


def test_pixels_of_a_smaller_picture(targets: TargetSet, history: FrameHistory) -> None:
    settings = replace(SETTINGS, click_image_width=160)  # half of the scene's
    rectangle = designation(Mark("/t", 10.0, 20.0, 30.0, 15.0), targets, history, settings)
    assert rectangle.box == (20.0, 40.0, 60.0, 30.0)
    click = designation(Mark("/t", 50.0, 45.0), targets, history, settings)
    assert click.box == (80.0, 70.0, 40.0, 40.0)  # click_size counts pixels of the camera


@pytest.mark.parametrize(
    ("mark", "code"),
    [
        (Mark("/t", -3.0, 5.0), Code.BOX_OUTSIDE_IMAGE),
        (Mark("/t", float("nan"), 5.0), Code.INVALID_BOX),
        (Mark("/t", 5.0, 5.0, stamp=1 - PERIOD), Code.STAMP_OUTSIDE_HISTORY),
    ],
)
@pytest.mark.parametrize("size", [0.0, 40.0])
def test_bad_marks(
    targets: TargetSet, history: FrameHistory, mark: Mark, code: Code, size: float
) -> None:
    with pytest.raises(DesignationError) as refusal:
        designation(mark, targets, history, replace(SETTINGS, click_size=size))
    assert refusal.value.code == code


def test_before_the_first_image(targets: TargetSet) -> None:
    with pytest.raises(DesignationError) as refusal:
        designation(Mark("/t", 5.0, 5.0), targets, FrameHistory(3.0, 1 << 20), SETTINGS)
    assert refusal.value.code == Code.NO_IMAGE


def test_in_words() -> None:
    assert str(Mark("/cam/clicks", 5.0, 7.5)) == "click at (5, 7.5) on /cam/clicks"
    assert str(Mark("/cam/roi", 5.0, 7.0, 20.0, 10.0)) == "20x10 rectangle at (5, 7) on /cam/roi"


def test_a_request_with_a_point_is_fitted(
    targets: TargetSet, history: FrameHistory, scene: Scene
) -> None:
    """What `fit` in InitTarget asks for, in pixels of a picture of half the size."""
    x, y, w, h = scene.box(40)
    point = ((x + 0.4 * w) / 2, (y + 0.6 * h) / 2, 0.0, 0.0)
    size = (history.at(5 * PERIOD).frame.width // 2, history.at(5 * PERIOD).frame.height // 2)
    asked = Designation(point, 5 * PERIOD, size, "car", fit=True)
    found = fitted(asked, targets, history, 0.0)
    assert (found.stamp, found.image_size, found.target_id) == (5 * PERIOD, (0, 0), "car")
    assert not found.fit
    assert iou(found.box, scene.box(40)) > 0.45, found.box
    assert fitted(asked, targets, history, 40.0).box[2:] == (40.0, 40.0)
    for wrong, code in (
        ((np.nan, 5.0, 0.0, 0.0), Code.INVALID_BOX),
        ((9999.0, 5.0, 0.0, 0.0), Code.BOX_OUTSIDE_IMAGE),
    ):
        with pytest.raises(DesignationError) as error:
            fitted(Designation(wrong, 0, fit=True), targets, history, 0.0)
        assert error.value.code == code
