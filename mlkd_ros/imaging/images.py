# SPDX-License-Identifier: Apache-2.0
"""Image files, read and written through memory: a name can be anything that the disk allows."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from mlkd_ros.files import printable, replacing
from mlkd_ros.imaging.camera import CameraSettings
from mlkd_ros.imaging.compressed import CompressedFrame, Decoded
from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.imaging.errors import DatasetError
from mlkd_ros.imaging.frame import BgrFrame, Frame, Mono16Frame

__all__ = [
    "IMAGE_SUFFIXES",
    "list_images",
    "natural_key",
    "open_image",
    "read_image",
    "whole",
    "write_image",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
#: Decoded when somebody looks; OpenCV decodes the others at once.
_LAZY = (b"\xff\xd8", b"\x89PNG\r\n\x1a\n")


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Sort ``img9`` before ``img10``."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isascii() and part.isdigit() else (1, part) for part in parts]


def list_images(folder: Path) -> tuple[Path, ...]:
    """List the image files of ``folder`` in natural order of their names.

    Raises:
        DatasetError: The folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise DatasetError(f"{printable(folder)}: no such image folder")
    paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DatasetError(f"{printable(folder)}: holds no image file ({suffixes})")
    return tuple(sorted(paths, key=natural_key))


def open_image(
    path: Path, camera: CameraSettings | None = None, decoded: Decoded | None = None
) -> Frame:
    """An image file as the frame that the same bytes would be as a compressed image message.

    Raises:
        DatasetError: The file is missing or is not an image that can be decoded. A JPEG or PNG may
            turn out to be damaged later: `Frame.window` then raises UnusableImageError.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{printable(path)}: no such image file") from None
    except OSError as error:
        raise DatasetError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    try:
        if data.startswith(_LAZY):
            return CompressedFrame(data, path.suffix, camera, decoded)
        return _decoded_at_once(data, camera or CameraSettings())
    except UnusableImageError as error:
        raise DatasetError(
            f"{printable(path)}: cannot be decoded as an image (truncated, or not an image?): "
            f"{error}"
        ) from error


def _decoded_at_once(data: bytes, camera: CameraSettings) -> Frame:
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise UnusableImageError("pixels", str(error)) from error
    if pixels is None:
        raise UnusableImageError("pixels", f"{len(data)} bytes that no decoder knows")
    if pixels.dtype == np.uint16 and pixels.ndim == 2:
        return Mono16Frame(pixels, camera.black, camera.white)
    if pixels.dtype != np.uint8:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise UnusableImageError("pixels", f"{len(data)} bytes that cannot be shown in 8 bits")
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return BgrFrame(np.ascontiguousarray(pixels[..., :3]))


def whole(frame: Frame) -> np.ndarray:
    """All of a frame, uint8 BGR ``(height, width, 3)``: contiguous, and not to be written to."""
    return np.ascontiguousarray(frame.window(0, 0, frame.width, frame.height))


def read_image(path: Path) -> np.ndarray:
    """Read an image of a data set as uint8 BGR of shape ``(height, width, 3)``.

    As every toolkit of the field reads them, because their boxes are meant so: turned as EXIF says,
    and what a JPEG that is cut short still shows.

    Raises:
        DatasetError: The file is missing or is not an image that can be decoded.
    """
    try:
        return whole(open_image(path, CameraSettings(orientation="exif")))
    except (DatasetError, UnusableImageError) as error:
        data = path.read_bytes() if path.is_file() else b""
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if pixels is not None:
            return np.asarray(pixels)
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{printable(path)}: cannot be decoded as an image: {error}") from error


def write_image(path: Path, bgr: np.ndarray) -> None:
    """Write uint8 BGR or grey pixels in the format of the name's suffix, in one step.

    Raises:
        ValueError: The suffix is not that of an image format.
        OSError: It cannot be written; the message names the file.
    """
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{printable(path)}: not one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    done, coded = cv2.imencode(path.suffix.lower(), bgr)
    if not done:
        raise ValueError(f"{printable(path)}: these pixels cannot be written in this format")
    with replacing(path) as file:
        file.write(coded.tobytes())
