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
    """State machine with hysteresis. Feed it one image after another, with the time passed since
    the image before.
    """

    def __init__(self, settings: PresenceSettings) -> None:
        self.settings = settings
        self.state = TrackState.TRACKING
        self.reacquisitions = 0
        self._unseen_for = 0.0
        self._weak_for = 0.0
        self._lost_for = 0.0
        self._hits = 0

    @property
    def lost_for(self) -> float:
        """Seconds since the target became LOST; of no meaning in another state."""
        return self._lost_for

    def step(self, confidence: float, elapsed: float) -> TrackState:
        """Next state of a target that is not lost, from the confidence of the best candidate.

        The first image without evidence starts the time after which it is LOST, however long ago
        the image before it was taken.
        """
        if self.state not in (TrackState.TRACKING, TrackState.UNCERTAIN):
            return self.state
        settings = self.settings
        unseen = confidence < settings.lost_below
        self._unseen_for = self._unseen_for + elapsed if unseen else 0.0
        weak = self.state == TrackState.UNCERTAIN and confidence < settings.tracking_above
        self._weak_for = self._weak_for + elapsed if weak else 0.0
        if self._unseen_for > max(settings.lost_after, elapsed) or self._weak_for > max(
            settings.doubt_for, elapsed
        ):
            self.state, self._lost_for, self._hits = TrackState.LOST, 0.0, 0
        elif confidence >= settings.tracking_above:
            self.state = TrackState.TRACKING
        elif confidence < settings.uncertain_below:
            self.state = TrackState.UNCERTAIN
        return self.state

    def search(self, sighted: bool, elapsed: float) -> TrackState:
        """Next state of a lost target: whether this image has something that may be it."""
        if self.state != TrackState.LOST:
            return self.state
        self._lost_for += elapsed
        self._hits = self._hits + 1 if sighted else 0
        if self._hits >= self.settings.reacquire_frames:
            self.state, self._unseen_for, self._weak_for = TrackState.TRACKING, 0.0, 0.0
            self.reacquisitions += 1
        elif self._lost_for > self.settings.give_up_after:
            self.state = TrackState.GIVEN_UP
        return self.state
