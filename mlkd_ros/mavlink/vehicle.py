# SPDX-License-Identifier: Apache-2.0
"""What the vehicle says of itself: who it is, where it is and how it is turned, a few seconds back.

Angles are in radians, the earth frame is north, east, down, the body frame forward, right, down.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlkd_ros.mavlink.dialect import mavlink

__all__ = ["Position", "Vehicle", "rotation_of_euler", "rotation_of_quaternion"]

#: Seconds of attitudes that are kept: images are younger.
_KEPT = 5.0
#: Seconds between two attitudes up to which one in between may be interpolated.
_WIDEST_GAP = 0.5
#: Seconds after which a position no longer counts.
_POSITION_AGE = 3.0
#: Vehicles have one of these in their heartbeat; a ground station, a camera or a gimbal has not.
_NO_AUTOPILOT = mavlink.MAV_AUTOPILOT_INVALID


@dataclass(frozen=True)
class Position:
    """Degrees, and metres: `altitude` above mean sea level, `height` above the take-off place."""

    latitude: float
    longitude: float
    altitude: float
    height: float
    time: float


@dataclass
class _Turns:
    """Rotations by time, NumPy 3x3, and which are kept."""

    times: deque[float] = field(default_factory=deque)
    rotations: deque[np.ndarray] = field(default_factory=deque)

    def add(self, time: float, rotation: np.ndarray) -> None:
        if self.times and time <= self.times[-1]:
            return
        self.times.append(time)
        self.rotations.append(rotation)
        while self.times[0] < time - _KEPT:
            self.times.popleft()
            self.rotations.popleft()

    def at(self, time: float) -> np.ndarray | None:
        """Interpolated; the newest for a time shortly after it; None if too far from any."""
        if not self.times:
            return None
        times = list(self.times)
        after = bisect.bisect_left(times, time)
        if after == len(times):
            return self.rotations[-1] if time - times[-1] <= _WIDEST_GAP else None
        if after == 0:
            return self.rotations[0] if times[0] - time <= _WIDEST_GAP / 5 else None
        before = after - 1
        gap = times[after] - times[before]
        if gap > _WIDEST_GAP:
            return None
        share = (time - times[before]) / gap
        return _between(self.rotations[before], self.rotations[after], share)


class Vehicle:
    """Listens to the messages of one system.

    system: its id, 0 until it is known. It is that of the first autopilot heard, unless given.
    """

    def __init__(self, system: int = 0) -> None:
        self.system = system
        self.autopilot_component = 0
        self.position: Position | None = None
        self._attitude = _Turns()
        self._gimbals: dict[int, tuple[_Turns, int]] = {}

    def take(self, message: Any, now: float) -> None:
        """Take in one message that came at `now`, seconds of any clock that images share."""
        kind = message.get_type()
        if kind == "HEARTBEAT":
            self._hear(message)
        if message.get_srcSystem() != self.system or not self.system:
            return
        if kind == "ATTITUDE":
            self._attitude.add(now, rotation_of_euler(message.roll, message.pitch, message.yaw))
        elif kind == "ATTITUDE_QUATERNION":
            self._attitude.add(
                now, rotation_of_quaternion(message.q1, message.q2, message.q3, message.q4)
            )
        elif kind == "GLOBAL_POSITION_INT":
            self.position = Position(
                message.lat * 1e-7,
                message.lon * 1e-7,
                message.alt * 1e-3,
                message.relative_alt * 1e-3,
                now,
            )
        elif kind == "GIMBAL_DEVICE_ATTITUDE_STATUS":
            self._take_gimbal(message, now)

    def _hear(self, message: Any) -> None:
        flies = message.autopilot != _NO_AUTOPILOT and message.type != mavlink.MAV_TYPE_GCS
        if flies and self.system in (0, message.get_srcSystem()):
            self.system = message.get_srcSystem()
            if not self.autopilot_component:
                self.autopilot_component = message.get_srcComponent()

    def _take_gimbal(self, message: Any, now: float) -> None:
        gimbal = message.gimbal_device_id or message.get_srcComponent()
        turns, _ = self._gimbals.setdefault(gimbal, (_Turns(), 0))
        turns.add(now, rotation_of_quaternion(*message.q))
        self._gimbals[gimbal] = (turns, int(message.flags))

    def fresh_position(self, now: float) -> Position | None:
        """Where it is, if that is known and not too old."""
        known = self.position
        return known if known is not None and abs(now - known.time) <= _POSITION_AGE else None

    def attitude(self, time: float) -> np.ndarray | None:
        """Rotation from the body to the earth frame, 3x3, at that time; None if unknown."""
        return self._attitude.at(time)

    def gimbal(self, time: float, gimbal_id: int = 0) -> np.ndarray | None:
        """Rotation from a gimbal's camera (forward, right, down) to the earth frame, or None.

        `gimbal_id` 0: the only one, or the first that was heard of.
        """
        if not self._gimbals:
            return None
        found = self._gimbals.get(gimbal_id or next(iter(self._gimbals)))
        turn = found[0].at(time) if found else None
        body = self.attitude(time)
        if found is None or turn is None:
            return None
        flags = found[1]
        in_earth = flags & mavlink.GIMBAL_DEVICE_FLAGS_YAW_IN_EARTH_FRAME or (
            not flags & mavlink.GIMBAL_DEVICE_FLAGS_YAW_IN_VEHICLE_FRAME
            and flags & mavlink.GIMBAL_DEVICE_FLAGS_YAW_LOCK
        )
        if in_earth:
            return turn
        if body is None:
            return None
        # Pitch and roll of the quaternion are against the horizon, its yaw against the vehicle's.
        heading = math.atan2(body[1, 0], body[0, 0])
        body_turn: np.ndarray = rotation_of_euler(0.0, 0.0, heading) @ turn
        return body_turn


def rotation_of_euler(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Rotation matrix body to earth of yaw, pitch, roll applied in that order (aerospace, ZYX)."""
    cr, sr = math.cos(roll), math.sin(roll)
    cp, sp = math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    return np.array(
        [
            [cp * cy, sr * sp * cy - cr * sy, cr * sp * cy + sr * sy],
            [cp * sy, sr * sp * sy + cr * cy, cr * sp * sy - sr * cy],
            [-sp, sr * cp, cr * cp],
        ]
    )


def rotation_of_quaternion(w: float, x: float, y: float, z: float) -> np.ndarray:
    """Rotation matrix of a quaternion (Hamilton, w first); it need not have length 1."""
    n = w * w + x * x + y * y + z * z
    if not n > 0 or not math.isfinite(n):
        return np.eye(3)
    s = 2 / n
    return np.array(
        [
            [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
            [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
            [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
        ]
    )


def _between(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """The rotation a share of the way from one to another (Rodrigues)."""
    step = first.T @ second
    angle = math.acos(min(max((np.trace(step) - 1) / 2, -1.0), 1.0))
    if angle < 1e-9:
        return first
    axis = np.array([step[2, 1] - step[1, 2], step[0, 2] - step[2, 0], step[1, 0] - step[0, 1]]) / (
        2 * math.sin(angle)
    )
    cross = np.array(
        [[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]], np.float64
    )
    turned = share * angle
    part = np.eye(3) + math.sin(turned) * cross + (1 - math.cos(turned)) * (cross @ cross)
    return np.asarray(first @ part)
