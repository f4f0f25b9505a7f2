# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/Image and sensor_msgs/CompressedImage to `Frame`.

A message is whatever has the fields: of rclpy, of a bag, of a test. The frame looks into its own
memory: no pixel is copied, and what is compressed is not decoded yet. Encodings that
`mlkd_ros.imaging.encodings` does not know go through cv_bridge where that is installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlkd_ros.imaging.camera import CameraSettings
from mlkd_ros.imaging.compressed import CompressedFrame, Decoded
from mlkd_ros.imaging.encodings import ENCODINGS, UnusableImageError, frame_over
from mlkd_ros.imaging.frame import Frame

__all__ = ["IMAGE_TYPES", "Decoder"]

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


class Decoder:
    """Turns image messages, raw or compressed, into frames; `camera` is that of the stream."""

    def __init__(self, camera: CameraSettings | None = None) -> None:
        self.camera = camera or CameraSettings()
        self._decoded = Decoded()
        self._bridge: Any = None

    def decode(self, message: Any) -> Frame:
        """A frame over the pixels of `message`, or UnusableImageError."""
        if hasattr(message, "format"):
            return CompressedFrame(bytes(message.data), message.format, self.camera, self._decoded)
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
            camera=self.camera,
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

    def __init__(self, message: Any, bridge: Any) -> None:
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
