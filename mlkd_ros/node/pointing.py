# SPDX-License-Identifier: Apache-2.0
"""Designation by topics: the clicks and rectangles of the tools that people have.

rqt_image_view publishes clicks as geometry_msgs/Point, Foxglove as geometry_msgs/PointStamped with
the time of the click; a rectangle is a sensor_msgs/RegionOfInterest. Nobody waits for an answer:
the log and the diagnostics give it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from geometry_msgs.msg import Point, PointStamped
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import RegionOfInterest

from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.node.graph import wrong_type
from mlkd_ros.node.messages import nanoseconds
from mlkd_ros.node.parameters import Settings
from mlkd_ros.session.history import FrameHistory, HeldFrame
from mlkd_ros.session.targets import (
    Code,
    Designation,
    DesignationError,
    TargetSet,
    full_resolution,
    image_seen,
)
from mlkd_ros.tracking import BoxOutsideImageError, InvalidBoxError
from mlkd_ros.tracking.proposal import propose_box, square_around

__all__ = ["Mark", "Pointing", "designation", "fitted"]

Box = tuple[float, float, float, float]

#: Seconds that fitting a box to a click may take; on an idle core of a small computer it takes 0.1.
_FIT_BUDGET = 1.5


@dataclass(frozen=True)
class Mark:
    """A click (`w` and `h` are None) or a rectangle, in pixels of the picture it was made on.

    `stamp` is in nanoseconds, 0 for the newest image; `source` is the topic.
    """

    source: str
    x: float
    y: float
    w: float | None = None
    h: float | None = None
    stamp: int = 0

    def __str__(self) -> str:
        what = "click" if self.w is None else f"{self.w:g}x{self.h:g} rectangle"
        return f"{what} at ({self.x:g}, {self.y:g}) on {self.source}"


class Pointing:
    """Subscribes to the topics that the parameters name and hands each mark to `take`.

    last: the latest mark and what came of it, in words.
    """

    def __init__(self, node: Node, settings: Settings) -> None:
        self.last = ""
        self._node = node
        self._topics: list[tuple[Any, str, Callable[[str, Any], Mark]]] = [
            (kind, topic, mark)
            for kind, topic, mark in (
                (PointStamped, settings.point_topic, _mark_of_stamped),
                (Point, settings.mouse_topic, _mark_of_point),
                (RegionOfInterest, settings.rectangle_topic, _mark_of_region),
            )
            if topic
        ]
        self._subscriptions: list[Subscription[Any]] = []

    def subscribe(self, take: Callable[[Mark], None]) -> None:
        """Hand marks to `take`, on the executor's thread, from now on."""
        for kind, topic, mark in self._topics:
            name = self._node.resolve_topic_name(topic)

            def on_message(message: Any, name: str = name, mark: Any = mark) -> None:
                take(mark(name, message))

            self._subscriptions.append(self._node.create_subscription(kind, topic, on_message, 10))

    def type_problem(self) -> str:
        """Who publishes something else on the topics, in words; empty if nobody."""
        problems = (
            wrong_type(self._node, one.topic_name, one.msg_type) for one in self._subscriptions
        )
        return "; ".join(filter(None, problems))

    def unsubscribe(self) -> None:
        """No more marks."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def conclude(self, mark: Mark, outcome: str) -> None:
        """Say what came of a mark."""
        self.last = f"{mark}: {outcome}"
        self._node.get_logger().info(self.last)

    def refuse(self, mark: Mark, reason: str) -> None:
        """Say why nothing came of it."""
        self.last = f"{mark} refused: {reason}"
        self._node.get_logger().warning(self.last, throttle_duration_sec=0.5)

    def values(self) -> dict[str, str]:
        """For diagnostics."""
        return {"designated by topic": self.last} if self._topics else {}


def _mark_of_stamped(source: str, message: PointStamped) -> Mark:
    stamp = nanoseconds(message.header.stamp)
    return Mark(source, message.point.x, message.point.y, stamp=stamp)


def _mark_of_point(source: str, message: Point) -> Mark:
    return Mark(source, message.x, message.y)


def _mark_of_region(source: str, message: RegionOfInterest) -> Mark:
    x, y = float(message.x_offset), float(message.y_offset)
    return Mark(source, x, y, float(message.width), float(message.height))


def designation(
    mark: Mark, targets: TargetSet, history: FrameHistory, settings: Settings
) -> Designation:
    """What is to be followed after a mark; on the tracking thread. Raises DesignationError."""
    newest = image_seen(0, history)
    # Tools stamp a click with its own time, which is later than that of any image.
    late = newest.stamp is None or mark.stamp >= newest.stamp
    held = newest if late else image_seen(mark.stamp, history)
    scale = held.frame.width / (settings.click_image_width or held.frame.width)
    if mark.w is not None and mark.h is not None:
        box: Box = (mark.x * scale, mark.y * scale, mark.w * scale, mark.h * scale)
    else:
        box = _box_around((mark.x * scale, mark.y * scale), held, targets, settings.click_size)
    return Designation(box=box, stamp=held.stamp or 0)


def fitted(
    asked: Designation, targets: TargetSet, history: FrameHistory, size: float
) -> Designation:
    """The designation of a point, with a box in the place of it: fitted to what is there, or a
    square of `size` pixels where that is above 0. Raises DesignationError.
    """
    held = image_seen(asked.stamp, history)
    x, y, _, _ = full_resolution(replace(asked, box=(*asked.box[:2], 1.0, 1.0)), held)
    box = _box_around((x, y), held, targets, size)
    return replace(asked, box=box, stamp=held.stamp or 0, image_size=(0, 0), fit=False)


def _box_around(
    point: tuple[float, float], held: HeldFrame, targets: TargetSet, size: float
) -> Box:
    try:
        if size > 0:
            return square_around(held.frame, point, size)
        return propose_box(lambda box: targets.look(held, box), held.frame, point, _FIT_BUDGET)
    except BoxOutsideImageError as error:
        raise DesignationError(Code.BOX_OUTSIDE_IMAGE, str(error)) from error
    except InvalidBoxError as error:
        raise DesignationError(Code.INVALID_BOX, str(error)) from error
    except UnusableImageError as error:
        raise DesignationError(Code.UNUSABLE_IMAGE, str(error)) from error
