# SPDX-License-Identifier: Apache-2.0
"""When an image was taken: one judge of header stamps, for the node and for everything offline.

A stamp is an integer of nanoseconds, or None: zero in a header means that there is none. Headers
cannot be trusted as a clock. They stand still, jump when a clock is set in flight, are of another
epoch (TAI, 1970 until NTP has answered), or lack now and then. The time of receipt goes on at the
right rate, but with the jitter of the transport. `StampJudge` takes the header's intervals while
they are possible, and those of receipt where they are not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

__all__ = ["StampJudge", "Verdict", "header_stamp", "seconds_text"]

#: A step of the header's clock beyond the time that really passed, from which on it was set: a
#: camera or a network may hold images back for less.
_JUMP = 1_000_000_000
#: How far the times by header and by receipt may be apart for the one to stand for the other.
_JITTER = 250_000_000
#: Stamps that stand still for that long are frozen; an image that is published twice is not.
_FROZEN = 1_000_000_000
#: Nobody waits that long between two images: the clock of the receipt was set.
_LONGEST_GAP = 600_000_000_000
#: Between two images about which nothing better is known; and at least, whatever else is.
_UNKNOWN_STEP, _SMALLEST_STEP = 33_333_333, 1_000_000

_TEXTS = {
    "missing": "stamps are zero: the time of receipt stands for them",
    "frozen": "stamps stand still: the time of receipt stands for them",
    "repeated": "stamps are repeated: the time of receipt tells the images apart",
    "backwards": "stamps went backwards: a clock was set, a replay began again, or two cameras "
    "publish on one topic; time goes on by the receipt",
    "forward": "stamps jumped forward: a clock was set; time goes on by the receipt",
}


def header_stamp(header: Any) -> int | None:
    """The stamp of a std_msgs/Header (or what has its fields) in nanoseconds; None for zero."""
    return (int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)) or None


def seconds_text(stamp: int) -> str:
    """Nanoseconds as seconds, with integer arithmetic: a float would lose the last digits."""
    sign = "-" if stamp < 0 else ""
    return f"{sign}{abs(stamp) // 10**9}.{abs(stamp) % 10**9:09d}"


@dataclass(frozen=True)
class Verdict:
    """What is known of when an image was taken.

    time: nanoseconds for physics; it never goes back, and while the header's clock is good it *is*
    the stamp. finding: what is wrong with the stamp, a word of `StampJudge.found`; empty if nothing
    is.
    """

    time: int
    finding: str = ""

    @property
    def trusted(self) -> bool:
        """Whether the header tells when the image was taken."""
        return not self.finding


class StampJudge:
    """Judges the stamps of one stream, image by image. One thread at a time.

    found: images by finding: missing, frozen, repeated, backwards, forward. images: all of them.
    """

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.images = 0
        self._stamp: int | None = None
        self._received = self._changed = 0
        self._time: int | None = None
        #: What the header's clock lacks to `time`, and what it lacked before it was set last.
        self._offset = self._offset_before = 0

    def begin_again(self) -> None:
        """All clocks begin again, known to everybody: the next image is as good as the first."""
        self._stamp, self._time = None, None
        self._offset = self._offset_before = 0

    def judge(self, stamp: int | None, received: int) -> Verdict:
        """The verdict on the next image.

        received: when it came, in nanoseconds of a clock that is not set meanwhile, or of the
        recorder's, which may be.
        """
        self.images += 1
        verdict = (
            self._first(stamp, received) if self._time is None else self._next(stamp, received)
        )
        if verdict.finding:
            self.found[verdict.finding] += 1
        if stamp is not None:
            if stamp != self._stamp:
                self._changed = received
            self._stamp = stamp
        self._received, self._time = received, verdict.time
        return verdict

    def _first(self, stamp: int | None, received: int) -> Verdict:
        return Verdict(received, "missing") if stamp is None else Verdict(stamp)

    def _next(self, stamp: int | None, received: int) -> Verdict:
        assert self._time is not None
        by_receipt = self._time + self._passed(stamp, received)
        if stamp is None:
            return Verdict(by_receipt, "missing")
        if self._stamp is None:  # the first one at all
            self._offset = by_receipt - stamp
            return Verdict(by_receipt)
        if stamp == self._stamp:
            frozen = received - self._changed >= _FROZEN
            return Verdict(by_receipt, "frozen" if frozen else "repeated")
        if (
            abs(stamp + self._offset_before - by_receipt)
            < _JITTER
            < abs(stamp + self._offset - by_receipt)
        ):
            # As it was before one image, or some, had other stamps.
            self._offset, self._offset_before = self._offset_before, self._offset
        finding = self._finding(stamp, by_receipt)
        if finding:
            self._offset, self._offset_before = by_receipt - stamp, self._offset
            return Verdict(by_receipt, finding)
        return Verdict(max(stamp + self._offset, self._time + _SMALLEST_STEP))

    def _finding(self, stamp: int, by_receipt: int) -> str:
        assert self._time is not None
        time = stamp + self._offset
        if time < self._time - _JITTER:
            return "backwards"
        return "forward" if time > by_receipt + _JUMP else ""

    def _passed(self, stamp: int | None, received: int) -> int:
        """Time since the image before, by the receipt; by the header if its clock was set."""
        passed = received - self._received
        if 0 < passed < _LONGEST_GAP:
            return passed
        if stamp is not None and self._stamp is not None:
            step = stamp - self._stamp
            if 0 < step < _JUMP:
                return step
        return _UNKNOWN_STEP

    @property
    def notes(self) -> list[str]:
        """What was found so far, a sentence each."""
        return [
            f"{count} of {self.images} images: {_TEXTS[kind]}"
            for kind, count in sorted(self.found.items())
        ]

    @staticmethod
    def describe(finding: str) -> str:
        """A finding in words."""
        return _TEXTS[finding]
