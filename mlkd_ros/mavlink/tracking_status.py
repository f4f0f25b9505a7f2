# SPDX-License-Identifier: Apache-2.0
"""A TrackStatus as the fields of MAVLink CAMERA_TRACKING_IMAGE_STATUS (#275).

For a bridge that sends it, with pymavlink as

    connection.mav.camera_tracking_image_status_send(**camera_tracking_image_status(status))

Nothing here needs ROS or a MAVLink library; `docs/mavlink.md` has the whole mapping.
"""

from __future__ import annotations

import math
from typing import Protocol

from mlkd_ros.tracking import TrackState

__all__ = ["StatusFields", "camera_tracking_image_status", "tracking_flags"]

#: CAMERA_TRACKING_STATUS_FLAGS.
IDLE, ACTIVE, ERROR, COASTING = 0, 1, 2, 8
#: CAMERA_TRACKING_MODE, CAMERA_TRACKING_TARGET_DATA.
_MODE_NONE, _MODE_POINT, _MODE_RECTANGLE = 0, 1, 2
_DATA_NONE, _DATA_IN_STATUS = 0, 4


class StatusFields(Protocol):
    """What is read of a mlkd_ros/TrackStatus; that message will do."""

    @property
    def state(self) -> int:
        """As in the message."""

    @property
    def x(self) -> float:
        """As in the message."""

    @property
    def y(self) -> float:
        """As in the message."""

    @property
    def width(self) -> float:
        """As in the message."""

    @property
    def height(self) -> float:
        """As in the message."""

    @property
    def image_width(self) -> int:
        """As in the message."""

    @property
    def image_height(self) -> int:
        """As in the message."""


def tracking_flags(status: StatusFields) -> int:
    """CAMERA_TRACKING_STATUS_FLAGS: IDLE, ACTIVE, ACTIVE + COASTING while not seen, or ERROR."""
    if status.state == TrackState.IDLE:
        return IDLE
    if status.state == TrackState.GIVEN_UP:
        return ERROR
    return ACTIVE if _seen(status) else ACTIVE | COASTING


def camera_tracking_image_status(
    status: StatusFields, point: bool = False
) -> dict[str, int | float]:
    """The fields by their names; positions as shares of the image, 0..1, NaN where there are none.

    A target that is seen is ACTIVE with its rectangle, cut at the image's borders. One that is not
    is ACTIVE and COASTING without a rectangle while it is searched for, and an ERROR when it was
    given up; none at all is IDLE.

    point: whether the operator pointed at it: then the mode is POINT, and the centre of the box and
    half its greater side, as a share of the image's width, are there beside the rectangle.
    """
    seen = _seen(status)
    left = top = right = bottom = point_x = point_y = radius = math.nan
    if seen:
        left, right = (_share(v, status.image_width) for v in (status.x, status.x + status.width))
        top, bottom = (_share(v, status.image_height) for v in (status.y, status.y + status.height))
        if point:
            point_x, point_y = (left + right) / 2, (top + bottom) / 2
            radius = _share(max(status.width, status.height) / 2, status.image_width)
    mode = _MODE_POINT if point else _MODE_RECTANGLE
    return {
        "tracking_status": tracking_flags(status),
        "tracking_mode": _MODE_NONE if status.state == TrackState.IDLE else mode,
        "target_data": _DATA_IN_STATUS if seen else _DATA_NONE,
        "point_x": point_x,
        "point_y": point_y,
        "radius": radius,
        "rec_top_x": left,
        "rec_top_y": top,
        "rec_bottom_x": right,
        "rec_bottom_y": bottom,
    }


def _seen(status: StatusFields) -> bool:
    """Whether there is a box: not in every image of an UNCERTAIN target there is."""
    return (
        status.state in (TrackState.TRACKING, TrackState.UNCERTAIN)
        and status.image_width > 0
        and status.image_height > 0
        and status.width > 0
        and status.height > 0
    )


def _share(value: float, whole: int) -> float:
    return min(max(value / whole, 0.0), 1.0)
