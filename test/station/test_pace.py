# SPDX-License-Identifier: Apache-2.0
"""How many pictures a page is sent, on links that are simulated event by event."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from mlkd_ros.station.pace import Pace, levels

#: Bytes of a picture by its width: about 0.1 a pixel of 16:9.
BYTES = {1280: 92_000, 960: 52_000, 800: 36_000, 640: 23_000, 480: 13_000, 400: 9_000, 320: 5_800}


@dataclass
class Line:
    """Takes `rate` bytes a second, each way `delay` seconds late, and stalls now and then."""

    rate: float
    delay: float
    stall: float = 0.0
    stall_every: float = 1e9
    faster_at: float = 1e9
    free_at: float = 0.0
    ages: list[float] = field(default_factory=list)

    def arrival(self, now: float, nbytes: int) -> float:
        rate = self.rate if now < self.faster_at else 5e6
        self.free_at = max(self.free_at, now) + nbytes / rate
        at = self.free_at + self.delay
        phase = at % self.stall_every
        return at + (self.stall_every - phase if phase > self.stall_every - self.stall else 0.0)


def run(line: Line, seconds: float, camera_rate: float = 30.0) -> tuple[Pace, int]:
    """The pace after that time, and how many pictures of the last ten seconds arrived."""
    pace = Pace(levels(1280, 15.0, 70))
    pace.round_trip(2 * line.delay, 0.0)
    acknowledgements: list[tuple[float, int]] = []
    number = shown = 0
    for step in range(int(seconds * camera_rate)):
        now = step / camera_rate
        while acknowledgements and acknowledgements[0][0] <= now:
            at, acknowledged = heapq.heappop(acknowledgements)
            pace.acknowledged(acknowledged, at)
            shown += at > seconds - 10
        if pace.wait(now) <= 0:
            number += 1
            pace.sent(number, now)
            width = pace.level.width
            arrives = line.arrival(now, BYTES.get(width, 4_000))
            if now > seconds - 10:
                line.ages.append(arrives - now)
            heapq.heappush(acknowledgements, (arrives + line.delay, number))
    return pace, shown


def test_a_good_link_gets_all_there_is() -> None:
    pace, shown = run(Line(5e6, 0.005), 30)
    assert pace.level.width == 1280
    assert shown >= 140  # 15 Hz


def test_a_long_way_costs_no_rate() -> None:
    """250 ms each way: two pictures under way would be four a second."""
    pace, shown = run(Line(5e6, 0.25), 30)
    assert pace.level.width == 1280
    assert shown >= 140
    assert pace.delay is not None and 0.49 < pace.delay < 0.6


def test_a_narrow_link_gets_smaller_pictures_that_are_not_old() -> None:
    line = Line(100e3, 0.05)
    pace, shown = run(line, 90)
    assert 320 <= pace.level.width <= 800
    assert shown >= 30
    assert sorted(line.ages)[len(line.ages) // 2] < 0.6


def test_a_stall_is_no_lack_of_bandwidth() -> None:
    pace, shown = run(Line(5e6, 0.3, stall=2.5, stall_every=8.0), 60)
    assert pace.level.width == 1280
    assert shown >= 60


def test_it_recovers() -> None:
    line = Line(60e3, 0.05, faster_at=40.0)
    narrow, _ = run(Line(60e3, 0.05), 40)
    wide, _ = run(line, 150)
    assert narrow.level.width < 800
    assert wide.level.width == 1280


def test_nothing_is_sent_while_nothing_is_acknowledged() -> None:
    pace = Pace(levels(960, 15.0, 70))
    now = 0.0
    for number in range(1, 100):
        if pace.wait(now) == float("inf"):
            break
        pace.sent(number, now)
        now += 0.1
    assert number < 8
    pace.acknowledged(1, now)
    assert pace.wait(now + 1) == 0
    pace.acknowledged(777, now)  # never sent


def test_no_level_is_above_what_was_asked_for() -> None:
    for width, rate, quality in ((480, 6.0, 50), (160, 0.5, 10), (3840, 60.0, 95)):
        all_levels = levels(width, rate, quality)
        assert (all_levels[0].width, all_levels[0].rate) == (width, rate)
        for level in all_levels:
            assert level.width <= width and level.rate <= rate and level.quality <= quality
