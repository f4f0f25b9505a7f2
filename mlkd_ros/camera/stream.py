# SPDX-License-Identifier: Apache-2.0
"""The newest picture of a stream, whatever becomes of it: lost packets, stalls, restarts.

Two threads: one reads packets and connects again, one decodes. Every packet is decoded, because
later pictures are made of it; of the pictures only the newest is kept until somebody takes it. When
decoding cannot keep up, it goes on at a key frame that has come already. Needs PyAV.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mlkd_ros.camera.access_units import (
    FILE,
    STILLS,
    AccessUnit,
    StreamError,
    codec_name,
    kind_of,
    opened,
    shown,
    units_of,
    video_of,
)
from mlkd_ros.camera.clock import StreamClock
from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.imaging.frame import BgrFrame, Frame
from mlkd_ros.imaging.packets import PacketDecoder, is_key, require_video

__all__ = ["Picture", "Report", "StreamSettings", "VideoStream"]

_NANO = 1_000_000_000
#: Seconds until it is tried again to connect: the first time, and at most.
BACK_OFF = (0.5, 8.0)
#: Seconds that a connection may take to be made.
_OPENING = 5.0
#: Seconds of packets that may wait to be decoded.
_BACKLOG = 0.5
#: Packets that may wait at all, whatever their times say.
_MOST_WAITING = 600
#: Seconds between two looks at whether to end.
_POLL = 0.1


@dataclass(frozen=True)
class StreamSettings:
    """What a stream is asked for; see the parameters of executable `camera`."""

    url: str
    transport: str = "tcp"
    stall_timeout: float = 2.0
    sender_clock: bool = True
    loop: bool = False
    size: str = ""
    rate: float = 0.0


@dataclass(frozen=True)
class Picture:
    """A whole picture. stamp: when it was taken, nanoseconds of the clock given to the stream."""

    frame: Frame
    stamp: int


@dataclass
class Report:
    """How a stream does. Counts are since the start.

    problem: why there is no connection, or no picture; empty while there are pictures. codec: of
    the last connection, empty before it. packets: of one picture each. unusable: packets by what
    was wrong with them, as `UnusableImageError.reason`; skipped: those left out to catch up.
    replaced: whole pictures that nobody took before the next one came. by_sender: whether stamps
    are by the sender's clock. sender_off: by how many seconds that is behind ours where that cannot
    be a delay, else NaN.
    """

    connected: bool = False
    reconnects: int = 0
    problem: str = "not connected yet"
    codec: str = ""
    packets: int = 0
    decoded: int = 0
    replaced: int = 0
    skipped: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    by_sender: bool = False
    sender_off: float = math.nan


class _Connection:
    """The packets of one connection on their way from the one thread to the other."""

    def __init__(self, stream: Any, clock: StreamClock) -> None:
        self.codec = codec_name(stream)
        extradata = bytes(stream.codec_context.extradata or b"")
        if extradata[:1] == b"\1" and self.codec in ("h264", "hevc"):
            extradata = b""  # of MP4; the packets get it in their own form
        self.clock = clock
        self.decoder: Any
        if self.codec in STILLS:
            self.decoder = _StillDecoder(stream.codec_context)
        else:
            self.decoder = PacketDecoder(self.codec, extradata)
        self.units: deque[AccessUnit] = deque()
        self.over = False


class VideoStream:
    """Connects at `start`, and again whenever it must, until `close`.

    Args:
        settings: What to connect to.
        now: The clock that stamps are of, nanoseconds.
        say: Called with a line for the log: whether it is bad news, and the text.

    Raises:
        ImportError: Without PyAV; the message names the extra.
        StreamError: An address that no picture will ever come from.
    """

    def __init__(
        self,
        settings: StreamSettings,
        now: Callable[[], int] = time.time_ns,
        say: Callable[[bool, str], None] = lambda bad, text: None,
    ) -> None:
        self._av = require_video()
        self._settings = settings
        self._kind = kind_of(settings.url)
        self._now = now
        self._say = say
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._report = Report()
        self._picture: Picture | None = None
        self._last_stamp = 0
        self._connection: _Connection | None = None
        self._ended = False
        self._failure: Exception | None = None
        self._threads = [
            threading.Thread(target=self._guarded, args=(run,), daemon=True, name=name)
            for run, name in ((self._read, "reader"), (self._decode, "decoder"))
        ]

    def start(self) -> None:
        """Begin to connect."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Be done with it: at once, but for what libavformat is waiting for."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(1.0 + self._settings.stall_timeout)

    @property
    def ended(self) -> bool:
        """Whether no picture will come any more: a file that was played, or cannot be.

        Raises what `newest` does: that a thread failed is no end of the stream.
        """
        with self._changed:
            if self._failure is not None:
                raise self._failure
            return self._ended and self._picture is None

    @property
    def report(self) -> Report:
        """How it does, at this moment."""
        with self._changed:
            return dataclasses.replace(self._report, unusable=Counter(self._report.unusable))

    def newest(self, timeout: float) -> Picture | None:
        """The newest picture that was not taken yet, or None after `timeout` seconds.

        Raises what a thread of the stream failed with, which is an error of this program.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._picture is not None or self._ended or self._closing.is_set(), timeout
            )
            if self._failure is not None:
                raise self._failure
            picture, self._picture = self._picture, None
            return picture

    def _guarded(self, run: Callable[[], None]) -> None:
        """A thread that fails ends the stream, and not only itself."""
        try:
            run()
        except Exception as error:
            with self._changed:
                self._failure, self._ended = error, True
                self._changed.notify_all()

    # --- the thread that reads ------------------------------------------------------------------

    def _read(self) -> None:
        wait = BACK_OFF[0]
        while not self._closing.is_set():
            before = self.report.decoded
            try:
                problem = self._connect()
            except StreamError as error:
                problem = str(error)
            except (OSError, ValueError, self._av.error.FFmpegError) as error:
                problem = self._worded(error)
            if self._closing.is_set():
                return
            self._lost(problem)
            if self._kind == FILE and not self._settings.loop:
                break
            if self.report.decoded > before:
                wait = BACK_OFF[0]
            if self._kind == FILE and self.report.decoded > before:
                continue
            self._closing.wait(wait)
            wait = min(2 * wait, BACK_OFF[1])
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _worded(self, error: Exception) -> str:
        if isinstance(error, self._av.error.ExitError):
            waited = self._settings.stall_timeout if self.report.connected else _OPENING
            return f"nothing came for {waited:g} s"
        return getattr(error, "strerror", None) or str(error) or type(error).__name__

    def _connect(self) -> str:
        """Read one connection until it ends; returns why it did. Raises what PyAV raises."""
        settings = self._settings
        with opened(
            settings.url,
            transport=settings.transport,
            timeout=_OPENING,
            stall=settings.stall_timeout,
            size=settings.size,
            rate=settings.rate,
        ) as container:
            stream = video_of(container)
            connection = _Connection(stream, StreamClock(settings.sender_clock))
            self._begin(connection)
            try:
                begin = time.monotonic_ns()
                first: int | None = None
                for unit in units_of(container, stream, self._kind, self._now):
                    if self._kind == FILE:
                        first = unit.pts if first is None else first
                        unit = self._when_due(unit, begin, first)
                    if self._closing.is_set():
                        break
                    self._queue(connection, unit)
            finally:
                self._finish(connection)
        return "the end of the file" if self._kind == FILE else "the other side ended it"

    def _when_due(self, unit: AccessUnit, begin: int, first: int | None) -> AccessUnit:
        """A file is shown as it was filmed: wait until it is this packet's turn."""
        if unit.pts is None or first is None:
            return dataclasses.replace(unit, arrived=self._now())
        due = begin + unit.pts - first
        self._closing.wait(max(0.0, (due - time.monotonic_ns()) / _NANO))
        return dataclasses.replace(unit, arrived=self._now())

    def _begin(self, connection: _Connection) -> None:
        with self._changed:
            again = self._report.codec != ""
            self._report.connected = True
            self._report.reconnects += again and self._kind != FILE
            self._report.codec = connection.codec
            self._report.problem = "no picture yet"
            self._connection = connection
            self._changed.notify_all()
        self._say(False, f"connected to {shown(self._settings.url)}: {connection.codec}")

    def _queue(self, connection: _Connection, unit: AccessUnit) -> None:
        if not unit.key and self._kind != FILE:  # which has it from its container
            unit = dataclasses.replace(unit, key=is_key(connection.codec, unit.data))
        with self._changed:
            self._report.packets += 1
            connection.units.append(unit)
            self._changed.notify_all()
            if self._kind == FILE:  # it can wait, a stream cannot
                self._changed.wait_for(
                    lambda: len(connection.units) < 2 or self._closing.is_set(), None
                )

    def _finish(self, connection: _Connection) -> None:
        """No packet comes any more; wait until those that came are decoded."""
        with self._changed:
            connection.over = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._connection is not connection or self._closing.is_set(), _OPENING
            )

    def _lost(self, problem: str) -> None:
        with self._changed:
            was = self._report.connected
            news = was or problem != self._report.problem
            self._report.connected = False
            self._report.problem = problem
        if news:
            bad = not (self._kind == FILE and was)
            self._say(bad, f"{shown(self._settings.url)}: {problem}")

    # --- the thread that decodes ----------------------------------------------------------------

    def _decode(self) -> None:
        while not self._closing.is_set():
            with self._changed:
                self._changed.wait_for(
                    lambda: self._connection is not None or self._closing.is_set(), _POLL
                )
                connection = self._connection
            if connection is None:
                continue
            try:
                self._decode_all(connection)
            finally:
                with self._changed:
                    self._connection = None
                    self._changed.notify_all()

    def _decode_all(self, connection: _Connection) -> None:
        """What one connection brings, until it is over."""
        decoder = connection.decoder
        while not self._closing.is_set():
            with self._changed:
                self._changed.wait_for(
                    lambda: connection.units or connection.over or self._closing.is_set(), _POLL
                )
                skipped = _catch_up(connection.units)
                self._report.skipped += skipped
                unit = connection.units.popleft() if connection.units else None
                over = connection.over
                self._changed.notify_all()
            if skipped:
                decoder.restart("packets that were left out to catch up")
            if unit is not None:
                self._show(connection, decoder, unit)
            elif over:
                for frame, stamp in decoder.flush():
                    self._keep(Picture(frame, stamp))
                return

    def _show(self, connection: _Connection, decoder: Any, unit: AccessUnit) -> None:
        clock = connection.clock
        stamp = clock.stamp(unit.arrived, unit.pts, unit.sent)
        try:
            if unit.damaged:
                decoder.restart("a lost packet")
                raise UnusableImageError("lost", f"a packet is lost: {decoder.waiting}")
            found = decoder.decode(unit.data, stamp, key=unit.key)
        except UnusableImageError as error:
            with self._changed:
                self._report.unusable[error.reason] += 1
                self._report.problem = str(error)
            return
        with self._changed:
            self._report.by_sender = clock.by_sender
            off = clock.sender_off
            self._report.sender_off = math.nan if off is None else off / _NANO
        for frame, taken in found:
            self._keep(Picture(frame, taken))

    def _keep(self, picture: Picture) -> None:
        with self._changed:
            self._report.decoded += 1
            # Stamps have to grow, but for those after our clock was set back.
            if picture.stamp <= self._last_stamp <= self._now():
                self._report.unusable["stamp"] += 1
                return
            self._last_stamp = picture.stamp
            self._report.replaced += self._picture is not None
            self._report.problem = ""
            self._picture = picture
            self._changed.notify_all()


def _catch_up(units: deque[AccessUnit]) -> int:
    """Leave packets out where too many wait, up to the last key frame; returns how many."""
    if len(units) < 2:
        return 0
    late = units[-1].arrived - units[0].arrived > _BACKLOG * _NANO
    if not late and len(units) <= _MOST_WAITING:
        return 0
    keys = [index for index, unit in enumerate(units) if index and unit.key and not unit.damaged]
    if not keys:
        if len(units) <= _MOST_WAITING:
            return 0  # decoding all of them is the quickest way
        keys = [len(units) - 1]
    for _ in range(keys[-1]):
        units.popleft()
    return keys[-1]


class _StillDecoder:
    """Packets that are pictures by themselves, with the face of a PacketDecoder."""

    waiting = ""

    def __init__(self, context: Any) -> None:
        self._av = require_video()
        self._context = context

    def restart(self, why: str) -> None:
        """Nothing depends on what was before."""

    def decode(self, data: bytes, about: Any, *, key: bool = False) -> list[tuple[Frame, Any]]:
        """The picture. Raises UnusableImageError."""
        try:
            pictures = self._context.decode(self._av.Packet(data))
        except (self._av.error.FFmpegError, ValueError) as error:
            raise UnusableImageError("pixels", f"a damaged picture: {error}") from error
        if any(picture.is_corrupt for picture in pictures):
            raise UnusableImageError("pixels", "a damaged picture")
        return [(BgrFrame(one.to_ndarray(format="bgr24")), about) for one in pictures]

    def flush(self) -> list[tuple[Frame, Any]]:
        """Nothing is held back."""
        with contextlib.suppress(self._av.error.FFmpegError):
            self._context.flush_buffers()
        return []
