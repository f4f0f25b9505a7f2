# SPDX-License-Identifier: Apache-2.0
"""Is the target there to be seen? A probability that evidence moves, image by image.

Integrated probabilistic data association (Musicki, Evans, Stankovic 1994) with its Markov chain of
two states, *visible* and *hidden* (covered, or out of view): between two images a target may be
hidden or come back, and each image multiplies the odds by the ratio of the likelihoods of what was
seen. Neighbouring images resemble each other, so that each counts for a part of independent ones
only: the ratio is taken to a power that grows with the time since the image before.
"""

from __future__ import annotations

import enum
import math

from .settings import BeliefSettings, PresenceSettings

__all__ = ["Existence", "TrackState", "log_odds", "probability_of"]

#: Log-odds are kept within this: no evidence is for ever.
_MOST_ODDS = 6.0


class TrackState(enum.IntEnum):
    """State of a target; the numbers are those of ``TrackStatus.msg``."""

    IDLE = 0
    TRACKING = 1
    UNCERTAIN = 2
    LOST = 3
    GIVEN_UP = 4


def log_odds(probability: float) -> float:
    """Logarithm of the odds of a probability, within what is kept."""
    limit = probability_of(_MOST_ODDS)
    probability = min(max(probability, 1.0 - limit), limit)
    return math.log(probability / (1.0 - probability))


def probability_of(odds: float) -> float:
    """The probability whose log-odds these are."""
    return 1.0 / (1.0 + math.exp(-min(max(odds, -50.0), 50.0)))


class Existence:
    """Log-odds that a target is visible, and the state that users see, with hysteresis.

    state: TRACKING, UNCERTAIN, LOST or GIVEN_UP. lost_for: seconds since it was lost.
    reacquisitions: how often it was found again.
    """

    def __init__(self, belief: BeliefSettings, presence: PresenceSettings) -> None:
        self.belief = belief
        self.presence = presence
        self.odds = _MOST_ODDS
        self.state = TrackState.TRACKING
        self.lost_for = 0.0
        self.reacquisitions = 0

    @property
    def probability(self) -> float:
        """That the target is visible."""
        return probability_of(self.odds)

    @property
    def in_sight(self) -> bool:
        """Whether it is followed, and not searched for or given up."""
        return self.state in (TrackState.TRACKING, TrackState.UNCERTAIN)

    def predict(self, seconds: float) -> None:
        """Between two images a visible target is hidden, or a hidden one comes back."""
        p = self.probability
        stays = math.exp(-seconds / self.belief.visible_for)
        back = 1.0 - math.exp(-seconds / self.belief.hidden_for)
        self.odds = log_odds(stays * p + back * (1.0 - p))

    def update(self, log_ratio: float, seconds: float) -> None:
        """Take in an image: ``log_ratio`` is the logarithm of how much likelier what was seen is if
        the target is visible than if it is hidden.
        """
        power = min(1.0, seconds / self.belief.independent_after)
        self.odds = min(max(self.odds + power * log_ratio, -_MOST_ODDS), _MOST_ODDS)

    def confidence(self, evidence: float, usual_logit: float) -> float:
        """Calibrated probability that the box of an image is right that gave this ``evidence``."""
        constant, existence, image, score = self.belief.confidence
        return probability_of(
            constant + existence * self.odds + image * evidence + score * usual_logit
        )

    def step(self, confidence: float) -> None:
        """Next state of a target in sight, from the published ``confidence``."""
        presence = self.presence
        if self.probability < presence.lost_below:
            self.state, self.lost_for = TrackState.LOST, 0.0
        elif confidence >= presence.tracking_above:
            self.state = TrackState.TRACKING
        elif confidence < presence.uncertain_below:
            self.state = TrackState.UNCERTAIN

    def search(self, found: bool, seconds: float) -> None:
        """Next state of a lost target: whether it was ``found`` in this image."""
        if self.state != TrackState.LOST:
            return
        self.lost_for += seconds
        if found:
            self.state, self.lost_for, self.odds = TrackState.TRACKING, 0.0, log_odds(0.9)
            self.reacquisitions += 1
        elif self.lost_for > self.presence.give_up_after:
            self.state = TrackState.GIVEN_UP
