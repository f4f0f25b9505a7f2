# SPDX-License-Identifier: Apache-2.0
"""JPEG and PNG as `Frame`, decoded when somebody looks and not before.

An image that is dropped is never decoded, and one that waits in the history is held as it came. A
JPEG is decoded at the smallest of its scales that the search windows allow. On arrival only the
file's headers and its end are looked at, which is enough to refuse what is damaged or not an image.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from mlkd_ros.imaging import frame as frames
from mlkd_ros.imaging.camera import CameraSettings
from mlkd_ros.imaging.encodings import UnusableImageError

__all__ = ["CompressedFrame", "Decoded", "Header", "read_header"]

#: Pixels in the largest picture that is decoded, 8192 x 8192: a few bytes may claim any size.
MAX_PIXELS = 1 << 26

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Samples of a pixel by PNG's colour type: grey, RGB, palette, grey and alpha, RGB and alpha.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
#: Markers of a JPEG frame header; of these in the same range, 0xC4, 0xC8 and 0xCC are others.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, b"\xff\xd9"
_EXIF, _ORIENTATION_TAG = 0xE1, 0x0112
#: OpenCV's flag for one side divided by 1, 2, 4, 8; JPEG itself can be decoded at these scales.
_COLOUR_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_GREY_FLAGS = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


@dataclass(frozen=True)
class Header:
    """What a compressed picture says of itself. `kind` is "jpeg" or "png"; `bits` are per value."""

    kind: str
    width: int
    height: int
    channels: int
    bits: int = 8
    turned: int = 1
    """EXIF orientation, 1 to 8: 1 is as stored, from 5 on the sides are swapped."""


def read_header(data: bytes, format_name: str = "") -> Header:
    """Kind and size of a whole JPEG or PNG file, without decoding it.

    `format_name` is what the message calls it, for the error. Raises UnusableImageError for data
    that is empty, of another kind, cut short or of an impossible size.
    """
    if not data:
        raise UnusableImageError("empty", "the compressed image is empty: 0 bytes of data")
    if data.startswith(b"\xff\xd8"):
        header = _jpeg_header(data)
    elif data.startswith(_PNG_SIGNATURE):
        header = _png_header(data)
    else:
        raise UnusableImageError(
            "encoding",
            f"compressed images must be JPEG or PNG; format '{format_name}' begins with bytes "
            f"{data[:8].hex(' ')}, which is neither",
        )
    if header.width < 1 or header.height < 1 or header.width * header.height > MAX_PIXELS:
        raise UnusableImageError(
            "pixels",
            f"the {header.kind} says it has {header.width}x{header.height} pixels: it must have "
            f"1 to {MAX_PIXELS}",
        )
    return header


def _jpeg_header(data: bytes) -> Header:
    header, turned = None, 1
    for marker, begin, size in _jpeg_segments(data):
        if marker == _EXIF:
            turned = _exif_orientation(data[begin : begin + size])
        elif marker in _START_OF_FRAME and size >= 6:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, begin)
            header = Header("jpeg", width, height, channels, bits, turned)
        elif marker == _START_OF_SCAN and header is not None:
            # Behind it there may be padding, but before the scan there may be a thumbnail's end.
            if data.rfind(_END_OF_IMAGE, begin + size) < 0:
                break
            return header
    raise UnusableImageError(
        "truncated", f"the JPEG is cut short or damaged: {len(data)} bytes without an end of image"
    )


def _exif_orientation(segment: bytes) -> int:
    """The orientation in an APP1 segment; 1, as stored, where it does not say."""
    tiff = segment[6:]
    if not segment.startswith(b"Exif\0\0") or tiff[:2] not in (b"II", b"MM"):
        return 1
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (begin,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, begin)
        for index in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, begin + 2 + 12 * index)
            if tag == _ORIENTATION_TAG and 1 <= value <= 8:
                return int(value)
    except struct.error:  # cut short
        pass
    return 1


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and size of the content of each segment up to the first scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        size = int.from_bytes(data[position + 2 : position + 4], "big")
        if size < 2 or position + 2 + size > len(data):
            return
        yield marker, position + 4, size - 2
        position += 2 + size


def _png_header(data: bytes) -> Header:
    if len(data) < 33 or data[12:16] != b"IHDR" or b"IEND" not in data[-64:]:
        raise UnusableImageError(
            "truncated", f"the PNG is cut short or damaged: {len(data)} bytes without its IEND"
        )
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if colour not in _PNG_CHANNELS or bits not in (1, 2, 4, 8, 16):
        raise UnusableImageError(
            "pixels", f"the PNG has colour type {colour} with {bits} bits: there is no such kind"
        )
    return Header("png", width, height, _PNG_CHANNELS[colour], bits)


class Decoded:
    """The pixels of the one image that was looked at last.

    Shared by all frames of a decoder, so that images in the history cost what they do compressed.
    """

    def __init__(self) -> None:
        self.owner: CompressedFrame | None = None
        self.by_factor: dict[int, frames.Frame] = {}
        self._finest = self._finest_before = 8  # factor asked for of this image, of the last one

    def of(self, owner: CompressedFrame, factor: int) -> tuple[frames.Frame, int]:
        """The owner's pixels at that factor, or at a finer one where those are there or soon will
        be: what the image before was needed at, this one will be.
        """
        if self.owner is not owner:
            self._finest_before, self._finest = self._finest, 8
            self.owner, self.by_factor = owner, {}
        self._finest = min(self._finest, factor)
        ready = max((n for n in self.by_factor if n <= factor), default=None)
        if ready is None:
            ready = min(factor, self._finest_before)
            self.by_factor[ready] = owner.decode(ready)
        return self.by_factor[ready], ready


class CompressedFrame(frames.Frame):
    """A JPEG or PNG file. `window` and `reduced` are for one thread at a time.

    Raises UnusableImageError from them when the data turns out not to be decodable.
    """

    def __init__(
        self,
        data: bytes,
        format_name: str = "",
        camera: CameraSettings | None = None,
        decoded: Decoded | None = None,
    ) -> None:
        self.header = read_header(data, format_name)
        self._camera = camera or CameraSettings()
        self._upright = self._camera.orientation == "exif" and self.header.turned > 1
        sides = (self.header.width, self.header.height)
        super().__init__(*(sides[::-1] if self._upright and self.header.turned > 4 else sides))
        self._data = data
        self._format = format_name
        self._decoded = decoded or Decoded()

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self._data)

    def reduced(self, scale: float) -> tuple[frames.Frame, int]:
        """See `Frame.reduced`: a JPEG is decoded at 1/2, 1/4 or 1/8 of its sides."""
        factor = max((n for n in _COLOUR_FLAGS if n <= scale), default=1)
        if factor == 1 or self.header.kind != "jpeg" or self._pattern():
            return self, 1
        return self._decoded.of(self, factor)

    def _convert(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        return self._decoded.of(self, 1)[0].window(x0, y0, x1, y1)

    def decode(self, factor: int = 1) -> frames.Frame:
        """All pixels, sides divided by `factor` and rounded up. Raises UnusableImageError."""
        buffer = np.frombuffer(self._data, np.uint8)
        try:
            pixels = cv2.imdecode(buffer, self._flags(factor))
        except cv2.error as error:
            pixels, reason = None, str(error)
        else:
            reason = "the decoder gives nothing"
        if pixels is None:
            raise UnusableImageError(
                "pixels", f"the {self.header.kind} of {self.nbytes} bytes is damaged: {reason}"
            )
        expected = (-(-self.height // factor), -(-self.width // factor))
        if pixels.shape[:2] != expected:
            raise UnusableImageError(
                "pixels",
                f"the {self.header.kind} was decoded to {pixels.shape[1]}x{pixels.shape[0]} "
                f"pixels, its header says {expected[1]}x{expected[0]}",
            )
        return self._frame_over(pixels)

    def _flags(self, factor: int) -> int:
        depth = cv2.IMREAD_ANYDEPTH if self.header.bits == 16 else 0
        flags = _GREY_FLAGS if self.header.channels < 3 else _COLOUR_FLAGS
        # A camera's picture is as it was taken: an orientation for viewers would turn it.
        stored = 0 if self._upright else cv2.IMREAD_IGNORE_ORIENTATION
        return flags[factor] | depth | stored

    def _frame_over(self, pixels: np.ndarray) -> frames.Frame:
        if pixels.dtype == np.uint16:
            low, high = self._camera.black, self._camera.white
            if pixels.ndim == 2:
                pattern = self._pattern()
                if pattern:
                    return frames.Bayer16Frame(pixels, pattern, low, high)
                return frames.Mono16Frame(pixels, low, high)
            scale = 255.0 / (high - low)
            pixels = cv2.convertScaleAbs(np.maximum(pixels, low) - np.uint16(low), alpha=scale)
        if pixels.ndim == 3:
            # image_transport says what it compressed; its decoder takes "rgb" by its word.
            swapped = "compressed rgb" in self._format
            return frames.RgbFrame(pixels) if swapped else frames.BgrFrame(pixels)
        pattern = self._pattern()
        return frames.BayerFrame(pixels, pattern) if pattern else frames.Mono8Frame(pixels)

    def _pattern(self) -> str:
        """The colour mosaic that the grey values lie under, or empty."""
        if self.header.channels != 1 or self._upright:
            return ""
        name = self._format.split(";")[0].strip()
        bits = str(self.header.bits)
        if name.startswith("bayer_") and name.endswith(bits):
            pattern = name[len("bayer_") : -len(bits)]
            return pattern if pattern in frames.BAYER_PATTERNS else ""
        return self._camera.bayer if self.header.bits == 8 else ""
