# SPDX-License-Identifier: Apache-2.0
"""The images that come in: subscribed to, decoded, kept in the history, and handed on.

All of it on the executor's thread; `history` and `monitor` may be asked from any.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, cast

from rclpy.clock import ClockChange, JumpThreshold, ROSClock, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.imaging.frame import Frame
from mlkd_ros.imaging.messages import TRANSPORTS, VIDEO_TRANSPORTS, Decoder, topic_of
from mlkd_ros.imaging.stamps import StampJudge, header_stamp
from mlkd_ros.msg import OperatorView
from mlkd_ros.node import messages
from mlkd_ros.node.diagnostics import CLOCKS_DIFFER, EARLY, Monitor, clocks_differ
from mlkd_ros.node.graph import message_class, wrong_type
from mlkd_ros.node.parameters import Settings
from mlkd_ros.session.history import FrameHistory, HeldFrame

__all__ = ["Intake"]

#: Seconds between two log lines about the same thing.
_LOG_EVERY = 5.0
_OTHER_TRANSPORT = {
    kind: f": set parameter image_transport to {name}, and image_topic to this topic without "
    f"/{name}"
    for name, kind in TRANSPORTS.items()
} | {TRANSPORTS["raw"]: ": set parameter image_transport to raw, image_topic to this topic"}
#: Packets of video that may wait: each is needed for those after it.
_WAITING_PACKETS = 60
#: Seconds that diagnostics speak of what was wrong with a stamp.
_RECENT = 10.0


class Intake:
    """Counts and keeps what comes in between `subscribe` and `unsubscribe`.

    topic: full name of the topic that is subscribed to. image_topic: of the images as they are
    named without their transport. kind: size and encoding of the latest image, in words.
    """

    def __init__(self, node: Node, settings: Settings) -> None:
        self._node = node
        self._settings = settings
        self._transport = settings.image_transport
        self._kind = message_class(TRANSPORTS[self._transport])
        self._decoder = Decoder(settings.camera)
        self._offer: Callable[[HeldFrame], None] = lambda held: None
        self._images: Subscription[Any] | None = None
        self._views: Subscription[OperatorView] | None = None
        self._number = 0
        self.history = FrameHistory(settings.history_duration, settings.history_megabytes << 20)
        self.monitor = Monitor()
        self.image_topic = node.resolve_topic_name(settings.image_topic)
        self.topic = topic_of(self.image_topic, self._transport)
        self.kind = ""
        self._judge = StampJudge()
        self._found_at: dict[str, float] = {}
        self._jumps = node.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)),
            post_callback=self._on_clock_jump,
        )

    def subscribe(self, offer: Callable[[HeldFrame], None]) -> None:
        """Hand every usable image to `offer` from now on."""
        self._offer = offer
        reliability = ReliabilityPolicy[self._settings.reliability.upper()]
        # The newest image only: whatever waits in a queue is late.
        depth = _WAITING_PACKETS if self._transport in VIDEO_TRANSPORTS else 1
        self._images = self._node.create_subscription(
            self._kind,
            # Resolved once: a remapping of image_topic holds for all its transports.
            self._settings.image_topic if self._transport == "raw" else self.topic,
            self._on_image,
            QoSProfile(depth=depth, reliability=reliability),
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

        By its message type or by its QoS.

        Looked up rather than told by an event: when that comes, the publisher has no name yet.
        """
        if self._images is None:
            return ""
        problem = wrong_type(self._node, self.topic, self._kind, _OTHER_TRANSPORT)
        if problem:
            return problem
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
            found = self._decoder.frames(message, message)
        except UnusableImageError as error:
            self.monitor.refused(error.reason, str(error))
            self._node.get_logger().warning(
                f"unusable image on {self.topic}: {error}", throttle_duration_sec=_LOG_EVERY
            )
            return
        for frame, shown in found:
            self._on_frame(frame, shown)

    def _on_frame(self, frame: Frame, message: Any) -> None:
        """What `message` shows is there."""
        self.monitor.accepted()
        self._number += 1
        header = messages.header_of(message)
        stamp = header_stamp(header)
        verdict = self._judge.judge(stamp, self._now())
        if verdict.finding:
            self._report_stamp(verdict.finding)
        held = HeldFrame(
            frame,
            stamp,
            self._number,
            getattr(frame, "nbytes", len(message.data)),
            header,
            verdict.time,
            verdict.finding,
        )
        self.history.add(held)
        encoding = message.format if hasattr(message, "format") else message.encoding
        self._log_kind(f"{frame.width}x{frame.height} {encoding}")
        self._offer(held)

    def _on_view(self, message: OperatorView) -> None:
        sent = map(messages.nanoseconds, message.sent)
        self.history.watched(message.station, sent, messages.nanoseconds(message.oldest) or None)

    def _now(self) -> int:
        """The time of receipt: by a clock that nobody sets, or that of a simulation."""
        clock = cast(ROSClock, self._node.get_clock())
        simulated = clock.now().nanoseconds if clock.ros_time_is_active else 0
        return int(simulated) or time.monotonic_ns()

    def _report_stamp(self, finding: str) -> None:
        """Say what is wrong with the stamps: in the log once, in the diagnostics while it is so."""
        self._found_at[finding] = time.monotonic()
        if self._judge.found[finding] == 1:
            self._node.get_logger().warning(
                f"image stamps on {self.topic}: {StampJudge.describe(finding)}. Tracking goes on, "
                "and images of the past can be designated"
            )

    def latency(self, held: HeldFrame) -> float:
        """Seconds from the image's stamp to now; NaN when that cannot be known.

        So it is while sim time has not begun, or has begun again since the image arrived, and while
        the stamps are none, stand still, or are of another clock.
        """
        if held.number <= self.monitor.of_another_time or self.clock_missing():
            return math.nan
        if held.stamp is None or held.finding:
            return math.nan
        latency = (self._node.get_clock().now().nanoseconds - held.stamp) * 1e-9
        differ = not EARLY <= latency <= CLOCKS_DIFFER
        self.monitor.clock_offset = latency if differ else math.nan
        if differ:
            self._node.get_logger().warning(clocks_differ(self.topic, latency), once=True)
            return math.nan
        return latency

    def clock_missing(self) -> bool:
        """Whether sim time is to be used and there is none yet."""
        clock = cast(ROSClock, self._node.get_clock())
        return bool(clock.ros_time_is_active) and clock.now().nanoseconds == 0

    def stamp_problem(self) -> str:
        """What has been wrong with the stamps of late, in words; empty if nothing was."""
        recent = time.monotonic() - _RECENT
        found = [finding for finding, when in list(self._found_at.items()) if when > recent]
        return "; ".join(StampJudge.describe(finding) for finding in sorted(found))

    def stamp_values(self) -> dict[str, str]:
        """For diagnostics: images by what was wrong with their stamps."""
        found = list(self._judge.found.items())
        return {f"stamps {finding}": str(count) for finding, count in found}

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
        self._judge.begin_again()
        self.monitor.time_set_back(self._number)
        if jump.clock_change == ClockChange.ROS_TIME_NO_CHANGE:
            self._node.get_logger().warning(
                f"the clock was set back by {-jump.delta.nanoseconds * 1e-9:.3f} s: the history "
                "was cleared; tracking goes on"
            )
