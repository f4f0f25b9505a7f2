# SPDX-License-Identifier: Apache-2.0
"""Bearings of the targets as messages, while the camera is calibrated and somebody subscribes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from geometry_msgs.msg import Vector3
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from mlkd_ros.msg import TargetBearing
from mlkd_ros.node.graph import LatchedSubscription, wrong_type
from mlkd_ros.node.parameters import Settings
from mlkd_ros.session.bearing import (
    Bearing,
    Calibration,
    CalibrationError,
    Camera,
    calibration_from_message,
)
from mlkd_ros.session.targets import TargetReport

__all__ = ["Bearings", "bearing_message", "sibling_topic"]

#: Least seconds between two log lines.
_LOG_EVERY = 1.0
#: Seconds from the first image on in which the first calibration may come.
_AWAITED = 2.0


class Bearings:
    """Takes calibrations in and gives bearings out.

    topic: full name of the calibration's topic. problem: why there are no bearings though somebody
    wants them, in words; empty if there are.

    `subscribe` and `unsubscribe` are the executor's, `messages` the tracking thread's.
    """

    def __init__(self, node: Node, image_topic: str, settings: Settings) -> None:
        self.topic = settings.camera_info_topic or sibling_topic(image_topic)
        self.problem = ""
        self._node = node
        self._rectified = settings.image_rectified
        self._subscription: Subscription[CameraInfo] | None = None
        self._latched: LatchedSubscription | None = None
        self._calibration: Calibration | None = None
        self._camera: tuple[Calibration, tuple[int, int], Camera | CalibrationError] | None = None
        self._first_image: float | None = None
        self._logged, self._next_log = "", 0.0

    def subscribe(self) -> None:
        """Take calibrations in from now on; the last one counts until there is another."""
        self._subscription = self._node.create_subscription(
            CameraInfo,
            self.topic,
            self._take,
            qos_profile_sensor_data,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self.topic = self._subscription.topic_name
        self._latched = LatchedSubscription(self._node, CameraInfo, self.topic, self._take)

    def look(self) -> None:
        """Now and then: for a camera that has sent its calibration already, and keeps it."""
        if self._latched is not None:
            self._latched.look()

    def type_problem(self) -> str:
        """Who publishes something else on the calibration's topic, in words; empty if nobody."""
        return wrong_type(self._node, self.topic, CameraInfo) if self._subscription else ""

    def unsubscribe(self) -> None:
        """No more of them."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
        if self._latched is not None:
            self._latched.close()
            self._latched = None

    def _take(self, message: CameraInfo) -> None:
        self._calibration = calibration_from_message(message)

    def messages(
        self, header: Header, image_size: tuple[int, int], reports: Sequence[TargetReport]
    ) -> list[TargetBearing]:
        """One for each target that has a box; none, and `problem` says why, without a calibration.

        For the image with that header and size (width, height).
        """
        if self._calibration is None and self._awaited():
            return []
        try:
            camera = self._camera_for(image_size)
            found = [
                (report, camera.bearing(report.result.box, report.result.confidence))
                for report in reports
                if report.result.box is not None
            ]
        except CalibrationError as error:
            self._report(f"no bearings by {self.topic}: {error}")
            return []
        self._report("")
        return [
            bearing_message(header, report.target_id, bearing, report.result.confidence)
            for report, bearing in found
        ]

    def _awaited(self) -> bool:
        """Whether the calibration may still be on its way: some cameras send it after the image."""
        if self._first_image is None:
            self._first_image = time.monotonic()
        return time.monotonic() - self._first_image < _AWAITED

    def _camera_for(self, image_size: tuple[int, int]) -> Camera:
        calibration = self._calibration
        if calibration is None:
            raise CalibrationError(
                "no sensor_msgs/CameraInfo has been received there: publish it, or set parameter "
                "camera_info_topic"
            )
        if self._camera is None or self._camera[:2] != (calibration, image_size):
            made: Camera | CalibrationError
            try:
                made = Camera(calibration, image_size, self._rectified)
            except CalibrationError as error:
                made = error
            self._camera = (calibration, image_size, made)
        if isinstance(self._camera[2], CalibrationError):
            raise self._camera[2]
        return self._camera[2]

    def _report(self, problem: str) -> None:
        self.problem = problem
        now = time.monotonic()
        # Not by the logger's own throttle: what that holds back is never said.
        if problem not in ("", self._logged) and now >= self._next_log:
            self._node.get_logger().warning(problem)
            self._logged, self._next_log = problem, now + _LOG_EVERY

    def values(self) -> dict[str, str]:
        """For diagnostics."""
        calibration = self._calibration
        if calibration is None:
            text = "none"
        else:
            model = calibration.distortion_model or "no distortion model"
            text = f"{calibration.width}x{calibration.height}, {model}"
        return {"calibration topic": self.topic, "calibration": text}


def bearing_message(
    header: Header, target_id: str, bearing: Bearing, confidence: float
) -> TargetBearing:
    """A bearing as the message."""
    x, y, z = bearing.direction
    return TargetBearing(
        header=header,
        target_id=target_id,
        direction=Vector3(x=x, y=y, z=z),
        azimuth=bearing.azimuth,
        elevation_down=bearing.elevation_down,
        covariance=list(bearing.covariance),
        angular_width=bearing.angular_width,
        angular_height=bearing.angular_height,
        confidence=float(confidence),
    )


def sibling_topic(image_topic: str) -> str:
    """Where a camera's calibration is by custom: `camera_info` beside its images."""
    return f"{image_topic.rpartition('/')[0]}/camera_info"
