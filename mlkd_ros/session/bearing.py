# SPDX-License-Identifier: Apache-2.0
"""From a box in the image to a direction in the camera's frame. No ROS in here.

A `Calibration` holds what sensor_msgs/CameraInfo says, under its field names; `Camera` is that
calibration for images of one size. Directions are in the camera's optical frame: x right, y down,
z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

__all__ = ["Bearing", "Calibration", "CalibrationError", "Camera", "calibration_from_message"]

Box = tuple[float, float, float, float]

#: Numbers of distortion coefficients that each model may have.
_COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
#: A ray that comes back further than this from its pixel is none: the distortion polynomial is not
#: valid that far from the centre.
_GREATEST_ERROR_PX = 0.05
#: Aspect ratios this far apart are those of different pictures; scaling rounds sides to a pixel.
_ASPECT_TOLERANCE = 0.01
#: Standard deviation of the centre of a box that is right and of one that is not, in box sides.
#: Measured on night flights: 0.04 above confidence 0.95, 0.11 from 0.8 to 0.95, 0.15 to 0.2 below;
#: these give 0.1, 0.2 and more: a target that is followed into a lookalike is not in those figures.
_SPREAD_RIGHT, _SPREAD_WRONG = 0.04, 0.5
#: Standard deviation of a centre at best, pixels.
_SPREAD_PIXEL = 0.5


class CalibrationError(ValueError):
    """A calibration that gives no directions; the message says why and what would be right."""


@dataclass(frozen=True)
class Calibration:
    """The fields of sensor_msgs/CameraInfo.

    `k` (3x3), `r` (3x3) and `p` (3x4) are row by row; `roi` is x_offset, y_offset, width, height.
    """

    width: int
    height: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    r: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    p: tuple[float, ...] = (0.0,) * 12
    binning: tuple[int, int] = (1, 1)
    roi: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class Bearing:
    """Where a target is, as msg/TargetBearing says it. Angles in radians.

    `covariance` is of (azimuth, elevation_down), row by row, in rad^2.
    """

    direction: tuple[float, float, float]
    azimuth: float
    elevation_down: float
    covariance: tuple[float, float, float, float]
    angular_width: float
    angular_height: float


class Camera:
    """A calibrated camera that gives images of `image_size` (width, height).

    They may be the sensor's pixels (binned and cut as the calibration says), or that picture scaled
    as a whole. With `rectified` they have been through image_proc: the distortion is gone, and `p`
    counts instead of `k` and `d`. Raises CalibrationError.
    """

    def __init__(
        self, calibration: Calibration, image_size: tuple[int, int], rectified: bool = False
    ) -> None:
        _check(calibration, rectified)
        self._scale, self._offset = _to_sensor(calibration, image_size)
        self._fisheye = calibration.distortion_model == "equidistant" and not rectified
        self._distorts = any(calibration.d) and not rectified
        self._d = np.array(calibration.d, np.float64)
        self._k = np.array(calibration.k, np.float64).reshape(3, 3)
        self._turn = np.eye(3)
        if rectified:
            self._k = np.array(calibration.p, np.float64).reshape(3, 4)[:, :3]
            self._turn = np.array(calibration.r, np.float64).reshape(3, 3).T

    def rays(self, points: np.ndarray) -> np.ndarray:
        """Unit vectors through image points, `(N, 2)` continuous pixels to `(N, 3)`.

        NaN where the lens model gives no direction.
        """
        # Pixel corners are whole numbers in our boxes, pixel centres in a calibration.
        sensor = np.asarray(points, np.float64) * self._scale + self._offset - 0.5
        if self._fisheye:
            rays = _equidistant_rays(_normalised(self._k, sensor), self._d)
        else:
            flat = self._undistorted(sensor) if self._distorts else _normalised(self._k, sensor)
            rays = np.column_stack((flat, np.ones(len(flat))))
        rays = rays @ self._turn.T
        unit: np.ndarray = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        return unit

    def _undistorted(self, sensor: np.ndarray) -> np.ndarray:
        """Normalised coordinates without distortion, NaN where the model cannot be inverted."""
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
        found = cv2.undistortPointsIter(
            sensor[:, None], self._k, self._d, np.eye(3), np.eye(3), criteria
        )[:, 0]
        there = np.column_stack((found, np.ones(len(found))))
        back = cv2.projectPoints(there, np.zeros(3), np.zeros(3), self._k, self._d)[0][:, 0]
        found[np.linalg.norm(back - sensor, axis=1) > _GREATEST_ERROR_PX] = np.nan
        return found

    def bearing(self, box: Box, confidence: float) -> Bearing:
        """The direction of a box (x, y, w, h in pixels of the image).

        Its covariance is J diag(sx^2, sy^2) J^T with the Jacobian J of the two angles by the pixel
        position and, for the width w (the height likewise),

            sx^2 = w^2 (c 0.04^2 + (1 - c) 0.5^2) + (0.5 px)^2

        for confidence c: with probability c the box is right and its centre off by a small share of
        its width, otherwise the target may be anywhere around it. Raises CalibrationError where the
        lens model gives no direction.
        """
        x, y, w, h = box
        cx, cy = x + w / 2, y + h / 2
        points = [(cx, cy), (x, cy), (x + w, cy), (cx, y), (cx, y + h)]
        # Half a pixel to either side, for the Jacobian.
        points += [(cx - 0.5, cy), (cx + 0.5, cy), (cx, cy - 0.5), (cx, cy + 0.5)]
        rays = self.rays(np.array(points))
        if not np.isfinite(rays).all():
            raise CalibrationError(
                f"the distortion model cannot be inverted at box ({x:.0f}, {y:.0f}, {w:.0f}, "
                f"{h:.0f}): the calibration is not valid that far from the image's centre"
            )
        azimuth, elevation = np.arctan2(rays[:, 0], rays[:, 2]), np.arctan2(rays[:, 1], rays[:, 2])
        angles = np.column_stack((azimuth, elevation))
        jacobian = np.column_stack((angles[6] - angles[5], angles[8] - angles[7]))
        spread = np.diag([_variance(w, confidence), _variance(h, confidence)])
        covariance = jacobian @ spread @ jacobian.T
        return Bearing(
            direction=(float(rays[0, 0]), float(rays[0, 1]), float(rays[0, 2])),
            azimuth=float(azimuth[0]),
            elevation_down=float(elevation[0]),
            covariance=tuple(covariance.ravel().tolist()),
            angular_width=_angle(rays[1], rays[2]),
            angular_height=_angle(rays[3], rays[4]),
        )


def calibration_from_message(message: Any) -> Calibration:
    """The fields of a sensor_msgs/CameraInfo."""
    roi = message.roi
    return Calibration(
        width=int(message.width),
        height=int(message.height),
        distortion_model=str(message.distortion_model),
        d=tuple(map(float, message.d)),
        k=tuple(map(float, message.k)),
        r=tuple(map(float, message.r)),
        p=tuple(map(float, message.p)),
        # Zero means one here.
        binning=(max(int(message.binning_x), 1), max(int(message.binning_y), 1)),
        roi=(int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)),
    )


def _check(calibration: Calibration, rectified: bool) -> None:
    numbers = (*calibration.k, *calibration.d, *(calibration.p + calibration.r) * rectified)
    if not np.isfinite(numbers).all():
        raise CalibrationError("the calibration holds numbers that are not finite")
    focal = calibration.p if rectified else calibration.k
    name, second = ("P", 5) if rectified else ("K", 4)
    if focal[0] <= 0 or focal[second] <= 0:
        raise CalibrationError(
            f"the camera is not calibrated: {name} has focal lengths {focal[0]:g} and "
            f"{focal[second]:g}, they must be above 0 (calibrate it with camera_calibration)"
        )
    model, count = calibration.distortion_model, len(calibration.d)
    # Without distortion all models are the pinhole, but for one.
    if rectified or (not any(calibration.d) and model != "equidistant"):
        return
    allowed = _COEFFICIENTS.get(model)
    if allowed is None:
        raise CalibrationError(
            f"distortion model '{model}' is not supported, it must be one of "
            + ", ".join(_COEFFICIENTS)
        )
    if count not in allowed:
        raise CalibrationError(
            f"distortion model '{model}' has {' or '.join(map(str, allowed))} coefficients, "
            f"not {count}"
        )


def _to_sensor(
    calibration: Calibration, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset from continuous pixels of the image to those that K counts."""
    x, y, roi_width, roi_height = calibration.roi
    full = (calibration.width, calibration.height)
    if min(full) < 1:
        raise CalibrationError("the calibration does not say the width and height it is for")
    # A region of no size stands for the whole sensor.
    part = (roi_width or full[0], roi_height or full[1])
    binned = np.array(part) / calibration.binning
    scale = binned / image_size
    if abs(scale[0] / scale[1] - 1) > _ASPECT_TOLERANCE:
        raise CalibrationError(
            f"images of {image_size[0]}x{image_size[1]} are not of the calibrated camera, whose "
            f"images are {binned[0]:g}x{binned[1]:g} or the same picture scaled"
        )
    return scale * calibration.binning, np.array((x, y), np.float64)


def _normalised(k: np.ndarray, sensor: np.ndarray) -> np.ndarray:
    y = (sensor[:, 1] - k[1, 2]) / k[1, 1]
    x = (sensor[:, 0] - k[0, 2] - k[0, 1] * y) / k[0, 0]
    return np.column_stack((x, y))


def _equidistant_rays(distorted: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Rays of the equidistant model, also those beyond 90 degrees; NaN where there are none.

    The radius is t + d0 t^3 + d1 t^5 + d2 t^7 + d3 t^9 for the angle t from the axis; Newton's
    method inverts it.
    """
    radius = np.linalg.norm(distorted, axis=1)
    powers = np.arange(1, 10, 2)
    coefficients = np.concatenate(([1.0], d))
    angle = radius.copy()
    for _ in range(50):
        value = (coefficients * angle[:, None] ** powers).sum(1)
        slope = (coefficients * powers * angle[:, None] ** (powers - 1)).sum(1)
        # Never far in one step: where the polynomial is flat that would leave for another branch.
        step = (value - radius) / np.where(np.abs(slope) > 1e-9, slope, 1e-9)
        angle = np.clip(angle - np.clip(step, -0.5, 0.5), 0.0, math.pi)
    value = (coefficients * angle[:, None] ** powers).sum(1)
    sine = np.where(radius > 1e-12, np.sin(angle) / np.maximum(radius, 1e-12), 1.0)
    rays = np.column_stack((distorted * sine[:, None], np.cos(angle)))
    rays[np.abs(value - radius) > 1e-9] = np.nan
    return rays


def _variance(side: float, confidence: float) -> float:
    """Of the centre along one axis, pixels squared."""
    c = min(max(confidence, 0.0), 1.0)
    return side**2 * (c * _SPREAD_RIGHT**2 + (1 - c) * _SPREAD_WRONG**2) + _SPREAD_PIXEL**2


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    """Between two unit vectors; exact for small angles, unlike the arc cosine."""
    return float(math.atan2(np.linalg.norm(np.cross(a, b)), a @ b))
