# SPDX-License-Identifier: Apache-2.0
"""What is made of an image beside its detections, and only when somebody wants it: bearings, the
overlay and, now and then, a judgement of the image itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecyclePublisher
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from mlkd_ros.imaging.encode import compressed_message, image_message, video_message
from mlkd_ros.imaging.messages import TRANSPORTS, VIDEO_TRANSPORTS, topic_of
from mlkd_ros.imaging.video_encoder import Coding, CodingError, VideoEncoder
from mlkd_ros.msg import TargetBearing
from mlkd_ros.node.bearings import Bearings
from mlkd_ros.node.graph import message_class
from mlkd_ros.node.overlay import Overlay
from mlkd_ros.node.parameters import Settings
from mlkd_ros.session.history import HeldFrame
from mlkd_ros.session.image_health import ImageHealth, measure
from mlkd_ros.session.targets import TargetReport

__all__ = ["Extras"]

#: Of the overlay's H.264: how good a picture is where its bit rate allows it, and seconds from one
#: key frame to the next, at the most.
_VIDEO_CRF, _KEY_SECONDS = 24, 1.0

#: Makes a publisher of a type under a name with a queue of some depth.
Advertise = Callable[[Any, str, int], "LifecyclePublisher[Any]"]


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
        self._video: _OverlayVideo | None = None
        if settings.overlay_video in VIDEO_TRANSPORTS:
            self._video = _OverlayVideo(node, settings.overlay_video, advertise)
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
        video = self._video if self._video is not None and self._video.wanted() else None
        if now < self._next_overlay or not (wanted or video):
            return
        self._next_overlay = now + 1.0 / settings.overlay_rate
        canvas = self._overlay.draw(held.frame, reports, latency, settings.overlay_width)
        if Image in wanted:
            self._pictures[Image].publish(image_message(canvas, held.header))
        if CompressedImage in wanted:
            message = compressed_message(canvas, held.header, settings.overlay_quality)
            self._pictures[CompressedImage].publish(message)
        if video is not None:
            video.publish(canvas, held.header, settings)


class _OverlayVideo:
    """The overlay as a stream of H.264. A new subscriber gets a key frame next."""

    def __init__(self, node: Node, transport: str, advertise: Advertise) -> None:
        self._log = node.get_logger()
        self._transport = transport
        # Each packet is needed for those after it: those of a second and more may wait.
        kind, topic = message_class(TRANSPORTS[transport]), topic_of("overlay", transport)
        self._publisher = advertise(kind, topic, 60)
        self._encoder = VideoEncoder()
        self._subscribers = self._count = 0

    def wanted(self) -> bool:
        """Whether somebody subscribes."""
        subscribers = self._publisher.get_subscription_count()
        if subscribers > self._subscribers:
            self._encoder.restart()
        self._subscribers = subscribers
        return subscribers > 0

    def publish(self, canvas: np.ndarray, header: Header, settings: Settings) -> None:
        """The next picture, uint8 BGR."""
        rate = settings.overlay_rate
        every = max(1, round(rate * _KEY_SECONDS))
        coding = Coding(_VIDEO_CRF, settings.overlay_bitrate, rate, every)
        try:
            data, key = self._encoder.encode(canvas, coding)
        except CodingError as error:
            self._log.error(f"overlay: {error}", throttle_duration_sec=5.0)
            return
        size = canvas.shape[1], canvas.shape[0]
        message = video_message(self._transport, data, header, size, self._count, key)
        self._count += 1
        self._publisher.publish(message)
