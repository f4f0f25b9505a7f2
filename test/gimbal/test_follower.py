# SPDX-License-Identifier: Apache-2.0
"""The follower's loop, closed over a target and a gimbal that are known exactly."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest

from mlkd_ros.gimbal.follower import Follower, FollowerSettings, Mode, Rates
from mlkd_ros.simulation.gimbal import SimulatedGimbal

PERIOD = 1 / 30
SURE = (1e-6, 1e-6)


def close_loop(
    target: Callable[[float], float],
    delay: float,
    duration: float = 8.0,
    settings: FollowerSettings | None = None,
    noise: float = 0.0,
    response: float = 0.06,
) -> tuple[np.ndarray, np.ndarray]:
    """Error and commanded rate of yaw, radians, at every image; the target's yaw is a function."""
    follower, gimbal = Follower(settings), SimulatedGimbal(response=response, delay=0.02)
    rng = np.random.default_rng(0)
    waiting: deque[tuple[float, float, float]] = deque()
    errors, rates = [], []
    for index in range(round(duration / PERIOD)):
        now = index * PERIOD
        gimbal.advance(now, 0.0)
        error = target(now) - gimbal.yaw
        waiting.append((now + delay, now, error + noise * rng.normal()))
        while waiting and waiting[0][0] <= now + 1e-9:
            _, stamp, seen = waiting.popleft()
            follower.measure(now, stamp, seen, 0.0, (max(noise, 1e-3) ** 2, 1e-6))
        command = follower.command(now)
        if command.mode is not Mode.OFF:
            gimbal.command(now, command.yaw, command.pitch)
        errors.append(error)
        rates.append(command.yaw)
    return np.array(errors), np.array(rates)


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2, 0.3])
def test_a_step_is_taken_without_swinging(delay: float) -> None:
    errors, _ = close_loop(lambda t: math.radians(15), delay)
    late = np.degrees(errors[round((2.0 + 2 * delay) / PERIOD) :])
    assert np.abs(late).max() < 1.0
    assert np.degrees(errors).min() > -2.5  # overshoot


@pytest.mark.parametrize("delay", [0.05, 0.3])
def test_a_target_that_moves_steadily_is_not_trailed(delay: float) -> None:
    errors, rates = close_loop(lambda t: math.radians(20) * t, delay)
    settled = slice(round(3.0 / PERIOD), None)
    assert np.degrees(np.abs(errors[settled])).max() < 1.0
    assert np.degrees(rates[settled]).mean() == pytest.approx(20, abs=0.5)


@pytest.mark.parametrize("delay", [0.05, 0.1, 0.2, 0.3])
def test_the_loop_stays_stable_with_a_gimbal_that_is_slower_than_it_was_told(delay: float) -> None:
    errors, _ = close_loop(lambda t: math.radians(10), delay, response=0.15, duration=12.0)
    assert np.degrees(np.abs(errors[-90:])).max() < 1.0


def test_noise_is_not_passed_on() -> None:
    # 0.04 sides of a car of 60 of 640 pixels, which is what a sure tracker is off by.
    _, rates = close_loop(lambda t: 0.0, 0.1, noise=math.radians(0.25))
    assert np.degrees(rates[60:]).std() < 3.0


def test_limits_are_kept() -> None:
    settings = FollowerSettings(
        greatest_rate=math.radians(10), greatest_acceleration=math.radians(20)
    )
    _, rates = close_loop(lambda t: math.radians(40), 0.1, settings=settings)
    assert np.degrees(np.abs(rates)).max() <= 10 + 1e-6
    assert np.degrees(np.abs(np.diff(rates))).max() <= 20 * PERIOD + 1e-6


def test_it_turns_no_further_than_it_may() -> None:
    settings = FollowerSettings(greatest_yaw=math.radians(10))
    errors, _ = close_loop(lambda t: math.radians(40), 0.1, settings=settings)
    assert 40 - np.degrees(errors[-1]) < 13  # what it coasts


def test_inside_the_dead_band_it_stands_still() -> None:
    settings = FollowerSettings(dead_band=math.radians(2.0))
    _, rates = close_loop(lambda t: math.radians(1.0), 0.1, settings=settings)
    assert np.degrees(np.abs(rates[30:])).max() < 0.2


class Flight:
    """A follower that has followed a target at some degrees to the right for a while."""

    def __init__(self) -> None:
        self.follower, self.now = Follower(), 0.0
        self.commands: list[Rates] = []

    def run(self, seconds: float, seen: bool | None) -> Rates:
        """seen: whether images show the target; None: there are no images."""
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            if seen:
                turned = self.follower.turned[0]
                self.follower.measure(self.now, self.now, 0.3 - turned, 0.0, SURE)
            elif seen is not None:
                self.follower.unseen(self.now)
            self.commands.append(self.follower.command(self.now))
        return self.commands[-1]


def test_without_a_target_nothing_is_commanded() -> None:
    flight = Flight()
    assert flight.run(1.0, seen=None).mode is Mode.OFF
    assert flight.run(1.0, seen=False).mode is Mode.OFF


def test_a_lost_target_is_waited_for_and_then_it_goes_back() -> None:
    flight = Flight()
    assert flight.run(2.0, seen=True).mode is Mode.FOLLOW
    assert flight.follower.turned[0] == pytest.approx(0.3, abs=0.02)
    held = flight.run(1.5, seen=False)
    assert (held.mode, held.yaw, held.pitch) == (Mode.HOLD, 0.0, 0.0)
    assert flight.run(1.0, seen=False).mode is Mode.RETURN
    flight.run(6.0, seen=False)
    assert flight.follower.turned[0] == pytest.approx(0.0, abs=0.02)
    assert flight.run(1.0, seen=True).mode is Mode.FOLLOW  # found again


@pytest.mark.parametrize("how", ["stop", "silence"])
def test_it_stops_at_once(how: str) -> None:
    flight = Flight()
    flight.follower.measure(0.0, 0.0, 0.5, 0.2, SURE)
    flight.run(0.3, seen=True)
    assert flight.commands[-1].yaw > 0.1
    if how == "stop":
        flight.follower.stop()
        before = len(flight.commands)
        flight.run(PERIOD, seen=None)
    else:
        before = len(flight.commands)
        flight.run(0.6, seen=None)
    stopped = [c for c in flight.commands[before:] if c.mode is Mode.STOP]
    assert [(c.yaw, c.pitch) for c in stopped] == [(0.0, 0.0)]
    assert flight.run(0.5, seen=None).mode is Mode.OFF


def test_another_place_altogether_is_another_target() -> None:
    flight = Flight()
    flight.run(2.0, seen=True)
    turned = flight.follower.turned[0]
    for _ in range(60):
        flight.now += PERIOD
        offset = turned - 0.5 - flight.follower.turned[0]
        flight.follower.measure(flight.now, flight.now, offset, 0.0, SURE)
        flight.follower.command(flight.now)
    assert flight.follower.turned[0] == pytest.approx(turned - 0.5, abs=0.05)
