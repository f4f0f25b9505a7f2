# SPDX-License-Identifier: Apache-2.0
"""Camera memory to `Frame` by the name of its encoding, without copying a pixel.

The names are those of ROS's sensor_msgs/Image, but nothing here needs ROS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mlkd_ros.imaging import frame as frames
from mlkd_ros.imaging.camera import CameraSettings

__all__ = ["ENCODINGS", "UnusableImageError", "frame_over"]


class UnusableImageError(ValueError):
    """An image that cannot be used; the message says why and what would be right.

    `reason` is one word for counters: "empty", "encoding", "step", "truncated" or "pixels".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class _Layout:
    """How the pixels of one encoding lie in memory."""

    make: Callable[..., frames.Frame]
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
    **{
        f"bayer_{pattern}16": _Layout(
            partial(frames.Bayer16Frame, pattern=pattern), bytes_per_value=2
        )
        for pattern in frames.BAYER_PATTERNS
    },
}
ENCODINGS = tuple(_LAYOUTS)


def frame_over(
    data: Any,
    width: int,
    height: int,
    step: int,
    encoding: str,
    *,
    bigendian: bool = False,
    camera: CameraSettings | None = None,
) -> frames.Frame:
    """A frame that looks into `data`, any buffer of bytes, and keeps it alive.

    Rows are `step` bytes apart; `encoding` is one of `ENCODINGS`. Raises UnusableImageError.
    """
    camera = camera or CameraSettings()
    if width < 1 or height < 1 or len(data) == 0:
        raise UnusableImageError(
            "empty", f"the image is empty: {width}x{height} pixels, {len(data)} bytes of data"
        )
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        known = ", ".join(ENCODINGS)
        raise UnusableImageError(
            "encoding", f"encoding '{encoding}' is not supported, supported are {known}"
        )
    if layout.planar_yuv and (width % 2 or height % 2):
        raise UnusableImageError(
            "pixels", f"an {encoding} image has even sides, not {width}x{height}"
        )
    row_bytes, rows = layout.row_bytes(width), layout.rows(height)
    if step < row_bytes:
        raise UnusableImageError(
            "step",
            f"step is {step} bytes, but a row of {width} {encoding} pixels has {row_bytes}: "
            "step must be at least that",
        )
    # The last row needs no padding behind it.
    needed = step * (rows - 1) + row_bytes
    if len(data) < needed:
        raise UnusableImageError(
            "truncated",
            f"{len(data)} bytes of data, but {width}x{height} {encoding} pixels with step {step} "
            f"need {needed}",
        )
    shape: tuple[int, ...] = (rows, width)
    strides: tuple[int, ...] = (step, layout.channels * layout.bytes_per_value)
    if layout.channels > 1:
        shape, strides = (*shape, layout.channels), (*strides, layout.bytes_per_value)
    dtype = np.dtype(f"{'>' if bigendian else '<'}u{layout.bytes_per_value}")
    pixels: np.ndarray = np.ndarray(shape, dtype, buffer=data, strides=strides)
    try:
        if layout.bytes_per_value == 2:
            return layout.make(pixels, black=camera.black, white=camera.white)
        if camera.bayer and layout.make is frames.Mono8Frame:
            return frames.BayerFrame(pixels, camera.bayer)
        return layout.make(pixels)
    except ValueError as error:
        raise UnusableImageError("pixels", f"{encoding} image: {error}") from error
