# SPDX-License-Identifier: Apache-2.0
"""Calibration files: what camera_calibration writes is read; anything else is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mlkd_ros.camera.calibration import CalibrationError, read_calibration

#: As camera_calibration writes it.
WRITTEN = """
image_width: 1280
image_height: 720
camera_name: narrow_stereo
camera_matrix:
  rows: 3
  cols: 3
  data: [910.5, 0.0, 640.2, 0.0, 911.25, 355.5, 0.0, 0.0, 1.0]
distortion_model: rational_polynomial
distortion_coefficients:
  rows: 1
  cols: 8
  data: [0.1, -0.2, 0.001, 0.002, 0.3, 0.4, 0.5, 0.6]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
projection_matrix:
  rows: 3
  cols: 4
  data: [900.0, 0.0, 641.0, 0.0, 0.0, 902.0, 356.0, 0.0, 0.0, 0.0, 1.0, 0.0]
"""


def test_a_file_of_camera_calibration(tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(WRITTEN)
    info = read_calibration(path)
    assert (info.width, info.height, info.distortion_model) == (1280, 720, "rational_polynomial")
    assert list(info.k) == [910.5, 0.0, 640.2, 0.0, 911.25, 355.5, 0.0, 0.0, 1.0]
    assert list(info.d) == [0.1, -0.2, 0.001, 0.002, 0.3, 0.4, 0.5, 0.6]
    assert info.p[0] == 900.0 and info.p[6] == 356.0


def test_what_may_be_missing(tmp_path: Path) -> None:
    content = yaml.safe_load(WRITTEN)
    for key in (
        "distortion_model",
        "distortion_coefficients",
        "rectification_matrix",
        "projection_matrix",
    ):
        del content[key]
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump(content))
    info = read_calibration(path)
    assert list(info.d) == [0.0] * 5 and info.distortion_model == "plumb_bob"
    assert list(info.p) == [910.5, 0.0, 640.2, 0.0, 0.0, 911.25, 355.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert list(info.r) == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("image_width", 0, "image_width and image_height"),
        ("image_height", "tall", "image_width and image_height"),
        ("camera_matrix", None, "camera_matrix must have 'data' with 9 numbers"),
        ("camera_matrix", {"data": [1.0] * 8}, "camera_matrix must have 'data' with 9 numbers"),
        ("camera_matrix", {"data": [0.0] * 9}, "focal lengths"),
        ("camera_matrix", {"data": [float("nan")] * 9}, "finite numbers"),
        ("camera_matrix", {"data": ["wide"] * 9}, "finite numbers"),
        ("distortion_model", "fisheye", "distortion_model is 'fisheye'"),
        ("distortion_coefficients", {"data": [0.0] * 4}, "with 8 or 12 or 14 numbers"),
        ("projection_matrix", {"data": []}, "projection_matrix must have"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, key: str, value: object, words: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(WRITTEN) | {key: value}))
    with pytest.raises(CalibrationError, match="camera.yaml") as caught:
        read_calibration(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"- a list", b"{", b""])
def test_what_is_no_calibration(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "camera.yaml"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match="camera.yaml"):
        read_calibration(path)
