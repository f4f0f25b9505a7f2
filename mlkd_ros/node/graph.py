# SPDX-License-Identifier: Apache-2.0
"""What stands between a topic and a subscription: another message type, another QoS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

__all__ = ["message_type", "subscribe_latched", "wrong_type"]


def message_type(kind: type) -> str:
    """The ROS name of a message class, such as sensor_msgs/msg/Image."""
    package, folder = kind.__module__.split(".")[:2]
    return f"{package}/{folder}/{kind.__name__}"


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


def subscribe_latched(
    node: Node, kind: type, topic: str, take: Callable[[Any], None], **options: Any
) -> Subscription:
    """Subscribe to what was published before, by a publisher that keeps it for those who come late.

    Such a subscription hears no other publishers, and says nothing about them.
    """
    qos = QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )
    quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
    return node.create_subscription(kind, topic, take, qos, event_callbacks=quiet, **options)
