#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A node that turns towards the target: `bearing` in, angular velocity out.

    python follow_by_bearing.py --ros-args -p gain:=1.5 -r cmd_vel:=/gimbal/cmd_vel

It publishes geometry_msgs/TwistStamped in the camera's optical frame (x right, y down, z forward):
a turn to the right is a positive rate about y, a turn downwards a negative one about x. A bearing
says how uncertain it is, so the turn is weighted by that; and while there is none, as for a target
that is lost, nothing is turned: the last rate must not go on.
"""

from __future__ import annotations

import math
import sys

import rclpy
from geometry_msgs.msg import TwistStamped
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from mlkd_ros.msg import TargetBearing

#: Radians: a bearing of that uncertainty counts half.
HALF_WEIGHT = math.radians(2.0)


class FollowByBearing(Node):
    """A proportional controller with a limit and a time-out."""

    def __init__(self) -> None:
        super().__init__("follow_by_bearing", namespace="mlkd")
        self._gain = self.declare_parameter("gain", 1.0).value  # 1/s
        self._limit = self.declare_parameter("limit", 0.6).value  # rad/s
        self._timeout = self.declare_parameter("timeout", 0.5).value  # s
        self._target = self.declare_parameter("target_id", "").value  # empty: whichever
        self._last = None
        self._rates = self.create_publisher(TwistStamped, "cmd_vel", 10)
        self.create_subscription(TargetBearing, "bearing", self._on_bearing, 10)
        self.create_timer(0.1, self._on_silence)

    def _on_bearing(self, bearing: TargetBearing) -> None:
        if self._target not in ("", bearing.target_id):
            return
        self._last = self.get_clock().now()
        variance = bearing.covariance[0] + bearing.covariance[3]
        weight = bearing.confidence / (1.0 + variance / HALF_WEIGHT**2)
        command = TwistStamped(header=bearing.header)
        command.twist.angular.y = self._rate(weight * bearing.azimuth)
        command.twist.angular.x = -self._rate(weight * bearing.elevation_down)
        self._rates.publish(command)

    def _rate(self, angle: float) -> float:
        return max(-self._limit, min(self._limit, self._gain * angle))

    def _on_silence(self) -> None:
        if self._last is None:
            return
        if (self.get_clock().now() - self._last).nanoseconds * 1e-9 > self._timeout:
            self._last = None
            self._rates.publish(TwistStamped())  # stand still, once


def main() -> int:
    """Run until told to end."""
    rclpy.init()
    node = FollowByBearing()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
