# SPDX-License-Identifier: Apache-2.0
"""The last few seconds of images, so that tracking can start on the one the operator saw."""

from __future__ import annotations

import bisect
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlkd_ros.tracking.frame import Frame

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

    `stamp` is its header's, in nanoseconds; `number` counts usable images from 1 and tells apart
    images with equal stamps; `nbytes` is what it costs to hold; `header` is passed through to
    whatever is published about the image.
    """

    frame: Frame
    stamp: int
    number: int
    nbytes: int
    header: Any = None


class StampOutsideHistoryError(LookupError):
    """No image near the wanted stamp is held; the message names the span that is."""


class FrameHistory:
    """The newest images, bounded in time and in bytes. The newest one is always held.

    Operators whose video is late may tell what they look at (`watched`): then images are held for
    as long as one of them may be designated on, and where memory is short, those that no operator
    was sent go first.

    One thread adds, any thread may look. Stamps are in nanoseconds.
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

    def add(self, held: HeldFrame) -> bool:
        """Hold one more image. True if it is older than the newest: time was set back.

        The images held before are dropped then, because stamps no longer tell them apart from the
        ones to come.
        """
        with self._lock:
            set_back = bool(self._frames) and held.stamp < self._frames[-1].stamp
            if set_back:
                self._frames.clear()
                self._nbytes = 0
            self._frames.append(held)
            self._nbytes += held.nbytes
            begin = self._begin(held.stamp)
            while len(self._frames) > 1 and self._frames[0].stamp < begin:
                self._drop(0)
            while len(self._frames) > 1 and self._nbytes > self._limit:
                self._drop(self._dispensable(held.stamp))
            return set_back

    def _begin(self, newest: int) -> int:
        """Stamp of the oldest image that is worth its memory."""
        begin, watched = newest - self._span, self._oldest_watched()
        if watched is None:
            return begin
        return max(min(begin, watched - _MARGIN_NS), newest - max(self._span, _LONGEST_NS))

    def _dispensable(self, newest: int) -> int:
        """Index of the image to drop when memory is short: the oldest one that no operator was
        sent, but for the latest, on which a tracker catches up; else the oldest of all.
        """
        for index, held in enumerate(self._frames):
            if newest - held.stamp < _DENSE_NS:
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
            frames = list(self._frames)
        if not frames:
            raise StampOutsideHistoryError("no image is held")
        stamps = [held.stamp for held in frames]
        index = bisect.bisect_left(stamps, stamp)
        candidates = frames[max(index - 1, 0) : index + 1]
        nearest = min(candidates, key=lambda held: abs(held.stamp - stamp))
        between = 0 < index < len(frames)
        allowed = _FARTHEST_NS if between else _median_interval(stamps) // 2
        if abs(nearest.stamp - stamp) > allowed:
            raise StampOutsideHistoryError(
                f"no image near stamp {_seconds(stamp)} is held: the history of {len(frames)} "
                f"images spans {_seconds(stamps[0])} to {_seconds(stamps[-1])} s "
                f"({(stamps[-1] - stamps[0]) / 1e9:.3f} s), the nearest is "
                f"{abs(nearest.stamp - stamp) / 1e9:.3f} s away"
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
            return (self._frames[-1].stamp - self._frames[0].stamp) / 1e9 if self._frames else 0.0


def _median_interval(stamps: list[int]) -> int:
    intervals = sorted(late - early for early, late in zip(stamps, stamps[1:], strict=False))
    return intervals[len(intervals) // 2] if intervals else _DEFAULT_INTERVAL_NS


def _seconds(stamp: int) -> str:
    """A stamp in seconds, with integer arithmetic: a float would lose the last digits."""
    return f"{stamp // 10**9}.{stamp % 10**9:09d}"
