# SPDX-License-Identifier: Apache-2.0
"""Camera images, raw or compressed, as small JPEG pictures for the page."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
from sensor_msgs.msg import CompressedImage, Image

from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.imaging.messages import Decoder

__all__ = ["Jpeg", "JpegEncoder"]


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
        frame = self._decoder.decode(message)
        image_size = (frame.width, frame.height)
        scale = min(1.0, self._max_width / frame.width)
        size = (max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
        frame, _ = frame.reduced(1.0 / scale)
        pixels = frame.window(0, 0, frame.width, frame.height)
        if pixels.shape[1::-1] != size:
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        done, data = cv2.imencode(".jpg", pixels, self._quality)
        if not done:
            raise UnusableImageError("pixels", f"{size[0]}x{size[1]} pixels cannot become a JPEG")
        return Jpeg(data.tobytes(), size, image_size)
