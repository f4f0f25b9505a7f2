# SPDX-License-Identifier: Apache-2.0
"""Videos for people: H.264 in MP4, which every browser and player shows, each frame at its time.

OpenCV's wheels cannot write H.264, so this needs PyAV; the node and the recorder do not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkd_ros.files import printable
from mlkd_ros.interrupt import held_back

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["VideoError", "VideoWriter"]

#: Of the stamps in the file. A 32-bit player still counts more than an hour in it.
_TIME_BASE = Fraction(1, 90_000)
#: Constant quality: 18 is taken for lossless, 28 for bad.
_QUALITY = 23
#: How long the last picture is shown where no interval has told, in ticks of that.
_LAST = 3000


class VideoError(OSError):
    """A video could not be written; the message names the file and says why."""


class _Sink:
    """A file for PyAV, which prints what goes wrong in it, with tracebacks: nothing ever does.
    Interrupts have to be held back meanwhile.

    error: what went wrong first; what is written after that is lost. name: FFmpeg reads back what
    it has written, to put the index first.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.name = self._file.name
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        with self._noted():
            self._file.write(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._noted():
            return self._file.seek(offset, whence)
        return offset

    def tell(self) -> int:
        return self._file.tell()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error

    def check(self) -> None:
        """Raise what went wrong."""
        if self.error is not None:
            raise self.error

    def sync(self) -> None:
        """Put it on the disk and close it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Close it, whatever becomes of it."""
        with contextlib.suppress(OSError):
            self._file.close()


class VideoWriter:
    """Writes `path`, a .mp4 file; a context manager.

    The file gets its name when it is whole: at the end of the block it is closed, opened, its
    frames are counted, and only then renamed. When the block ends with an exception (an interrupt,
    say), what was written until then is finished the same way. Odd sides lose a row or a column,
    which H.264 with the colours of browsers does not have; frames of another size than the first
    are scaled to it.

    Raises:
        ImportError: PyAV is missing; the message names the extra.
        VideoError: It cannot be written, the disk is full, or what was written cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import av
        except ImportError:
            raise ImportError("writing a video needs PyAV: pip install 'mlkd-ros[tools]'") from None
        self._av = av
        self.path = Path(path)
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._container: Any = None
        self._file: _Sink | None = None
        self._stream: Any = None
        self._first = 0
        self._last: int | None = None
        self._interval = _LAST
        self.frames = 0

    def write(self, bgr: np.ndarray, time: int) -> None:
        """Append a picture, uint8 BGR, shown from `time` on, in nanoseconds.

        Times that do not grow are moved up. Raises VideoError.
        """
        with held_back(), self._named():
            if self._stream is None:
                self._open(bgr.shape[1], bgr.shape[0])
                self._first = time
            ticks = round((time - self._first) * 1e-9 / float(_TIME_BASE))
            if self._last is not None:
                ticks = max(ticks, self._last + 1)
                self._interval = ticks - self._last
            self._last = ticks
            picture = self._av.VideoFrame.from_ndarray(self._fitted(bgr), format="bgr24")
            picture.pts, picture.time_base = ticks, _TIME_BASE
            self._mux(picture)
            self.frames += 1

    def _mux(self, picture: Any) -> None:
        assert self._file is not None
        for packet in self._stream.encode(picture):
            packet.duration = self._interval  # counts for the last one only
            self._container.mux(packet)
            self._file.check()

    def _open(self, width: int, height: int) -> None:
        if width < 2 or height < 2:
            raise VideoError(f"{printable(self.path)}: a video has at least 2x2 pixels")
        # An open file, and not its name: that may be anything the disk allows.
        self._file = _Sink(self._partial)
        self._container = self._av.open(
            self._file, "w", format="mp4", options={"movflags": "+faststart"}
        )
        self._stream = self._container.add_stream("libx264", rate=30)
        self._stream.width, self._stream.height = width - width % 2, height - height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = _TIME_BASE
        self._stream.options = {"crf": str(_QUALITY), "preset": "veryfast", "bf": "0"}

    def _fitted(self, bgr: np.ndarray) -> np.ndarray:
        import cv2

        width, height = self._stream.width, self._stream.height
        if bgr.shape[0] - bgr.shape[0] % 2 != height or bgr.shape[1] - bgr.shape[1] % 2 != width:
            bgr = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(bgr[:height, :width])

    def close(self) -> None:
        """Finish the file, check it, and give it its name. Raises VideoError."""
        with held_back():
            self._close()

    def _close(self) -> None:
        if self._container is None or self._file is None:
            return
        try:
            with self._named():
                self._mux(None)
                self._container.close()
                self._file.check()
                self._file.sync()
                self._check()
                os.replace(self._partial, self.path)
        finally:
            self._discard()

    def _check(self) -> None:
        """Whether what was written can be read, from its first frame to its last."""
        with self._partial.open("rb") as file, self._av.open(file) as container:
            stream = container.streams.video[0]
            found = sum(packet.size > 0 for packet in container.demux(stream))
            container.seek(0)
            next(container.decode(video=0))
        if found != self.frames:
            raise VideoError(
                f"{printable(self.path)}: {found} of {self.frames} frames can be read of what was "
                "written"
            )

    @contextlib.contextmanager
    def _named(self) -> Any:
        """Make a VideoError of what goes wrong, and remove the file that nobody can read."""
        try:
            yield
        except VideoError:
            self._discard()
            raise
        except (OSError, ValueError, StopIteration, self._av.error.FFmpegError) as error:
            self._discard()
            reason = getattr(error, "strerror", None) or str(error)
            raise VideoError(f"{printable(self.path)}: cannot be written: {reason}") from error

    def _discard(self) -> None:
        if self._container is not None:
            with contextlib.suppress(Exception):
                self._container.close()
        if self._file is not None:
            self._file.discard()
        with contextlib.suppress(OSError):
            self._partial.unlink()
        self._container = self._file = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
