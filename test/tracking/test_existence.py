# SPDX-License-Identifier: Apache-2.0
"""The existence of a target against the enumeration of all its histories, and its states."""

import itertools
import math

import numpy as np
import pytest

from mlkd_ros.tracking.existence import Existence, TrackState, log_odds
from mlkd_ros.tracking.settings import BeliefSettings, PresenceSettings

BELIEF = BeliefSettings(visible_for=2.0, hidden_for=0.7, independent_after=0.1)
PRESENCE = PresenceSettings(
    tracking_above=0.5, uncertain_below=0.3, lost_below=0.05, give_up_after=2.0
)


def by_enumeration(first, seconds, ratios):
    """Probability that it is visible now, summed over all histories of visible and hidden."""
    stays, back = math.exp(-seconds / 2.0), 1.0 - math.exp(-seconds / 0.7)
    step = {(1, 1): stays, (1, 0): 1 - stays, (0, 1): back, (0, 0): 1 - back}
    total = np.zeros(2)
    for history in itertools.product((0, 1), repeat=len(ratios) + 1):
        weight = first if history[0] else 1.0 - first
        for before, after, ratio in zip(history, history[1:], ratios, strict=False):
            weight *= step[before, after] * (math.exp(ratio) if after else 1.0)
        total[history[-1]] += weight
    return total[1] / total.sum()


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_sum_over_all_histories(seed):
    ratios = np.random.default_rng(seed).normal(0.0, 1.0, 8).tolist()
    existence = Existence(BELIEF, PRESENCE)
    existence.odds = log_odds(0.6)
    for ratio in ratios:
        existence.predict(0.1)
        existence.update(ratio, 0.1)
    assert existence.probability == pytest.approx(by_enumeration(0.6, 0.1, ratios), rel=1e-6)


def fed(existence, ratio, seconds, rate):
    states = []
    for _ in range(round(seconds * rate)):
        existence.predict(1 / rate)
        existence.update(ratio, 1 / rate)
        existence.step(existence.confidence(ratio, 10.0))
        states.append(existence.state)
    return states


@pytest.mark.parametrize("ratio", [-3.0, -1.0])
def test_a_loss_takes_as_long_at_any_rate(ratio):
    times = []
    for rate in (15, 30, 120):
        states = fed(Existence(BeliefSettings(), PRESENCE), ratio, 4.0, rate)
        assert TrackState.LOST in states
        times.append(states.index(TrackState.LOST) / rate)
    assert max(times) - min(times) < 0.1


def test_one_dim_image_is_no_loss_and_evidence_brings_it_back():
    existence = Existence(BeliefSettings(), PRESENCE)
    assert fed(existence, -3.0, 1 / 30, 30) != [TrackState.LOST]
    assert fed(existence, 5.0, 0.5, 30)[-1] == TrackState.TRACKING
    assert existence.probability > 0.9


def test_lost_is_for_the_search_to_end_or_for_time():
    existence = Existence(BeliefSettings(), PRESENCE)
    assert fed(existence, -3.0, 4.0, 30)[-1] == TrackState.LOST
    existence.search(False, 1.0)
    assert existence.state == TrackState.LOST and existence.lost_for == pytest.approx(1.0)
    existence.search(True, 0.1)
    assert existence.state == TrackState.TRACKING and existence.reacquisitions == 1
    assert fed(existence, -3.0, 4.0, 30)[-1] == TrackState.LOST
    for _ in range(21):
        existence.search(False, 0.1)
    assert existence.state == TrackState.GIVEN_UP
    existence.search(True, 0.1)
    assert existence.state == TrackState.GIVEN_UP
