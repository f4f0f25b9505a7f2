# SPDX-License-Identifier: Apache-2.0
"""A TrackStatus as the fields of MAVLink CAMERA_TRACKING_IMAGE_STATUS (#275).

For a bridge that sends it, with pymavlink as

    connection.mav.camera_tracking_image_status_send(**camera_tracking_image_status(status))

Nothing here needs a MAVLink library; `docs/mavlink.md` has the whole mapping.
"""

from __future__ import annotations

import math

from mlkd_ros.msg import TrackStatus

__all__ = ["camera_tracking_image_status"]

#: CAMERA_TRACKING_STATUS_FLAGS, CAMERA_TRACKING_MODE, CAMERA_TRACKING_TARGET_DATA.
_IDLE, _ACTIVE, _ERROR = 0, 1, 2
_MODE_NONE, _MODE_RECTANGLE = 0, 2
_DATA_NONE, _DATA_IN_STATUS = 0, 4

_SEEN = (TrackStatus.TRACKING, TrackStatus.UNCERTAIN)


def camera_tracking_image_status(status: TrackStatus) -> dict[str, int | float]:
    """The fields by their names; positions as shares of the image, 0..1, NaN where there are none.

    A target that is seen is ACTIVE with its rectangle, cut at the image's borders. A lost one that
    is searched for is ACTIVE without; one that was given up is an ERROR; none at all is IDLE.
    """
    seen = status.state in _SEEN and status.image_width > 0 and status.image_height > 0
    left = top = right = bottom = math.nan
    if seen:
        left, right = (_share(v, status.image_width) for v in (status.x, status.x + status.width))
        top, bottom = (_share(v, status.image_height) for v in (status.y, status.y + status.height))
    flags = {TrackStatus.IDLE: _IDLE, TrackStatus.GIVEN_UP: _ERROR}
    idle = status.state == TrackStatus.IDLE
    return {
        "tracking_status": flags.get(status.state, _ACTIVE),
        "tracking_mode": _MODE_NONE if idle else _MODE_RECTANGLE,
        "target_data": _DATA_IN_STATUS if seen else _DATA_NONE,
        # Of a point only, which this tracker does not have.
        "point_x": math.nan,
        "point_y": math.nan,
        "radius": math.nan,
        "rec_top_x": left,
        "rec_top_y": top,
        "rec_bottom_x": right,
        "rec_bottom_y": bottom,
    }


def _share(value: float, whole: int) -> float:
    return min(max(value / whole, 0.0), 1.0)
