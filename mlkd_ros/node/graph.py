# SPDX-License-Identifier: Apache-2.0
"""What stands between a topic and a subscription: another message type, another QoS."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

__all__ = ["LatchedSubscription", "message_class", "message_type", "wrong_type"]


def message_type(kind: type) -> str:
    """The ROS name of a message class, such as sensor_msgs/msg/Image."""
    package, folder = kind.__module__.split(".")[:2]
    return f"{package}/{folder}/{kind.__name__}"


def message_class(name: str) -> Any:
    """The class of a ROS name such as sensor_msgs/msg/Image. Raises ImportError, naming the
    package, where its messages are not installed.
    """
    package, _, kind = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except ImportError as error:
        raise ImportError(f"the ROS package {package} is needed, but not installed") from error


def wrong_type(node: Node, topic: str, kind: type, advice: dict[str, str] | None = None) -> str:
    """Who publishes messages of another type on a topic than `kind`, in words; empty if nobody.

    DDS keeps the two apart without a word. advice: what to do about a type, by its ROS name.
    """
    expected = message_type(kind)
    for publisher in node.get_publishers_info_by_topic(topic):
        found = publisher.topic_type
        if found and found != expected:
            name = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
            who = "a publisher" if "UNKNOWN" in name else name
            todo = (advice or {}).get(found, "")
            return f"{who} publishes {found} on {topic}, needed is {expected}{todo}"
    return ""


class LatchedSubscription:
    """What was published before, by a publisher that keeps it for those who come late.

    Subscribes when `look`, called now and then, finds such a publisher: to others it would be one
    that asks for too much, and they would say so in their log.
    """

    def __init__(
        self, node: Node, kind: type, topic: str, take: Callable[[Any], None], **options: Any
    ) -> None:
        self._node, self._kind, self._topic, self._take = node, kind, topic, take
        self._options = options
        self._subscription: Subscription[Any] | None = None

    def look(self) -> None:
        """Subscribe, if there is somebody to subscribe to by now."""
        if self._subscription is not None:
            return
        found = self._node.get_publishers_info_by_topic(self._node.resolve_topic_name(self._topic))
        if not any(p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in found):
            return
        qos = QoSProfile(
            depth=1,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )
        self._subscription = self._node.create_subscription(
            self._kind, self._topic, self._take, qos, **self._options
        )

    def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
