# SPDX-License-Identifier: Apache-2.0
"""The last few seconds of images, so that tracking can start on the one the operator saw."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlkd_ros.imaging.frame import Frame
from mlkd_ros.imaging.stamps import seconds_text

__all__ = ["FrameHistory", "HeldFrame", "StampOutsideHistoryError"]

# A stamp between two images that are further apart than twice this has no image near enough.
_FARTHEST_NS = 200_000_000
# What an operator looks at may go back so far, whatever the link.
_LONGEST_NS = 30_000_000_000
# Kept before the oldest image on a screen: the request on it may come after the news of the next.
_MARGIN_NS = 1_000_000_000
# A station that has said nothing for so long is gone.
_STATION_SILENT_S = 10.0
# So young images are all kept, memory allowing.
_DENSE_NS = 1_000_000_000
# Half of this is how far past either end a stamp may be while only one image is held.
_DEFAULT_INTERVAL_NS = 100_000_000


@dataclass(frozen=True)
class HeldFrame:
    """One received image.

    `stamp` is its header's, in nanoseconds, None without one; `number` counts usable images from 1
    and tells apart images with equal stamps; `nbytes` is what it costs to hold; `header` is passed
    through to whatever is published about the image. `judged` is when it was taken, in nanoseconds,
    as `StampJudge` found; None where nobody judged, and the stamp is it. `finding` is what is wrong
    with the stamp, empty if nothing is.
    """

    frame: Frame
    stamp: int | None
    number: int
    nbytes: int
    header: Any = None
    judged: int | None = None
    finding: str = ""

    @property
    def time(self) -> int:
        """When it was taken, in nanoseconds that never go back from one image to the next."""
        return self.judged if self.judged is not None else self.stamp or 0

    @property
    def seconds(self) -> float:
        """`time` in seconds, for physics."""
        return self.time * 1e-9


class StampOutsideHistoryError(LookupError):
    """No image near the wanted stamp is held; the message names the span that is."""


class FrameHistory:
    """The newest images, bounded in time and in bytes. The newest one is always held.

    Operators whose video is late may tell what they look at (`watched`): then images are held for
    as long as one of them may be designated on, and where memory is short, those that no operator
    was sent go first.

    One thread adds, any thread may look. Stamps and times are in nanoseconds.
    """

    def __init__(self, seconds: float, nbytes: int) -> None:
        self._span = int(seconds * 1e9)
        self._limit = int(nbytes)
        self._frames: deque[HeldFrame] = deque()
        self._nbytes = 0
        self._sent: set[int] = set()
        self._stations: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def watched(self, station: str, sent: Iterable[int], oldest: int | None) -> None:
        """A station has sent images with these stamps to operators; the oldest that one of them
        still looks at has the stamp `oldest` (None: nobody looks).
        """
        with self._lock:
            self._stations.pop(station, None)
            if oldest is not None:
                self._stations[station] = time.monotonic(), oldest
            needed = self._oldest_watched()
            self._sent |= set(sent)
            self._sent = {one for one in self._sent if needed is not None and one >= needed}

    def _oldest_watched(self) -> int | None:
        """Stamp of the oldest image that an operator looks at."""
        alive = time.monotonic() - _STATION_SILENT_S
        self._stations = {name: one for name, one in self._stations.items() if one[0] > alive}
        return min((oldest for _, oldest in self._stations.values()), default=None)

    def add(self, held: HeldFrame) -> None:
        """Hold one more image."""
        with self._lock:
            self._frames.append(held)
            self._nbytes += held.nbytes
            begin = self._begin(held.time)
            while len(self._frames) > 1 and self._frames[0].time < begin:
                self._drop(0)
            while len(self._frames) > 1 and self._nbytes > self._limit:
                self._drop(self._dispensable(held.time))

    def _begin(self, newest: int) -> int:
        """Time of the oldest image that is worth its memory."""
        begin, watched = newest - self._span, self._oldest_watched()
        if watched is None:
            return begin
        shown = (one.time for one in self._frames if one.stamp is not None and one.stamp >= watched)
        longest = newest - max(self._span, _LONGEST_NS)
        return max(min(begin, next(shown, newest) - _MARGIN_NS), longest)

    def _dispensable(self, newest: int) -> int:
        """Index of the image to drop when memory is short: the oldest one that no operator was
        sent, but for the latest, on which a tracker catches up; else the oldest of all.
        """
        for index, held in enumerate(self._frames):
            if newest - held.time < _DENSE_NS:
                break
            if held.stamp not in self._sent:
                return index
        return 0

    def _drop(self, index: int) -> None:
        self._nbytes -= self._frames[index].nbytes
        del self._frames[index]

    def clear(self) -> None:
        """Hold no image any more."""
        with self._lock:
            self._frames.clear()
            self._nbytes = 0

    def newest(self) -> HeldFrame | None:
        """The image received last."""
        with self._lock:
            return self._frames[-1] if self._frames else None

    def after(self, number: int) -> list[HeldFrame]:
        """The images received after the one with that number, oldest first."""
        with self._lock:
            return [held for held in self._frames if held.number > number]

    def at(self, stamp: int) -> HeldFrame:
        """The image with that stamp, else the nearest: the operator may have seen one lost here.

        A stamp between two images held takes the nearer one unless they are more than 0.4 s apart;
        a stamp before the first or after the last may be half an image interval away from it.
        Raises StampOutsideHistoryError otherwise.
        """
        with self._lock:
            stamped = [held for held in self._frames if held.stamp is not None]
        if not stamped:
            raise StampOutsideHistoryError("no image with a stamp is held")
        # The newest of several with one stamp: of those before, a clock was set since, or stands.
        index = max(
            range(len(stamped)), key=lambda i: (-abs(_stamp(stamped[i]) - stamp), stamped[i].number)
        )
        nearest = stamped[index]
        off = _stamp(nearest) - stamp
        # The image on the other side of the wanted stamp, if there is one.
        other = index - 1 if off > 0 else index + 1
        between = 0 <= other < len(stamped) and (_stamp(stamped[other]) - stamp) * off < 0
        allowed = _FARTHEST_NS if between else _median_interval(stamped) // 2
        if abs(off) > allowed:
            first, last = (pick(map(_stamp, stamped)) for pick in (min, max))
            raise StampOutsideHistoryError(
                f"no image near stamp {seconds_text(stamp)} is held: the history of {len(stamped)} "
                f"images spans {seconds_text(first)} to {seconds_text(last)} s "
                f"({(last - first) / 1e9:.3f} s), the nearest is {abs(off) / 1e9:.3f} s away"
            )
        return nearest

    def __len__(self) -> int:
        """How many images are held."""
        with self._lock:
            return len(self._frames)

    @property
    def nbytes(self) -> int:
        """Bytes of image data held."""
        with self._lock:
            return self._nbytes

    @property
    def seconds(self) -> float:
        """Time from the oldest to the newest image held."""
        with self._lock:
            return (self._frames[-1].time - self._frames[0].time) / 1e9 if self._frames else 0.0


def _stamp(held: HeldFrame) -> int:
    return held.stamp or 0


def _median_interval(frames: list[HeldFrame]) -> int:
    times = [held.time for held in frames]
    intervals = sorted(late - early for early, late in zip(times, times[1:], strict=False))
    return intervals[len(intervals) // 2] if intervals else _DEFAULT_INTERVAL_NS
