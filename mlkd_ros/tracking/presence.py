# SPDX-License-Identifier: Apache-2.0
"""Is the target there? From a calibrated confidence a frame to TRACKING, UNCERTAIN, LOST,
GIVEN_UP.
"""

from __future__ import annotations

import enum
import math

from .settings import PresenceSettings


class TrackState(enum.IntEnum):
    """State of a target; the numbers are those of ``TrackStatus.msg``."""

    IDLE = 0
    TRACKING = 1
    UNCERTAIN = 2
    LOST = 3
    GIVEN_UP = 4


def calibrated_confidence(score: float, slope: float, offset: float) -> float:
    """Probability that the box is right (IoU > 0.5), from the raw foreground score (Platt
    scaling).
    """
    score = min(max(score, 1e-6), 1.0 - 1e-6)
    return 1.0 / (1.0 + math.exp(-(slope * math.log(score / (1.0 - score)) + offset)))


class Presence:
    """State machine with hysteresis. Feed it one confidence a frame and the time passed since the
    frame before.
    """

    def __init__(self, settings: PresenceSettings) -> None:
        self.settings = settings
        self.state = TrackState.TRACKING
        self.reacquisitions = 0
        self._doubted_for = 0.0
        self._lost_for = 0.0
        self._hits = 0

    @property
    def promising(self) -> bool:
        """Whether a lost target may have been seen in the last image."""
        return self._hits > 0

    def step(self, confidence: float, elapsed: float) -> TrackState:
        """Next state; ``confidence`` is that of the best candidate, ``elapsed`` seconds since the
        last step.
        """
        if self.state == TrackState.LOST:
            self._step_lost(confidence, elapsed)
        elif self.state in (TrackState.TRACKING, TrackState.UNCERTAIN):
            self._step_present(confidence, elapsed)
        return self.state

    def _step_present(self, confidence: float, elapsed: float) -> None:
        settings = self.settings
        self._doubted_for = self._doubted_for + elapsed if confidence < settings.lost_below else 0.0
        if self._doubted_for > settings.lost_after:
            self.state, self._lost_for, self._hits = TrackState.LOST, 0.0, 0
        elif confidence >= settings.tracking_above:
            self.state = TrackState.TRACKING
        elif confidence < settings.uncertain_below:
            self.state = TrackState.UNCERTAIN

    def _step_lost(self, confidence: float, elapsed: float) -> None:
        settings = self.settings
        self._lost_for += elapsed
        self._hits = self._hits + 1 if confidence >= settings.reacquire_above else 0
        if self._hits >= settings.reacquire_frames:
            self.state, self._doubted_for = TrackState.TRACKING, 0.0
            self.reacquisitions += 1
        elif self._lost_for > settings.give_up_after:
            self.state = TrackState.GIVEN_UP
