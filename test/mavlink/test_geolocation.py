# SPDX-License-Identifier: Apache-2.0
"""Places on flat ground, and attitudes at the time of an image."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("pymavlink")

from pymavlink.dialects.v20 import common as mavlink  # noqa: E402

from mlkd_ros.mavlink.geolocation import Uncertainties, locate  # noqa: E402
from mlkd_ros.mavlink.vehicle import (  # noqa: E402
    Position,
    Vehicle,
    rotation_of_euler,
    rotation_of_quaternion,
)

HERE = Position(latitude=47.0, longitude=8.0, altitude=600.0, height=100.0, time=0.0)
AHEAD = (0.0, 0.0, 1.0)
SURE = (1e-6, 0.0, 0.0, 1e-6)
METRES_PER_DEGREE = math.radians(1) * 6378137.0


def offset(point: object) -> tuple[float, float]:
    """North and east of the aircraft, metres."""
    north = (point.latitude - HERE.latitude) * METRES_PER_DEGREE  # type: ignore[attr-defined]
    east = (point.longitude - HERE.longitude) * METRES_PER_DEGREE  # type: ignore[attr-defined]
    return north, east * math.cos(math.radians(HERE.latitude))


@pytest.mark.parametrize(
    ("yaw", "expected"), [(0.0, (100, 0)), (90.0, (0, 100)), (-135.0, (-70.71, -70.71))]
)
def test_ahead_and_half_way_down(yaw: float, expected: tuple[float, float]) -> None:
    turn = rotation_of_euler(0.0, math.radians(-45), math.radians(yaw))
    point = locate(AHEAD, SURE, turn, HERE)
    assert point is not None
    assert offset(point) == pytest.approx(expected, abs=0.01)
    assert point.altitude == 500.0
    assert point.distance == pytest.approx(100 * math.sqrt(2))
    assert math.degrees(point.heading) == pytest.approx(yaw % 360)


def test_right_in_the_picture_is_right_on_the_ground() -> None:
    turn = rotation_of_euler(0.0, math.radians(-90), 0.0)  # straight down, top of the picture north
    point = locate((math.sin(0.1), 0.0, math.cos(0.1)), SURE, turn, HERE)
    assert point is not None
    assert offset(point) == pytest.approx((0.0, 100 * math.tan(0.1)), abs=0.01)


@pytest.mark.parametrize("pitch", [0.0, 10.0, -2.0])
def test_the_sky_has_no_place(pitch: float) -> None:
    assert locate(AHEAD, SURE, rotation_of_euler(0.0, math.radians(pitch), 0.0), HERE) is None


def test_an_aircraft_on_the_ground_sees_no_ground() -> None:
    low = Position(47.0, 8.0, 500.0, 0.5, 0.0)
    assert locate(AHEAD, SURE, rotation_of_euler(0.0, -0.8, 0.0), low) is None


def test_the_accuracy_is_that_of_ten_thousand_draws() -> None:
    rng = np.random.default_rng(4)
    sigma = Uncertainties(attitude=math.radians(1.0), horizontal=2.0, vertical=3.0)
    covariance = (4e-4, 1e-4, 1e-4, 9e-4)
    turn = rotation_of_euler(0.05, math.radians(-40), math.radians(30))
    point = locate((0.1, 0.05, 0.99), covariance, turn, HERE, sigma)
    assert point is not None
    places = []
    for _ in range(10_000):
        angles = rng.multivariate_normal(
            (math.atan2(0.1, 0.99), math.atan2(0.05, 0.99)), np.reshape(covariance, (2, 2))
        )
        ray = np.array([math.tan(angles[0]), math.tan(angles[1]), 1.0])
        wobble = rotation_of_euler(*rng.normal(0, sigma.attitude, 3)) @ turn
        height = HERE.height + rng.normal(0, sigma.vertical)
        drawn = locate(
            ray / np.linalg.norm(ray), SURE, wobble, Position(47.0, 8.0, 600.0, height, 0.0), sigma
        )
        assert drawn is not None
        places.append(np.array(offset(drawn)) + rng.normal(0, sigma.horizontal, 2))
    worst = math.sqrt(np.linalg.eigvalsh(np.cov(np.array(places).T))[-1])
    assert point.horizontal_accuracy == pytest.approx(worst, rel=0.1)


def heartbeat(system: int, kind: int, autopilot: int) -> mavlink.MAVLink_message:
    message = mavlink.MAVLink_heartbeat_message(kind, autopilot, 0, 0, 4, 3)
    return from_system(message, system)


def from_system(message: mavlink.MAVLink_message, system: int) -> mavlink.MAVLink_message:
    message._header.srcSystem, message._header.srcComponent = system, 1
    return message


def test_the_vehicle_is_the_first_autopilot_and_stays_it() -> None:
    vehicle = Vehicle()
    vehicle.take(heartbeat(255, mavlink.MAV_TYPE_GCS, mavlink.MAV_AUTOPILOT_INVALID), 0.0)
    vehicle.take(heartbeat(3, mavlink.MAV_TYPE_GIMBAL, mavlink.MAV_AUTOPILOT_INVALID), 0.0)
    assert vehicle.system == 0
    for system in (4, 5):
        vehicle.take(heartbeat(system, mavlink.MAV_TYPE_QUADROTOR, mavlink.MAV_AUTOPILOT_PX4), 1.0)
    assert vehicle.system == 4


def test_attitude_between_two_messages_and_not_beyond() -> None:
    vehicle = Vehicle(4)
    for time, yaw in ((10.0, 0.0), (10.1, 0.2)):
        message = mavlink.MAVLink_attitude_message(0, 0.0, 0.0, yaw, 0, 0, 0)
        vehicle.take(from_system(message, 4), time)
    stranger = mavlink.MAVLink_attitude_message(0, 1.0, 1.0, 1.0, 0, 0, 0)
    vehicle.take(from_system(stranger, 5), 10.2)
    turn = vehicle.attitude(10.05)
    assert turn == pytest.approx(rotation_of_euler(0.0, 0.0, 0.1))
    assert vehicle.attitude(10.2) == pytest.approx(rotation_of_euler(0.0, 0.0, 0.2))
    assert vehicle.attitude(12.0) is None and vehicle.attitude(9.0) is None


@pytest.mark.parametrize(
    ("flags", "yaw"),
    [
        (mavlink.GIMBAL_DEVICE_FLAGS_YAW_IN_EARTH_FRAME, 0.3),
        (mavlink.GIMBAL_DEVICE_FLAGS_YAW_LOCK, 0.3),
        (mavlink.GIMBAL_DEVICE_FLAGS_YAW_IN_VEHICLE_FRAME, 1.3),
        (0, 1.3),
    ],
)
def test_a_gimbals_yaw_is_against_north_or_the_vehicle(flags: int, yaw: float) -> None:
    vehicle = Vehicle(4)
    body = mavlink.MAVLink_attitude_message(0, 0.2, -0.1, 1.0, 0, 0, 0)
    vehicle.take(from_system(body, 4), 10.0)
    pitch = -0.7
    q = (  # of pitch and then yaw 0.3
        math.cos(0.15) * math.cos(pitch / 2),
        -math.sin(0.15) * math.sin(pitch / 2),
        math.cos(0.15) * math.sin(pitch / 2),
        math.sin(0.15) * math.cos(pitch / 2),
    )
    assert rotation_of_quaternion(*q) == pytest.approx(rotation_of_euler(0.0, pitch, 0.3))
    message = mavlink.MAVLink_gimbal_device_attitude_status_message(0, 0, 0, flags, q, 0, 0, 0, 0)
    vehicle.take(from_system(message, 4), 10.0)
    assert vehicle.gimbal(10.0) == pytest.approx(rotation_of_euler(0.0, pitch, yaw))
