# SPDX-License-Identifier: Apache-2.0
"""TrackStatus in MAVLink's terms."""

from __future__ import annotations

import math

import pytest

from mlkd_ros.mavlink.tracking_status import camera_tracking_image_status
from mlkd_ros.msg import TrackStatus

RECTANGLE = ("rec_top_x", "rec_top_y", "rec_bottom_x", "rec_bottom_y")


def status(state: int, **box: float) -> TrackStatus:
    return TrackStatus(state=state, image_width=1280, image_height=720, **box)


@pytest.mark.parametrize("state", [TrackStatus.TRACKING, TrackStatus.UNCERTAIN])
def test_a_target_that_is_seen(state: int) -> None:
    fields = camera_tracking_image_status(status(state, x=320.0, y=180.0, width=128.0, height=72.0))
    assert [fields[name] for name in ("tracking_status", "tracking_mode", "target_data")] == [
        1,
        2,
        4,
    ]
    assert [fields[name] for name in RECTANGLE] == pytest.approx([0.25, 0.25, 0.35, 0.35])
    assert all(math.isnan(fields[name]) for name in ("point_x", "point_y", "radius"))


def test_a_box_that_reaches_outside_is_cut() -> None:
    fields = camera_tracking_image_status(
        status(TrackStatus.TRACKING, x=-20.0, y=700.0, width=100.0, height=50.0)
    )
    assert [fields[name] for name in RECTANGLE] == pytest.approx([0.0, 700 / 720, 0.0625, 1.0])


@pytest.mark.parametrize(
    ("state", "flag", "mode"),
    [
        (TrackStatus.IDLE, 0, 0),
        (TrackStatus.LOST, 1 | 8, 2),
        (TrackStatus.GIVEN_UP, 2, 2),
    ],
)
def test_without_a_box_there_is_no_rectangle(state: int, flag: int, mode: int) -> None:
    fields = camera_tracking_image_status(status(state))
    assert (fields["tracking_status"], fields["tracking_mode"]) == (flag, mode)
    assert fields["target_data"] == 0
    assert all(math.isnan(fields[name]) for name in RECTANGLE)


def test_an_uncertain_target_that_this_image_does_not_show_is_coasting() -> None:
    fields = camera_tracking_image_status(status(TrackStatus.UNCERTAIN))
    assert (fields["tracking_status"], fields["target_data"]) == (1 | 8, 0)
    assert math.isnan(fields["rec_top_x"])


def test_a_target_that_was_pointed_at_has_its_point_beside_its_rectangle() -> None:
    seen = status(TrackStatus.TRACKING, x=320.0, y=180.0, width=128.0, height=72.0)
    fields = camera_tracking_image_status(seen, point=True)
    assert fields["tracking_mode"] == 1
    assert [fields[name] for name in ("point_x", "point_y", "radius")] == pytest.approx(
        [0.3, 0.3, 0.05]
    )
    assert [fields[name] for name in RECTANGLE] == pytest.approx([0.25, 0.25, 0.35, 0.35])


def test_an_image_without_a_size_divides_nothing_by_zero() -> None:
    fields = camera_tracking_image_status(TrackStatus(state=TrackStatus.TRACKING))
    assert math.isnan(fields["rec_top_x"])
