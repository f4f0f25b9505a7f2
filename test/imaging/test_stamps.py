# SPDX-License-Identifier: Apache-2.0
"""Whatever a header says, time goes on at the pace of the images."""

from __future__ import annotations

import numpy as np
import pytest

from mlkd_ros.imaging.stamps import StampJudge

SECOND = 10**9
STEP = SECOND // 30
COUNT = 300
START = 1_764_000_000 * SECOND


def good() -> list[int | None]:
    return [START + index * STEP for index in range(COUNT)]


def times(
    stamps: list[int | None], received: list[int] | None = None
) -> tuple[np.ndarray, StampJudge]:
    """The judged times, received with some milliseconds of jitter on another clock."""
    rng = np.random.default_rng(1)
    judge = StampJudge()
    clock = received or [
        7 * SECOND + index * STEP + int(rng.integers(0, 8_000_000)) for index in range(len(stamps))
    ]
    return np.array([judge.judge(s, r).time for s, r in zip(stamps, clock, strict=True)]), judge


def test_good_stamps_are_the_times() -> None:
    found, judge = times(good())
    assert found.tolist() == good() and not judge.notes


def damaged(kind: str) -> list[int | None]:
    stamps = good()
    late = range(COUNT // 2, COUNT)
    changes: dict[str, dict[int, int | None]] = {
        "every 40th is zero": {i: None for i in range(39, COUNT, 40)},
        "all are zero": {i: None for i in range(COUNT)},
        "frozen": {i: START for i in range(COUNT)},
        "frozen for a while": {i: START + 100 * STEP for i in range(100, 200)},
        "set back an hour": {i: START + i * STEP - 3600 * SECOND for i in late},
        "set forward an hour": {i: START + i * STEP + 3600 * SECOND for i in late},
        "1970 until NTP": {i: 5 * SECOND + i * STEP for i in range(COUNT // 2)},
        "TAI for one image": {50: START + 50 * STEP + 37 * SECOND},
        "each twice": {i: START + (i - i % 2) * STEP for i in range(COUNT)},
        "two cameras": {i: 9 * SECOND + i * STEP for i in range(1, COUNT, 2)},
    }
    for index, value in changes[kind].items():
        stamps[index] = value
    return stamps


KINDS = {
    "every 40th is zero": "missing",
    "all are zero": "missing",
    "frozen": "frozen",
    "frozen for a while": "frozen",
    "set back an hour": "backwards",
    "set forward an hour": "forward",
    "1970 until NTP": "forward",
    "TAI for one image": "forward",
    "each twice": "repeated",
    "two cameras": "backwards",
}


@pytest.mark.parametrize("kind", KINDS)
def test_time_goes_on_whatever_the_headers_say(kind: str) -> None:
    found, judge = times(damaged(kind))
    steps = np.diff(found)
    assert steps.min() > 0
    assert steps.max() < 3 * STEP
    assert found[-1] - found[0] == pytest.approx((COUNT - 1) * STEP, rel=0.01)
    assert KINDS[kind] in judge.found
    assert judge.notes


@pytest.mark.parametrize("kind", ["set back an hour", "1970 until NTP"])
def test_the_recorders_clock_was_set_with_the_cameras(kind: str) -> None:
    stamps = damaged(kind)
    found, _ = times(stamps, [stamp + 3_000_000 for stamp in stamps if stamp is not None])
    assert np.diff(found).min() > 0
    assert found[-1] - found[0] == pytest.approx((COUNT - 1) * STEP, rel=0.01)


def test_a_pause_and_a_slow_camera_are_no_faults() -> None:
    stamps: list[int | None] = [START, START + SECOND, START + 2 * SECOND, START + 60 * SECOND]
    found, judge = times(stamps, [0, SECOND, 2 * SECOND, 60 * SECOND])
    assert found.tolist() == stamps and not judge.found


def test_a_paused_player_goes_on_where_it_was() -> None:
    """The recording's time does not pass while it is paused."""
    stamps: list[int | None] = [START, START + STEP, START + 2 * STEP]
    found, judge = times(stamps, [0, STEP, 20 * SECOND])
    assert found.tolist() == stamps and not judge.found
