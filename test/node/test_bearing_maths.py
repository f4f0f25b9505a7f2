# SPDX-License-Identifier: Apache-2.0
"""Directions from boxes, against an independent projection (cv2) of known rays."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, RegionOfInterest

from mlkd_ros.session.bearing import (
    Bearing,
    Calibration,
    CalibrationError,
    Camera,
    calibration_from_message,
)

K = (905.0, 0.0, 650.3, 0.0, 911.0, 349.1, 0.0, 0.0, 1.0)
PLUMB_BOB = (-0.32, 0.11, 0.0007, -0.0004, -0.02)
RATIONAL = (0.5, -0.1, 0.0004, -0.0002, 0.02, 0.8, -0.05, 0.01)
EQUIDISTANT = (0.02, -0.006, 0.002, -0.0004)
PINHOLE = Calibration(1280, 720, "plumb_bob", (0.0,) * 5, K)
CAMERAS = {
    "pinhole": PINHOLE,
    "plumb_bob": replace(PINHOLE, d=PLUMB_BOB),
    "rational_polynomial": replace(PINHOLE, distortion_model="rational_polynomial", d=RATIONAL),
    "equidistant": replace(PINHOLE, distortion_model="equidistant", d=EQUIDISTANT),
}
DIRECTIONS = [(0.0, 0.0, 1.0), (0.3, -0.2, 1.0), (-0.55, 0.3, 1.0), (0.01, 0.33, 1.0)]


def pixel(calibration: Calibration, direction: tuple[float, float, float]) -> np.ndarray:
    """Where OpenCV projects a direction, in continuous pixels of the full sensor."""
    k, point = np.array(calibration.k).reshape(3, 3), np.array([[direction]])
    d, zero = np.array(calibration.d), np.zeros((3, 1))
    if calibration.distortion_model == "equidistant":
        projected = cv2.fisheye.projectPoints(point, zero, zero, k, d)[0]
    else:
        projected = cv2.projectPoints(point, zero, zero, k, d)[0]
    return projected.reshape(2) + 0.5


def bearing(camera: Camera, centre: np.ndarray, confidence: float = 0.9) -> Bearing:
    return camera.bearing((centre[0] - 20, centre[1] - 10, 40.0, 20.0), confidence)


def unit(direction: tuple[float, float, float]) -> np.ndarray:
    return np.array(direction) / np.linalg.norm(direction)


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_projected_ray_is_recovered(name: str, direction: tuple[float, float, float]) -> None:
    calibration = CAMERAS[name]
    found = bearing(Camera(calibration, (1280, 720)), pixel(calibration, direction))
    np.testing.assert_allclose(found.direction, unit(direction), atol=1e-6)
    assert found.azimuth == pytest.approx(math.atan2(direction[0], direction[2]), abs=1e-6)
    assert found.elevation_down == pytest.approx(math.atan2(direction[1], direction[2]), abs=1e-6)


def test_an_equidistant_lens_without_coefficients_is_no_pinhole() -> None:
    calibration = replace(CAMERAS["equidistant"], d=(0.0,) * 4)
    found = bearing(Camera(calibration, (1280, 720)), np.array((650.8 + 905 * 0.5, 349.6)))
    assert found.azimuth == pytest.approx(0.5, abs=1e-6)


def test_a_fisheye_sees_behind_its_plane() -> None:
    calibration = replace(
        CAMERAS["equidistant"], k=(300.0, 0.0, 639.5, 0.0, 300.0, 359.5, 0.0, 0.0, 1.0)
    )
    angle = math.radians(97)
    radius = angle * (1 + sum(c * angle ** (2 * i + 2) for i, c in enumerate(EQUIDISTANT)))
    found = bearing(Camera(calibration, (1280, 720)), np.array((640 + 300 * radius, 360.0)))
    assert found.azimuth == pytest.approx(angle, abs=1e-6)


def test_an_image_that_was_scaled_binned_or_cut_gives_the_same_direction() -> None:
    calibration, direction = CAMERAS["plumb_bob"], (0.21, -0.14, 1.0)
    sensor = pixel(calibration, direction)
    variants = [
        (calibration, (640, 360), sensor / 2),
        (calibration, (1920, 1080), sensor * 1.5),
        (replace(calibration, binning=(2, 2)), (640, 360), sensor / 2),
        (replace(calibration, roi=(200, 100, 800, 400)), (800, 400), sensor - (200, 100)),
        (
            replace(calibration, roi=(200, 100, 800, 400), binning=(2, 4)),
            (400, 100),
            (sensor - (200, 100)) / (2, 4),
        ),
        # As cameras round it.
        (calibration, (853, 480), sensor * (853 / 1280, 480 / 720)),
    ]
    for changed, size, centre in variants:
        found = bearing(Camera(changed, size), np.asarray(centre))
        np.testing.assert_allclose(found.direction, unit(direction), atol=1e-6, err_msg=str(size))


def test_a_rectified_image_goes_by_p_and_r() -> None:
    turn = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0]
    p = (880.0, 0.0, 640.0, -90.0, 0.0, 880.0, 360.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    calibration = replace(CAMERAS["plumb_bob"], p=p, r=tuple(turn.ravel()))
    direction = unit((0.2, 0.1, 1.0))
    x, y, z = turn @ direction  # in the rectified frame
    centre = np.array((880 * x / z + 640, 880 * y / z + 360)) + 0.5
    found = bearing(Camera(calibration, (1280, 720), rectified=True), centre)
    np.testing.assert_allclose(found.direction, direction, atol=1e-9)


# --- size and covariance ------------------------------------------------------------------------


def test_angular_size() -> None:
    k = (800.0, 0.0, 639.5, 0.0, 800.0, 359.5, 0.0, 0.0, 1.0)
    camera = Camera(replace(PINHOLE, k=k), (1280, 720))
    found = camera.bearing((600.0, 345.0, 80.0, 30.0), 1.0)
    assert found.angular_width == pytest.approx(2 * math.atan(40 / 800), abs=1e-9)
    assert found.angular_height == pytest.approx(2 * math.atan(15 / 800), abs=1e-9)
    tiny = camera.bearing((640.0, 360.0, 1e-4, 1e-4), 1.0)
    assert tiny.angular_width == pytest.approx(1e-4 / 800, rel=1e-3)


def test_covariance_against_many_boxes() -> None:
    """Angles of centres drawn with the documented spread have the covariance that is given."""
    calibration = CAMERAS["plumb_bob"]
    camera = Camera(calibration, (1280, 720))
    box, confidence = (950.0, 560.0, 60.0, 24.0), 0.97
    given = np.array(camera.bearing(box, confidence).covariance).reshape(2, 2)
    spread = [
        math.sqrt(side**2 * (confidence * 0.04**2 + (1 - confidence) * 0.25) + 0.5**2)
        for side in (60.0, 24.0)
    ]
    centres = np.random.default_rng(1).normal((980.0, 572.0), spread, (20_000, 2))
    rays = camera.rays(centres)
    angles = np.arctan2(rays[:, :2], rays[:, 2:])
    drawn = np.cov(angles.T)
    np.testing.assert_allclose(np.diag(given), np.diag(drawn), rtol=0.06)
    # At a corner of a distorted image the two angles are not independent.
    assert given[0, 1] == pytest.approx(given[1, 0])
    assert given[0, 1] == pytest.approx(drawn[0, 1], rel=0.5)
    assert np.linalg.eigvalsh(given).min() > 0


def test_covariance_grows_with_the_box_and_as_confidence_falls() -> None:
    camera = Camera(PINHOLE, (1280, 720))

    def deviation(side: float, confidence: float) -> float:
        box = (640 - side / 2, 360 - side / 2, side, side)
        return math.sqrt(camera.bearing(box, confidence).covariance[0])

    assert deviation(40, 0.9) < deviation(80, 0.9)
    assert deviation(40, 0.9) < deviation(40, 0.5) < deviation(40, 0.0)
    assert deviation(40, 1.0) == pytest.approx(math.hypot(1.6, 0.5) / 905, rel=0.01)


# --- calibrations that cannot be used -------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"k": (0.0,) * 9}, "not calibrated: K has focal lengths 0 and 0"),
        ({"k": (math.nan, *K[1:])}, "not finite"),
        ({"distortion_model": "kannala", "d": (0.1,) * 4}, "'kannala' is not supported"),
        ({"d": (0.1,) * 3}, "4 or 5 coefficients, not 3"),
        ({"distortion_model": "equidistant", "d": (0.1,) * 5}, "4 coefficients, not 5"),
        ({"width": 0}, "does not say the width"),
        ({"height": 960}, "images of 1280x720 are not of the calibrated camera.*1280x960"),
        ({"roi": (0, 0, 640, 640)}, "640x640"),
    ],
)
def test_an_unusable_calibration_says_why(change: dict, text: str) -> None:
    with pytest.raises(CalibrationError, match=text):
        Camera(replace(CAMERAS["plumb_bob"], **change), (1280, 720))


def test_no_distortion_needs_no_known_model() -> None:
    Camera(replace(PINHOLE, distortion_model="", d=()), (1280, 720))
    Camera(replace(PINHOLE, distortion_model="odd"), (1280, 720))


def test_rectified_without_p() -> None:
    with pytest.raises(CalibrationError, match="P has focal lengths 0"):
        Camera(PINHOLE, (1280, 720), rectified=True)


def test_where_the_distortion_cannot_be_inverted_there_is_no_direction() -> None:
    barrel = Camera(replace(PINHOLE, d=(-0.9, 0.0, 0.0, 0.0)), (1280, 720))
    assert np.isfinite(barrel.rays(np.array([[650.0, 350.0]]))).all()
    with pytest.raises(CalibrationError, match="cannot be inverted at box"):
        barrel.bearing((5.0, 5.0, 40.0, 40.0), 0.9)


def test_from_a_message() -> None:
    message = CameraInfo(
        width=1280,
        height=720,
        distortion_model="plumb_bob",
        d=list(PLUMB_BOB),
        k=list(K),
        p=[1.0] * 12,
        roi=RegionOfInterest(x_offset=4, y_offset=6, width=100, height=50),
    )
    calibration = calibration_from_message(message)
    assert calibration.binning == (1, 1)
    assert (calibration.k, calibration.d, calibration.roi) == (K, PLUMB_BOB, (4, 6, 100, 50))
    message.binning_x, message.binning_y = 2, 4
    assert calibration_from_message(message).binning == (2, 4)
