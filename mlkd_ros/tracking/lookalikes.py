# SPDX-License-Identifier: Apache-2.0
"""What looks like the target and is not: tracks of their own, so that they are known later.

Looks do not tell a car from the next one of its model. But what is seen beside the target, in one
image with it, is something else, and stays that while it can be followed (distractors of KeepTrack,
arXiv 2103.16556).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .association import log_student
from .global_motion import Motion
from .kinematics import Kinematics, Measurement
from .peaks import Peak
from .settings import BeliefSettings

__all__ = ["Lookalike", "Lookalikes"]

#: Lookalikes followed at most, and for how many seconds unseen.
_MOST, _REMEMBERED_FOR = 4, 1.0
#: A peak begins a track from this log ratio of target to clutter on.
_WORTH = -2.0
#: Two things nearer to each other than so many sizes are one.
SAME = 0.6
#: Deviation of the log ratio of one thing from image to image, and weight of the newest one.
_SCORE_DEVIATION, _GAIN = 1.3, 0.3


@dataclass
class Lookalike:
    """Something followed beside the target. log_ratio: of target to clutter, by its looks, mean of
    late. seen: images it was seen in; unseen: seconds since it was seen last.
    """

    kinematics: Kinematics
    w: float
    h: float
    log_ratio: float
    seen: int = 1
    unseen: float = 0.0

    @property
    def size(self) -> float:
        """Square root of its area, pixels."""
        return math.sqrt(self.w * self.h)

    def predict(self, seconds: float, motion: Motion) -> None:
        """Go on to the next image."""
        self.kinematics.predict(seconds, self.size, motion)
        self.unseen += seconds

    def weight(self, peak: Peak, belief: BeliefSettings) -> float:
        """Logarithm of the likelihood ratio that a peak shows it and not clutter."""
        noise = (belief.displacement * self.size) ** 2
        total = self.kinematics.innovation(noise)
        squared = ((peak.x - self.kinematics.x) ** 2 + (peak.y - self.kinematics.y) ** 2) / total
        change = abs(math.log(peak.w / self.w)) + abs(math.log(peak.h / self.h))
        score = (peak.log_ratio - self.log_ratio) / _SCORE_DEVIATION
        odds = math.log(belief.detection / (1.0 - belief.detection))
        return (
            odds
            + max(peak.log_ratio, 0.0)  # clutter hardly ever looks like this
            + log_student(squared, belief.freedom)
            - math.log(total / noise)
            - change
            - 0.5 * score * score
        )

    def update(self, peak: Peak, belief: BeliefSettings) -> None:
        """It is the ``peak`` in this image."""
        variance = (belief.jitter * self.size) ** 2
        self.kinematics.update(Measurement(peak.x, peak.y, variance))
        self.w += _GAIN * (peak.w - self.w)
        self.h += _GAIN * (peak.h - self.h)
        self.log_ratio += _GAIN * (peak.log_ratio - self.log_ratio)
        self.seen, self.unseen = self.seen + 1, 0.0


class Lookalikes:
    """The lookalikes of one target."""

    def __init__(self, belief: BeliefSettings) -> None:
        self.belief = belief
        self.tracks: list[Lookalike] = []

    def predict(self, seconds: float, motion: Motion) -> None:
        """Go on to the next image; what was not seen for long is forgotten."""
        self.tracks = [one for one in self.tracks if one.unseen + seconds <= _REMEMBERED_FOR]
        for one in self.tracks:
            one.predict(seconds, motion)

    def update(self, peaks: list[Peak], shares: list[list[float]], taken: int | None) -> None:
        """After association: ``shares`` of each track as ``association.associate`` gives them,
        ``taken``: the peak that is the target.
        """
        for one, share in zip(self.tracks, shares, strict=True):
            best = max(range(len(share)), key=share.__getitem__)
            if best > 0 and best - 1 != taken:
                one.update(peaks[best - 1], self.belief)

    def begin(self, peaks: list[Peak], target: Peak) -> None:
        """What is seen beside the ``target``, beyond doubt what it is, is something else."""
        away = SAME * target.size
        self.tracks = [one for one in self.tracks if _apart(one, target.x, target.y, away)]
        for peak in peaks:
            if peak.log_ratio < _WORTH or peak.distance(target.x, target.y) < away:
                continue
            if all(_apart(one, peak.x, peak.y, away) for one in self.tracks):
                self.tracks.append(begun(peak, self.belief))
        if len(self.tracks) > _MOST:
            self.tracks = sorted(self.tracks, key=lambda one: -one.log_ratio)[:_MOST]

    def known(self, peak: Peak) -> bool:
        """Whether a peak is where a lookalike is."""
        away = SAME * peak.size
        return any(not _apart(one, peak.x, peak.y, away) for one in self.tracks)

    def rescale(self, sx: float, sy: float) -> None:
        """The same scene in another resolution."""
        for one in self.tracks:
            one.kinematics.rescale(sx, sy)
            one.w, one.h = one.w * sx, one.h * sy


def begun(peak: Peak, belief: BeliefSettings) -> Lookalike:
    """A track that begins with a peak."""
    at = Measurement(peak.x, peak.y, (belief.jitter * peak.size) ** 2)
    return Lookalike(Kinematics(belief, at, peak.size), peak.w, peak.h, peak.log_ratio)


def _apart(one: Lookalike, x: float, y: float, distance: float) -> bool:
    return math.hypot(one.kinematics.x - x, one.kinematics.y - y) >= distance
