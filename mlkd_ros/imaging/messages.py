# SPDX-License-Identifier: Apache-2.0
"""Messages of images and of packets of video to `Frame`.

A message is whatever has the fields: of rclpy, of a bag, of a test. The frame looks into its own
memory: no pixel is copied, and a JPEG or PNG is not decoded yet; packets of video are, each in its
turn. Encodings that `mlkd_ros.imaging.encodings` does not know go through cv_bridge where that is
installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlkd_ros.imaging.camera import CameraSettings
from mlkd_ros.imaging.compressed import CompressedFrame, Decoded
from mlkd_ros.imaging.encodings import ENCODINGS, UnusableImageError, frame_over
from mlkd_ros.imaging.frame import Frame
from mlkd_ros.imaging.packets import PacketDecoder, codec_of

__all__ = ["IMAGE_TYPES", "KEY_FLAG", "TRANSPORTS", "VIDEO_TRANSPORTS", "Decoder", "topic_of"]

#: Type of the messages by how images come, which is the name that image_transport has for it.
TRANSPORTS = {
    "raw": "sensor_msgs/msg/Image",
    "compressed": "sensor_msgs/msg/CompressedImage",
    "ffmpeg": "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
    "foxglove": "foxglove_msgs/msg/CompressedVideo",
}
#: Those where each picture is made of the ones before it, so that every message counts.
VIDEO_TRANSPORTS = ("ffmpeg", "foxglove")
IMAGE_TYPES = tuple(TRANSPORTS.values())
#: Bit of FFMPEGPacket.flags: a key frame.
KEY_FLAG = 1


def topic_of(image_topic: str, transport: str) -> str:
    """Where image_transport publishes the images of a topic in that transport."""
    return image_topic if transport == "raw" else f"{image_topic}/{transport}"


class Decoder:
    """Turns the messages of one stream into frames; `camera` is its settings."""

    def __init__(self, camera: CameraSettings | None = None) -> None:
        self.camera = camera or CameraSettings()
        self._decoded = Decoded()
        self._bridge: Any = None
        self._video: PacketDecoder | None = None

    def frames(self, message: Any, about: Any = None) -> list[tuple[Frame, Any]]:
        """What `message` shows, with `about`; of video maybe nothing yet, or images before it.

        Raises UnusableImageError, and for video ImportError without PyAV.
        """
        if hasattr(message, "pts"):
            codec, key, count = message.encoding, bool(message.flags & KEY_FLAG), int(message.pts)
        elif hasattr(message, "timestamp"):
            codec, key, count = message.format, False, _nanoseconds(message.timestamp)
        else:
            return [(self.decode(message), about)]
        codec = codec_of(codec)
        if self._video is None or self._video.codec != codec:
            self._video = PacketDecoder(codec)
        return self._video.decode(bytes(message.data), about, key=key, count=count or None)

    def flush(self) -> list[tuple[Frame, Any]]:
        """What is held back at the end of a video, to be in order."""
        return self._video.flush() if self._video is not None else []

    def decode(self, message: Any) -> Frame:
        """A frame over the pixels of an image, raw or compressed, or UnusableImageError."""
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


def _nanoseconds(time: Any) -> int:
    return int(time.sec) * 1_000_000_000 + int(time.nanosec)


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
