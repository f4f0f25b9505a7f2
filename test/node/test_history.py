# SPDX-License-Identifier: Apache-2.0
"""What the history holds, and which image it finds for a stamp."""

from __future__ import annotations

import time

import numpy as np
import pytest

from mlkd_ros.imaging.frame import BgrFrame
from mlkd_ros.session.history import FrameHistory, HeldFrame, StampOutsideHistoryError

FRAME = BgrFrame(np.zeros((4, 4, 3), np.uint8))
MS = 1_000_000
START = 1_700_000_000_000_000_000


def history_of(*milliseconds: int, seconds: float = 10.0, nbytes: int = 10**9) -> FrameHistory:
    history = FrameHistory(seconds, nbytes)
    for number, offset in enumerate(milliseconds, 1):
        history.add(HeldFrame(FRAME, START + offset * MS, number, 100))
    return history


def held_at(history: FrameHistory, milliseconds: float) -> int:
    return (history.at(START + int(milliseconds * MS)).stamp - START) // MS


def test_bounded_in_time() -> None:
    history = history_of(*range(0, 5000, 100), seconds=1.0)
    assert len(history) == 11
    assert history.seconds == pytest.approx(1.0)


def test_bounded_in_bytes_but_the_newest_is_always_held() -> None:
    history = history_of(*range(0, 1000, 100), nbytes=350)
    assert (len(history), history.nbytes) == (3, 300)
    assert len(history_of(0, 100, nbytes=10)) == 1
    assert len(history_of(0, 100, seconds=0.0)) == 1


def test_exact_stamp() -> None:
    assert held_at(history_of(0, 33, 67, 100), 67) == 67


def test_nearest_when_the_operator_saw_an_image_that_was_lost_here() -> None:
    history = history_of(0, 33, 133, 167, 200)
    assert held_at(history, 70) == 33
    assert held_at(history, 95) == 133


def test_half_an_interval_past_either_end() -> None:
    history = history_of(0, 40, 80, 120)
    assert held_at(history, -19) == 0
    assert held_at(history, 139) == 120
    for outside in (-21, 141):
        with pytest.raises(StampOutsideHistoryError, match="of 4 images spans .*0.021 s away"):
            held_at(history, outside)


def test_the_refusal_names_the_span_to_the_nanosecond() -> None:
    with pytest.raises(
        StampOutsideHistoryError,
        match=r"stamp 5.000000000 .* spans 1700000000.000000000 to 1700000000.100000000 s "
        r"\(0.100 s\)",
    ):
        history_of(0, 50, 100).at(5 * 10**9)


def test_no_image_is_near_in_the_middle_of_a_long_gap() -> None:
    history = history_of(0, 33, 2033, 2067)
    assert held_at(history, 200) == 33
    with pytest.raises(StampOutsideHistoryError, match="0.967 s away"):
        held_at(history, 1000)


def test_empty_and_single() -> None:
    with pytest.raises(StampOutsideHistoryError, match="no image"):
        FrameHistory(1.0, 100).at(5)
    assert FrameHistory(1.0, 100).newest() is None
    assert held_at(history_of(500), 540) == 500


def test_stamps_that_go_backwards_do_not_clear_it() -> None:
    history = history_of(1000, 1033, 1067)
    for number, offset in ((4, 0), (5, 33), (6, 1033)):
        judged = START + (1000 + 33 * number) * MS
        history.add(HeldFrame(FRAME, START + offset * MS, number, 100, None, judged))
    assert [held.number for held in history.after(0)] == [1, 2, 3, 4, 5, 6]
    assert history.at(START + 1067 * MS).number == 3
    assert history.at(START + 2 * MS).number == 4
    assert history.at(START + 1033 * MS).number == 6, "the newest with that stamp"


def test_images_without_a_stamp_are_held_and_not_found_by_one() -> None:
    history = FrameHistory(10.0, 10**9)
    for number in range(1, 81):
        time = START + number * 33 * MS
        stamp = None if number % 40 == 0 else time
        history.add(HeldFrame(FRAME, stamp, number, 100, None, time))
    assert len(history) == 80
    assert history.at(START + 39 * 33 * MS).number == 39
    assert history.at(START + 40 * 33 * MS).number in (39, 41)


def test_equal_stamps_are_told_apart_by_number() -> None:
    history = history_of(0, 0, 0)
    assert [held.number for held in history.after(1)] == [2, 3]
    assert history.newest().number == 3


def watched(history: FrameHistory, sent: list[int], oldest: int | None, station: str = "a") -> None:
    stamps = [START + offset * MS for offset in sent]
    history.watched(station, stamps, None if oldest is None else START + oldest * MS)


def fly(history: FrameHistory, begin: int, end: int, step: int = 100) -> None:
    for offset in range(begin, end, step):
        history.add(HeldFrame(FRAME, START + offset * MS, offset // step + 1, 100))


def test_what_an_operator_looks_at_is_held_for_longer() -> None:
    history = history_of(*range(0, 2000, 100), seconds=2.0)
    watched(history, [500], 500)
    fly(history, 2000, 9000)
    assert held_at(history, 500) == 500
    assert history.seconds == pytest.approx(8.9, abs=0.1)  # no older than the screen
    watched(history, [], 8000)
    fly(history, 9000, 9500)
    assert history.seconds == pytest.approx(2.4, abs=0.1)
    watched(history, [], None)
    fly(history, 9500, 10000)
    assert history.seconds == pytest.approx(2.0, abs=0.1)


def test_no_operator_holds_images_for_ever() -> None:
    history = history_of(0, seconds=2.0)
    watched(history, [0], 0)
    fly(history, 100, 40_000)
    assert history.seconds == pytest.approx(30.0, abs=0.1)


def test_short_of_memory_the_images_go_that_nobody_was_sent() -> None:
    sent = list(range(0, 5000, 500))
    history = history_of(0, seconds=3.0, nbytes=3000)  # 30 images, and 80 come
    watched(history, sent, 0)
    fly(history, 100, 8000)
    assert len(history) == 30
    for offset in sent:
        assert held_at(history, offset) == offset
    for offset in range(7000, 8000, 100):  # and all of the last second, to catch up on
        assert held_at(history, offset) == offset


def test_two_stations_and_one_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    history = history_of(0, seconds=1.0)
    watched(history, [0], 0, "late")
    watched(history, [], 2000, "quick")
    fly(history, 100, 4000)
    assert held_at(history, 0) == 0
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 11)
    fly(history, 4000, 4100)
    assert history.seconds == pytest.approx(1.0)
