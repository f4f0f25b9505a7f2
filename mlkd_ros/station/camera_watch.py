# SPDX-License-Identifier: Apache-2.0
"""The camera as the ground station has it: the subscription to its images, and who sends them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from mlkd_ros.imaging.camera import CAMERA_TOPIC, CameraSettings
from mlkd_ros.node.graph import LatchedSubscription, message_type, wrong_type

__all__ = ["CameraWatch", "Video"]

#: Seconds after which DDS has forgotten who did not say good-bye.
_DDS_FORGETS = 25.0
#: Seconds within which images out of their sender's count are looked at, and how many of them make
#: two cameras: one that is started again makes one.
_WINDOW, _OUT_OF_COUNT = 3.0, 3
#: What to do about a type of message that is not subscribed to.
_ADVICE = {
    message_type(kind): f": start the ground station with --image-transport {transport}"
    for kind, transport in ((Image, "raw"), (CompressedImage, "compressed"))
}


@dataclass(frozen=True)
class Video:
    """Where pictures come from. `topic` is relative to the node's namespace, or absolute; `rate` is
    the most that any page is shown, in Hz.
    """

    topic: str = "image"
    compressed: bool = False
    reliability: str = "auto"
    rate: float = 15.0


class CameraWatch:
    """Gives `take` the images while somebody watches, and `heed` the settings of the camera.

    topic: full name of the image topic; last: when the last image came (steady clock, seconds),
    None before the first.
    """

    def __init__(
        self,
        node: Node,
        video: Video,
        take: Callable[[Image | CompressedImage], None],
        heed: Callable[[CameraSettings], None],
    ) -> None:
        self.topic = node.resolve_topic_name(video.topic)
        self.last: float | None = None
        self._node, self._video, self._take, self._heed = node, video, take, heed
        self._kind = CompressedImage if video.compressed else Image
        self._images: Subscription[Any] | None = None
        self._asked = ReliabilityPolicy.BEST_EFFORT
        self._publishers: Sequence[Any] = ()
        self._alone_until = time.monotonic()
        self._count = 0
        self._out_of_count: deque[float] = deque()
        self._settings = LatchedSubscription(node, String, CAMERA_TOPIC, self._on_settings)

    @property
    def publishers(self) -> int:
        """How many publish images, as far as DDS knows."""
        return len(self._publishers)

    def look(self, watched: bool) -> bool:
        """Subscribe to images while somebody watches, as reliably as every publisher offers.

        Returns whether the subscription is another than before. Called now and then.
        """
        self._settings.look()
        self._publishers = self._node.get_publishers_info_by_topic(self.topic)
        if len(self._publishers) < 2:
            self._alone_until = time.monotonic()
        asked = self._reliability()
        ended = False
        if self._images is not None and (not watched or asked != self._asked):
            ended = True
            self._node.destroy_subscription(self._images)
            self._images = None
            if not watched:
                self.last = None  # silence counts from when somebody looks again
        if self._images is None and watched:
            self._asked = asked
            self._images = self._node.create_subscription(
                self._kind,
                self.topic,
                self._on_counted if hasattr(Subscription, "CallbackType") else self._on_image,
                QoSProfile(depth=2, reliability=asked),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        return ended

    def _reliability(self) -> ReliabilityPolicy:
        if not self._publishers:
            return self._asked
        if self._video.reliability != "auto":
            return ReliabilityPolicy[self._video.reliability.upper()]
        offered = {publisher.qos_profile.reliability for publisher in self._publishers}
        # A reliable subscription gets nothing from a best-effort camera; a best-effort one loses
        # most of a reliable camera's images where DDS is not tuned for their size.
        return (
            ReliabilityPolicy.RELIABLE
            if offered == {ReliabilityPolicy.RELIABLE}
            else ReliabilityPolicy.BEST_EFFORT
        )

    def _on_counted(self, message: Image | CompressedImage, info: Mapping[str, Any]) -> None:
        """An image, and which of its sender's it is: numbers that go back are of two senders.

        Humble does not tell the number; there the graph has to do.
        """
        count = info.get("publication_sequence_number")
        if count is not None:
            if count <= self._count:
                self._out_of_count.append(time.monotonic())
            self._count = count
        self._on_image(message)

    def _on_image(self, message: Image | CompressedImage) -> None:
        self.last = time.monotonic()
        self._take(message)

    def _on_settings(self, message: String) -> None:
        try:
            self._heed(CameraSettings.from_json(message.data))
        except ValueError as error:
            topic = self._node.resolve_topic_name(CAMERA_TOPIC)
            self._node.get_logger().warning(f"{topic}: {error}")

    def problem(self) -> str:
        """Who publishes what is no image of the kind that is subscribed to; empty if nobody."""
        if any(one.topic_type == message_type(self._kind) for one in self._publishers):
            return ""
        return wrong_type(self._node, self.topic, self._kind, _ADVICE)

    def conflict(self) -> str:
        """Who sends images beside the camera; empty if nobody.

        A camera that was killed stays in the graph until DDS misses it, so that two in there are
        two only after a while; two whose images come are two at once.
        """
        now = time.monotonic()
        while self._out_of_count and self._out_of_count[0] < now - _WINDOW:
            self._out_of_count.popleft()
        both_heard = len(self._out_of_count) >= _OUT_OF_COUNT
        if not both_heard and now - self._alone_until < _DDS_FORGETS:
            return ""
        names = Counter(
            f"{one.node_namespace.rstrip('/')}/{one.node_name}" for one in self._publishers
        )
        told = ", ".join(
            f"{name} {n} times" if n > 1 else name for name, n in sorted(names.items())
        )
        return (
            f"{max(len(self._publishers), 2)} cameras publish on {self.topic}: {told}. The video "
            "jumps between them and nothing can be followed: give each a topic of its own."
        )
