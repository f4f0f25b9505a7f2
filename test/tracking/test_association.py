# SPDX-License-Identifier: Apache-2.0
"""Joint probabilistic data association against brute force, and what it is for."""

import itertools
import math

import numpy as np
import pytest

from mlkd_ros.tracking.association import associate, log_student


def brute_force(weights):
    tracks, peaks = len(weights), len(weights[0])
    sums = np.zeros((tracks, peaks + 1))
    for event in itertools.product(range(peaks + 1), repeat=tracks):
        taken = [peak for peak in event if peak]
        if len(set(taken)) < len(taken):
            continue
        weight = math.exp(sum(weights[t][peak - 1] for t, peak in enumerate(event) if peak))
        for track, peak in enumerate(event):
            sums[track, peak] += weight
    return sums / sums.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("tracks", "peaks"), [(1, 1), (1, 5), (2, 3), (4, 2), (5, 5)])
def test_it_is_what_counting_all_events_gives(tracks, peaks):
    weights = np.random.default_rng(tracks * 10 + peaks).normal(0, 3, (tracks, peaks)).tolist()
    found = np.array(associate(weights))
    assert found == pytest.approx(brute_force(weights), abs=1e-3)
    assert found.sum(axis=1) == pytest.approx(np.ones(tracks))


def test_without_peaks_everything_is_missed_and_without_tracks_there_is_nothing():
    assert associate([[], []]) == [[1.0], [1.0]]
    assert associate([]) == []


def test_a_peak_that_a_lookalike_explains_is_not_the_target():
    """The target is hidden; the one peak is nearer to it than nothing, but is the lookalike's."""
    alone = associate([[2.0]])
    beside = associate([[2.0], [6.0]])
    assert alone[0][1] > 0.85
    assert beside[0][1] < 0.05 and beside[1][1] > 0.95


def test_with_two_peaks_both_are_explained_even_when_one_looks_more_like_both():
    target, lookalike = associate([[4.0, 5.0], [-2.0, 6.0]])
    assert target[1] > 0.85 and lookalike[2] > 0.95


def test_very_large_weights_do_not_overflow():
    found = associate([[1e6, -1e6], [-1e6, 1e6]])
    assert found[0][1] == pytest.approx(1.0) and found[1][2] == pytest.approx(1.0)


def test_the_density_is_students():
    for freedom in (1.0, 4.0, 30.0):
        radii = np.linspace(0, 400, 400001)
        density = np.exp([log_student(r * r, freedom) for r in radii[::100]])
        mass = 2 * math.pi * np.trapezoid(density * radii[::100], radii[::100])
        # The bivariate t density is 1 / (2 pi) in the middle.
        assert mass / (2 * math.pi) == pytest.approx(1.0, abs=0.02)
