# SPDX-License-Identifier: Apache-2.0
"""Camera images, raw or compressed, as small coded pictures for a page: H.264 or JPEG.

An H.264 stream takes a third of the bytes of JPEGs; each picture depends on the one before, so each
page has a stream of its own, and what is left out is left out before it is coded. It needs PyAV
(`pip install 'mlkd-ros[video]'`) here and WebCodecs in the browser, which it offers to pages from
https:// or this machine; else pictures are JPEGs.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from mlkd_ros.imaging.camera import CameraSettings
from mlkd_ros.imaging.compressed import CompressedFrame
from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.imaging.frame import Frame, Mono16Frame
from mlkd_ros.imaging.messages import Decoder
from mlkd_ros.imaging.packets import require_video
from mlkd_ros.imaging.video_encoder import Coding, VideoEncoder

__all__ = [
    "BLOCK",
    "JPEG",
    "Coded",
    "H264Stream",
    "Level",
    "Pictures",
    "h264_available",
    "jpeg",
]

JPEG = "jpeg"
#: Constrained baseline, level 3.1 (up to 1280x720 at 30 Hz) and 4.0 above: what every browser with
#: WebCodecs decodes, without a picture of delay.
_AVC, _AVC_LARGE = "avc1.42E01F", "avc1.42E028"
#: Sides of H.264 pictures are multiples of this: what it codes has no borders then, which some
#: browsers show a green line of.
BLOCK = 16
#: Scaled pictures that are kept for other pages: pages of one size share the work.
_KEPT = 4
#: Levels of a camera of which none were set.
_WHOLE_RANGE = CameraSettings().black, CameraSettings().white
#: Percentiles of 16-bit values that are shown as black and white, every how many pixels they are
#: taken of, how many values lie between them at least, and the share of a new picture in them.
_SHOWN, _SAMPLED, _LEAST_SPAN, _LEVEL_GAIN = (0.5, 99.5), 4, 32, 0.2
#: Pictures from one that depends on no other to the next, at the most.
_KEY_EVERY = 300


@dataclass(frozen=True)
class Level:
    """How a picture is coded: at most `width` pixels wide, `quality` of JPEG (1 to 100), `crf` of
    H.264 (lower is better) and at most `kbit` thousand bits a second of it, `rate` pictures a
    second.
    """

    width: int
    rate: float
    quality: int
    crf: int
    kbit: int


@dataclass(frozen=True)
class Coded:
    """A picture of `size`, scaled from a camera image of `image_size` (width, height in pixels).

    `codec` is `jpeg` or the string that WebCodecs knows it by; `key`: it depends on no other.
    """

    data: bytes
    size: tuple[int, int]
    image_size: tuple[int, int]
    codec: str = JPEG
    key: bool = True


def h264_available() -> bool:
    """Whether PyAV is there."""
    try:
        require_video()
    except ImportError:
        return False
    return True


class Pictures:
    """Decodes and scales images, each once for all pages that want the same. For one thread."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._levels: np.ndarray | None = None
        #: By message, width and block. The message is kept, too: its id must not become another's.
        self._kept: OrderedDict[tuple[int, int, int], tuple[Any, np.ndarray, tuple[int, int]]] = (
            OrderedDict()
        )

    def use(self, camera: CameraSettings) -> None:
        """Decode as the tracker does, or whoever recorded the images, from now on."""
        if camera != self._decoder.camera:
            self._decoder = Decoder(camera)
            self._kept.clear()

    def frame(self, message: Image | CompressedImage) -> Frame:
        """The image of a message. Raises UnusableImageError.

        16-bit values between the camera's levels. Where none are set, its whole range, which a
        night picture has little of: between those of what is in view then.
        """
        frame = self._decoder.decode(message)
        camera = self._decoder.camera
        if (camera.black, camera.white) != _WHOLE_RANGE:
            return frame
        if isinstance(frame, CompressedFrame) and frame.header.bits == 16:
            frame = frame.decode()
        return self._stretched(frame) if isinstance(frame, Mono16Frame) else frame

    def _stretched(self, frame: Mono16Frame) -> Mono16Frame:
        """16-bit values between levels of what is in view."""
        sample = frame.values[::_SAMPLED, ::_SAMPLED]
        levels = np.percentile(sample, _SHOWN)
        if self._levels is not None:  # a lamp that passes does not make it flicker
            levels = self._levels + _LEVEL_GAIN * (levels - self._levels)
        self._levels = levels
        black = min(int(levels[0]), 65535 - _LEAST_SPAN)
        return frame.with_levels(black, max(round(levels[1]), black + _LEAST_SPAN))

    def scaled(
        self, message: Image | CompressedImage, width: int, block: int = 1
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """BGR pixels at most `width` wide, and the size of the camera's image.

        The sides are multiples of `block`, which may stretch the picture a little. Raises
        UnusableImageError.
        """
        key = id(message), width, block
        if key in self._kept:
            return self._kept[key][1:]
        frame = self.frame(message)
        scale = min(1.0, width / frame.width)
        size = tuple(
            block * max(1, round(side * scale / block)) for side in (frame.width, frame.height)
        )
        smaller, _ = frame.reduced(1.0 / scale)
        pixels = smaller.window(0, 0, smaller.width, smaller.height)
        if pixels.shape[1::-1] != size:
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        self._kept[key] = message, pixels, (frame.width, frame.height)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[key][1:]


def jpeg(pixels: np.ndarray, image_size: tuple[int, int], quality: int) -> Coded:
    """BGR pixels as JPEG. Raises UnusableImageError."""
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    size = pixels.shape[1], pixels.shape[0]
    if not done:
        raise UnusableImageError("pixels", f"{size[0]}x{size[1]} pixels cannot become a JPEG")
    return Coded(data.tobytes(), size, image_size)


class H264Stream:
    """H.264 for one page, without delay: each picture that goes in comes out. For one thread."""

    def __init__(self) -> None:
        self._encoder = VideoEncoder()

    def restart(self) -> None:
        """Make the next picture one that depends on no other. May be called in any thread."""
        self._encoder.restart()

    def encode(self, pixels: np.ndarray, image_size: tuple[int, int], level: Level) -> Coded:
        """The next picture of the stream, BGR with sides that are multiples of `BLOCK`.

        Raises CodingError.
        """
        coding = Coding(level.crf, level.kbit, level.rate, _KEY_EVERY)
        data, key = self._encoder.encode(pixels, coding)
        size = pixels.shape[1], pixels.shape[0]
        codec = _AVC if size[0] * size[1] <= 1280 * 720 else _AVC_LARGE
        return Coded(data, size, image_size, codec, key)
