# SPDX-License-Identifier: Apache-2.0
"""One target: what is believed of it, where that says to look, and what follows from what is seen.

Pure: ``plan`` says where to look in an image, the engine looks, ``conclude`` takes what was found.
A peak that is the target moves it; a missed detection moves nothing by itself, and costs existence.
Once it is lost the Kalman filter over ground says where it should be. One recursion serves
the near window, the whole search window and the search on loss: they are the gate at growing
covariance.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from .appearance import TemplateMemory
from .association import associate, log_student
from .candidates import StudentShape
from .existence import Existence, TrackState, log_odds, probability_of
from .geometry import Box, CropWindow
from .global_motion import Motion, Point
from .kinematics import Kinematics, Measurement
from .lookalikes import Lookalikes
from .peaks import Peak, peaks_of
from .search import Search
from .settings import TrackerSettings

__all__ = ["Plan", "Track", "TrackResult"]

#: Probability that a target is nowhere near where it was expected, or of another size.
_JUMP = 0.02
#: Farther from where its way leads, in sizes, the camera's motion is worth a look.
_QUIET = 0.25
#: A jerk lasts so many seconds at most.
_JERK = 0.1
#: A measurement so many deviations away begins the way over ground anew.
_JUMPED = 6.0
#: Deviations within which the target has to lie inside the near window for that to be looked at
#: first: what has jumped farther is looked for in the whole region. At few images a second the near
#: window alone would miss the lookalike beside a target that hides.
_GATE = 1.2
#: Probability that the association is right from which on a near window is enough, the template is
#: renewed, and what is seen beside the target is a lookalike.
_SURE = 0.9
#: Probability that its box is right from which on what is seen beside it can be trusted, too.
_WELL = 0.5
#: Seconds after which what is around the target is looked at again: its lookalikes.
_WHOLE_EVERY = 0.5
#: Its sides then have not changed by more than this factor against those it had of late.
_STEADY_SIZE = 1.25
#: Time constant in seconds of the size that a target had when it was seen well.
_SIZE_TIME = 1.0
#: Share of the learning rate of the size that a peak has that is not the target by its looks.
_LEAST_RATE = 0.2
#: Smallest sides of a target, pixels.
_SMALLEST = 4.0


@dataclass(frozen=True)
class TrackResult:
    """One frame's answer.

    box: x, y, w, h in pixels of the full image, inside it; ``None`` for an image that does not show
        the target, and always when LOST or GIVEN_UP.
    confidence: calibrated probability that the target is in the box, 0..1; without a box, that it
        is visible at all.
    expected: where its centre is believed to be, in pixels, perhaps outside the image.
    variance: of each coordinate of that, in pixels^2.
    lost_for: seconds since it was lost, 0 while it is not. give_up_in: seconds until it is given up
        if it is not found; infinite while it is not lost.
    score: of the network for the best peak, 0..1, not calibrated.
    """

    box: Box | None
    confidence: float
    state: TrackState
    reacquisitions: int = 0
    expected: Point = (math.nan, math.nan)
    variance: float = math.nan
    lost_for: float = 0.0
    give_up_in: float = math.inf
    score: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Where to look for one target in one image: in windows about ``places``, none for a target
    that was given up. width, height: of what is looked for; deviation: of its place about a
    window's middle, both in image pixels. near: whether it is the near window.
    """

    places: list[Point]
    windows: list[CropWindow]
    width: float
    height: float
    deviation: float
    near: bool = False


@dataclass(frozen=True)
class _Choice:
    """Of the peaks of an image the one that is the likeliest to be the target.

    taken: its index. shares: of the lookalikes, as ``associate`` gives them. evidence: log ratio of
    *visible* and *hidden* that it stands for. others: probability that it is a lookalike. seen:
    whether it is taken for the target; sure: and the association is, too.
    """

    peak: Peak
    taken: int
    shares: list[list[float]]
    evidence: float
    others: float
    seen: bool
    sure: bool


class Track:
    """A target's place and size, its way over ground, existence, looks and lookalikes.

    x, y, w, h: centre and size in pixels of the image where it was seen last. last: centre where it
    was seen beyond doubt. aspect: width by height of the image where it began. patch: the first
    template's pixels. view: where a new view of it is to be taken into the template memory.
    """

    def __init__(
        self,
        shape: StudentShape,
        settings: TrackerSettings,
        appearance: TemplateMemory,
        patch: np.ndarray,
        box: Box,
        image_size: tuple[int, int],
        stamp: float | None = None,
    ) -> None:
        """box: x, y, w, h in pixels. image_size: width and height of the image. stamp: seconds."""
        self._shape = shape
        self.settings = settings
        self.appearance = appearance
        self.patch = patch
        left, top, self.w, self.h = box
        self.x, self.y = left + self.w / 2, top + self.h / 2
        self.image_size = image_size
        self.aspect = image_size[0] / image_size[1]
        self.stamp = stamp
        self.usual = self.w, self.h
        self.existence = Existence(settings.belief, settings.presence)
        self.lookalikes = Lookalikes(settings.belief)
        self.kinematics = self._started(self.x, self.y)
        self.last = self.x, self.y
        self.search: Search | None = None
        self.view: np.ndarray | None = None
        self.unseen, self._narrow = 0.0, 0.0
        self._steady, self._doubt, self._renew = True, False, False
        self.evidence, self.usual_logit, self._used = 0.0, settings.belief.score_most, False

    @property
    def size(self) -> float:
        """Square root of its area, pixels."""
        return math.sqrt(self.w * self.h)

    @property
    def state(self) -> TrackState:
        """What users see."""
        return self.existence.state

    @property
    def in_doubt(self) -> bool:
        """Whether the camera's motion matters in the next image."""
        return self.state != TrackState.GIVEN_UP and (self._doubt or self.state == TrackState.LOST)

    def _started(self, x: float, y: float) -> Kinematics:
        belief = self.settings.belief
        at = Measurement(x, y, (belief.jitter * self.size) ** 2)
        return Kinematics(belief, at, self.size)

    def side(self, w: float, h: float, size: int) -> float:
        """Side in image pixels of a window of ``size`` patch pixels for a target of this size."""
        return self._shape.context_side(w, h, self.settings.context_amount, size)

    def tune(self, settings: TrackerSettings) -> None:
        """Other thresholds of presence."""
        self.settings = settings
        self.existence.presence = settings.presence

    def lose(self, anywhere: bool = False) -> None:
        """It is LOST from now on; ``anywhere``: nobody knows for how long."""
        self.existence.state = TrackState.LOST
        if anywhere:
            self.kinematics.pp = float(self.image_size[0] ** 2 + self.image_size[1] ** 2)
        self._begin_search()

    def predict(self, seconds: float, motion: Motion) -> None:
        """Go on to the next image, ``seconds`` later, in which the picture moved by ``motion``."""
        self.existence.predict(seconds)
        if motion.revision != (0.0, 0.0) and self.unseen == 0:
            self.kinematics.corrected(*motion.revision)
        self.kinematics.predict(seconds, self.size, motion)
        self.lookalikes.predict(seconds, motion)
        if self.search is not None:
            self.search.predict(seconds, motion)
        if self.unseen > 0:
            # A missed detection moves nothing, but with the picture: in noise one is no news, and
            # where a target jerks, its way over ground leads astray. That widens the gate only.
            self.x, self.y = motion.applied(self.x, self.y)

    def plan(self, seconds: float, windows: int, sizes: tuple[int, ...]) -> Plan:
        """Where to look in the image it was predicted to, ``seconds`` after the one before, in
        ``windows`` windows while lost. sizes: of the search regions that there are.
        """
        if self.state == TrackState.GIVEN_UP:
            return Plan([], [], self.w, self.h, 1.0)
        if self.search is not None:
            return self._planned(self.search.centres(windows), sizes[0], 100.0 * self.size)
        deviation = self._deviation(self.unseen + seconds)
        near = len(sizes) > 1 and self._steady and self._fits(deviation, sizes[-1])
        near = near and self._narrow + seconds < _WHOLE_EVERY
        place = [self._inside(self.x, self.y)]
        return self._planned(place, sizes[-1] if near else sizes[0], deviation, near)

    def look_again(self, plan: Plan, found: np.ndarray, sizes: tuple[int, ...]) -> Plan | None:
        """After a look at the near window alone: one at the whole search region, unless the target
        was ``found`` where and as it was expected to be.
        """
        if not plan.near:
            return None
        (peaks,) = peaks_of(plan.windows, found, self.settings)
        if peaks and self._plain(peaks[0], plan):
            return None
        return self._planned(plan.places, sizes[0], plan.deviation)

    def _planned(
        self, places: list[Point], size: int, deviation: float, near: bool = False
    ) -> Plan:
        side = self.side(self.w, self.h, size)
        windows = [CropWindow.around(x, y, side, size) for x, y in places]
        return Plan(places, windows, self.w, self.h, deviation, near)

    def _deviation(self, seconds: float) -> float:
        """Of its place ``seconds`` after it was seen, in pixels: what it may jerk for a moment, and
        how unsure its way over ground is.
        """
        belief = self.settings.belief
        jerk = belief.speed * min(seconds, _JERK)
        steady = self.size * math.hypot(belief.displacement, jerk)
        return math.hypot(steady, self.kinematics.deviation if self.unseen > 0 else 0.0)

    def _fits(self, deviation: float, size: int) -> bool:
        """Whether it lies inside a window of ``size`` patch pixels, as far as one can know."""
        half = self.side(self.w, self.h, size) / 2
        return _GATE * deviation + max(self.w, self.h) / 2 < half

    def _plain(self, peak: Peak, plan: Plan) -> bool:
        """Whether a peak is what was expected: likelier the target than not, of its size, and
        wholly inside the near window. Of a target that the window cuts, the network takes for the
        whole what it sees.
        """
        if self._evidence(peak, plan, jumps=False) < 0:
            return False
        (x, y), half = plan.places[0], self.side(self.w, self.h, self._shape.search_sizes[-1]) / 2
        inside = abs(peak.x - x) + peak.w / 2 < half and abs(peak.y - y) + peak.h / 2 < half
        return inside and self._whole(peak)

    def _good(self, choice: _Choice) -> bool:
        """Whether it is likelier the target than not, and of its size: while it is, the camera's
        motion is not needed image by image.
        """
        return choice.evidence > 0 and self._whole(choice.peak)

    def _whole(self, peak: Peak) -> bool:
        """Whether a peak has about the size that the target had when it was seen well."""
        return all(
            1 / _STEADY_SIZE <= side / usual <= _STEADY_SIZE
            for side, usual in zip((peak.w, peak.h), self.usual, strict=True)
        )

    def conclude(self, plan: Plan, found: np.ndarray, seconds: float) -> TrackResult:
        """From what was ``found`` in the planned windows, ``(n, PEAKS, 6)``, to the target's new
        place and state.
        """
        if not plan.windows:
            return self._result(None, 0.0)
        by_window = peaks_of(plan.windows, found, self.settings)
        if self.search is not None:
            return self._conclude_search(self.search, by_window, plan, seconds)
        if not by_window[0]:
            return self._conclude_nothing(seconds)
        choice = self._choose(by_window[0], plan)
        self._narrow = self._narrow + seconds if plan.near else 0.0
        self.evidence = choice.evidence
        self.existence.update(self._log_ratio(choice.evidence, 1.0 - choice.others), seconds)
        quiet = choice.peak.distance(*self.kinematics.place) < _QUIET * self.size
        if choice.seen:
            self._follow(choice.peak, choice.evidence, seconds)
        else:
            self.unseen += seconds
        self._renew_lookalikes(by_window[0], choice)
        self._steady = choice.sure and self._plain(choice.peak, plan)
        self._doubt = not (quiet and choice.seen and self._good(choice))
        confidence = self._confidence(choice)
        if choice.seen and choice.evidence > 0:
            self._get_used_to(choice.peak.logit, seconds)
        self.existence.step(confidence)
        if self.state == TrackState.LOST:
            self._begin_search()
        due = self.state == TrackState.TRACKING and choice.sure
        self._renew = due and self.appearance.due(choice.peak.quality, seconds)
        seen = choice.peak if choice.seen else None
        return self._result(seen, confidence, choice.peak.logit)

    def _choose(self, peaks: list[Peak], plan: Plan) -> _Choice:
        """The likeliest peak; whether it is the target at all is another question."""
        shares = self._associate(peaks, plan)
        taken = max(range(len(peaks)), key=lambda i: shares[0][i + 1])
        peak = peaks[taken]
        evidence = self._evidence(peak, plan)
        others = min(sum(share[taken + 1] for share in shares[1:]), 1.0)
        if others >= 0.5:
            # A lookalike explains it better: a missed detection.
            evidence = min(evidence, math.log(1.0 - self.settings.belief.detection))
        seen = others < 0.5 and self._shown(peak, plan, evidence)
        sure = seen and shares[0][taken + 1] >= _SURE
        return _Choice(peak, taken, shares[1:], evidence, others, seen, sure)

    def _renew_lookalikes(self, peaks: list[Peak], choice: _Choice) -> None:
        """Take their new places; what is seen beside a target that is sure begins to be one."""
        self.lookalikes.update(peaks, choice.shares, choice.taken if choice.seen else None)
        if choice.sure and choice.peak.quality > _WELL:
            self.lookalikes.begin(peaks, choice.peak)

    def _confidence(self, choice: _Choice) -> float:
        """Calibrated, that the box is right; of a target not seen, that it is visible at all. No
        more than what is believed, and this image for itself, say.
        """
        confidence = self.existence.confidence(choice.evidence, self.usual_logit)
        return min(confidence, probability_of(self.existence.odds + choice.evidence))

    def _conclude_nothing(self, seconds: float) -> TrackResult:
        """An image in which the network finds nothing at all."""
        self.existence.update(math.log(1.0 - self.settings.belief.detection), seconds)
        self.existence.step(self.existence.probability)
        self.unseen += seconds
        self._steady, self._doubt, self._renew = False, True, False
        if self.state == TrackState.LOST:
            self._begin_search()
        return self._result(None, self.existence.probability)

    def _associate(self, peaks: list[Peak], plan: Plan) -> list[list[float]]:
        """Probabilities of who is seen where: the target first, then the lookalikes."""
        detected = log_odds(self.settings.belief.detection)
        rows = [[detected + self._weight(peak, plan) for peak in peaks]]
        for one in self.lookalikes.tracks:
            rows.append([one.weight(peak, self.settings.belief) for peak in peaks])
        return associate(rows)

    def _get_used_to(self, logit: float, seconds: float) -> None:
        """The logit that the target usually has; the first one after its designation is that."""
        belief = self.settings.belief
        gain = 1.0 - math.exp(-seconds / belief.score_time) if self._used else 1.0
        self.usual_logit += gain * (min(logit, belief.score_most) - self.usual_logit)
        self._used = True

    def _surprise(self, peak: Peak, plan: Plan) -> tuple[float, float]:
        """Log density of a peak's place, up to that of the expected one, and change of its size."""
        x, y = plan.places[0]
        squared = ((peak.x - x) ** 2 + (peak.y - y) ** 2) / plan.deviation**2
        change = abs(math.log(peak.w / self.w)) + abs(math.log(peak.h / self.h))
        return log_student(squared, self.settings.belief.freedom), change

    def _weight(self, peak: Peak, plan: Plan) -> float:
        """Logarithm of the likelihood ratio that a peak shows the target and not clutter."""
        belief = self.settings.belief
        score, place, size = belief.association
        near, change = self._surprise(peak, plan)
        logit = min(peak.logit, belief.score_most)
        # The density of the place is the lower the less is known of it.
        steady = self.size * math.hypot(belief.displacement, belief.speed / 30.0)
        spread = 2.0 * math.log(max(plan.deviation / steady, 1.0))
        return belief.score_offset + score * logit + place * near + size * change - spread

    def _shown(self, peak: Peak, plan: Plan, evidence: float) -> bool:
        """Whether the target is taken to be the peak: as the likelier thing by this image, or,
        where and as it was expected, on less; and by all that is believed.
        """
        least = self.settings.presence.shown_above
        if least == 0.0:
            return True
        if self.existence.odds + evidence < 0.0:
            return False
        if probability_of(evidence) >= max(least, 0.5):
            return True
        return probability_of(self._evidence(peak, plan, jumps=False)) >= least

    def _evidence(self, peak: Peak, plan: Plan, jumps: bool = True) -> float:
        """Log ratio of the likelihoods of the likeliest peak if the target is visible, and if it is
        hidden: by its score, place and size.
        """
        belief = self.settings.belief
        constant, score, place, size, usual = belief.evidence
        near, change = self._surprise(peak, plan)
        looks = constant + score * min(peak.logit, belief.score_most) + usual * self.usual_logit
        # Now and then a target or the camera jumps, whatever was expected.
        if jumps:
            return looks + math.log((1.0 - _JUMP) * math.exp(place * near + size * change) + _JUMP)
        return looks + place * near + size * change

    def _log_ratio(self, evidence: float, own: float) -> float:
        """That of an image (integrated PDA): the target may have been missed, and the peak is the
        target's ``own`` with this probability, and not a lookalike's.
        """
        detection = self.settings.belief.detection
        return math.log(1.0 - detection + detection * own * math.exp(min(evidence, 20.0)))

    def _follow(self, peak: Peak, evidence: float, seconds: float) -> None:
        """The target is the ``peak``: take its place; approach its size, the more the surer. What
        is rather something else does not tell where the target goes.
        """
        settings, p = self.settings, peak.quality
        if evidence >= 0:
            if self._uncovered(peak):
                self._measure(peak)
            self.last = peak.x, peak.y
        rate = settings.size_lr * self._alike(peak) * (_LEAST_RATE + (1.0 - _LEAST_RATE) * p)
        self.x, self.y = peak.x, peak.y
        self.w += rate * (peak.w - self.w)
        self.h += rate * (peak.h - self.h)
        self.unseen = 0.0
        self._keep_inside()
        if p >= settings.memory.above:
            (w, h), gain = self.usual, min(1.0, seconds / _SIZE_TIME)
            self.usual = w + gain * (self.w - w), h + gain * (self.h - h)

    def _uncovered(self, peak: Peak) -> bool:
        """Whether a peak is not that part of the target only that something leaves uncovered, whose
        middle is not the target's.
        """
        return min(peak.w / self.usual[0], peak.h / self.usual[1]) > 1 / _STEADY_SIZE

    def _measure(self, peak: Peak) -> None:
        """Its way over ground goes through the ``peak``, or begins anew there after a jump."""
        noise = (self.settings.belief.jitter * self.size) ** 2 / max(peak.quality, 0.05)
        away = peak.distance(*self.kinematics.place)
        if away > _JUMPED * math.sqrt(self.kinematics.innovation(noise)):
            self.kinematics = self._started(peak.x, peak.y)
        else:
            self.kinematics.update(Measurement(peak.x, peak.y, noise))

    def _alike(self, peak: Peak) -> float:
        """Factor in 0..1 for a change of scale and of aspect ratio against the last size (SiamRPN,
        equation 12).
        """
        scale = math.sqrt(_padded_area(peak.w, peak.h) / _padded_area(self.w, self.h))
        aspect = (peak.h / peak.w) * (self.w / self.h)
        change = max(scale, 1.0 / scale) * max(aspect, 1.0 / aspect)
        return math.exp((1.0 - change) * self.settings.penalty_k)

    def _begin_search(self) -> None:
        # The size it had while it vanished may be that of the part still seen, the one before
        # may be out of date: the geometric mean of both.
        self.w = math.sqrt(self.w * self.usual[0])
        self.h = math.sqrt(self.h * self.usual[1])
        step = self.side(self.w, self.h, self._shape.search_size) / 2
        self.search = Search(
            self.settings.belief, self.kinematics, self._inside(*self.last), self.size, step,
            self.image_size,
        )  # fmt: skip

    def _conclude_search(
        self, search: Search, by_window: list[list[Peak]], plan: Plan, seconds: float
    ) -> TrackResult:
        peaks: list[Peak] = []
        for one in itertools.chain.from_iterable(by_window):
            if not any(one.same(other) for other in peaks):
                peaks.append(one)
        best = search.update(peaks, plan.places, self.lookalikes, seconds)
        probability = search.probability()
        found = best is not None and probability >= self.settings.presence.reacquire_above
        found = found and best is not None and best.track.unseen == 0.0
        self.existence.search(found, seconds)
        if not found or best is None:
            return self._result(None, probability)
        self.kinematics = best.track.kinematics
        (self.x, self.y), self.w, self.h = best.place, best.track.w, best.track.h
        self.last = best.place
        self.usual = self.w, self.h
        self.unseen, self.search, self._steady = 0.0, None, False
        self._keep_inside()
        return self._result(best, probability)

    def _keep_inside(self) -> None:
        width, height = self.image_size
        self.x, self.y = self._inside(self.x, self.y)
        self.w = min(max(self.w, _SMALLEST), float(width))
        self.h = min(max(self.h, _SMALLEST), float(height))

    def _inside(self, x: float, y: float) -> Point:
        width, height = self.image_size
        return min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))

    def rescale(self, image_size: tuple[int, int]) -> None:
        """A camera that changes its resolution shows the same scene: all places scale with it."""
        sx, sy = image_size[0] / self.image_size[0], image_size[1] / self.image_size[1]
        self.x, self.w, self.y, self.h = self.x * sx, self.w * sx, self.y * sy, self.h * sy
        self.usual = self.usual[0] * sx, self.usual[1] * sy
        self.last = self.last[0] * sx, self.last[1] * sy
        self.image_size = image_size
        self.kinematics.rescale(sx, sy)
        self.lookalikes.rescale(sx, sy)
        if self.search is not None:
            self.search.rescale(sx, sy, image_size)

    @property
    def renews(self) -> bool:
        """Whether the image that was concluded shows a view for the template memory."""
        return self._renew

    def _result(
        self, seen: object | None, confidence: float, logit: float = -math.inf
    ) -> TrackResult:
        """``seen``: what the image shows the target as, None if it does not."""
        existence = self.existence
        box = self.box if seen is not None and existence.in_sight else None
        lost = existence.state == TrackState.LOST
        left = self.settings.presence.give_up_after - existence.lost_for
        expected = (self.x, self.y) if existence.in_sight else self.kinematics.place
        return TrackResult(
            box, confidence, existence.state, existence.reacquisitions, expected,
            self.kinematics.pp, existence.lost_for, max(left, 0.0) if lost else math.inf,
            probability_of(logit),
        )  # fmt: skip

    @property
    def box(self) -> Box:
        """Its box, as far as that is inside the image."""
        width, height = self.image_size
        left, top = max(self.x - self.w / 2, 0.0), max(self.y - self.h / 2, 0.0)
        right, bottom = min(self.x + self.w / 2, width), min(self.y + self.h / 2, height)
        return left, top, right - left, bottom - top


def _padded_area(w: float, h: float) -> float:
    """Area of a box with half its mean side as margin, as SiamRPN compares sizes."""
    margin = (w + h) * 0.5
    return (w + margin) * (h + margin)
