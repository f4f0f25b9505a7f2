# SPDX-License-Identifier: Apache-2.0
"""Camera images, raw or compressed, as small JPEG pictures for the page."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from mlkd_ros.node.decoding import Decoder
from mlkd_ros.tracking.encoding import UnusableImageError

__all__ = ["JpegEncoder", "Jpeg"]


@dataclass(frozen=True)
class Jpeg:
    """A picture of `size`, scaled from a camera image of `image_size` (width, height in pixels)."""

    data: bytes
    size: tuple[int, int]
    image_size: tuple[int, int]


class JpegEncoder:
    """Makes pictures at most `max_width` pixels wide, at JPEG quality `quality` (1 to 100)."""

    def __init__(self, max_width: int, quality: int) -> None:
        self._max_width = max_width
        self._quality = [cv2.IMWRITE_JPEG_QUALITY, quality]
        self._decoder = Decoder()

    def encode(self, message: Image | CompressedImage) -> Jpeg:
        """The picture of a message. Raises UnusableImageError."""
        pixels = self._pixels(message)
        height, width = pixels.shape[:2]
        scale = min(1.0, self._max_width / width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if scale < 1.0:
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        done, data = cv2.imencode(".jpg", pixels, self._quality)
        if not done:
            raise UnusableImageError("pixels", f"{size[0]}x{size[1]} pixels cannot become a JPEG")
        return Jpeg(data.tobytes(), size, (width, height))

    def _pixels(self, message: Image | CompressedImage) -> np.ndarray:
        """HxWx3 uint8 BGR."""
        if isinstance(message, Image):
            frame = self._decoder.decode(message)
            return frame.window(0, 0, frame.width, frame.height)
        data = np.frombuffer(message.data, np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
        if pixels is None:
            raise UnusableImageError(
                "encoding",
                f"{len(data)} bytes of format '{message.format}' are no JPEG or PNG picture",
            )
        return pixels
