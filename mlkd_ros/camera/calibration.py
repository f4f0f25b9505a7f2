# SPDX-License-Identifier: Apache-2.0
"""Reads calibration files of cameras, as camera_calibration and camera_info_manager write them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sensor_msgs.msg import CameraInfo

from mlkd_ros.files import printable

__all__ = ["CalibrationError", "read_calibration"]

_IDENTITY = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
#: How many coefficients each model of distortion has.
_MODELS = {"plumb_bob": (5, 4), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}


class CalibrationError(ValueError):
    """A calibration file that cannot be used; the message names it and what is wrong."""


def read_calibration(path: str | Path) -> CameraInfo:
    """The CameraInfo of a YAML file with image_width, image_height, camera_matrix and so on.

    `rectification_matrix` may be missing: none. `projection_matrix` too: that of the camera matrix.

    Raises:
        CalibrationError: It cannot be read, or is none.
        ImportError: Without PyYAML; the message names the extra.
    """
    name = printable(path)
    content = _content(Path(path), name)

    def numbers(key: str, counts: tuple[int, ...], default: list[float] | None) -> list[float]:
        matrix = content.get(key)
        if matrix is None and default is not None:
            return default
        data = matrix.get("data") if isinstance(matrix, dict) else None
        if not isinstance(data, list) or len(data) not in counts:
            wanted = " or ".join(map(str, counts))
            raise CalibrationError(f"{name}: {key} must have 'data' with {wanted} numbers")
        try:
            found = [float(value) for value in data]
        except (TypeError, ValueError):
            found = [math.nan]
        if not all(map(math.isfinite, found)):
            raise CalibrationError(f"{name}: {key} has something else than finite numbers")
        return found

    size = [content.get(key) for key in ("image_width", "image_height")]
    if not all(isinstance(side, int) and 0 < side < 2**16 for side in size):
        raise CalibrationError(f"{name}: image_width and image_height must be whole numbers")
    model = content.get("distortion_model", "plumb_bob")
    if model not in _MODELS:
        raise CalibrationError(
            f"{name}: distortion_model is '{model}', it must be one of {', '.join(_MODELS)}"
        )
    k = numbers("camera_matrix", (9,), None)
    if k[0] <= 0 or k[4] <= 0:
        raise CalibrationError(f"{name}: the focal lengths in camera_matrix must be positive")
    projection = [k[0], k[1], k[2], 0.0, k[3], k[4], k[5], 0.0, k[6], k[7], k[8], 0.0]
    return CameraInfo(
        width=size[0],
        height=size[1],
        distortion_model=model,
        d=numbers("distortion_coefficients", _MODELS[model], [0.0] * _MODELS[model][0]),
        k=k,
        r=numbers("rectification_matrix", (9,), _IDENTITY),
        p=numbers("projection_matrix", (12,), projection),
    )


def _content(path: Path, name: str) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise ImportError(
            "a calibration file needs PyYAML: pip install 'mlkd-ros[video]'"
        ) from None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "problem", None) or str(error)
        raise CalibrationError(f"{name}: {reason}") from error
    if not isinstance(content, dict):
        raise CalibrationError(f"{name}: no calibration of a camera")
    return content
