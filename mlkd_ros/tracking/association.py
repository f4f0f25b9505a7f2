# SPDX-License-Identifier: Apache-2.0
"""Which of the peaks of the score map is the target, which are lookalikes, and which are clutter.

Joint probabilistic data association (Bar-Shalom and Fortmann 1988, section 9.3) of the target and
the tracked lookalikes (arXiv 2103.16556 follows such *distractors* too) with the peaks of one
image: each track is seen as at most one peak, each peak shows at most one track, and each joint
event weighs as much as the product of its parts. With a handful of each, all events are enumerated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["associate", "log_student"]

#: A weight of less than this share of that of a missed detection is none.
_NEGLIGIBLE = 1e-4
#: Logarithms of weights are kept within this, so that no product of them overflows.
_MOST = 40.0


def log_student(squared: float, freedom: float) -> float:
    """Logarithm of Student's t density in two dimensions at a squared distance in deviations, up to
    its value in the middle: a Gaussian with heavier tails, because targets and cameras jerk.
    """
    return -0.5 * (freedom + 2.0) * math.log1p(squared / freedom)


def associate(weights: Sequence[Sequence[float]]) -> list[list[float]]:
    """Probabilities of who is seen where, from ``weights[t][i]``: logarithm of the likelihood ratio
    that peak ``i`` shows track ``t`` and not clutter, against a missed detection of ``t``.

    Returns for each track the probability that it is missed, then that of each peak: ``1 + peaks``
    numbers that add up to 1.
    """
    peaks = len(weights[0]) if weights else 0
    ratios = [[math.exp(min(max(one, -_MOST), _MOST)) for one in row] for row in weights]
    sums = [[0.0] * (peaks + 1) for _ in ratios]
    chosen = [0] * len(ratios)

    def enumerate_from(track: int, taken: int, weight: float) -> float:
        """Total weight of the events that go on from here; adds it to who is seen where."""
        if track == len(ratios):
            for one, peak in zip(sums, chosen, strict=True):
                one[peak] += weight
            return weight
        chosen[track] = 0
        total = enumerate_from(track + 1, taken, weight)
        for peak, ratio in enumerate(ratios[track], 1):
            if ratio > _NEGLIGIBLE and not taken >> peak & 1:
                chosen[track] = peak
                total += enumerate_from(track + 1, taken | 1 << peak, weight * ratio)
        return total

    total = enumerate_from(0, 0, 1.0)
    return [[one / total for one in row] for row in sums]
