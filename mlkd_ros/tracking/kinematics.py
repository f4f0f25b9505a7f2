# SPDX-License-Identifier: Apache-2.0
"""Where a target is and how it moves, with how sure that is: a Kalman filter over ground.

The target's velocity over ground is an Ornstein-Uhlenbeck process (Bar-Shalom, Li, Kirubarajan
2001, section 8.2: Singer's model one derivative lower): it fades with a time constant and is
driven by noise, so that a velocity stays bounded however long nobody sees the target. The camera's
motion is a control input with a covariance of its own.

Both axes have the same dynamics and the same noise, so one 2 x 2 covariance of (place, velocity)
serves x and y, and a step is a few operations on plain floats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .global_motion import Motion, Point
from .settings import BeliefSettings

__all__ = ["Kinematics", "Measurement"]


@dataclass(frozen=True)
class Measurement:
    """A place seen: ``x``, ``y`` in pixels, and the variance of each, in pixels^2."""

    x: float
    y: float
    variance: float


class Kinematics:
    """State of one target: centre (pixels of the image), velocity over ground (pixels a second).

    x, y, vx, vy: the mean. pp, pv, vv: variance of a coordinate of the place, its covariance with
    that of the velocity, and the velocity's variance, the same for x and y.
    """

    __slots__ = ("pp", "pv", "settings", "vv", "vx", "vy", "x", "y")

    def __init__(self, settings: BeliefSettings, at: Measurement, size: float) -> None:
        """A target at ``at`` whose velocity is not known yet; ``size``: square root of its area in
        pixels, the unit in which targets move.
        """
        self.settings = settings
        self.x, self.y, self.vx, self.vy = at.x, at.y, 0.0, 0.0
        self.pp, self.pv = at.variance, 0.0
        self.vv = (settings.wander * size) ** 2

    @property
    def place(self) -> Point:
        """Centre, in pixels."""
        return self.x, self.y

    @property
    def deviation(self) -> float:
        """Standard deviation of each coordinate of the place, in pixels."""
        return math.sqrt(self.pp)

    def predict(self, seconds: float, size: float, motion: Motion | None = None) -> None:
        """Go on to the image ``seconds`` later; ``motion``: how the picture moved meanwhile.

        The discrete form of the process: with ``r = exp(-t / T)`` the velocity keeps the share
        ``r``, the place gains ``T (1 - r)`` of it, and both gain noise whose stationary deviation
        of velocity is ``settings.wander`` sizes a second.
        """
        time = self.settings.wander_time
        kept = math.exp(-seconds / time)
        gain = time * (1.0 - kept)
        drive = (self.settings.wander * size) ** 2
        self.x += gain * self.vx
        self.y += gain * self.vy
        self.vx, self.vy = kept * self.vx, kept * self.vy
        spread = 2.0 * seconds / time - 3.0 + 4.0 * kept - kept * kept
        self.pp += 2.0 * gain * self.pv + gain * gain * self.vv + drive * time**2 * max(spread, 0.0)
        self.pv = kept * (self.pv + gain * self.vv) + drive * time * (1.0 - kept) ** 2
        self.vv = kept * kept * self.vv + drive * (1.0 - kept * kept)
        if motion is not None:
            self._move(motion)

    def _move(self, motion: Motion) -> None:
        """The picture moved: so did the target in it, and what is known of it turns with it."""
        (self.x, self.y), scale = motion.applied(self.x, self.y), motion.scale
        self.vx, self.vy = motion.turned(self.vx, self.vy)
        self.pp = self.pp * scale**2 + motion.variance
        self.pv, self.vv = self.pv * scale**2, self.vv * scale**2

    def copy(self) -> Kinematics:
        """Another one in the same state."""
        other = Kinematics(self.settings, Measurement(self.x, self.y, self.pp), 0.0)
        other.vx, other.vy, other.pv, other.vv = self.vx, self.vy, self.pv, self.vv
        return other

    def innovation(self, variance: float) -> float:
        """Variance of each coordinate of a measurement of this ``variance`` about the predicted
        place.
        """
        return self.pp + variance

    def update(self, seen: Measurement) -> None:
        """Take in a measurement of the place."""
        total = self.pp + seen.variance
        gain_p, gain_v = self.pp / total, self.pv / total
        dx, dy = seen.x - self.x, seen.y - self.y
        self.x, self.y = self.x + gain_p * dx, self.y + gain_p * dy
        self.vx, self.vy = self.vx + gain_v * dx, self.vy + gain_v * dy
        self.vv -= gain_v * self.pv
        self.pv *= 1.0 - gain_p
        self.pp *= 1.0 - gain_p

    def corrected(self, vx: float, vy: float) -> None:
        """The picture moved by so many pixels a second faster than was assumed while the target was
        measured in it: how much of that was taken for the target's own motion nobody knows.
        """
        self.vv += vx * vx + vy * vy

    def rescale(self, sx: float, sy: float) -> None:
        """The same scene in another resolution."""
        self.x, self.vx = self.x * sx, self.vx * sx
        self.y, self.vy = self.y * sy, self.vy * sy
        area = sx * sy
        self.pp, self.pv, self.vv = self.pp * area, self.pv * area, self.vv * area
