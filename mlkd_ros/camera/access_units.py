# SPDX-License-Identifier: Apache-2.0
"""Opens a stream and puts what comes together to packets of one picture each.

libavformat would do that with its parsers; those hide which picture a lost packet belonged to, and
give a picture the sender's time of the next one. Needs PyAV.
"""

from __future__ import annotations

import logging
import re
import stat
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mlkd_ros.files import library_name, printable
from mlkd_ros.imaging.packets import require_video

__all__ = [
    "DEVICE",
    "FILE",
    "RTSP",
    "STILLS",
    "UDP",
    "AccessUnit",
    "StreamError",
    "codec_name",
    "kind_of",
    "opened",
    "shown",
    "units_of",
    "video_of",
]

# What libav says is for this module; without a handler Python would print it.
logging.getLogger("libav").addHandler(logging.NullHandler())

#: Codecs that packets.PacketDecoder takes, and those whose packets are pictures by themselves.
VIDEO = ("h264", "hevc", "av1")
STILLS = ("mjpeg", "rawvideo")
#: Kinds of address.
RTSP, UDP, DEVICE, FILE = "rtsp", "udp", "device", "file"
#: What libavformat says of packets that never came. It has no other word for it.
_LOST = re.compile(r"missed \d+ packets|corrupt|Continuity check failed")
#: A picture that is longer than this comes in several packets of MPEG-TS, the last one shorter.
_PES_CHUNK = 200 * 1024
_OPTIONS = {
    # Nothing is looked for by reading ahead: the description of the session says it, or the packets
    # themselves will.
    RTSP: {"analyzeduration": "0", "probesize": "32", "fflags": "nobuffer+noparse+nofillin"},
    # Without libavformat's thread of its own, but with the kernel's memory for a second.
    UDP: {
        "analyzeduration": "0",
        "fflags": "nobuffer+noparse+nofillin",
        "fifo_size": "0",
        "buffer_size": str(4 << 20),
    },
    DEVICE: {"timestamps": "abs"},
    FILE: {},
}


class StreamError(ValueError):
    """An address that no picture will ever come from; the message says what would be right."""


@dataclass(frozen=True)
class AccessUnit:
    """The packet of one picture.

    arrived: when its last byte was read, nanoseconds of the clock that `units_of` was given. pts:
    by the stream's clock, nanoseconds, or None. sent: when it was taken by the sender's clock,
    nanoseconds since 1970, or None. damaged: whether a part of it, or a packet before it, is lost.
    """

    data: bytes
    arrived: int
    pts: int | None
    sent: int | None
    key: bool
    damaged: bool


def kind_of(url: str) -> str:
    """What sort of address it is. Raises StreamError for one that nothing can come from."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    if scheme:
        if scheme[1].lower() not in (RTSP, UDP):
            raise StreamError(
                f"parameter 'url' is '{shown(url)}': {scheme[1]}:// is not known, use rtsp://, "
                "udp:// (MPEG-TS), a device such as /dev/video0, or a file"
            )
        _check_host(url)
        return scheme[1].lower()
    if not url.strip():
        raise StreamError(
            "parameter 'url' is empty, it must say where the video is: rtsp://HOST:PORT/PATH, "
            "udp://ADDRESS:PORT (MPEG-TS), a device such as /dev/video0, or a file"
        )
    path = Path(url)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if url.startswith("/dev/video"):
            return DEVICE  # may be plugged in yet
        reason = getattr(error, "strerror", None) or str(error)
        raise StreamError(f"parameter 'url' is '{printable(url)}': {reason}") from error
    if stat.S_ISCHR(mode):
        return DEVICE
    if stat.S_ISREG(mode):
        return FILE
    raise StreamError(
        f"parameter 'url' is '{printable(url)}', which is neither a file nor a device"
    )


def _check_host(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise StreamError(f"parameter 'url' is '{shown(url)}': {error}") from error
    if parts.scheme.lower() == UDP and port is None:
        raise StreamError(
            f"parameter 'url' is '{shown(url)}' without a port; udp://0.0.0.0:5600 would listen on "
            "port 5600"
        )
    if parts.scheme.lower() == RTSP and not host:
        raise StreamError(f"parameter 'url' is '{shown(url)}', which names no host")


def shown(url: str) -> str:
    """The address without user and password, for logs."""
    if "://" not in url:
        return printable(url)
    parts = urlsplit(url)
    return printable(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))


def opened(
    url: str,
    *,
    transport: str = "tcp",
    timeout: float = 5.0,
    stall: float = 2.0,
    size: str = "",
    rate: float = 0.0,
) -> Any:
    """A container of PyAV, to be closed.

    Args:
        url: See `kind_of`.
        transport: What RTSP's packets come by, tcp or udp.
        timeout: Seconds for opening it.
        stall: Seconds without anything after which reading fails.
        size, rate: What a device is asked for, WIDTHxHEIGHT and Hz; empty and 0: its own.

    Raises:
        OSError, ValueError: What PyAV's errors are: not there, not now, not a video.
        ImportError: Without PyAV.
    """
    av = require_video()
    kind = kind_of(url)
    options = dict(_OPTIONS[kind])
    container_format = None
    if kind == RTSP:
        options["rtsp_transport"] = transport
    elif kind == UDP:
        container_format = "mpegts"
    elif kind == DEVICE:
        container_format = "v4l2"
        if size:
            options["video_size"] = size
        if rate:
            options["framerate"] = f"{rate:g}"
    if kind in (FILE, DEVICE):
        url = library_name(url)
    # Warnings are how a lost packet is told of; twice the same is two.
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)
    with av.logging.Capture():
        return av.open(url, format=container_format, options=options, timeout=(timeout, stall))


def video_of(container: Any) -> Any:
    """Its video stream. Raises StreamError where there is none that can be decoded."""
    if not container.streams.video:
        raise StreamError("there is no video in it")
    stream = container.streams.video[0]
    name = stream.codec_context.name
    if codec_name(stream) not in VIDEO + STILLS:
        raise StreamError(
            f"its codec is {name}; use one of H.264, H.265, AV1, MJPEG or raw pictures"
        )
    return stream


def codec_name(stream: Any) -> str:
    """The codec, and not one of its decoders."""
    name = str(stream.codec_context.name)
    return "av1" if name in ("libdav1d", "av1") else name


def units_of(
    container: Any,
    stream: Any,
    kind: str,
    now: Callable[[], int] = time.time_ns,
) -> Iterator[AccessUnit]:
    """The packets of each picture as they come, until the end.

    Raises what PyAV raises: OSError when nothing comes for as long as `opened` was told.
    """
    av = require_video()
    with av.logging.Capture() as said:
        pieces = _pieces(container, stream, said, now)
        if kind == RTSP:
            yield from _by_time(pieces)
        elif kind == UDP:
            yield from _by_length(pieces)
        else:
            yield from pieces


def _pieces(container: Any, stream: Any, said: list[Any], now: Callable[[], int]) -> Iterator[Any]:
    """What libavformat gives, each with its own packet."""
    base, annex_b = stream.time_base, _annex_b(stream)
    for packet in container.demux(stream):
        lost = any(_LOST.search(line[2]) for line in said)
        said.clear()
        if not packet.size:
            continue
        pts = None if packet.pts is None else int(packet.pts * base * 1_000_000_000)
        key, damaged = packet.is_keyframe, lost or packet.is_corrupt
        yield AccessUnit(annex_b(packet), now(), pts, _sent(packet), key, damaged)


def _sent(packet: Any) -> int | None:
    """The sender's time of a packet, nanoseconds since 1970, which RTCP's reports lead to."""
    has_side_data = getattr(packet, "has_sidedata", None)  # older versions of PyAV have not
    if has_side_data is None or not has_side_data("prft"):
        return None
    (microseconds,) = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))
    return int(microseconds) * 1000


def _joined(parts: list[AccessUnit], damaged: bool) -> AccessUnit:
    last = parts[-1]
    sent = [part.sent for part in parts if part.sent is not None]
    return replace(
        last,
        data=b"".join(part.data for part in parts),
        pts=parts[0].pts,
        sent=sent[0] if sent else None,
        damaged=damaged,
    )


def _by_time(pieces: Iterator[AccessUnit]) -> Iterator[AccessUnit]:
    """RTP: what has one time is one picture. It is whole when the next one begins."""
    parts: list[AccessUnit] = []
    damaged = False
    for piece in pieces:
        if parts and piece.pts is not None and piece.pts != parts[0].pts:
            # What is lost before this piece may be the end of the one picture, the beginning of
            # the other, or both.
            yield _joined(parts, damaged or piece.damaged)
            parts, damaged = [], False
        parts.append(piece)
        damaged = damaged or piece.damaged
    if parts:
        yield _joined(parts, damaged)


def _by_length(pieces: Iterator[AccessUnit]) -> Iterator[AccessUnit]:
    """MPEG-TS: a packet is a picture; what is long comes in several."""
    parts: list[AccessUnit] = []
    for piece in pieces:
        if parts and piece.pts is not None:
            yield _joined(parts, any(part.damaged for part in parts) or piece.damaged)
            parts = []
        parts.append(piece)
        if len(piece.data) < _PES_CHUNK:
            yield _joined(parts, any(part.damaged for part in parts))
            parts = []


def _annex_b(stream: Any) -> Callable[[Any], bytes]:
    """How a packet gets start codes: MP4 keeps H.264 and H.265 with the lengths of their units."""
    codec = codec_name(stream)
    begin = bytes(stream.codec_context.extradata or b"")[:1]
    if codec not in ("h264", "hevc") or begin != b"\1":
        return bytes
    changed = require_video().BitStreamFilterContext(f"{codec}_mp4toannexb", stream)
    return lambda packet: b"".join(bytes(one) for one in changed.filter(packet))
