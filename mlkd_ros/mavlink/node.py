# SPDX-License-Identifier: Apache-2.0
"""Executable `mavlink`: the tracker as a MAVLink camera, for ground stations over UDP, TCP, serial.

    mavlink --ros-args -p connections:=serial:/dev/ttyTHS1:921600

Two threads: the executor's, which talks to the tracker, and the link's, which owns connections,
vehicle and camera component. What one wants of the other it hands over as a call.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import TwistStamped
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo

from mlkd_ros.mavlink.component import CameraFacts, CameraSettings, Done, Target
from mlkd_ros.mavlink.connections import parse_endpoint, signing_key
from mlkd_ros.mavlink.geolocation import GroundPoint, Uncertainties, locate
from mlkd_ros.mavlink.link import LinkThread
from mlkd_ros.mavlink.settings import MavlinkParameters, MavlinkSettings
from mlkd_ros.mavlink.tracker_client import TrackerClient
from mlkd_ros.mavlink.vehicle import rotation_of_euler
from mlkd_ros.msg import TargetBearing, TrackStatus
from mlkd_ros.node.help import take_no_arguments
from mlkd_ros.node.messages import nanoseconds
from mlkd_ros.node.parameters import ParameterError, described
from mlkd_ros.node.start import run_node

__all__ = ["MavlinkNode", "main"]

_DESCRIPTION = (
    "The tracker as a MAVLink camera: takes CAMERA_TRACK_POINT and CAMERA_TRACK_RECTANGLE from "
    "ground stations and answers with CAMERA_TRACKING_IMAGE_STATUS; docs/mavlink.md has the rest."
)

#: Seconds for which a bearing may stand for a target.
_BEARING_AGE = 0.5
#: Images that the camera's rate is an average over.
_RATE_IMAGES = 30


class _Crossing:
    """The tracker's client as the link's thread sees it: requests go over, outcomes come back."""

    def __init__(self, executor: Executor, client: Callable[[], TrackerClient]) -> None:
        self._executor = executor
        self._client = client
        self.back: Callable[[Callable[[], None]], None] = lambda what: None

    def track_rectangle(self, x: float, y: float, w: float, h: float, done: Done) -> None:
        """See `component.TrackerPort`."""
        self._over(lambda: self._client().track_rectangle(x, y, w, h, self._returning(done)))

    def track_point(self, x: float, y: float, radius: float, done: Done) -> None:
        """See `component.TrackerPort`."""
        self._over(lambda: self._client().track_point(x, y, radius, self._returning(done)))

    def stop(self, done: Done) -> None:
        """See `component.TrackerPort`."""
        self._over(lambda: self._client().stop(self._returning(done)))

    def _over(self, what: Callable[[], None]) -> None:
        self._executor.create_task(what)

    def _returning(self, done: Done) -> Done:
        return lambda outcome: self.back(lambda: done(outcome))


class MavlinkNode(Node):
    """Hears the tracker and hands on what it says; see the module's description.

    Raises ParameterError, ValueError or OSError for parameters that cannot be used.
    """

    def __init__(self, executor: Executor, **options: Any) -> None:
        options.setdefault("namespace", "mlkd")
        super().__init__("mavlink", **options)
        self._declared = MavlinkParameters(self)
        settings = self._declared.settings
        endpoints = [
            parse_endpoint(t.strip()) for t in settings.connections.split(",") if t.strip()
        ]
        key = _read_key(settings.signing_key_file)
        crossing = _Crossing(executor, lambda: self._client)
        self.link = LinkThread(
            endpoints,
            _camera_settings(settings),
            settings.system_id,
            crossing,
            self._log,
            key,
        )
        crossing.back = self.link.call
        self.link.component.geolocate = self._geolocate
        self._client = TrackerClient(self, settings.tracker, self._seen_at)
        self._facts = CameraFacts()
        self._stamps: list[int] = []
        self._bearings: dict[str, TargetBearing] = {}
        self._mount = rotation_of_euler(
            *(
                math.radians(v)
                for v in (settings.mount_roll, settings.mount_pitch, settings.mount_yaw)
            )
        )
        self._sigma = Uncertainties(attitude=math.radians(settings.attitude_error))
        self.create_subscription(TrackStatus, "status", self._on_status, 20)
        self._info = self.create_subscription(
            CameraInfo, "camera_info", self._on_info, qos_profile_sensor_data
        )
        self._bearing_subscription: Any = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._every_second, clock=steady)
        if settings.gimbal:
            self.link.drive_gimbal(settings.gimbal_device_id)
            self.create_subscription(TwistStamped, "gimbal_rate", self._on_rate, 10)
            self._override = self.create_publisher(TwistStamped, "gimbal_override", 10)
            self.create_timer(0.1, self._tell_override, clock=steady)
        self.link.start()

    def destroy_node(self) -> None:
        """End the link, too."""
        self.link.stop()
        super().destroy_node()

    def _log(self, line: str) -> None:
        self.get_logger().info(line)

    def _seen_at(self) -> int:
        delay = self._declared.settings.video_delay
        if delay <= 0:
            return 0
        return max(self.get_clock().now().nanoseconds - round(delay * 1e9), 1)

    # --- what the tracker says ------------------------------------------------------------------

    def _on_status(self, message: TrackStatus) -> None:
        stamp = nanoseconds(message.header.stamp)
        self._client.heard(message, stamp)
        target = Target(
            message.target_id,
            message.state,
            message.x,
            message.y,
            message.width,
            message.height,
            message.image_width,
            message.image_height,
            stamp,
        )
        self._measure(target)
        facts = self._facts

        def tell() -> None:
            self.link.component.facts = facts
            self.link.component.report(target, time.monotonic())

        self.link.call(tell)

    def _measure(self, target: Target) -> None:
        if not self._stamps or target.stamp != self._stamps[-1]:
            self._stamps = [*self._stamps[1 - _RATE_IMAGES :], target.stamp]
        span = self._stamps[-1] - self._stamps[0]
        rate = (len(self._stamps) - 1) / (span * 1e-9) if span > 0 else 0.0
        self._facts = dataclasses.replace(
            self._facts, width=target.image_width, height=target.image_height, rate=rate
        )

    def _on_info(self, message: CameraInfo) -> None:
        if message.width and message.k[0] > 0:
            angle = 2 * math.atan(message.width / 2 / message.k[0])
            self._facts = dataclasses.replace(self._facts, field_of_view=angle)
            # The lens does not change, and these come with every image.
            self.destroy_subscription(self._info)

    def _on_bearing(self, message: TargetBearing) -> None:
        known = {
            name: bearing
            for name, bearing in self._bearings.items()
            if abs(nanoseconds(message.header.stamp) - nanoseconds(bearing.header.stamp))
            < _BEARING_AGE * 1e9
        }
        self._bearings = {**known, message.target_id: message}  # replaced: another thread reads it

    def _geolocate(self, target: Target, now: float) -> GroundPoint | None:
        """The target's place; called in the link's thread."""
        bearing = self._bearings.get(target.target_id)
        position = self.link.vehicle.fresh_position(now)
        if bearing is None or position is None:
            return None
        stamp = nanoseconds(bearing.header.stamp)
        if abs(target.stamp - stamp) > _BEARING_AGE * 1e9:
            return None
        age = (self.get_clock().now().nanoseconds - stamp) * 1e-9
        turn = self._camera_turn(now - age)
        if turn is None:
            return None
        d = bearing.direction
        return locate((d.x, d.y, d.z), bearing.covariance, turn, position, self._sigma)

    def _camera_turn(self, when: float) -> Any:
        """Rotation from the camera (forward, right, down) to the earth at that time, or None."""
        vehicle = self.link.vehicle
        turn = vehicle.gimbal(when, self._declared.settings.gimbal_device_id)
        if turn is not None:
            return turn
        body = vehicle.attitude(when)
        return None if body is None else body @ self._mount

    # --- the gimbal -----------------------------------------------------------------------------

    def _on_rate(self, message: TwistStamped) -> None:
        gimbal = self.link.gimbal
        if gimbal is not None:
            yaw, pitch = float(message.twist.angular.y), float(message.twist.angular.x)
            self.link.call(lambda: gimbal.rate(yaw, pitch, time.monotonic()))

    def _tell_override(self) -> None:
        """While somebody else has the gimbal the follower is not to think that it moves it."""
        if self.link.gimbal is not None and self.link.gimbal.overridden:
            message = TwistStamped()
            message.header.stamp = self.get_clock().now().to_msg()
            self._override.publish(message)

    # --- once a second --------------------------------------------------------------------------

    def _every_second(self) -> None:
        self._want_bearings(self.link.component.wants_geo)
        self._diagnostics.publish(self._health())

    def _want_bearings(self, wanted: bool) -> None:
        if wanted and self._bearing_subscription is None:
            self._bearing_subscription = self.create_subscription(
                TargetBearing, "bearing", self._on_bearing, 10
            )
        elif not wanted and self._bearing_subscription is not None:
            self.destroy_subscription(self._bearing_subscription)
            self._bearing_subscription = None

    def _health(self) -> DiagnosticArray:
        link = self.link
        problems = list(link.connections.problems)
        if not link.vehicle.system:
            problems.append("no autopilot has been heard yet, the camera is silent")
        peers = link.connections.peers
        values = {
            "system id": str(link.vehicle.system),
            "peers": ", ".join(peer.name for peer in peers) or "none",
            "unreadable frames": str(sum(peer.bad for peer in peers)),
            "commands answered": str(link.component.answered_commands),
        }
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if problems else DiagnosticStatus.OK,
            name=f"{self.get_fully_qualified_name().lstrip('/')}: MAVLink camera",
            message="; ".join(problems) or "ok",
            hardware_id="none",
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        return array


def _read_key(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return signing_key(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParameterError(f"parameter 'signing_key_file': {error}") from error


def _camera_settings(settings: MavlinkSettings) -> CameraSettings:
    return CameraSettings(
        component_id=settings.component_id,
        model=settings.camera_name,
        version=_version(),
        video_uri=settings.video_uri,
        default_rate=settings.default_rate,
        gimbal_device_id=settings.gimbal_device_id,
    )


def _version() -> tuple[int, int, int]:
    try:
        parts = [int(part) for part in metadata.version("mlkd-ros").split(".")[:3]]
    except (metadata.PackageNotFoundError, ValueError):
        return (0, 0, 0)
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else (0, 0, 0)


def main(args: Sequence[str] | None = None) -> int:
    """Run the executable. Returns the exit code: 2 for parameters that cannot be used."""
    take_no_arguments("mavlink", _DESCRIPTION, described(MavlinkSettings), args)
    return run_node("mavlink", args, _fly)


def _fly() -> int:
    executor = SingleThreadedExecutor()
    node = MavlinkNode(executor)
    try:
        executor.add_node(node)
        executor.spin()
        return 0
    finally:
        node.destroy_node()


if __name__ == "__main__":
    sys.exit(main())
