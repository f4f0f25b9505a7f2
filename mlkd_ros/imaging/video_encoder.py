# SPDX-License-Identifier: Apache-2.0
"""Pictures to packets of H.264, live: each that goes in comes out at once.

Constrained baseline without B frames, in Annex B with the parameter sets at every key frame: what
every browser, `ffmpeg_image_transport` and Foxglove decode. Needs PyAV.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from mlkd_ros.imaging.packets import require_video

__all__ = ["Coding", "CodingError", "VideoEncoder"]


class CodingError(Exception):
    """A picture cannot be coded as H.264 here."""


@dataclass(frozen=True)
class Coding:
    """How a stream is coded.

    crf: quality, lower is better. kbit: thousand bits a second at the most. rate: pictures a
    second. key_every: pictures from one that depends on no other to the next, at the most.
    """

    crf: int
    kbit: int
    rate: float
    key_every: int


class VideoEncoder:
    """One stream. `encode` is for one thread, `restart` for any.

    Raises ImportError where PyAV is missing; the message names the extra.
    """

    def __init__(self) -> None:
        self._av = require_video()
        self._coder: Any = None
        self._made_for: tuple[tuple[int, int], Coding] | None = None
        self._count = 0
        self._key = True

    def restart(self) -> None:
        """Make the next picture one that depends on no other."""
        self._key = True

    def encode(self, bgr: np.ndarray, coding: Coding) -> tuple[bytes, bool]:
        """The packet of the next picture, and whether it is a key frame.

        Args:
            bgr: HxWx3 uint8. An odd side is made even by repeating the last line. Another size, or
                another `coding`, begins anew with a key frame.
            coding: Holds from this picture on.

        Raises:
            CodingError: The pixels cannot be coded.
        """
        # Taken now: who asks for another while this is coded means the one after it.
        key, self._key = self._key, False
        height, width = bgr.shape[:2]
        try:
            even = cv2.copyMakeBorder(bgr, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            return self._encode(even, coding, key)
        except (self._av.error.FFmpegError, ValueError, cv2.error) as error:
            raise CodingError(f"{width}x{height} pixels cannot become H.264: {error}") from error

    def _encode(self, bgr: np.ndarray, coding: Coding, key: bool) -> tuple[bytes, bool]:
        from av.video.frame import PictureType

        size = bgr.shape[1], bgr.shape[0]
        if self._made_for != (size, coding):
            self._coder, self._made_for = self._open(size, coding), (size, coding)
            self._count = 0
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(bgr), format="bgr24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.pts, frame.time_base = self._count, Fraction(1, 1000)
        if key or self._count == 0:
            frame.pict_type = PictureType.I
        self._count += 1
        packets = self._coder.encode(frame)
        data = b"".join(bytes(packet) for packet in packets)
        return data, any(packet.is_keyframe for packet in packets)

    def _open(self, size: tuple[int, int], coding: Coding) -> Any:
        coder = self._av.CodecContext.create("libx264", "w")
        coder.width, coder.height = size
        coder.pix_fmt = "yuv420p"
        coder.time_base = Fraction(1, 1000)
        coder.framerate = Fraction(round(coding.rate * 10), 10)
        coder.thread_count = 1  # the other cores are the tracker's
        coder.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "profile": "baseline",
            "crf": str(coding.crf),
            "maxrate": f"{coding.kbit}k",
            "bufsize": f"{coding.kbit // 2}k",
            "g": str(coding.key_every),
            "x264-params": "annexb=1:repeat-headers=1"
            ":colorprim=bt709:transfer=bt709:colormatrix=bt709",
        }
        coder.open()
        return coder
