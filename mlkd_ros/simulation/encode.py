# SPDX-License-Identifier: Apache-2.0
"""BGR images as the bytes and messages that a real camera would send, in any encoding."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mlkd_ros.imaging.encodings import ENCODINGS

if TYPE_CHECKING:
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

__all__ = ["encode", "image_message"]

_CONVERSIONS = {
    "rgb8": cv2.COLOR_BGR2RGB,
    "bgra8": cv2.COLOR_BGR2BGRA,
    "8UC4": cv2.COLOR_BGR2BGRA,
    "rgba8": cv2.COLOR_BGR2RGBA,
    "mono8": cv2.COLOR_BGR2GRAY,
    "8UC1": cv2.COLOR_BGR2GRAY,
}


def encode(bgr: np.ndarray, encoding: str) -> np.ndarray:
    """The bytes of an HxWx3 uint8 BGR image in `encoding`: rows x bytes per row, uint8, contiguous.

    16-bit values are little-endian and use the whole range. Chroma is subsampled as the encoding
    asks, which needs even sides. Raises ValueError for an unknown encoding or odd sides.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding '{encoding}' is not one of {', '.join(ENCODINGS)}")
    if encoding in ("bgr8", "8UC3"):
        pixels = bgr
    elif encoding in _CONVERSIONS:
        pixels = cv2.cvtColor(bgr, _CONVERSIONS[encoding])
    elif encoding in ("mono16", "16UC1"):
        pixels = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY).astype("<u2") * np.uint16(257)
    elif encoding.startswith("bayer_"):
        pixels = _mosaic(bgr, encoding[len("bayer_") : -1])
    else:
        pixels = _subsampled(bgr, encoding)
    pixels = np.ascontiguousarray(pixels)
    return pixels.reshape(len(pixels), -1).view(np.uint8)


def image_message(bgr: np.ndarray, header: Header, encoding: str = "bgr8") -> Image:
    """A sensor_msgs/Image of an HxWx3 uint8 BGR image. Raises ValueError like `encode`."""
    from sensor_msgs.msg import Image

    rows = encode(bgr, encoding)
    # The one way to fill a message that does not touch the bytes one by one.
    data = array.array("B")
    data.frombytes(rows.data.cast("B"))
    return Image(
        header=header,
        height=bgr.shape[0],
        width=bgr.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=data,
    )


def _mosaic(bgr: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor under this colour mosaic sees of the image."""
    pixels = np.empty(bgr.shape[:2], np.uint8)
    for position, colour in enumerate(pattern):
        cells = np.s_[position // 2 :: 2, position % 2 :: 2]
        pixels[cells] = bgr[..., "bgr".index(colour)][cells]
    return pixels


def _subsampled(bgr: np.ndarray, encoding: str) -> np.ndarray:
    """NV12, UYVY or YUY2."""
    height, width = bgr.shape[:2]
    if width % 2 or height % 2:
        raise ValueError(f"encoding {encoding} needs even sides, not {width}x{height}")
    planes = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    luma = planes[:height]
    u, v = planes[height:].reshape(2, height // 2, width // 2)
    chroma = np.stack((u, v), axis=-1).reshape(height // 2, width)
    if encoding == "nv12":
        return np.concatenate((luma, chroma))
    chroma = chroma.repeat(2, axis=0)
    first, second = (chroma, luma) if encoding in ("yuv422", "uyvy") else (luma, chroma)
    return np.stack((first, second), axis=-1)
