# SPDX-License-Identifier: Apache-2.0
"""Camera frames that convert only the window that is looked at.

A tracker needs a crop of a few hundred pixels, not the whole image. A `Frame` therefore keeps the
camera's own pixels (a view, never a copy) and turns a window of them into BGR when it is asked for
one. The result is, pixel for pixel, what converting the whole image and then cutting the window out
would give.

Coordinates are pixels of the full image, origin at the top left, x to the right and y down.
"""

from __future__ import annotations

import abc

import cv2
import numpy as np

from mlkd_ros.imaging.camera import BAYER_PATTERNS

__all__ = [
    "BAYER_PATTERNS",
    "Bayer16Frame",
    "BayerFrame",
    "BgrFrame",
    "BgraFrame",
    "Frame",
    "I420Frame",
    "Mono16Frame",
    "Mono8Frame",
    "Nv12Frame",
    "RgbFrame",
    "RgbaFrame",
    "UyvyFrame",
    "Yuy2Frame",
    "as_frame",
]


class Frame(abc.ABC):
    """One image of a camera: `width` and `height` in pixels, and BGR windows on demand."""

    def __init__(self, width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise ValueError(f"an image needs at least one pixel, this one is {width}x{height}")
        self.width = int(width)
        self.height = int(height)

    def window(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """Columns x0..x1 and rows y0..y1 (ends excluded) as BGR uint8, shape (y1 - y0, x1 - x0, 3).

        The result may be a view of the camera's own memory: read it, do not write to it. Raises
        ValueError for a window that is empty or reaches outside the image.
        """
        if not (0 <= x0 < x1 <= self.width and 0 <= y0 < y1 <= self.height):
            raise ValueError(
                f"window ({x0}, {y0})-({x1}, {y1}) is empty or outside the "
                f"{self.width}x{self.height} image"
            )
        return self._convert(x0, y0, x1, y1)

    def reduced(self, scale: float) -> tuple[Frame, int]:
        """The picture for a reader who shows `scale` pixels as one, where a smaller one costs less.

        Returns a frame and a factor n >= 1, at most `scale`: its pixel (i, j) shows the n x n
        pixels from (n * i, n * j) on; what the last ones lack at the right and lower border is made
        up. Most cameras' pixels lie ready at full size: then it is the frame itself, and 1.
        """
        return self, 1

    @abc.abstractmethod
    def _convert(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """`window` for limits that are known to be valid."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.width}x{self.height})"


def as_frame(image: np.ndarray | Frame) -> Frame:
    """`image` itself when it is a Frame, else a BgrFrame over an HxWx3 uint8 array.

    Raises TypeError for other types and ValueError for arrays of another shape or dtype.
    """
    if isinstance(image, Frame):
        return image
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"an image must be a Frame or an HxWx3 uint8 array, not {type(image).__name__}"
        )
    return BgrFrame(image)


def _checked(array: np.ndarray, dtype: type, channels: int | None, name: str) -> np.ndarray:
    """`array` if it holds pixels of this kind (`channels` None: a 2-D array), else ValueError."""
    shape = "HxW" if channels is None else f"HxWx{channels}"
    fits = array.ndim == 2 if channels is None else array.ndim == 3 and array.shape[2] == channels
    # Type numbers, not dtypes, are compared: big-endian uint16 is uint16 too.
    if not fits or array.dtype.type is not dtype:
        raise ValueError(
            f"a {name} image is an {shape} array of {np.dtype(dtype).name}, "
            f"not shape {array.shape} of {array.dtype.name}"
        )
    return array


class BgrFrame(Frame):
    """Blue, green, red bytes: HxWx3 uint8 with any strides. Windows are views."""

    def __init__(self, array: np.ndarray) -> None:
        self._pixels = _checked(array, np.uint8, 3, "BGR")
        super().__init__(array.shape[1], array.shape[0])

    def _convert(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        return self._pixels[y0:y1, x0:x1]


class _PackedFrame(Frame):
    """Pixels that OpenCV converts one by one, without looking at their neighbours."""

    name: str
    channels: int | None
    code: int

    def __init__(self, array: np.ndarray) -> None:
        self._pixels = _checked(array, np.uint8, self.channels, self.name)
        super().__init__(array.shape[1], array.shape[0])

    def _convert(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        return cv2.cvtColor(self._pixels[y0:y1, x0:x1], self.code)


class RgbFrame(_PackedFrame):
    """Red, green, blue bytes: HxWx3 uint8."""

    name, channels, code = "RGB", 3, cv2.COLOR_RGB2BGR


class BgraFrame(_PackedFrame):
    """Blue, green, red, alpha bytes: HxWx4 uint8. Alpha is ignored."""

    name, channels, code = "BGRA", 4, cv2.COLOR_BGRA2BGR


class RgbaFrame(_PackedFrame):
    """Red, green, blue, alpha bytes: HxWx4 uint8. Alpha is ignored."""

    name, channels, code = "RGBA", 4, cv2.COLOR_RGBA2BGR


class Mono8Frame(_PackedFrame):
    """Grey bytes: HxW uint8."""

    name, channels, code = "mono8", None, cv2.COLOR_GRAY2BGR


class Mono16Frame(Frame):
    """Grey 16-bit values: HxW uint16 of either byte order.

    `black` and `white` are the values shown as 0 and 255; between them the scale is linear, outside
    it is clipped. They belong to the camera and stay the same for the whole stream, because a range
    taken from each image would make the target's brightness depend on what else is in view. The
    default is the full 16-bit range (what mono16 means in ROS); a camera that puts 12 bits into the
    low end of 16 has white=4095.
    """

    def __init__(self, array: np.ndarray, black: int = 0, white: int = 65535) -> None:
        if not 0 <= black < white <= 65535:
            raise ValueError(
                f"mono16 needs 0 <= black < white <= 65535, not black={black} and white={white}"
            )
        self._pixels = _checked(array, np.uint16, None, "mono16")
        self.black, self.white = int(black), int(white)
        super().__init__(array.shape[1], array.shape[0])

    @property
    def values(self) -> np.ndarray:
        """The camera's own values, HxW uint16 of either byte order, as a view."""
        return self._pixels

    def with_levels(self, black: int, white: int) -> Mono16Frame:
        """The same values between other levels."""
        return Mono16Frame(self._pixels, black, white)

    def _convert(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        grey = _to_8_bit(self._pixels[y0:y1, x0:x1], self.black, self.white)
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)


def _to_8_bit(values: np.ndarray, black: int, white: int) -> np.ndarray:
    """HxW uint16 as uint8: `black` and below are 0, `white` and above 255, linear between."""
    # The copy brings the window into native byte order and alignment.
    values = values.astype(np.uint16)
    if black:
        values = np.maximum(values, black) - np.uint16(black)
    return cv2.convertScaleAbs(values, alpha=255.0 / (white - black))


class _Yuv422Frame(Frame):
    """Pairs of pixels that share their colour: HxWx2 uint8, W even."""

    name: str
    code: int

    def __init__(self, array: np.ndarray) -> None:
        self._pixels = _checked(array, np.uint8, 2, self.name)
        if array.shape[1] % 2:
            raise ValueError(f"a {self.name} image has an even width, not {array.shape[1]}")
        super().__init__(array.shape[1], array.shape[0])

    def _convert(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        left, right = _even_down(x0), _even_up(x1)
        bgr = cv2.cvtColor(self._pixels[y0:y1, left:right], self.code)
        return bgr[:, x0 - left : x1 - left]


class UyvyFrame(_Yuv422Frame):
    """U, Y, V, Y bytes for each pair of pixels (ROS: yuv422, uyvy): HxWx2 uint8, W even."""

    name, code = "UYVY", cv2.COLOR_YUV2BGR_UYVY


class Yuy2Frame(_Yuv422Frame):
    """Y, U, Y, V bytes for each pair of pixels (ROS: yuv422_yuy2, yuyv): HxWx2 uint8, W even."""

    name, code = "YUY2", cv2.COLOR_YUV2BGR_YUY2


class Nv12Frame(Frame):
    """H rows of brightness over H/2 of interleaved U and V: (H * 3/2)xW uint8, W and H even."""

    def __init__(self, planes: np.ndarray) -> None:
        _checked(planes, np.uint8, None, "NV12")
        rows, width = planes.shape
        if rows % 3 or width % 2:
            raise ValueError(
                "an NV12 image has an even width and an even height H, in H * 3/2 rows of bytes, "
                f"not width {width} and {rows} rows"
            )
        height = rows // 3 * 2
        self._luma = planes[:height]
        self._chroma = planes[height:]
        super().__init__(width, height)

    def _convert(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        left, right, top, bottom = _even_down(x0), _even_up(x1), _even_down(y0), _even_up(y1)
        luma = self._luma[top:bottom, left:right]
        chroma = self._chroma[top // 2 : bottom // 2, left:right]
        # One small contiguous copy, because OpenCV takes both planes as one array here.
        bgr = cv2.cvtColor(np.concatenate((luma, chroma)), cv2.COLOR_YUV2BGR_NV12)
        return bgr[y0 - top : y1 - top, x0 - left : x1 - left]


class I420Frame(Frame):
    """Three planes of a video: HxW uint8 of brightness, H/2xW/2 of U and of V, W and H even."""

    def __init__(self, luma: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
        rows, width = luma.shape
        for plane in (u, v):
            if rows % 2 or width % 2 or plane.shape != (rows // 2, width // 2):
                raise ValueError(
                    "an I420 image has even sides and colours of half of them, not "
                    f"{width}x{rows} with {plane.shape[1]}x{plane.shape[0]}"
                )
        self._luma, self._u, self._v = luma, u, v
        super().__init__(width, rows)

    @property
    def nbytes(self) -> int:
        """Bytes of its pixels."""
        return self.width * self.height * 3 // 2

    def _convert(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        left, right, top, bottom = _even_down(x0), _even_up(x1), _even_down(y0), _even_up(y1)
        colours = np.s_[top // 2 : bottom // 2, left // 2 : right // 2]
        # One small contiguous copy, because OpenCV takes the planes as one array.
        parts = (self._luma[top:bottom, left:right], self._u[colours], self._v[colours])
        planes = np.concatenate([part.ravel() for part in parts]).reshape(-1, right - left)
        bgr = cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420)
        return bgr[y0 - top : y1 - top, x0 - left : x1 - left]


# OpenCV names a pattern by the second row's second and third pixel, everyone else by the first two
# rows.
_BAYER_CODES = {
    "rggb": cv2.COLOR_BayerBG2BGR,
    "bggr": cv2.COLOR_BayerRG2BGR,
    "gbrg": cv2.COLOR_BayerGR2BGR,
    "grbg": cv2.COLOR_BayerGB2BGR,
}


class BayerFrame(Frame):
    """Raw 8-bit sensor values under a 2x2 colour mosaic: HxW uint8, at least 4x4.

    `pattern` reads the mosaic's first row, then its second: "rggb", "bggr", "gbrg" or "grbg".
    """

    def __init__(self, array: np.ndarray, pattern: str) -> None:
        if pattern not in _BAYER_CODES:
            raise ValueError(
                f"Bayer pattern '{pattern}' is unknown, use one of {', '.join(BAYER_PATTERNS)}"
            )
        self._pixels = self._checked(array)
        self.pattern = pattern
        self._code = _BAYER_CODES[pattern]
        if min(array.shape) < 4:
            raise ValueError(
                f"a Bayer image is at least 4x4, not {array.shape[1]}x{array.shape[0]}"
            )
        super().__init__(array.shape[1], array.shape[0])

    def _convert(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        # Two pixels around the window: one that interpolation looks at, one to keep the phase.
        left, top = _even_down(max(x0 - 2, 0)), _even_down(max(y0 - 2, 0))
        right, bottom = min(x1 + 2, self.width), min(y1 + 2, self.height)
        bgr = cv2.cvtColor(self._bytes(np.s_[top:bottom, left:right]), self._code)
        return bgr[y0 - top : y1 - top, x0 - left : x1 - left]

    def _checked(self, array: np.ndarray) -> np.ndarray:
        return _checked(array, np.uint8, None, "Bayer")

    def _bytes(self, where: tuple[slice, slice]) -> np.ndarray:
        """A part of the mosaic as uint8."""
        return self._pixels[where]


class Bayer16Frame(BayerFrame):
    """Raw 16-bit sensor values under a colour mosaic: HxW uint16, at least 4x4.

    `black` and `white` as in `Mono16Frame`.
    """

    def __init__(self, array: np.ndarray, pattern: str, black: int = 0, white: int = 65535) -> None:
        self.black, self.white = int(black), int(white)
        super().__init__(array, pattern)

    @property
    def values(self) -> np.ndarray:
        """The sensor's own values, HxW uint16 of either byte order: a view."""
        return self._pixels

    def _checked(self, array: np.ndarray) -> np.ndarray:
        return _checked(array, np.uint16, None, "16-bit Bayer")

    def _bytes(self, where: tuple[slice, slice]) -> np.ndarray:
        return _to_8_bit(self._pixels[where], self.black, self.white)


def _even_down(value: int) -> int:
    return value - value % 2


def _even_up(value: int) -> int:
    return value + value % 2
