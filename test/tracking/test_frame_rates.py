# SPDX-License-Identifier: Apache-2.0
"""The same flight at 15 to 120 images a second: what happens happens at the same time."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from test_lost_target import CAR, SIZE, scene

from mlkd_ros.tracking import Tracker, TrackResult, TrackState, load_tracker
from mlkd_ros.tracking.geometry import iou

RATES = (15, 30, 60, 120)
#: Seconds: the car is hidden from, back at, and gone for good from.
HIDDEN, BACK, GONE, END = 1.0, 1.7, 2.7, 4.0
SPEED = 60.0


@pytest.fixture(scope="module")
def flights() -> dict[int, list[tuple[float, TrackResult]]]:
    """Seconds and results by images a second."""
    tracker = load_tracker(device="cpu")
    tracker.set_presence(replace(tracker.settings.presence, give_up_after=0.8))
    coarse = np.random.default_rng(3).integers(20, 70, (60, 120, 3), np.uint8)
    ground = cv2.resize(coarse, (2400, 1200), interpolation=cv2.INTER_CUBIC)
    return {rate: list(_flown(tracker, ground, rate)) for rate in RATES}


def _place(seconds: float) -> tuple[float, float]:
    return 120 + SPEED * seconds, 150.0


def _flown(tracker: Tracker, ground: np.ndarray, rate: int):
    x, y = _place(0.0)
    tracker.init(scene(ground, [(x, y)]), (x, y, *CAR), 100.0)
    for number in range(1, round(END * rate)):
        seconds = number / rate
        seen = seconds < HIDDEN or BACK <= seconds < GONE
        image = scene(ground, [_place(seconds)] if seen else [])
        assert image.shape[1::-1] == SIZE
        yield seconds, tracker.update(image, 100.0 + seconds)


def _first(flight: list[tuple[float, TrackResult]], state: TrackState, after: float) -> float:
    """Seconds at which a state is entered, counted from ``after``."""
    found = (s for s, result in flight if s >= after and result.state == state)
    return next(found, float("inf")) - after


@pytest.mark.parametrize("rate", RATES)
def test_it_is_followed_while_it_is_seen(flights: dict, rate: int) -> None:
    for seconds, result in flights[rate]:
        if seconds < HIDDEN or BACK + 0.4 < seconds < GONE:
            assert iou(result.box, (*_place(seconds), *CAR)) > 0.6, seconds


@pytest.mark.parametrize("rate", RATES)
def test_events_come_at_the_same_time(flights: dict, rate: int) -> None:
    usual, flight = flights[30], flights[rate]
    # Two images of the slower one: an event is seen with the next image only.
    within = 2.0 / min(rate, 30)
    for state, after in (
        (TrackState.LOST, HIDDEN),
        (TrackState.TRACKING, BACK),
        (TrackState.LOST, GONE),
        (TrackState.GIVEN_UP, GONE),
    ):
        expected = _first(usual, state, after)
        assert expected < 1.1
        assert _first(flight, state, after) == pytest.approx(expected, abs=within), (state, after)


@pytest.mark.parametrize("rate", RATES)
def test_nothing_is_reported_of_what_is_not_there(flights: dict, rate: int) -> None:
    gone = [r for s, r in flights[rate] if HIDDEN + 0.25 < s < BACK or s > GONE + 0.25]
    assert all(result.box is None for result in gone)
