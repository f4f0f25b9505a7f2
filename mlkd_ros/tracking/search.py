# SPDX-License-Identifier: Apache-2.0
"""The search for a lost target: where to look, and which of what is seen there is the target.

The reach is the covariance of the predicted place. What is seen becomes a *candidate*, a track of
its own whose odds to be the target begin with how near to the prediction it is, and grow or fall
with what each further image shows of it: one resemblance alone is no re-acquisition, and one dim
image does not end one. Known lookalikes are none, as long as they can be followed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .association import associate, log_student
from .existence import probability_of
from .global_motion import Motion, Point
from .kinematics import Kinematics
from .lookalikes import SAME, Lookalike, Lookalikes, begun
from .peaks import Peak
from .settings import BeliefSettings

__all__ = ["Candidate", "Search"]

#: Log-odds of a candidate that is where the target is expected, before its looks count.
_PRIOR = -1.5
#: Of the place where the target was seen last, against the predicted one.
_LAST_PLACE = -0.5
#: Candidates followed at most, and seconds unseen after which one is dropped.
_MOST, _UNSEEN = 4, 0.25
#: What came into reach only later: it was there before the target can have been.
_SEEN_BEFORE = 1.5
#: A candidate needs this log ratio of target to clutter once.
_LEAST = -2.0
#: Many looks at one thing are as good as so many independent ones at most.
_MOST_LOOKS = 3.0
#: The first look is worth no more: of much that is looked at, the best is a candidate.
_FIRST_LOOK = 0.33
#: Odds that an image costs that does not show a candidate where it should be.
_MISSED = -2.0


@dataclass
class Candidate:
    """Something that may be the lost target. prior: log-odds that it is, by its place when it was
    seen first; mean: log ratio of its looks; looks: how many as good as independent ones.
    """

    track: Lookalike
    prior: float
    mean: float
    looks: float

    @property
    def odds(self) -> float:
        """Logarithm of the odds that it is the target."""
        return self.prior + min(self.looks, _MOST_LOOKS) * self.mean

    def seen(self, log_ratio: float, looks: float) -> None:
        """Another look at it, worth so many independent ones."""
        self.looks += looks
        self.mean += looks / self.looks * (log_ratio - self.mean)

    @property
    def place(self) -> Point:
        """Centre in pixels."""
        return self.track.kinematics.place


class Search:
    """The search for one lost target, from image to image.

    expected: where it should be, with how sure that is. last: where it was seen last. size: of the
    target; step: between the places of a scan, both in pixels.
    """

    def __init__(
        self,
        belief: BeliefSettings,
        expected: Kinematics,
        last: Point,
        size: float,
        step: float,
        image_size: tuple[int, int],
    ) -> None:
        self.belief = belief
        self.candidates: list[Candidate] = []
        self._expected, self._last = expected, last
        self._size, self._step, self._image_size = size, step, image_size
        self._scan: Iterator[Point] = iter(())
        self._turn = 0

    @property
    def reach(self) -> float:
        """Deviation of the expected place in pixels."""
        return math.hypot(self._expected.deviation, self.belief.jitter * self._size)

    def predict(self, seconds: float, motion: Motion) -> None:
        """Go on to the next image; the expected place has been moved on already."""
        self.candidates = [one for one in self.candidates if one.track.unseen + seconds <= _UNSEEN]
        for one in self.candidates:
            one.track.predict(seconds, motion)

    def rescale(self, sx: float, sy: float, image_size: tuple[int, int]) -> None:
        """The same scene in another resolution."""
        mean = math.sqrt(sx * sy)
        self._size, self._step, self._image_size = self._size * mean, self._step * mean, image_size
        self._last = self._last[0] * sx, self._last[1] * sy
        self._scan = iter(())
        self.candidates = []

    def centres(self, windows: int) -> list[Point]:
        """Where to look in this image: at the best candidate; then, as far as ``windows`` go, at
        the expected place (the border nearest to it), at the last one, and at the next places of a
        scan. With one window they take turns while there is no candidate.
        """
        here = self._inside(self._expected.place)
        promising = [one for one in self.candidates if one.mean > 0.0]
        if promising:
            best = max(promising, key=lambda one: one.odds)
            places = [self._inside(best.place)]
            return places + (self._scanned(1) if windows > 2 else [])
        if windows == 1:
            self._turn = (self._turn + 1) % 3
            return self._scanned(1) if self._turn == 2 else [(here, self._last)[self._turn]]
        places = [here]
        if windows > 2 and math.dist(here, self._last) > self._step / 2:
            places.append(self._last)
        return places + self._scanned(windows - len(places))

    def _inside(self, place: Point) -> Point:
        width, height = self._image_size
        return min(max(place[0], 0.0), float(width)), min(max(place[1], 0.0), float(height))

    def _scanned(self, count: int) -> list[Point]:
        places = list(itertools.islice(self._scan, count))
        if not places:
            self._scan = self._grid()
            places = list(itertools.islice(self._scan, count))
        return places

    def _grid(self) -> Iterator[Point]:
        """Places of half-overlapping windows, the nearest to where the target is expected first, as
        far as it may have come.
        """
        width, height = self._image_size
        step = max(8.0, self._step)
        columns = np.linspace(0, width, max(2, math.ceil(width / step)) + 1)
        rows = np.linspace(0, height, max(2, math.ceil(height / step)) + 1)
        grid = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        here = self._inside(self._expected.place)
        distance = np.minimum(*(np.hypot(*(grid - place).T) for place in (here, self._last)))
        order = np.argsort(distance, kind="stable")
        within = max(int((distance <= 3.0 * self.reach + step).sum()), 4)
        return iter([(float(x), float(y)) for x, y in grid[order[:within]]])

    def update(
        self, peaks: list[Peak], windows: list[Point], lookalikes: Lookalikes, seconds: float
    ) -> Candidate | None:
        """Take in the ``peaks`` of an image in which was looked about ``windows``; the candidate
        that is the likeliest now.
        """
        power = min(1.0, seconds / self.belief.independent_after)
        self._follow(lookalikes, peaks)
        left = sorted(peaks, key=lambda peak: -peak.log_ratio)
        for one in sorted(self.candidates, key=lambda one: -one.odds):
            one.prior = max(one.prior, _PRIOR + self._nearness(*one.place) - _SEEN_BEFORE)
            peak = self._of(one, left)
            if peak is not None:
                one.track.update(peak, self.belief)
                one.seen(peak.log_ratio, power)
                left.remove(peak)
            elif any(math.dist(one.place, place) < self._step for place in windows):
                one.seen(_MISSED, power)
        for peak in left:
            self._consider(peak, lookalikes, power)
        self.candidates = sorted(self.candidates, key=lambda one: -one.odds)[:_MOST]
        return self.candidates[0] if self.candidates else None

    def _follow(self, lookalikes: Lookalikes, peaks: list[Peak]) -> None:
        """Known lookalikes are followed on."""
        rows = [[one.weight(peak, self.belief) for peak in peaks] for one in lookalikes.tracks]
        lookalikes.update(peaks, associate(rows), None)

    def _of(self, one: Candidate, peaks: list[Peak]) -> Peak | None:
        """The peak that shows a candidate, if one does."""
        # By its place alone: the same thing may be seen much better or worse than before.
        near = [peak for peak in peaks if peak.distance(*one.place) < SAME * peak.size]
        return max(near, key=lambda peak: peak.log_ratio, default=None)

    def _consider(self, peak: Peak, lookalikes: Lookalikes, power: float) -> None:
        """A new candidate, unless it is a known lookalike, too dim, or out of reach."""
        if peak.log_ratio < _LEAST or lookalikes.known(peak):
            return
        place, same = (peak.x, peak.y), SAME * peak.size
        if any(math.dist(one.place, place) < same for one in self.candidates):
            return
        prior = _PRIOR + self._nearness(peak.x, peak.y)
        track = begun(peak, self.belief)
        self.candidates.append(Candidate(track, prior, peak.log_ratio, min(power, _FIRST_LOOK)))

    def _nearness(self, x: float, y: float) -> float:
        """Logarithm of how likely the target is to be there now, up to that of the best place."""
        variance = self.reach**2
        squares = [
            math.dist((x, y), place) ** 2 / variance
            for place in (self._inside(self._expected.place), self._last)
        ]
        freedom = self.belief.freedom
        return max(log_student(squares[0], freedom), _LAST_PLACE + log_student(squares[1], freedom))

    def probability(self) -> float:
        """That the best candidate is the target."""
        return probability_of(max((one.odds for one in self.candidates), default=-50.0))
