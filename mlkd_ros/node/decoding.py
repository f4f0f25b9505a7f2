# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/Image to `Frame`.

The frame looks into the message's own memory: no pixel is copied. Encodings that
`mlkd_ros.imaging.encodings` does not know go through cv_bridge where that is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlkd_ros.imaging.encodings import ENCODINGS, Mono16Range, UnusableImageError, frame_over
from mlkd_ros.imaging.frame import Frame

if TYPE_CHECKING:
    from sensor_msgs.msg import Image

__all__ = ["Decoder"]


class Decoder:
    """Turns image messages into frames. `mono16` is the camera's range for 16-bit encodings."""

    def __init__(self, mono16: Mono16Range | None = None) -> None:
        self._mono16 = mono16
        self._bridge: Any = None

    def decode(self, message: Image) -> Frame:
        """A frame over the pixels of `message`, or UnusableImageError."""
        whole = message.width > 0 and message.height > 0 and len(message.data) > 0
        if whole and message.encoding not in ENCODINGS:
            return _BridgedFrame(message, self._cv_bridge(message.encoding))
        return frame_over(
            message.data,
            message.width,
            message.height,
            message.step,
            message.encoding,
            bigendian=bool(message.is_bigendian),
            mono16=self._mono16,
        )

    def _cv_bridge(self, encoding: str) -> Any:
        """A CvBridge, or UnusableImageError with the encodings that work without one."""
        if self._bridge is None:
            try:
                # Looked for only when it is needed. A build against another NumPy fails on import
                # in ways of its own.
                from cv_bridge import CvBridge

                self._bridge = CvBridge()
            except Exception as error:
                raise UnusableImageError(
                    "encoding",
                    f"encoding '{encoding}' is not supported: use one of {', '.join(ENCODINGS)}, "
                    f"or install cv_bridge, which knows more ({type(error).__name__}: {error})",
                ) from error
        return self._bridge


class _BridgedFrame(Frame):
    """An image that cv_bridge converts, whole, when the first window of it is asked for."""

    def __init__(self, message: Image, bridge: Any) -> None:
        super().__init__(message.width, message.height)
        self._message = message
        self._bridge = bridge
        self._pixels: np.ndarray | None = None

    def _convert(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        if self._pixels is None:
            encoding = self._message.encoding
            try:
                pixels = np.asarray(self._bridge.imgmsg_to_cv2(self._message, "bgr8"))
            except Exception as error:
                raise UnusableImageError(
                    "encoding", f"cv_bridge cannot convert '{encoding}': {error}"
                ) from error
            if pixels.shape != (self.height, self.width, 3):
                raise UnusableImageError(
                    "encoding", f"cv_bridge made shape {pixels.shape} of '{encoding}'"
                )
            self._pixels = pixels
        return self._pixels[y0:y1, x0:x1]
