# SPDX-License-Identifier: Apache-2.0
"""Executable `gimbal`: rates that keep the tracker's target in the middle of the picture.

    gimbal --ros-args -p gain:=2.0

It hears `bearing`, `status` and `gimbal_override`, and publishes `gimbal_rate`
(geometry_msgs/TwistStamped) for whoever turns the camera, while there is a target. Both are angular
velocities of the camera in its optical frame, radians a second: angular.x turns it up, angular.y to
the right; all else is zero. Who drives the gimbal stands still when there was none for 0.5 s.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Any

import rclpy
from geometry_msgs.msg import TwistStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter

from mlkd_ros.gimbal.follower import Follower, FollowerSettings, Mode
from mlkd_ros.msg import TargetBearing, TrackStatus
from mlkd_ros.node.help import take_no_arguments
from mlkd_ros.node.messages import nanoseconds, time_message
from mlkd_ros.node.parameters import Change, declaration, described, descriptor_of
from mlkd_ros.node.start import run_node, warn_of_unknown
from mlkd_ros.tracking import TrackState

__all__ = ["GimbalNode", "GimbalSettings", "main", "rate_message"]

_DESCRIPTION = (
    "Keeps the tracker's target in the middle of the picture: hears bearing, status and "
    "gimbal_override, publishes gimbal_rate; in namespace /mlkd unless -r __ns:=/other is given."
)

#: Commands a second.
_RATE = 30.0


def _degrees(default: float, description: str, high: float) -> Any:
    return declaration(default, description, low=0.0, high=high, change=Change.AT_START)


@dataclasses.dataclass(frozen=True)
class GimbalSettings:
    """The parameters of the node."""

    follow: bool = declaration(
        True,
        "Whether to follow. false: the gimbal stops at once, and nothing is commanded.",
        change=Change.ANY_TIME,
    )
    target_id: str = declaration(
        "",
        "Name of the target to follow. Empty: the one that was there first.",
        change=Change.ANY_TIME,
    )
    gain: float = declaration(
        2.5,
        "Rate for each degree that the target is off, 1/s. Less is softer.",
        low=0.1,
        high=20.0,
        change=Change.AT_START,
    )
    integral_gain: float = declaration(
        0.4,
        "The same for each degree and second that it has been off, 1/s^2.",
        low=0.0,
        high=20.0,
        change=Change.AT_START,
    )
    greatest_rate: float = _degrees(60.0, "Greatest rate that is commanded, degrees/s.", 720.0)
    greatest_acceleration: float = _degrees(
        300.0, "Greatest change of the rate, degrees/s^2; stopping is not limited.", 7200.0
    )
    dead_band: float = _degrees(0.3, "Error that is not acted on, degrees.", 20.0)
    greatest_yaw: float = _degrees(
        180.0, "How far to either side it turns from where it began, degrees, by reckoning.", 3600.0
    )
    greatest_pitch: float = _degrees(60.0, "The same up and down.", 180.0)
    response: float = declaration(
        0.06,
        "Time constant with which the gimbal takes up a rate, seconds.",
        low=0.0,
        high=2.0,
        change=Change.AT_START,
    )
    command_delay: float = declaration(
        0.02,
        "What a command takes to reach the gimbal, seconds.",
        low=0.0,
        high=1.0,
        change=Change.AT_START,
    )
    hold_for: float = declaration(
        2.0,
        "Seconds for which it stands still when the target is not seen, before it goes back.",
        low=0.0,
        high=3600.0,
        change=Change.AT_START,
    )
    return_rate: float = _degrees(
        15.0, "Rate at which it goes back, degrees/s; 0: it stays.", 360.0
    )
    override_for: float = declaration(
        1.0,
        "Seconds after the last message on gimbal_override for which nothing is commanded.",
        low=0.1,
        high=60.0,
        change=Change.AT_START,
    )

    def follower(self) -> FollowerSettings:
        """In the follower's units."""
        return FollowerSettings(
            gain=self.gain,
            integral_gain=self.integral_gain,
            greatest_rate=math.radians(self.greatest_rate),
            greatest_acceleration=math.radians(self.greatest_acceleration),
            dead_band=math.radians(self.dead_band),
            greatest_yaw=math.radians(self.greatest_yaw),
            greatest_pitch=math.radians(self.greatest_pitch),
            response=self.response,
            command_delay=self.command_delay,
            hold_for=self.hold_for,
            return_rate=math.radians(self.return_rate),
        )


class GimbalNode(Node):
    """See the module's description."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("namespace", "mlkd")
        super().__init__("gimbal", **options)
        values = {
            field.name: self.declare_parameter(
                field.name, field.default, descriptor_of(field)
            ).value
            for field in dataclasses.fields(GimbalSettings)
        }
        self._settings = GimbalSettings(**values)
        self._follower = Follower(self._settings.follower())
        self._chosen = ""
        self._stamp = -1
        self._present: set[str] = set()
        self._present_before: set[str] = set()
        self._mode = Mode.OFF
        self._override: tuple[float, TwistStamped] | None = None
        self._rates = self.create_publisher(TwistStamped, "gimbal_rate", 10)
        self.create_subscription(TargetBearing, "bearing", self._on_bearing, 10)
        self.create_subscription(TrackStatus, "status", self._on_status, 20)
        self.create_subscription(TwistStamped, "gimbal_override", self._on_override, 10)
        self.add_on_set_parameters_callback(self._set)
        self.create_timer(1.0 / _RATE, self._command, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _now(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _set(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        names = {field.name for field in dataclasses.fields(GimbalSettings)}
        changes = {p.name: p.value for p in parameters if p.name in names}
        self._settings = dataclasses.replace(self._settings, **changes)
        if "target_id" in changes:
            self._chosen = ""
            self._follower.stop()
        return SetParametersResult(successful=True)

    # --- what the tracker says ------------------------------------------------------------------

    def _on_status(self, message: TrackStatus) -> None:
        stamp = nanoseconds(message.header.stamp)
        if stamp != self._stamp:
            self._stamp = stamp
            self._present_before, self._present = self._present, set()
            if self._chosen and self._chosen not in self._present_before:
                self._leave()
        if message.state == TrackState.IDLE:
            self._leave()
            return
        self._present.add(message.target_id)
        wanted = self._settings.target_id
        if not self._chosen and wanted in ("", message.target_id):
            self._chosen = message.target_id
            self._present_before.add(self._chosen)
        if message.target_id == self._chosen:
            self._follower.unseen(self._now())

    def _leave(self) -> None:
        """What was followed is no more."""
        self._chosen = ""
        self._follower.stop()

    def _on_bearing(self, message: TargetBearing) -> None:
        # Its status comes first: the tracker publishes them in that order.
        if message.target_id != self._chosen or not self._settings.follow or self._overridden():
            return
        covariance = message.covariance
        self._follower.measure(
            self._now(),
            nanoseconds(message.header.stamp) * 1e-9,
            message.azimuth,
            -message.elevation_down,
            (float(covariance[0]), float(covariance[3])),
        )

    # --- what somebody else wants ---------------------------------------------------------------

    def _on_override(self, message: TwistStamped) -> None:
        self._override = (self._now(), message)

    def _overridden(self) -> bool:
        return (
            self._override is not None
            and 0 <= self._now() - self._override[0] < self._settings.override_for
        )

    # --- commands -------------------------------------------------------------------------------

    def _command(self) -> None:
        now = self._now()
        if not self._settings.follow:
            self._follower.stop()
        if self._overridden() and self._override is not None:
            twist = self._override[1].twist.angular
            self._follower.override(now, float(twist.y), float(twist.x))
            self._say(Mode.OFF, "somebody else moves the gimbal")
            return
        command = self._follower.command(now)
        if command.mode is not Mode.OFF:
            self._rates.publish(rate_message(now, command.yaw, command.pitch))
        self._say(command.mode, command.mode.value)

    def _say(self, mode: Mode, text: str) -> None:
        if mode is not self._mode:
            self._mode = mode
            self.get_logger().info(f"gimbal: {text}")


def rate_message(now: float, yaw: float, pitch: float) -> TwistStamped:
    """Rates of the camera, radians a second to the right and up, as the message."""
    message = TwistStamped()
    message.header.stamp = time_message(round(now * 1e9))
    message.header.frame_id = "camera_optical"
    message.twist.angular.x = float(pitch)
    message.twist.angular.y = float(yaw)
    return message


def main(args: Sequence[str] | None = None) -> int:
    """Run the executable. Returns the exit code: 2 for parameters that cannot be used."""
    take_no_arguments("gimbal", _DESCRIPTION, described(GimbalSettings), args)
    return run_node("gimbal", args, _fly)


def _fly() -> int:
    node = GimbalNode()
    try:
        warn_of_unknown(node)
        rclpy.spin(node)
        return 0
    finally:
        node.destroy_node()


if __name__ == "__main__":
    sys.exit(main())
