# SPDX-License-Identifier: Apache-2.0
"""What the node says, as messages. The one place where our boxes and those of vision_msgs meet.

Inside, a box is x, y, w, h with its top-left corner; vision_msgs has centre and size. Both count
pixels of the camera's image, x to the right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from builtin_interfaces.msg import Time
from std_msgs.msg import Header
from vision_msgs.msg import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    ObjectHypothesisWithPose,
)

from mlkd_ros.msg import TrackStatus
from mlkd_ros.session.targets import TargetReport
from mlkd_ros.tracking import TrackState

__all__ = [
    "Counts",
    "box_from_message",
    "box_to_message",
    "detections",
    "header_of",
    "nanoseconds",
    "status",
    "time_message",
]

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Counts:
    """Images since the node started."""

    received: int
    processed: int
    dropped: int


def box_to_message(box: Box) -> BoundingBox2D:
    """x, y, w, h to centre and size."""
    x, y, w, h = (float(value) for value in box)
    message = BoundingBox2D()
    message.center.position.x = x + w / 2
    message.center.position.y = y + h / 2
    message.size_x = w
    message.size_y = h
    return message


def box_from_message(message: BoundingBox2D) -> Box:
    """Centre and size to x, y, w, h. The rotation (`theta`) is ignored."""
    w, h = message.size_x, message.size_y
    return message.center.position.x - w / 2, message.center.position.y - h / 2, w, h


def detections(header: Header, reports: Sequence[TargetReport], class_id: str) -> Detection2DArray:
    """The targets that are seen on one image; none for those that are lost."""
    message = Detection2DArray(header=header)
    for report in reports:
        if report.result.box is None:
            continue
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = class_id
        hypothesis.hypothesis.score = float(report.result.confidence)
        message.detections.append(
            Detection2D(
                header=header,
                id=report.target_id,
                bbox=box_to_message(report.result.box),
                results=[hypothesis],
            )
        )
    return message


def status(
    header: Header,
    report: TargetReport | None,
    image_size: tuple[int, int],
    counts: Counts,
    latency: float,
) -> TrackStatus:
    """How one target is followed on one image; without a report, that there is none.

    `latency` is seconds from the header's stamp to publishing.
    """
    message = TrackStatus(
        header=header,
        state=int(TrackState.IDLE),
        image_width=int(image_size[0]),
        image_height=int(image_size[1]),
        latency=float(latency),
        frames_received=counts.received,
        frames_processed=counts.processed,
        frames_dropped=counts.dropped,
        expected_x=math.nan,
        expected_y=math.nan,
        seconds_to_give_up=math.nan,
    )
    if report is None:
        return message
    message.target_id = report.target_id
    message.state = int(report.result.state)
    message.processing_time = float(report.processing_time)
    message.reacquisitions = int(report.result.reacquisitions)
    if report.result.box is not None:
        message.confidence = float(report.result.confidence)
        message.x, message.y, message.width, message.height = map(float, report.result.box)
    if report.result.state == TrackState.LOST:
        message.expected_x, message.expected_y = map(float, report.result.expected)
        if math.isfinite(report.result.variance):
            variance = float(report.result.variance)
            message.expected_covariance = [variance, 0.0, 0.0, variance]
        message.seconds_lost = float(report.result.lost_for)
        message.seconds_to_give_up = float(report.result.give_up_in)
    return message


def header_of(message: Any) -> Header:
    """The header of an image or of a packet; foxglove_msgs have the fields of one instead."""
    if hasattr(message, "header"):
        return message.header
    return Header(stamp=message.timestamp, frame_id=message.frame_id)


def nanoseconds(stamp: Time) -> int:
    """A stamp as one integer."""
    return int(stamp.sec * 1_000_000_000 + stamp.nanosec)


def time_message(stamp: int) -> Time:
    """Nanoseconds as a stamp."""
    return Time(sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000)
