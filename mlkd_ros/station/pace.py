# SPDX-License-Identifier: Apache-2.0
"""How many pictures a second a page is sent, and how large: as its link takes them.

Each picture is acknowledged by the page. The quickest acknowledgement of late is the link's own
delay; what others take longer has waited in a queue. As many pictures are under way as that delay
needs, and no more: what would wait in a queue is old when it arrives. Where a queue stays, pictures
become smaller and fewer, by levels; where there has been none for a while, larger again. (The idea
is that of delay-based congestion control: TCP Vegas, Brakmo and Peterson 1995; LEDBAT, RFC 6817.)

A stall, in which nothing is acknowledged for seconds and then everything at once, is no lack of
bandwidth: it only ends the sending until it is over.

No clock and no network in here: times are given, in seconds.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Sequence

from mlkd_ros.station.picture import Level

__all__ = ["Pace", "levels"]

#: Delay beyond the link's own that is no queue yet, in seconds.
_QUEUE = 0.2
#: Pictures sent over so many seconds in a row have to be late before the next level is taken.
_LATE_FOR = 1.5
#: Seconds without a queue until a better level is tried, at first and at the most: each time that
#: it turns out to be too much the time doubles.
_TRY_AFTER, _TRY_AFTER_MOST = 4.0, 60.0
#: Seconds over which the link's own delay is the smallest one seen.
_MEMORY = 60.0
#: Seconds of pictures under way beyond the delay, and the most pictures.
_SLACK, _MOST_UNDER_WAY = 0.15, 40
#: Seconds that the rate of acknowledgements is an average over, and by what factor more is tried.
_RATE_WINDOW, _MORE = 2.0, 1.3


def levels(width: int, rate: float, quality: int) -> tuple[Level, ...]:
    """The best level as asked for, and those below it."""
    best = Level(width, rate, quality, 23, 6000)
    lower = (
        Level(960, 15.0, 65, 24, 2500),
        Level(800, 12.0, 60, 26, 1500),
        Level(640, 10.0, 55, 27, 900),
        Level(480, 8.0, 50, 29, 500),
        Level(400, 6.0, 42, 30, 300),
        Level(320, 4.0, 35, 32, 160),
        Level(256, 2.0, 30, 34, 80),
    )
    below = (
        Level(
            min(one.width, width), min(one.rate, rate), min(one.quality, quality), one.crf, one.kbit
        )
        for one in lower
    )
    return best, *(one for one in below if (one.width, one.rate) != (width, rate))


class Pace:
    """Of one page. `level` says what the next picture is to be like; `delay` is the link's own
    two-way delay in seconds, None before the first acknowledgement.
    """

    def __init__(self, choice: Sequence[Level]) -> None:
        self.delay: float | None = None
        self._choice = choice
        self._index = 0
        self._under_way: OrderedDict[int, float] = OrderedDict()
        self._delays: deque[tuple[float, float]] = deque()
        self._times: deque[float] = deque()
        self._taken = 0.0
        self._due = -math.inf
        self._late_since: float | None = None
        self._good_since: float | None = None
        self._try_after = _TRY_AFTER
        self._tried: float | None = None
        self._changed = -math.inf

    @property
    def level(self) -> Level:
        """What the link takes."""
        return self._choice[self._index]

    @property
    def window(self) -> int:
        """How many pictures may be under way."""
        rate = min(self.level.rate, _MORE * self._taken)
        needed = rate * ((self.delay or 0.0) + _SLACK)
        return min(max(math.ceil(needed), 1) + 1, _MOST_UNDER_WAY)

    def round_trip(self, seconds: float, now: float) -> None:
        """A small message went there and back in that time."""
        self._delays.append((now, seconds))
        while self._delays[0][0] < now - _MEMORY:
            self._delays.popleft()
        self.delay = min(delay for _, delay in self._delays)

    def wait(self, now: float) -> float:
        """Seconds until the next picture may be sent; infinite: not before an acknowledgement."""
        if len(self._under_way) >= self.window:
            return math.inf
        return max(self._due - now, 0.0)

    def sent(self, number: int, now: float) -> None:
        """Picture `number` is on its way."""
        self._under_way[number] = now
        # A little early is better than a picture too late: the rates of camera and page may match.
        interval = 1.0 / self.level.rate
        self._due = max(self._due, now - interval / 2) + interval

    def acknowledged(self, number: int, now: float) -> None:
        """The page has it, and those before it."""
        if number not in self._under_way:
            return
        while self._under_way:
            first, sent = self._under_way.popitem(last=False)
            if first == number:
                break
        self.round_trip(now - sent, now)
        self._times.append(now)
        while self._times[0] < now - _RATE_WINDOW:
            self._times.popleft()
        since = max(now - max(self._times[0], now - _RATE_WINDOW), _RATE_WINDOW / 4)
        self._taken = len(self._times) / since
        self._judge(sent, now)

    def _judge(self, sent: float, now: float) -> None:
        late = now - sent > (self.delay or 0.0) + _QUEUE
        if not late:
            self._late_since = None
            if self._good_since is None:
                self._good_since = now
            if self._index and now - self._good_since > self._try_after:
                self._index -= 1
                self._good_since, self._tried, self._changed = None, now, now
            return
        self._good_since = None
        if sent < self._changed:
            return  # it queued behind pictures of the level before
        if self._late_since is None:
            self._late_since = sent
        if sent - self._late_since < _LATE_FOR or self._index == len(self._choice) - 1:
            return
        self._index += 1
        self._late_since, self._changed = None, now
        failed = self._tried is not None and now - self._tried < 2 * _TRY_AFTER
        self._try_after = min(2 * self._try_after, _TRY_AFTER_MOST) if failed else _TRY_AFTER
