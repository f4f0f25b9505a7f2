# SPDX-License-Identifier: Apache-2.0
"""Where on Earth a target is: its bearing cut with flat ground, and how uncertain that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlkd_ros.mavlink.vehicle import Position

__all__ = ["GroundPoint", "Uncertainties", "locate"]

#: Optical frame (right, down, forward) to forward, right, down.
_OPTICAL = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
#: Least angle below the horizon, radians: nearer to it a degree of error is hundreds of metres.
_LEAST_DEPRESSION = math.radians(3.0)
_EARTH_RADIUS = 6378137.0


@dataclass(frozen=True)
class Uncertainties:
    """Standard deviations: of attitude and mounting, radians; of the aircraft's place, metres; of
    the ground's height, metres.
    """

    attitude: float = math.radians(1.5)
    horizontal: float = 2.0
    vertical: float = 3.0


@dataclass(frozen=True)
class GroundPoint:
    """A place on the ground, degrees and metres above mean sea level.

    `horizontal_accuracy` and `vertical_accuracy` are standard deviations in metres, the horizontal
    one of the worst direction. `distance` is from the camera, `heading` of the target as seen from
    the aircraft, radians from north, with `heading_accuracy`.
    """

    latitude: float
    longitude: float
    altitude: float
    horizontal_accuracy: float
    vertical_accuracy: float
    distance: float
    heading: float
    heading_accuracy: float


def locate(
    direction: Sequence[float],
    covariance: Sequence[float],
    camera_to_earth: np.ndarray,
    position: Position,
    sigma: Uncertainties | None = None,
) -> GroundPoint | None:
    """The place where a bearing meets the ground at the height of the take-off place.

    direction: unit vector in the camera's optical frame (x right, y down, z forward).
    covariance: of (azimuth, elevation_down), row by row, rad^2, as in msg/TargetBearing.
    camera_to_earth: 3x3, from the camera's forward, right, down to north, east, down.

    The uncertainty is that of first order: J S J^T with the Jacobian J of the place by the angles
    of the bearing, the three of the attitude and the height. None for a ray that does not go down
    by at least 3 degrees, and for an aircraft that is not above the ground.
    """
    sigma = sigma or Uncertainties()
    if position.height <= 1.0:
        return None
    ray = np.asarray(direction, np.float64)
    offset = _meet(_earth_ray(ray, camera_to_earth), position.height)
    if offset is None:
        return None
    spread = _spread(ray, covariance, camera_to_earth, position.height, sigma)
    north, east = float(offset[0]), float(offset[1])
    flat = math.hypot(north, east)
    total = spread + np.eye(2) * sigma.horizontal**2
    return GroundPoint(
        latitude=position.latitude + math.degrees(north / _EARTH_RADIUS),
        longitude=position.longitude
        + math.degrees(east / (_EARTH_RADIUS * math.cos(math.radians(position.latitude)))),
        altitude=position.altitude - position.height,
        horizontal_accuracy=float(math.sqrt(np.linalg.eigvalsh(total)[-1])),
        vertical_accuracy=sigma.vertical,
        distance=math.hypot(flat, position.height),
        heading=math.atan2(east, north) % (2 * math.pi),
        heading_accuracy=_heading_accuracy(spread, north, east),
    )


def _earth_ray(ray: np.ndarray, camera_to_earth: np.ndarray) -> np.ndarray:
    return np.asarray(camera_to_earth @ _OPTICAL @ ray)


def _meet(ray: np.ndarray, height: float) -> np.ndarray | None:
    """Where a ray (north, east, down) meets the ground, as north and east of the aircraft."""
    if not np.isfinite(ray).all() or ray[2] < math.sin(_LEAST_DEPRESSION) * np.linalg.norm(ray):
        return None
    return np.asarray(ray[:2] * (height / ray[2]))


def _spread(
    ray: np.ndarray,
    covariance: Sequence[float],
    camera_to_earth: np.ndarray,
    height: float,
    sigma: Uncertainties,
) -> np.ndarray:
    """Covariance of (north, east), 2x2, by differences."""
    step = 1e-4
    azimuth, elevation = math.atan2(ray[0], ray[2]), math.atan2(ray[1], ray[2])

    def place(change: np.ndarray) -> np.ndarray:
        turned = np.array(
            [math.tan(azimuth + change[0]), math.tan(elevation + change[1]), 1.0]
        ) * math.copysign(1.0, ray[2])
        earth = _small_turn(change[2:5]) @ _earth_ray(turned, camera_to_earth)
        return np.asarray(earth[:2] * ((height + change[5]) / earth[2]))

    columns = []
    for index in range(6):
        change = np.zeros(6)
        change[index] = step
        columns.append((place(change) - place(-change)) / (2 * step))
    jacobian = np.column_stack(columns)
    inner = np.zeros((6, 6))
    inner[:2, :2] = np.asarray(covariance, np.float64).reshape(2, 2)
    inner[2:5, 2:5] = np.eye(3) * sigma.attitude**2
    inner[5, 5] = sigma.vertical**2
    return np.asarray(jacobian @ inner @ jacobian.T)


def _small_turn(angles: np.ndarray) -> np.ndarray:
    x, y, z = angles
    return np.array([[1.0, -z, y], [z, 1.0, -x], [-y, x, 1.0]])


def _heading_accuracy(spread: np.ndarray, north: float, east: float) -> float:
    """Standard deviation of the heading, radians; pi straight below, where there is none."""
    flat = math.hypot(north, east)
    if flat < 1e-6:
        return math.pi
    across = np.array([-east, north]) / flat
    return min(float(math.sqrt(across @ spread @ across)) / flat, math.pi)
