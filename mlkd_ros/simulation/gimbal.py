# SPDX-License-Identifier: Apache-2.0
"""A simulated pan-tilt gimbal on an aircraft that sways: where it points the camera. No ROS here.

Angles in radians, yaw positive to the right and pitch positive up, against the direction in which
the flight itself points the camera.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

__all__ = ["SimulatedGimbal"]

#: Frequencies (Hz), shares and phases of the sway: an aircraft that turns and nods as it flies.
_SWAY = ((0.09, 0.7, 0.4), (0.21, 0.3, 2.1))
#: Pitch of the sway as a share of its yaw: pictures are wider than high.
_NOD = 0.45
#: Seconds without a command after which it stands still.
_WATCHDOG = 0.5
#: Least cosine of the pitch that a rate of the camera is divided by.
_LEAST_COSINE = 0.25


@dataclass
class SimulatedGimbal:
    """Takes rates as the camera sees them, turns with a first-order lag.

    sway: amplitude of the aircraft's yaw, which takes the camera along: the gimbal does not
    stabilise. response: time constant of the drives; delay: what a command takes to get there.
    """

    sway: float = 0.0
    response: float = 0.06
    delay: float = 0.0
    greatest_rate: float = math.radians(90)
    yaw: float = 0.0
    pitch: float = 0.0
    _rates: tuple[float, float] = (0.0, 0.0)
    _commands: deque[tuple[float, float, float]] = field(default_factory=deque)
    _time: float | None = None

    def command(self, now: float, yaw: float, pitch: float) -> None:
        """Rates that the camera shall turn with, radians a second."""
        if math.isfinite(yaw) and math.isfinite(pitch):
            self._commands.append((now + self.delay, yaw, pitch))

    def advance(self, now: float, depression: float) -> None:
        """Turn on up to `now`; `depression` is the camera's angle below the horizon."""
        if self._time is None or now < self._time:
            self._time = now
        while self._time < now - 1e-9:
            step = min(0.005, now - self._time)
            self._time += step
            aimed = self._aimed(self._time)
            share = 1 - math.exp(-step / self.response) if self.response > 0 else 1.0
            old = self._rates
            self._rates = (
                old[0] + share * (aimed[0] - old[0]),
                old[1] + share * (aimed[1] - old[1]),
            )
            self.yaw += step * self._rates[0] / max(math.cos(depression), _LEAST_COSINE)
            self.pitch += step * self._rates[1]

    def _aimed(self, time: float) -> tuple[float, float]:
        while len(self._commands) > 1 and self._commands[1][0] <= time:
            self._commands.popleft()
        if not self._commands or not 0 <= time - self._commands[0][0] <= _WATCHDOG:
            return 0.0, 0.0
        _, yaw, pitch = self._commands[0]
        limit = self.greatest_rate
        return min(max(yaw, -limit), limit), min(max(pitch, -limit), limit)

    def turn(self, flown: float) -> tuple[float, float]:
        """Where the camera points after so many seconds of flight: gimbal and sway together."""
        sway = self.sway * sum(
            share * math.sin(2 * math.pi * frequency * flown + phase)
            for frequency, share, phase in _SWAY
        )
        nod = (
            self.sway
            * _NOD
            * sum(
                share * math.cos(2 * math.pi * 1.3 * frequency * flown + phase)
                for frequency, share, phase in _SWAY
            )
        )
        return self.yaw + sway, self.pitch + nod
