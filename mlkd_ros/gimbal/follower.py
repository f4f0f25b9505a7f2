# SPDX-License-Identifier: Apache-2.0
"""Rates of a gimbal that keep a target in the middle of the picture. No ROS in here.

Angles are radians, of two axes: yaw, positive to the right, and pitch, positive up, both as the
camera sees them: a rate of yaw moves the picture to the left by as much, wherever the camera looks.

A measurement is old when it arrives: the image was taken, carried and searched, and meanwhile the
gimbal has turned. So each axis estimates the target's direction in a frame that does not turn with
the gimbal: the bearing in the image plus how far the gimbal had turned when the image was taken.
A Kalman filter of constant rate (Bar-Shalom, Estimation with Applications to Tracking and
Navigation, ch. 6.2, white noise acceleration) follows that direction; its prediction to the moment
at which a command takes effect, less what the gimbal will have turned by then, is the error. The
command is

    rate = target's rate + K_p error + K_i integral of error

This is a Smith predictor: with the right delay and response the loop behaves as if there were none.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from dataclasses import dataclass

import numpy as np

__all__ = ["Follower", "FollowerSettings", "Mode", "Rates"]

#: Seconds of own motion that are kept; measurements are younger.
_KEPT = 5.0
#: Standard deviation of the target's rate before anything is known of it, radians a second.
_FIRST_RATE_SIGMA = 0.5
#: Seconds without a measurement after which the filter begins anew.
_FORGOTTEN = 1.0
#: Greatest time that is predicted over, seconds.
_LONGEST_PREDICTION = 0.6
#: Seconds between two commands, about; and in which it comes to rest at the end of its travel.
_STEP, _TAPER = 1 / 30, 0.2
#: Standard deviations that a measurement may be off before it is taken for another target's.
_GATE = 6.0


class Mode(enum.Enum):
    """What the follower does."""

    OFF = "off"
    """Nothing to follow: no command is to be sent."""
    FOLLOW = "follow"
    HOLD = "hold"
    """Not seen for a moment: it stands still."""
    RETURN = "return"
    """Not seen for longer: it goes back to where it began."""
    STOP = "stop"
    """Nothing to follow any more: one command of zero is to be sent."""


@dataclass(frozen=True)
class FollowerSettings:
    """How it moves. Radians and seconds.

    `response` is the time constant with which the gimbal takes up a rate, `command_delay` what a
    command takes to reach it. `acceleration_noise`: spectral density of the target's acceleration
    as seen from the aircraft, rad^2/s^3.
    """

    gain: float = 2.5
    integral_gain: float = 0.4
    greatest_rate: float = math.radians(60)
    greatest_acceleration: float = math.radians(300)
    dead_band: float = math.radians(0.3)
    greatest_yaw: float = math.pi
    greatest_pitch: float = math.radians(60)
    response: float = 0.06
    command_delay: float = 0.02
    acceleration_noise: float = 0.05
    hold_for: float = 2.0
    return_rate: float = math.radians(15)
    stale_after: float = 0.5


@dataclass(frozen=True)
class Rates:
    """A command, radians a second, and why."""

    mode: Mode
    yaw: float = 0.0
    pitch: float = 0.0


class _OwnMotion:
    """How far one axis has turned, from the rates it was told, through its delay and response."""

    def __init__(self, settings: FollowerSettings) -> None:
        self._settings = settings
        self._told: deque[tuple[float, float]] = deque()
        self._past: deque[tuple[float, float]] = deque()
        self.angle = 0.0
        self.rate = 0.0
        self._time: float | None = None

    def tell(self, now: float, rate: float) -> None:
        """It is told a rate at that time."""
        self.advance(now)
        self._told.append((now + self._settings.command_delay, rate))

    def advance(self, now: float) -> None:
        """Reckon up to `now`."""
        if self._time is None:
            self._time = now
            self._past.append((now, self.angle))
        while self._time < now:
            following = next((t for t, _ in self._told if t > self._time), now)
            step = min(following, now)
            while self._told and len(self._told) > 1 and self._told[1][0] <= self._time:
                self._told.popleft()
            aimed = self._told[0][1] if self._told and self._told[0][0] <= self._time else 0.0
            self._step(step - self._time, aimed)
            self._time = step
        self._past.append((now, self.angle))
        while self._past[0][0] < now - _KEPT and len(self._past) > 1:
            self._past.popleft()

    def _step(self, duration: float, aimed: float) -> None:
        lag = self._settings.response
        left = math.exp(-duration / lag) if lag > 0 else 0.0
        # The exact solution of rate' = (aimed - rate) / lag.
        self.angle += aimed * duration + (self.rate - aimed) * lag * (1 - left)
        self.rate = aimed + (self.rate - aimed) * left

    def at(self, time: float) -> float:
        """Where it was."""
        past = self._past
        if not past or time <= past[0][0]:
            return past[0][1] if past else self.angle
        times = [entry[0] for entry in past]
        angles = [entry[1] for entry in past]
        return float(np.interp(time, times, angles))

    def expected(self, ahead: float) -> float:
        """Where it will be after `ahead` seconds, with the commands that are under way."""
        angle, rate, time = self.angle, self.rate, self._time or 0.0
        lag, end = self._settings.response, (self._time or 0.0) + ahead
        while time < end - 1e-9:
            step = min(next((t for t, _ in self._told if t > time + 1e-9), end), end)
            aimed = next((r for t, r in reversed(self._told) if t <= time + 1e-9), 0.0)
            left = math.exp(-(step - time) / lag) if lag > 0 else 0.0
            angle += aimed * (step - time) + (rate - aimed) * lag * (1 - left)
            rate = aimed + (rate - aimed) * left
            time = step
        return angle


class _Direction:
    """Kalman filter of a direction and its rate: constant rate, white noise acceleration."""

    def __init__(self, noise: float) -> None:
        self._noise = noise
        self._state = np.zeros(2)
        self._covariance = np.eye(2)
        self.time: float | None = None

    def reset(self) -> None:
        self.time = None

    def update(self, time: float, angle: float, variance: float) -> None:
        """A measurement. One that comes out of order is left out."""
        if self.time is None or time - self.time > _FORGOTTEN:
            self._state = np.array([angle, 0.0])
            self._covariance = np.diag([variance, _FIRST_RATE_SIGMA**2])
            self.time = time
            return
        if time <= self.time:
            return
        state, covariance = self._predicted(time - self.time)
        innovation = angle - state[0]
        total = covariance[0, 0] + variance
        if innovation**2 > _GATE**2 * total:
            self.reset()  # another place altogether: designated anew, or found elsewhere
            self.update(time, angle, variance)
            return
        gain = covariance[:, 0] / total
        self._state = state + gain * innovation
        self._covariance = covariance - np.outer(gain, covariance[0])
        self.time = time

    def _predicted(self, ahead: float) -> tuple[np.ndarray, np.ndarray]:
        move = np.array([[1.0, ahead], [0.0, 1.0]])
        noise = self._noise * np.array([[ahead**3 / 3, ahead**2 / 2], [ahead**2 / 2, ahead]])
        return move @ self._state, move @ self._covariance @ move.T + noise

    def expected(self, time: float) -> tuple[float, float]:
        """Angle and rate at a later time."""
        ahead = min(max(time - (self.time or time), 0.0), _LONGEST_PREDICTION)
        return float(self._state[0] + ahead * self._state[1]), float(self._state[1])


class _Axis:
    """One axis: own motion, the target's direction, and the controller between them."""

    def __init__(self, settings: FollowerSettings, greatest: float) -> None:
        self.settings = settings
        self.own = _OwnMotion(settings)
        self.direction = _Direction(settings.acceleration_noise)
        self._greatest = greatest
        self._integral = 0.0
        self._last = 0.0
        self._last_time: float | None = None

    def measure(self, stamp: float, error: float, variance: float) -> None:
        self.direction.update(stamp, self.own.at(stamp) + error, variance)

    def rest(self) -> None:
        """Nothing is followed."""
        self.direction.reset()
        self._integral = 0.0

    def follow(self, now: float) -> float:
        s = self.settings
        self.own.advance(now)
        ahead = s.command_delay + s.response
        angle, rate = self.direction.expected(now + ahead)
        error = angle - self.own.expected(ahead)
        outside = math.copysign(max(abs(error) - s.dead_band, 0.0), error)
        step = min(now - self._last_time, 0.1) if self._last_time is not None else 0.0
        wanted = rate + s.gain * outside + s.integral_gain * (self._integral + outside * step)
        given = self._limited(now, wanted)
        if abs(given - wanted) < 1e-6:  # else it would wind up
            self._integral += outside * step
        return given

    def go(self, now: float, rate: float) -> float:
        """A rate that has nothing to do with the target."""
        self.own.advance(now)
        return self._limited(now, rate)

    def halt(self, now: float) -> float:
        """Zero at once, whatever the greatest acceleration is."""
        self.own.advance(now)
        self._last, self._last_time = 0.0, now
        return 0.0

    def _limited(self, now: float, wanted: float) -> float:
        s = self.settings
        rate = min(max(wanted, -s.greatest_rate), s.greatest_rate)
        # Towards the end of its travel it goes slower, at the end only back.
        there = self.own.expected(s.command_delay + s.response)
        rate = min(rate, max(self._greatest - there, 0.0) / _TAPER)
        rate = max(rate, -max(self._greatest + there, 0.0) / _TAPER)
        since = _STEP if self._last_time is None else now - self._last_time
        change = s.greatest_acceleration * min(max(since, 0.0), 3 * _STEP)
        rate = min(max(rate, self._last - change), self._last + change)
        self._last, self._last_time = rate, now
        return rate


class Follower:
    """The controller. Times are seconds of one clock, that of the images.

    `measure` takes in where the target is in an image, `unseen` that it is not, `stop` that none is
    followed; `command` gives the rates of now and is to be called at a steady rate, 20 Hz or more.
    What was commanded and not sent is to be said with `override`.
    """

    def __init__(self, settings: FollowerSettings | None = None) -> None:
        self.settings = settings or FollowerSettings()
        s = self.settings
        self._yaw, self._pitch = _Axis(s, s.greatest_yaw), _Axis(s, s.greatest_pitch)
        self._heard: float | None = None
        self._seen: float | None = None
        self._following = False

    @property
    def turned(self) -> tuple[float, float]:
        """How far it has turned since it began, by its own reckoning: yaw, pitch."""
        return self._yaw.own.angle, self._pitch.own.angle

    def measure(
        self, now: float, stamp: float, yaw: float, pitch: float, variances: tuple[float, float]
    ) -> None:
        """The target was seen `yaw` right of and `pitch` above the optical axis at `stamp`."""
        self._following = True
        self._heard = self._seen = now
        for axis, error, variance in zip(self._axes, (yaw, pitch), variances, strict=True):
            axis.own.advance(now)
            axis.measure(stamp, error, max(variance, 1e-8))

    def unseen(self, now: float) -> None:
        """There is a target, and this image does not show it."""
        if self._following:
            self._heard = now

    def stop(self) -> None:
        """Nothing is followed any more."""
        self._heard = None

    @property
    def _axes(self) -> tuple[_Axis, _Axis]:
        return self._yaw, self._pitch

    def command(self, now: float) -> Rates:
        """What the gimbal is to do now."""
        s = self.settings
        if not self._following:
            return Rates(Mode.OFF)
        if self._heard is None or now - self._heard > s.stale_after:
            self._following = False
            return self._still(now, Mode.STOP, rest=True)
        unseen = now - (self._seen if self._seen is not None else now)
        # A filter that was fed an image ago is as good as the image; what is older is a guess.
        if unseen <= s.stale_after:
            return self._sent(now, Mode.FOLLOW, *(axis.follow(now) for axis in self._axes))
        if unseen <= s.hold_for:
            return self._still(now, Mode.HOLD, rest=False)
        for axis in self._axes:
            axis.rest()
        back = [self._back(axis) for axis in self._axes]
        rates = [axis.go(now, rate) for axis, rate in zip(self._axes, back, strict=True)]
        return self._sent(now, Mode.RETURN, *rates)

    def override(self, now: float, yaw: float, pitch: float) -> None:
        """Somebody else moves it, at these rates; the integral and the filter begin anew."""
        for axis, rate in zip(self._axes, (yaw, pitch), strict=True):
            axis.rest()
            axis.go(now, rate)
            axis.own.tell(now, rate)

    def _back(self, axis: _Axis) -> float:
        s = self.settings
        return min(max(-axis.own.angle * s.gain / 2, -s.return_rate), s.return_rate)

    def _still(self, now: float, mode: Mode, rest: bool) -> Rates:
        for axis in self._axes:
            axis.halt(now)
            if rest:
                axis.rest()
        return self._sent(now, mode, 0.0, 0.0)

    def _sent(self, now: float, mode: Mode, yaw: float, pitch: float) -> Rates:
        self._yaw.own.tell(now, yaw)
        self._pitch.own.tell(now, pitch)
        return Rates(mode, yaw, pitch)
