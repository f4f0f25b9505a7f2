# SPDX-License-Identifier: Apache-2.0
"""The images that come in: subscribed to, decoded, kept in the history, and handed on.

All of it on the executor's thread; `history` and `monitor` may be asked from any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import ClockChange, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from mlkd_ros.msg import OperatorView
from mlkd_ros.node import messages
from mlkd_ros.node.compressed import CompressedDecoder
from mlkd_ros.node.decoding import Decoder
from mlkd_ros.node.diagnostics import Monitor
from mlkd_ros.node.history import FrameHistory, HeldFrame
from mlkd_ros.node.parameters import Settings
from mlkd_ros.tracking.encoding import Mono16Range, UnusableImageError
from mlkd_ros.tracking.frame import Frame

__all__ = ["Intake"]

#: Seconds between two log lines about the same thing.
_LOG_EVERY = 5.0


class Intake:
    """Counts and keeps what comes in between `subscribe` and `unsubscribe`.

    topic: full name of the topic that is subscribed to. image_topic: of the images as they are
    named without their transport. kind: size and encoding of the latest image, in words.
    """

    def __init__(self, node: Node, settings: Settings) -> None:
        self._node = node
        self._settings = settings
        mono16 = Mono16Range(settings.mono16_black, settings.mono16_white)
        self._compressed = settings.image_transport == "compressed"
        self._decoder = CompressedDecoder(mono16) if self._compressed else Decoder(mono16)
        self._offer: Callable[[HeldFrame], None] = lambda held: None
        self._images: Subscription | None = None
        self._views: Subscription | None = None
        self._number = 0
        self.history = FrameHistory(settings.history_duration, settings.history_megabytes << 20)
        self.monitor = Monitor()
        self.image_topic = node.resolve_topic_name(settings.image_topic)
        # As image_transport names it.
        self.topic = f"{self.image_topic}/compressed" if self._compressed else self.image_topic
        self.kind = ""
        self._jumps = node.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)),
            post_callback=self._on_clock_jump,
        )

    def subscribe(self, offer: Callable[[HeldFrame], None]) -> None:
        """Hand every usable image to `offer` from now on."""
        self._offer = offer
        reliability = ReliabilityPolicy[self._settings.reliability.upper()]
        self._images = self._node.create_subscription(
            CompressedImage if self._compressed else Image,
            self.topic if self._compressed else self._settings.image_topic,
            self._on_image,
            # The newest image only: whatever waits in a queue is late.
            QoSProfile(depth=1, reliability=reliability),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self.topic = self._images.topic_name
        self._views = self._node.create_subscription(
            OperatorView, "operator_view", self._on_view, 10
        )
        self.monitor.resume()

    def unsubscribe(self) -> None:
        """No more images; those held are of the past by the time the next ones come."""
        if self._images is not None:
            self._node.destroy_subscription(self._images)
            self._images = None
        if self._views is not None:
            self._node.destroy_subscription(self._views)
            self._views = None
        self.history.clear()

    def close(self) -> None:
        """Unsubscribe for good."""
        self.unsubscribe()
        self._jumps.unregister()

    def qos_problem(self) -> str:
        """Which publisher of the image topic cannot reach this node, and why; empty if all can.

        Looked up rather than told by an event: when that comes, the publisher has no name yet.
        """
        if self._images is None:
            return ""
        asked = self._images.qos_profile
        for publisher in self._node.get_publishers_info_by_topic(self.topic):
            offered = publisher.qos_profile
            compatibility, reason = qos_check_compatible(offered, asked)
            if compatibility == QoSCompatibility.ERROR:
                name = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
                if "UNKNOWN" in name:
                    name = "a publisher"
                return (
                    f"no image on {self.topic} comes through from {name}: it offers "
                    f"{offered.reliability.name}, {offered.durability.name}; this node asks for "
                    f"{asked.reliability.name}, {asked.durability.name} ({reason}). "
                    "Set parameter reliability to best_effort, or qos_overrides"
                )
        return ""

    def _on_image(self, message: Any) -> None:
        self.monitor.arrived()
        try:
            frame: Frame = self._decoder.decode(message)
        except UnusableImageError as error:
            self.monitor.refused(error.reason, str(error))
            self._node.get_logger().warning(
                f"unusable image on {self.topic}: {error}", throttle_duration_sec=_LOG_EVERY
            )
            return
        self.monitor.accepted()
        self._number += 1
        stamp = messages.nanoseconds(message.header.stamp)
        held = HeldFrame(frame, stamp, self._number, len(message.data), message.header)
        if self.history.add(held):
            self.monitor.time_set_back(self._number - 1)
            self._node.get_logger().warning(
                f"image stamps on {self.topic} went backwards: a replay began again, or two "
                "cameras publish there. The history was cleared; tracking goes on",
                throttle_duration_sec=_LOG_EVERY,
            )
        encoding = message.format if self._compressed else message.encoding
        self._log_kind(f"{frame.width}x{frame.height} {encoding}")
        self._offer(held)

    def _on_view(self, message: OperatorView) -> None:
        sent = map(messages.nanoseconds, message.sent)
        self.history.watched(message.station, sent, messages.nanoseconds(message.oldest) or None)

    def _log_kind(self, kind: str) -> None:
        if kind != self.kind:
            was = f", before {self.kind}" if self.kind else ""
            self._node.get_logger().info(
                f"images on {self.topic} are {kind}{was}", throttle_duration_sec=1.0
            )
            self.kind = kind

    def _on_clock_jump(self, jump: TimeJump) -> None:
        """Sim time begins again: stamps held and latencies measured are of another time."""
        self.history.clear()
        self.monitor.time_set_back(self._number)
        if jump.clock_change == ClockChange.ROS_TIME_NO_CHANGE:
            self._node.get_logger().warning(
                f"the clock was set back by {-jump.delta.nanoseconds * 1e-9:.3f} s: the history "
                "was cleared; tracking goes on"
            )
