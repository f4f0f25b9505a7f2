# SPDX-License-Identifier: Apache-2.0
"""Packets of H.264, H.265 and AV1 to frames: whole ones, each with what belongs to its packet.

A picture is made of those before it. After a lost packet a decoder goes on as well as it can, with
smeared or grey pictures that look like images. Here such pictures are never given out: decoding
begins at a key frame, and again at the next one after anything that was lost or damaged; what a
stream with B frames held back at that moment goes with it. Lost is

- of H.264 what is missing in `frame_num`, by which the encoder counts its reference pictures;
- of H.265 what a picture refers to and is not there, which libavcodec finds out by itself;
- of AV1 what is missing in the encoder's count of images, or else in their stamps.

Needs PyAV.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.imaging.frame import BgrFrame, Frame, I420Frame
from mlkd_ros.imaging.h264 import FrameNumbers

__all__ = ["PacketDecoder", "codec_of", "is_key", "require_video", "units"]

#: Codecs as libavcodec names them, by what the names in messages and of encoders contain.
_CODECS = {"264": "h264", "265": "hevc", "hevc": "hevc", "av1": "av1"}
#: Pictures that a stream may hold back to put them in order; more than that wait for nothing.
_WAITING = 64
#: A step of counts or stamps that is this many times the usual one is two.
_GAP = 1.5
_STEPS = 9
_H264_IDR, _H264_SEI, _RECOVERY_POINT = 5, 6, 6
#: Intra random access points of H.265.
_HEVC_KEYS = range(16, 24)
_AV1_SEQUENCE_HEADER = 1


def require_video() -> Any:
    """PyAV. Raises ImportError, naming the extra, where it is missing."""
    try:
        import av
    except ImportError:
        raise ImportError("decoding video needs PyAV: pip install 'mlkd-ros[video]'") from None
    return av


def codec_of(name: str) -> str:
    """libavcodec's codec by the name in a message, such as h264, hevc_nvenc;nv12;bgr8, libx265.

    Raises UnusableImageError.
    """
    token = name.split(";")[0].strip().lower()
    for part, codec in _CODECS.items():
        if part in token:
            return codec
    raise UnusableImageError(
        "encoding", f"video must be h264, h265 or av1; this one is called '{name}'"
    )


class PacketDecoder:
    """Decodes one stream, packet by packet in the order of coding. One thread at a time.

    codec: as libavcodec names it. extradata: what a container or a session description tells of the
    stream beside its packets.

    Raises ImportError where PyAV is missing; the message names the extra.
    """

    def __init__(self, codec: str, extradata: bytes = b"") -> None:
        self._av = require_video()
        self.codec = codec
        self._extradata = extradata
        self._numbers = FrameNumbers()
        self._steps: deque[int] = deque(maxlen=_STEPS)
        self._last_count: int | None = None
        self._begin()

    def _begin(self) -> None:
        """Forget everything: the next picture is made of a key frame and what follows it."""
        # libavcodec's own decoder of AV1 needs a graphics card.
        name = "libdav1d" if self.codec == "av1" else self.codec
        context = self._av.CodecContext.create(name, "r")
        context.thread_count = 1  # each thread more would hold back a picture; cores are others'
        if name == "libdav1d":
            context.options = {"max_frame_delay": "1"}
        else:  # say what is wrong instead of concealing it
            context.options = {"err_detect": "bitstream+buffer+explode"}
        if self._extradata:
            context.extradata = self._extradata
        self._context: Any = context
        self._about: dict[int, Any] = {}
        self._index = 0
        self.waiting = "the video is joined at its next key frame"
        self._numbers.begin()
        for kind, unit in units("h264", self._extradata) if self.codec == "h264" else ():
            self._numbers.parameters(kind, unit)

    def decode(
        self,
        data: bytes,
        about: Any = None,
        *,
        key: bool = False,
        count: int | None = None,
    ) -> list[tuple[Frame, Any]]:
        """The pictures that this packet completes, in the order in which they were taken.

        Args:
            data: The packet.
            about: Comes back with the picture of this packet, which may be later.
            key: Whether it is known that the packet is a key frame. What it holds tells it, too.
            count: The encoder's count of images or the stamp, from which gaps are seen.

        Raises:
            UnusableImageError: Nothing can be made of it; also while a key frame is waited for. Its
                `reason` is "empty", "lost", "joining" or "pixels".
        """
        if not data:
            raise UnusableImageError("empty", "the packet is empty: 0 bytes of data")
        key = key or is_key(self.codec, data)
        lost = self._lost(data, count)
        if lost and not key:
            self.restart(lost)
            raise UnusableImageError("lost", f"{lost}: {self.waiting}")
        if self.waiting and not key:
            raise UnusableImageError("joining", self.waiting)
        if lost:
            self.restart(lost)
            self._lost(data, count)
        self.waiting = ""
        return self._decoded(data, about)

    def restart(self, why: str) -> None:
        """Begin again at the next key frame; `why`, such as "a lost packet", goes into errors."""
        self._begin()
        self.waiting = f"after {why} the video is joined at its next key frame"

    def _lost(self, data: bytes, count: int | None) -> str:
        """What is missing before this packet, in words; empty if nothing is."""
        if self.codec == "h264":
            missing = self._numbers.missing(units("h264", data))
            return f"{missing} lost pictures" if missing else ""
        if self.codec == "hevc" or count is None:
            return ""
        last, self._last_count = self._last_count, count
        step = count - last if last is not None else 0
        if step <= 0:
            return ""
        usual = statistics.median(self._steps) if len(self._steps) > 2 else step
        self._steps.append(step)
        return "a gap" if step > _GAP * usual else ""

    def _decoded(self, data: bytes, about: Any) -> list[tuple[Frame, Any]]:
        packet = self._av.Packet(data)
        packet.pts = packet.dts = self._index
        self._about[self._index] = about
        self._about.pop(self._index - _WAITING, None)
        self._index += 1
        try:
            pictures = self._context.decode(packet)
        except (self._av.error.FFmpegError, ValueError) as error:
            self.restart("a damaged packet")
            raise UnusableImageError(
                "pixels", f"a packet of {len(data)} bytes of {self.codec} is damaged: {error}"
            ) from error
        return self._given(pictures)

    def _given(self, pictures: list[Any]) -> list[tuple[Frame, Any]]:
        found: list[tuple[Frame, Any]] = []
        for picture in pictures:
            # One that no packet stands for, or twice one packet's, was made up.
            if picture.is_corrupt or picture.pts not in self._about:
                self.restart("a damaged picture")
                if found:  # whole ones, of before it
                    return found
                raise UnusableImageError("pixels", f"a damaged picture: {self.waiting}")
            found.append((_frame_over(picture), self._about.pop(picture.pts)))
        return found

    def flush(self) -> list[tuple[Frame, Any]]:
        """The pictures that are held back, at the end of the stream."""
        if self.waiting:
            return []
        try:
            found = self._given(self._context.decode(None))
        except (self._av.error.FFmpegError, UnusableImageError):
            found = []
        self._begin()
        return found


def _frame_over(picture: Any) -> Frame:
    """A frame over libavcodec's memory, which it keeps."""
    if picture.format.name == "yuv420p" and picture.width % 2 == 0 and picture.height % 2 == 0:
        sides = ((picture.height, picture.width), *[(picture.height // 2, picture.width // 2)] * 2)
        planes = [
            np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:rows, :columns]
            for plane, (rows, columns) in zip(picture.planes, sides, strict=True)
        ]
        return I420Frame(*planes)
    return BgrFrame(picture.to_ndarray(format="bgr24"))


def is_key(codec: str, data: bytes) -> bool:
    """Whether a stream can be joined at this packet, by what is in it."""
    if codec == "h264":
        return any(
            kind == _H264_IDR or (kind == _H264_SEI and unit[1:2] == bytes([_RECOVERY_POINT]))
            for kind, unit in units(codec, data)
        )
    if codec == "hevc":
        return any(kind in _HEVC_KEYS for kind, _ in units(codec, data))
    if codec == "av1":
        return any(kind == _AV1_SEQUENCE_HEADER for kind in _obus(data))
    return False


def units(codec: str, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of the NAL units of an Annex B packet: of the large ones the beginning."""
    position = data.find(b"\0\0\1")
    while 0 <= position < len(data) - 3:
        begin = position + 3
        head = data[begin]
        yield (head & 31 if codec == "h264" else head >> 1 & 63), data[begin : begin + 512]
        position = data.find(b"\0\0\1", begin)


def _obus(data: bytes) -> Iterator[int]:
    """Types of the OBUs of a temporal unit, up to what is not laid out as one."""
    position = 0
    while position < len(data):
        head = data[position]
        yield head >> 3 & 15
        position += 2 if head & 4 else 1
        if not head & 2:  # without a size it is the last one
            return
        size = shift = 0
        while position < len(data):
            byte = data[position]
            position, size, shift = position + 1, size | (byte & 127) << shift, shift + 7
            if byte < 128:
                break
        position += size
