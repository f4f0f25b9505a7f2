# SPDX-License-Identifier: Apache-2.0
"""What is made of an image beside its detections, and only when somebody wants it: bearings, the
overlay and, now and then, a judgement of the image itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.lifecycle import LifecyclePublisher
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from mlkd_ros.imaging.encode import compressed_message, image_message
from mlkd_ros.msg import TargetBearing
from mlkd_ros.node.bearings import Bearings
from mlkd_ros.node.overlay import Overlay
from mlkd_ros.node.parameters import Settings
from mlkd_ros.session.history import HeldFrame
from mlkd_ros.session.image_health import ImageHealth, measure
from mlkd_ros.session.targets import TargetReport

__all__ = ["Extras"]

#: Makes a publisher of a type under a name with a queue of some depth.
Advertise = Callable[[Any, str, int], LifecyclePublisher]


class Extras:
    """Publishes them; `publish` is the tracking thread's, `health` anybody's.

    health: of the image that was judged last, None before the first.
    bearings: the calibration and what is wrong with it.
    """

    def __init__(self, node: Node, settings: Settings, image_topic: str, advertise: Advertise):
        self.health: ImageHealth | None = None
        self.bearings = Bearings(node, image_topic, settings)
        self._bearing = advertise(TargetBearing, "bearing", 10)
        self._pictures = {
            Image: advertise(Image, "overlay", 1),
            CompressedImage: advertise(CompressedImage, "overlay/compressed", 1),
        }
        self._overlay = Overlay()
        self._next_overlay = self._next_health = 0.0

    def publish(
        self, held: HeldFrame, reports: Sequence[TargetReport], latency: float, settings: Settings
    ) -> None:
        """What is wanted about one processed image. UnusableImageError if it cannot be decoded."""
        self._publish_bearings(held, reports)
        self._publish_overlay(held, reports, latency, settings)
        now = time.monotonic()
        if settings.health_rate > 0 and now >= self._next_health:
            self._next_health = now + 1.0 / settings.health_rate
            self.health = measure(held.frame)

    def _publish_bearings(self, held: HeldFrame, reports: Sequence[TargetReport]) -> None:
        if self._bearing.get_subscription_count() == 0:
            self.bearings.problem = ""  # Nobody asks.
            return
        size = (held.frame.width, held.frame.height)
        for message in self.bearings.messages(held.header, size, reports):
            self._bearing.publish(message)

    def _publish_overlay(
        self, held: HeldFrame, reports: Sequence[TargetReport], latency: float, settings: Settings
    ) -> None:
        self._overlay.note(held.seconds, held.frame, reports)
        now = time.monotonic()
        wanted = {kind for kind, to in self._pictures.items() if to.get_subscription_count() > 0}
        if now < self._next_overlay or not wanted:
            return
        self._next_overlay = now + 1.0 / settings.overlay_rate
        canvas = self._overlay.draw(held.frame, reports, latency, settings.overlay_width)
        if Image in wanted:
            self._pictures[Image].publish(image_message(canvas, held.header))
        if CompressedImage in wanted:
            message = compressed_message(canvas, held.header, settings.overlay_quality)
            self._pictures[CompressedImage].publish(message)
