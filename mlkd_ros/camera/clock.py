# SPDX-License-Identifier: Apache-2.0
"""When the pictures of a stream were taken, as far as that can be known.

All times are integer nanoseconds.
"""

from __future__ import annotations

from collections import deque

__all__ = ["StreamClock"]

_SECOND = 1_000_000_000
#: For how long the packet that came quickest says how the stream's clock and ours belong together.
_WINDOW = 5 * _SECOND
#: How far before it came a picture can have been taken, by a sender's clock that is believed.
_OLDEST = 5 * _SECOND
#: The same after it came: two clocks that are synchronised so well.
_EARLY = -_SECOND // 50


class StreamClock:
    """Turns what comes with the packets of one connection into stamps of our clock.

    By the sender's clock where it sends that (RTCP's reports do: capture time as NTP) and it can be
    ours. Else by the time of arrival: the stream's own clock, which has no jitter, is laid so that
    the quickest packet of the last seconds was taken when it came. What the way takes at least is
    then not known, and not in the stamp.

    use_sender: whether to look at the sender's clock at all.
    """

    def __init__(self, use_sender: bool = True) -> None:
        self._use_sender = use_sender
        self.by_sender = False
        self.sender_off: int | None = None
        """By how much the sender's clock is behind ours where it is too much to be a delay."""
        self._offsets: deque[tuple[int, int]] = deque()
        self._last_pts: int | None = None

    def stamp(self, arrived: int, pts: int | None, sent: int | None) -> int:
        """When the picture of a packet was taken.

        Args:
            arrived: When its last byte came, by our clock.
            pts: By the stream's clock; None where it says nothing.
            sent: By the sender's; None where it says nothing.
        """
        by_arrival = self._by_arrival(arrived, pts)
        self.by_sender = False
        self.sender_off = None
        if sent is None or not self._use_sender:
            return by_arrival
        if not _EARLY <= arrived - sent <= _OLDEST:
            self.sender_off = arrived - sent
            return by_arrival
        self.by_sender = True
        return min(sent, arrived)

    def _by_arrival(self, arrived: int, pts: int | None) -> int:
        if pts is None:
            return arrived
        if self._last_pts is not None and abs(pts - self._last_pts) > _WINDOW:
            self._offsets.clear()  # another clock
        self._last_pts = pts
        offset = arrived - pts
        while self._offsets and self._offsets[0][0] < arrived - _WINDOW:
            self._offsets.popleft()
        while self._offsets and self._offsets[-1][1] >= offset:
            self._offsets.pop()
        self._offsets.append((arrived, offset))
        return pts + self._offsets[0][1]
