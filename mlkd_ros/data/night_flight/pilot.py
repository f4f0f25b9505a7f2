# SPDX-License-Identifier: Apache-2.0
"""How the aircraft and its camera follow the target."""

from __future__ import annotations

import math

import numpy as np

from mlkd_ros.data.night_flight.actors import Camera
from mlkd_ros.data.night_flight.scenarios import Scenario
from mlkd_ros.data.night_flight.traffic import Clock, Mover

# How far a gimbal can turn the camera down from the horizon: no picture shows the sky.
LEAST_DEPRESSION, GREATEST_DEPRESSION = math.radians(28.0), math.radians(88.0)
SETTLE_S = 6.0  # the camera's follower runs this long before the first frame


class CameraPlan:
    """Where the camera is and looks at every frame."""

    def __init__(self, settings: Scenario, target: Mover, clock: Clock, seed: int) -> None:
        rng = np.random.default_rng([seed, 3])
        times = clock.times
        heading = np.unwrap(target.pose[:, 2])
        follow = _low_pass(heading, 2.0, clock.rate) * settings.follow_heading
        self._view = (
            follow
            + math.radians(settings.view)
            + math.radians(settings.view_swing) * _sway(times, 0.045, rng)
        )
        aim = np.column_stack(
            [_low_pass(target.pose[:, k], settings.lag, clock.rate) for k in range(2)]
        )
        for axis in range(2):
            aim[:, axis] += settings.wander * _sway(times, settings.wander_rate, rng)
        if settings.excursion:
            aim += _looking_away(settings.excursion, times, self._view)
        self._aim = aim
        self._altitude = settings.altitude + settings.altitude_swing * np.sin(
            2 * math.pi * times / settings.altitude_period + rng.uniform(0, 2 * math.pi)
        )
        self._pitch = math.radians(settings.pitch) + math.radians(2.5) * _sway(times, 0.06, rng)
        self._shake = math.radians(settings.vibration) * np.column_stack(
            [_vibration(times, rng) for _ in range(3)]
        )
        self._roll = math.radians(1.2) * _sway(times, 0.15, rng)

    def camera(
        self,
        index: int,
        focal_px: float,
        size: tuple[int, int],
        turn: tuple[float, float] = (0.0, 0.0),
    ) -> Camera:
        """The camera of one frame, turned by a gimbal: radians to the right, and up."""
        view, pitch = self._view[index], self._pitch[index]
        altitude = self._altitude[index]
        back = altitude / math.tan(pitch)
        position = np.array(
            [
                self._aim[index, 0] - back * math.cos(view),
                self._aim[index, 1] - back * math.sin(view),
                altitude,
            ]
        )
        shake = self._shake[index]
        depression = min(max(pitch - turn[1], LEAST_DEPRESSION), GREATEST_DEPRESSION)
        if turn[1] == 0.0:
            depression = pitch
        rotation = _rotation(
            view - turn[0] + shake[0], depression + shake[1], self._roll[index] + shake[2]
        )
        return Camera(position, rotation, focal_px, *size)


def _rotation(view: float, pitch: float, roll: float) -> np.ndarray:
    """Right, down and forward axes as rows."""
    forward = np.array(
        [math.cos(pitch) * math.cos(view), math.cos(pitch) * math.sin(view), -math.sin(pitch)]
    )
    level = np.array([math.sin(view), -math.cos(view), 0.0])
    down = np.cross(forward, level)
    right = math.cos(roll) * level + math.sin(roll) * down
    return np.stack((right, np.cross(forward, right), forward))


def _low_pass(values: np.ndarray, time_constant_s: float, rate: float) -> np.ndarray:
    """First-order lag that has settled on the first motion before it starts."""
    share = 1.0 - math.exp(-1.0 / (rate * max(time_constant_s, 1e-3)))
    settle = int(SETTLE_S * rate)
    velocity = values[1] - values[0] if len(values) > 1 else 0.0
    state = values[0] - velocity * settle
    out = np.empty_like(values)
    for step in range(-settle, len(values)):
        wanted = values[step] if step >= 0 else values[0] + velocity * step
        state += share * (wanted - state)
        if step >= 0:
            out[step] = state
    return out


def _sway(times: np.ndarray, frequency_hz: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth, never quite regular motion within about -1 to 1."""
    total = np.zeros_like(times)
    for scale, weight in ((1.0, 0.6), (1.73, 0.3), (2.9, 0.12)):
        total += weight * np.sin(
            2 * math.pi * frequency_hz * scale * times + rng.uniform(0, 2 * math.pi)
        )
    return total


def _vibration(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    total = np.zeros_like(times)
    for frequency_hz in (3.1, 5.7, 9.4):
        total += 0.5 * np.sin(2 * math.pi * frequency_hz * times + rng.uniform(0, 2 * math.pi))
    return total


def _looking_away(
    excursion: tuple[float, float, float], times: np.ndarray, view: np.ndarray
) -> np.ndarray:
    """Shift of the aim (metres): sideways, for a part of every period, smoothly."""
    period, duration, sideways = excursion
    phase = np.mod(times - period / 2, period)
    ramp = np.clip(np.minimum(phase, duration - phase) / 1.0, 0.0, 1.0)
    shift = sideways * ramp**2 * (3 - 2 * ramp)
    return np.column_stack((shift * np.sin(view), -shift * np.cos(view)))
