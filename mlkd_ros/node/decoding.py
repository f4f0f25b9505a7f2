# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/Image to `Frame`, without copying a pixel.

The frame looks into the message's own memory, so the message lives as long as the frame does.
Encodings that are not known here go through cv_bridge where that is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkd_ros.tracking import frame as frames

if TYPE_CHECKING:
    from sensor_msgs.msg import Image

__all__ = ["SUPPORTED_ENCODINGS", "Decoder", "UnusableImageError"]


class UnusableImageError(ValueError):
    """An image message that cannot be tracked on; the message says why and what would be right.

    `reason` is one word for counters: "empty", "encoding", "step", "truncated" or "pixels".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class _Layout:
    """How the pixels of one encoding lie in memory."""

    make: Callable[[np.ndarray], frames.Frame]
    channels: int = 1
    bytes_per_value: int = 1
    planar_yuv: bool = False

    def rows(self, height: int) -> int:
        return height * 3 // 2 if self.planar_yuv else height

    def row_bytes(self, width: int) -> int:
        return width * self.channels * self.bytes_per_value


_LAYOUTS: dict[str, _Layout] = {
    "bgr8": _Layout(frames.BgrFrame, 3),
    "rgb8": _Layout(frames.RgbFrame, 3),
    "bgra8": _Layout(frames.BgraFrame, 4),
    "rgba8": _Layout(frames.RgbaFrame, 4),
    "mono8": _Layout(frames.Mono8Frame),
    "mono16": _Layout(frames.Mono16Frame, bytes_per_value=2),
    # The untyped names say only how many bytes there are; these are what OpenCV makes of them.
    "8UC1": _Layout(frames.Mono8Frame),
    "8UC3": _Layout(frames.BgrFrame, 3),
    "8UC4": _Layout(frames.BgraFrame, 4),
    "16UC1": _Layout(frames.Mono16Frame, bytes_per_value=2),
    # The old and the new name of each.
    "yuv422": _Layout(frames.UyvyFrame, 2),
    "uyvy": _Layout(frames.UyvyFrame, 2),
    "yuv422_yuy2": _Layout(frames.Yuy2Frame, 2),
    "yuyv": _Layout(frames.Yuy2Frame, 2),
    "nv12": _Layout(frames.Nv12Frame, planar_yuv=True),
    **{
        f"bayer_{pattern}8": _Layout(partial(frames.BayerFrame, pattern=pattern))
        for pattern in frames.BAYER_PATTERNS
    },
}
SUPPORTED_ENCODINGS = tuple(_LAYOUTS)


class Decoder:
    """Turns image messages into frames.

    `mono16_black` and `mono16_white` are the 16-bit values that become 0 and 255.
    """

    def __init__(self, mono16_black: int = 0, mono16_white: int = 65535) -> None:
        mono16 = partial(frames.Mono16Frame, black=mono16_black, white=mono16_white)
        mono16(np.zeros((1, 1), np.uint16))  # Raises ValueError for an impossible range.
        self._layouts = dict(_LAYOUTS)
        for name in ("mono16", "16UC1"):
            self._layouts[name] = _Layout(mono16, bytes_per_value=2)
        self._bridge: Any = None

    def decode(self, message: Image) -> frames.Frame:
        """A frame over the pixels of `message`, or UnusableImageError."""
        width, height = message.width, message.height
        if width == 0 or height == 0 or len(message.data) == 0:
            raise UnusableImageError(
                "empty",
                f"the image is empty: {width}x{height} pixels, {len(message.data)} bytes of data",
            )
        layout = self._layouts.get(message.encoding)
        if layout is None:
            return _BridgedFrame(message, self._cv_bridge(message.encoding))
        try:
            return layout.make(_view(message, layout))
        except UnusableImageError:
            raise
        except ValueError as error:
            raise UnusableImageError("pixels", f"{message.encoding} image: {error}") from error

    def _cv_bridge(self, encoding: str) -> Any:
        """A CvBridge, or UnusableImageError with the encodings that work without one."""
        if self._bridge is None:
            try:
                # Looked for only when it is needed. Builds against another NumPy fail on import
                # in ways of their own.
                from cv_bridge import CvBridge

                self._bridge = CvBridge()
            except Exception as error:
                supported = ", ".join(SUPPORTED_ENCODINGS)
                raise UnusableImageError(
                    "encoding",
                    f"encoding '{encoding}' is not supported: use one of {supported}, or install "
                    f"cv_bridge, which knows more ({type(error).__name__}: {error})",
                ) from error
        return self._bridge


def _view(message: Image, layout: _Layout) -> np.ndarray:
    """The pixels as an array over the message's memory, in rows `step` bytes apart."""
    width, height, step = message.width, message.height, message.step
    if layout.planar_yuv and (width % 2 or height % 2):
        raise UnusableImageError(
            "pixels", f"an {message.encoding} image has even sides, not {width}x{height}"
        )
    row_bytes, rows = layout.row_bytes(width), layout.rows(height)
    if step < row_bytes:
        raise UnusableImageError(
            "step",
            f"step is {step} bytes, but a row of {width} {message.encoding} pixels "
            f"has {row_bytes}: step must be at least that",
        )
    # The last row needs no padding behind it.
    needed = step * (rows - 1) + row_bytes
    if len(message.data) < needed:
        raise UnusableImageError(
            "truncated",
            f"{len(message.data)} bytes of data, but {width}x{height} {message.encoding} pixels "
            f"with step {step} need {needed}",
        )
    shape: tuple[int, ...] = (rows, width)
    strides: tuple[int, ...] = (step, layout.channels * layout.bytes_per_value)
    if layout.channels > 1:
        shape, strides = (*shape, layout.channels), (*strides, layout.bytes_per_value)
    order = ">" if message.is_bigendian else "<"
    dtype = np.dtype(f"{order}u{layout.bytes_per_value}")
    return np.ndarray(shape, dtype, buffer=message.data, strides=strides)


class _BridgedFrame(frames.Frame):
    """An image that cv_bridge converts, whole, when the first window of it is asked for."""

    def __init__(self, message: Image, bridge: Any) -> None:
        super().__init__(message.width, message.height)
        self._message = message
        self._bridge = bridge
        self._pixels: np.ndarray | None = None

    def _convert(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        if self._pixels is None:
            try:
                self._pixels = self._bridge.imgmsg_to_cv2(self._message, "bgr8")
            except Exception as error:
                raise UnusableImageError(
                    "encoding", f"cv_bridge cannot convert '{self._message.encoding}': {error}"
                ) from error
        return self._pixels[y0:y1, x0:x1]
