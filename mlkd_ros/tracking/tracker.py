# SPDX-License-Identifier: Apache-2.0
"""The tracker: ``init`` on a box, then ``update`` with every frame. Knows no ROS and no training.

It decides where to look and what to make of the best candidate there; the engine crops, runs the
network and ranks. What a frame costs outside the network is one crop of the search region and a few
operations on a few hundred candidates.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .candidates import StudentShape
from .checkpoint import Checkpoint, load_checkpoint
from .encoding import UnusableImageError
from .engine import Engine, Region, create_engine
from .frame import Frame, as_frame
from .geometry import Box, CropWindow, check_box, context_side, crop
from .memory import TemplateMemory
from .motion import CameraMotion, GroundTrack, Observation, Point
from .presence import Presence, TrackState, calibrated_confidence
from .search import LostSearch, Sighting
from .settings import PresenceSettings, TrackerSettings

__all__ = [
    "Expectation",
    "TargetRecord",
    "TrackResult",
    "Tracker",
    "load_tracker",
    "tracker_from_checkpoint",
    "update_together",
]

#: Time between two frames when the caller gives no stamps, in seconds.
NOMINAL_PERIOD = 1.0 / 30.0
#: Time constant in seconds with which the velocity in the picture of a target out of sight fades,
#: while the camera's motion is unknown.
_BLIND_COAST = 0.3
#: For so many seconds after a target was beyond doubt dead reckoning is worth more than what can be
#: followed.
_FRESH = 0.5
#: Longest step in time that presence and coasting take at once, in seconds: after a gap in the
#: images the target gets the chance to be seen again before it counts as lost.
_LONGEST_STEP = 1.0
#: Shortest time between two images that is believed, in seconds: a burst of images with nearly the
#: same stamp must not look like a target at the speed of sound.
_SHORTEST_STEP = 1.0 / 240.0
#: A target in sight is expected on its way, at most so many seconds ahead.
_LONGEST_LEAD = 0.1
#: Time constant in seconds of the size that a target had when it was seen well.
_SIZE_TIME = 1.0
#: Another resolution of the same scene has sides of at least this many pixels, and an aspect ratio
#: within this factor of the one before: 16:9 squeezed into 5:4, but no picture that is turned.
_MIN_IMAGE_SIDE, _MAX_ASPECT_CHANGE = 16, 1.5
#: A target is where it was expected when it is at most so many sides of the near window away.
_STEADY_WITHIN = 0.15
#: Nor have its sides changed by more than this factor against those it had while seen well.
_STEADY_SIZE = 1.2
#: Weight of the newest cost in the mean cost of a search window.
_COST_GAIN = 0.2
#: Squared radius, in standard deviations, of the ellipse that holds 95 % of a normal distribution
#: in the plane: the 0.95 quantile of chi-squared with two degrees of freedom.
_ELLIPSE_95 = 5.991
#: Weight of the newest displacement in the velocity estimate.
_VELOCITY_GAIN = 0.3


@dataclass(frozen=True)
class TrackResult:
    """One frame's answer.

    box: x, y, w, h in pixels of the full image, inside it; ``None`` for an image that does not show
        the target, and always when LOST or GIVEN_UP.
    confidence: calibrated probability that the best candidate is right, 0..1.
    """

    box: Box | None
    confidence: float
    state: TrackState
    reacquisitions: int = 0


@dataclass(frozen=True)
class Expectation:
    """Where a target that is LOST is expected, in pixels of the last image: ``centre`` (perhaps
    outside of it) and ``covariance``, row by row; seconds since it was lost, and until it is given
    up.
    """

    centre: Point
    covariance: tuple[float, float, float, float]
    seconds_lost: float
    seconds_to_give_up: float


@dataclass(frozen=True)
class TargetRecord:
    """What it takes to follow a target on another engine, or in another process.

    patch: ``(T, T, 3)`` uint8 BGR, the first template's pixels. box: x, y, w, h where it was last,
    in pixels of an image of ``image_size`` (width, height).
    """

    patch: np.ndarray
    box: Box
    image_size: tuple[int, int]
    state: TrackState
    reacquisitions: int = 0


@dataclass
class _Target:
    """Where a target is, or would be if it was in sight: centre and size in image pixels, velocity
    in pixels a second; ``patch`` is the first template's.

    seen: where there was no doubt about it last, and sure: its size while it was seen well. Both
    are free of what it was mistaken for while it vanished. unseen: seconds without evidence.
    """

    memory: TemplateMemory
    patch: np.ndarray
    cx: float
    cy: float
    w: float
    h: float
    image_size: tuple[int, int]
    vx: float = 0.0
    vy: float = 0.0
    seen: Point = (0.0, 0.0)
    sure: tuple[float, float] = (0.0, 0.0)
    unseen: float = 0.0
    #: Whether it was in the last image what and where it was expected to be, beyond doubt.
    steady: bool = False
    #: Whether the last image showed it for certain, and the whole of it.
    whole: bool = True
    ground: GroundTrack = field(default_factory=GroundTrack)
    stamp: float | None = None
    #: A new view whose features the memory has yet to take in.
    view: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.seen, self.sure = (self.cx, self.cy), (self.w, self.h)

    @property
    def size(self) -> float:
        """Square root of its area."""
        return math.sqrt(self.w * self.h)


@dataclass(frozen=True)
class _Candidate:
    """The best box of a search window, in image pixels, with its raw score and its penalty
    factor.
    """

    cx: float
    cy: float
    w: float
    h: float
    score: float
    penalty: float


@dataclass(frozen=True)
class _Plan:
    """Where to look for one target in one image: windows about ``places``, none for a target that
    was given up. size: the windows' side in patch pixels.
    """

    target: _Target
    frame: Frame
    places: list[Point]
    windows: list[CropWindow]
    size: int


class _Pace:
    """What a search window costs on this engine, and what may be spent on a lost target's search.

    Shared by siblings. ``budget`` in seconds an image; infinite: as many windows as the settings
    allow.
    """

    def __init__(self) -> None:
        self.budget = math.inf
        self._cost: float | None = None

    def measured(self, seconds: float, windows: float) -> None:
        """Account for one batch; a near window counts as the part that it is of a whole one."""
        cost = seconds / windows
        self._cost = cost if self._cost is None else self._cost + _COST_GAIN * (cost - self._cost)

    def windows(self, targets: int, most: int) -> int:
        """How many windows each of ``targets`` may look at in this image: 1 to ``most``."""
        if self._cost is None or math.isinf(self.budget):
            return most
        affordable = self.budget / max(self._cost, 1e-6) / targets
        return max(1, min(most, int(affordable)))


class Tracker:
    """Tracks one target with one student. Not thread-safe: one thread owns it.

    Build it with ``load_tracker``. Images are ``(H, W, 3)`` uint8 BGR arrays with any strides, or a
    ``Frame``.
    """

    def __init__(
        self, engine: Engine, settings: TrackerSettings, sibling: Tracker | None = None
    ) -> None:
        self._engine = engine
        self._shape = engine.shape
        self.settings = settings
        self._target: _Target | None = None
        self._presence = Presence(settings.presence)
        self._search: LostSearch | None = None
        self._camera = CameraMotion()
        self._pace: _Pace = sibling._pace if sibling else _Pace()
        if sibling is None:
            engine.warm_up()

    @property
    def search_budget(self) -> float:
        """Seconds that looking for lost targets may take in one image, all siblings together.

        Infinite by default: each lost target looks at ``settings.presence.search_windows`` windows
        an image. With less, as many as fit at the pace measured, at the least one a target.
        """
        return self._pace.budget

    @search_budget.setter
    def search_budget(self, seconds: float) -> None:
        if not seconds > 0:
            raise ValueError(f"search_budget must be above 0 seconds, not {seconds}")
        self._pace.budget = float(seconds)

    @property
    def engine_name(self) -> str:
        """Runtime, device and threads, for logs and diagnostics."""
        return self._engine.name

    @property
    def device(self) -> str:
        """Where the network runs: ``cpu`` or ``cuda:N``."""
        return self._engine.device

    @property
    def has_target(self) -> bool:
        """Whether ``update`` may be called."""
        return self._target is not None

    @property
    def expectation(self) -> Expectation | None:
        """What is known of a target that is LOST; ``None`` in any other state."""
        target, search = self._target, self._search
        if target is None or search is None:
            return None
        variance = search.reach**2 / _ELLIPSE_95
        lost = self._presence.lost_for
        left = max(self.settings.presence.give_up_after - lost, 0.0)
        return Expectation((target.cx, target.cy), (variance, 0.0, 0.0, variance), lost, left)

    @property
    def shape(self) -> StudentShape:
        """Sizes of the patches that the student takes."""
        return self._shape

    def reset(self) -> None:
        """Forget the target."""
        self._target = None

    def init(
        self, image: np.ndarray | Frame, box: Sequence[float], stamp: float | None = None
    ) -> None:
        """Designate the target: ``box`` is x, y, w, h in pixels of ``image``, ``stamp`` the image's
        time in seconds.

        Raises ValueError (``InvalidBoxError``, ``BoxOutsideImageError``, or an unusable image)
        before the current target is touched.
        """
        frame = as_frame(image)
        x, y, w, h = check_box(box, frame.width, frame.height)
        cx, cy = x + w / 2, y + h / 2
        patch = self._patch(frame, cx, cy, w, h)
        memory = TemplateMemory(self.settings.memory, self._engine.template(patch[None]))
        size = (frame.width, frame.height)
        # One of its own until it is updated together with siblings: this image may be of the past.
        self._camera = CameraMotion(frame)
        ground = GroundTrack((cx, cy), math.sqrt(w * h))
        self._target = _Target(memory, patch, cx, cy, w, h, size, stamp=stamp, ground=ground)
        self._presence = Presence(self.settings.presence)
        self._search = None

    def record(self) -> TargetRecord:
        """The target, for ``restore``. RuntimeError without one."""
        target = self._target
        if target is None:
            raise RuntimeError("no target: call init(image, box) first")
        box = (target.cx - target.w / 2, target.cy - target.h / 2, target.w, target.h)
        presence = self._presence
        return TargetRecord(
            target.patch, box, target.image_size, presence.state, presence.reacquisitions
        )

    def restore(self, record: TargetRecord) -> None:
        """Take on a recorded target, in the state it was recorded in: a LOST one is searched for.

        Its looks are those of the first template again. ValueError for a record that does not fit
        this student.
        """
        side = self._shape.template_size
        if record.patch.shape != (side, side, 3) or record.patch.dtype != np.uint8:
            raise ValueError(
                f"the template patch is {record.patch.shape} {record.patch.dtype}, this student "
                f"needs ({side}, {side}, 3) uint8"
            )
        x, y, w, h = record.box
        if not (all(map(math.isfinite, record.box)) and w > 0 and h > 0):
            raise ValueError(f"the recorded box {record.box} is no box")
        memory = TemplateMemory(self.settings.memory, self._engine.template(record.patch[None]))
        target = _Target(memory, record.patch, x + w / 2, y + h / 2, w, h, record.image_size)
        _keep_inside(target)
        self._target = target
        self._camera = CameraMotion()
        self._presence = Presence(self.settings.presence)
        self._presence.state = record.state
        self._presence.reacquisitions = record.reacquisitions
        self._search = None
        if record.state == TrackState.LOST:
            self._search = self._new_search(target)
            # Nobody knows how long ago it was lost.
            self._search.reach = math.hypot(*record.image_size)

    def set_presence(self, presence: PresenceSettings) -> None:
        """Other thresholds of presence, from the next image on."""
        self.settings = replace(self.settings, presence=presence)
        self._presence.settings = presence
        if self._search is not None:
            self._search.settings = presence

    def update(self, image: np.ndarray | Frame, stamp: float | None = None) -> TrackResult:
        """Find the target in the next image. ``stamp`` in seconds; without stamps 30 images a
        second are assumed.

        Raises RuntimeError when there is no target, and ValueError when the image is unusable; the
        target is kept.
        """
        return update_together([self], image, stamp)[0]

    def settle(self) -> None:
        """Do now what the next ``update`` would have to do first: take a new view of the target
        into the template memory. For a moment at which nobody waits for a box; the boxes are the
        same with or without it.
        """
        target = self._target
        if target is not None and target.view is not None:
            view, target.view = target.view, None
            target.memory.renew(self._engine.template(view[None]))

    def _patch(self, frame: Frame, cx: float, cy: float, w: float, h: float) -> np.ndarray:
        """Template pixels of a box given by centre and size."""
        side = context_side(w, h, self.settings.context_amount)
        return crop(frame, CropWindow.around(cx, cy, side, self._shape.template_size))

    def look(self, image: np.ndarray | Frame, box: Sequence[float]) -> tuple[Box, float]:
        """What the network takes a target to be that is marked with ``box`` in this very image: its
        box, which may reach outside, and the raw score. The tracker's own target is left alone.

        Raises ValueError as ``init`` does.
        """
        frame = as_frame(image)
        x, y, w, h = check_box(box, frame.width, frame.height)
        cx, cy = x + w / 2, y + h / 2
        size = self._shape.search_size
        window = CropWindow.around(cx, cy, self._search_side(w, h, size), size)
        template = self._engine.template(self._patch(frame, cx, cy, w, h)[None])
        region = Region(window, template, w, h, self.settings.window_influence)
        found = _candidate(window, *self._engine.locate(frame, [region])[0].tolist())
        corner = (found.cx - found.w / 2, found.cy - found.h / 2)
        return (*corner, found.w, found.h), found.score

    def sibling(self) -> Tracker:
        """A tracker for another target on the same engine; ``update_together`` runs siblings as one
        batch.
        """
        return Tracker(self._engine, self.settings, sibling=self)

    def _check_image(self, frame: Frame) -> None:
        """Raises RuntimeError without a target, and UnusableImageError for an image that cannot be
        of the scene that the target was seen in.
        """
        if self._target is None:
            raise RuntimeError("no target: call init(image, box) first")
        if (frame.width, frame.height) == self._target.image_size:
            return
        width, height = self._target.image_size
        change = (frame.width / frame.height) / (width / height)
        too_small = min(frame.width, frame.height) < _MIN_IMAGE_SIDE
        if too_small or not 1 / _MAX_ASPECT_CHANGE <= change <= _MAX_ASPECT_CHANGE:
            raise UnusableImageError(
                "pixels",
                f"a {frame.width}x{frame.height} image cannot show the scene of the "
                f"{width}x{height} images before: designate the target anew to go on in these",
            )

    @property
    def _in_doubt(self) -> bool:
        """Whether the target's place has to be predicted, or may have to be soon."""
        state = self._presence.state
        doubt = self._target is not None and not self._target.whole
        return state == TrackState.LOST or (doubt and state != TrackState.GIVEN_UP)

    def _plan(
        self, frame: Frame, windows: int, stamp: float | None, camera: Observation | None
    ) -> _Plan:
        """Where to look in the next image, in ``windows`` windows while lost. A target out of sight
        is moved on to its predicted place.
        """
        target = self._target
        assert target is not None  # _check_image has seen to it
        self._follow_resolution(target, frame)
        elapsed = self._elapsed(target, stamp)
        step = min(elapsed, _LONGEST_STEP)
        target.ground.advance(step, camera)
        if target.unseen > 0:
            _coast(target, step, camera)
        if self._search is not None:
            self._search.advance(elapsed, camera.shift if camera is not None else None)
            centres = self._search.centres((target.cx, target.cy), windows)
        elif self._presence.state == TrackState.GIVEN_UP:
            centres = []
        else:
            centres = [_expected(target, min(elapsed, _LONGEST_LEAD))]
        near = target.steady and elapsed <= _LONGEST_LEAD
        return self._planned(target, frame, centres, self._engine.search_sizes[-1 if near else 0])

    def _sought(self, target: _Target) -> tuple[float, float]:
        """Width and height of what is looked for."""
        if self._search is not None and self._search.sighting is not None:
            return self._search.sighting.size
        return target.w, target.h

    def _planned(self, target: _Target, frame: Frame, places: list[Point], size: int) -> _Plan:
        side = self._search_side(*self._sought(target), size)
        windows = [CropWindow.around(x, y, side, size) for x, y in places]
        return _Plan(target, frame, places, windows, size)

    def _second_look(self, plan: _Plan, found: np.ndarray) -> _Plan | None:
        """After a look at the near window alone: one at the whole search region, unless what was
        ``found`` is beyond doubt.
        """
        whole = self._engine.search_sizes[0]
        if plan.size == whole or self._beyond_doubt(plan, found[0]):
            return None
        return self._planned(plan.target, plan.frame, plan.places, whole)

    def _beyond_doubt(self, plan: _Plan, found: np.ndarray) -> bool:
        """Whether the best candidate is what and where it was expected to be: of high confidence,
        of the target's size, about the window's middle, and wholly inside the near window. Of a
        target that the window cuts, or that something covers, the network takes for the whole what
        it sees of it; in a near window it is surer of that.
        """
        x, y, w, h, score, _ = found.tolist()
        middle, near = plan.size / 2, self._shape.search_sizes[-1]
        confidence = calibrated_confidence(score, *self.settings.calibration)
        if confidence < self.settings.near_above:
            return False
        for away, side, usual in zip(
            (abs(x - middle), abs(y - middle)), (w, h), plan.target.sure, strict=True
        ):
            change = side * plan.windows[0].scale / usual
            if not 1 / _STEADY_SIZE <= change <= _STEADY_SIZE:
                return False
            if away > _STEADY_WITHIN * near or away + side / 2 > near / 2:
                return False
        return True

    def _search_side(self, w: float, h: float, size: int) -> float:
        """Side in image pixels of a search window of ``size`` patch pixels, for a target of width
        ``w`` and height ``h``.
        """
        ratio = size / self._shape.template_size
        return context_side(w, h, self.settings.context_amount) * ratio

    def _new_search(self, target: _Target) -> LostSearch:
        step = self._search_side(target.w, target.h, self._shape.search_size) / 2
        return LostSearch(
            self.settings.presence, target.seen, target.size, step, target.image_size, target.unseen
        )

    def _regions(self, plan: _Plan) -> list[Region]:
        target = plan.target
        # A lost target may be anywhere: only the penalty on its shape is left, not the cosine
        # window.
        influence = self.settings.window_influence if self._search is None else 0.0
        return [
            Region(window, target.memory.current, *self._sought(target), influence)
            for window in plan.windows
        ]

    def _conclude(
        self,
        plan: _Plan,
        found: np.ndarray,
        stamp: float | None,
        camera: Observation | None,
    ) -> TrackResult:
        """From the best candidate of each planned window, ``(n, 6)``, to the target's new place and
        state.
        """
        target = plan.target
        elapsed = self._elapsed(target, stamp)
        step = min(elapsed, _LONGEST_STEP)
        target.stamp = stamp
        if not plan.windows:
            return self._result(target, 0.0, seen=False)
        candidates = [
            _candidate(window, *row)
            for window, row in zip(plan.windows, found.tolist(), strict=True)
        ]
        if self._search is not None:
            return self._conclude_lost(target, self._search, candidates, step)
        candidate = candidates[0]
        confidence = self._confidence(candidate)
        target.whole = self._whole(target, candidate, confidence)
        if not target.whole:
            target.ground.doubt()
        seen = confidence >= self.settings.presence.lost_below
        if seen:
            self._follow(target, candidate, confidence, elapsed)
            if target.whole and camera is not None:
                target.ground.fix((target.cx, target.cy), target.size)
        else:
            self._vanish(target, elapsed, step, camera)
        state = self._presence.step(confidence, step)
        target.steady = state == TrackState.TRACKING and self._beyond_doubt(plan, found[0])
        if state == TrackState.LOST:
            # The size it had while it vanished may be that of the part still seen, the one before
            # may be out of date: the geometric mean of both.
            target.w = math.sqrt(target.w * target.sure[0])
            target.h = math.sqrt(target.h * target.sure[1])
            self._search = self._new_search(target)
        elif state == TrackState.TRACKING and target.memory.due(confidence, step):
            target.view = self._patch(plan.frame, target.cx, target.cy, target.w, target.h)
        return self._result(target, confidence, seen)

    def _whole(self, target: _Target, candidate: _Candidate, confidence: float) -> bool:
        """Whether the candidate is the target for certain, and the whole of it."""
        return confidence >= self.settings.memory.above and all(
            side >= usual / _STEADY_SIZE
            for side, usual in zip((candidate.w, candidate.h), target.sure, strict=True)
        )

    @staticmethod
    def _vanish(target: _Target, elapsed: float, step: float, camera: Observation | None) -> None:
        """This image does not show the target. One that the last image did show is moved on."""
        if target.unseen == 0:
            if target.ground.age > _FRESH:
                target.ground.reckon_from(None)
            _coast(target, step, camera)
        target.unseen += elapsed

    def _confidence(self, candidate: _Candidate) -> float:
        return calibrated_confidence(candidate.score, *self.settings.calibration)

    def _conclude_lost(
        self, target: _Target, search: LostSearch, candidates: list[_Candidate], step: float
    ) -> TrackResult:
        """The state of a lost target after a look at ``candidates``."""
        predicted = target.cx, target.cy
        chosen, best, highest = None, -math.inf, 0.0
        for candidate in candidates:
            confidence = self._confidence(candidate)
            highest = max(highest, confidence)
            rank = search.rank((candidate.cx, candidate.cy), confidence, predicted)
            if rank is not None and rank > best:
                chosen, best = candidate, rank
        expected = search.sighting
        search.sighting = None
        if chosen is not None:
            search.sighting = Sighting((chosen.cx, chosen.cy), (chosen.w, chosen.h))
        state = self._presence.search(chosen is not None, step)
        if state != TrackState.LOST:
            self._search = None
        if chosen is None or state != TrackState.TRACKING:
            return self._result(target, highest, seen=False)
        x, y = expected.place if expected is not None else (chosen.cx, chosen.cy)
        # The sighting before was moved on by the picture's shift; the rest is its own motion.
        target.vx = (chosen.cx - x + search.shift[0]) / step
        target.vy = (chosen.cy - y + search.shift[1]) / step
        target.cx, target.cy, target.w, target.h = chosen.cx, chosen.cy, chosen.w, chosen.h
        target.seen, target.sure, target.unseen = (chosen.cx, chosen.cy), (chosen.w, chosen.h), 0.0
        target.ground.reckon_from((chosen.cx, chosen.cy))
        _keep_inside(target)
        return self._result(target, self._confidence(chosen), seen=True)

    def _follow(
        self, target: _Target, candidate: _Candidate, confidence: float, elapsed: float
    ) -> None:
        """Take the candidate's centre; approach its size by a rate that grows with its score."""
        rate = candidate.penalty * candidate.score * self.settings.size_lr
        if elapsed > 0:
            target.vx += _VELOCITY_GAIN * ((candidate.cx - target.cx) / elapsed - target.vx)
            target.vy += _VELOCITY_GAIN * ((candidate.cy - target.cy) / elapsed - target.vy)
        target.cx, target.cy = candidate.cx, candidate.cy
        target.w += rate * (candidate.w - target.w)
        target.h += rate * (candidate.h - target.h)
        target.unseen = 0.0
        _keep_inside(target)
        if confidence >= self.settings.presence.tracking_above:
            target.seen = target.cx, target.cy
        if confidence >= self.settings.memory.above:
            (w, h), gain = target.sure, min(1.0, elapsed / _SIZE_TIME)
            target.sure = w + gain * (target.w - w), h + gain * (target.h - h)

    def _follow_resolution(self, target: _Target, frame: Frame) -> None:
        """A camera that changes its resolution shows the same scene: the target's place scales with
        it.
        """
        old_width, old_height = target.image_size
        if (frame.width, frame.height) == target.image_size:
            return
        sx, sy = frame.width / old_width, frame.height / old_height
        target.cx, target.w, target.vx = target.cx * sx, target.w * sx, target.vx * sx
        target.cy, target.h, target.vy = target.cy * sy, target.h * sy, target.vy * sy
        target.image_size = (frame.width, frame.height)
        target.seen = target.seen[0] * sx, target.seen[1] * sy
        target.sure = target.sure[0] * sx, target.sure[1] * sy
        target.ground.scaled(sx, sy)
        if self._search is not None:
            self._search.scaled(sx, sy, target.image_size)

    @staticmethod
    def _elapsed(target: _Target, stamp: float | None) -> float:
        """Seconds since the last image; a stamp that jumped backwards counts as one nominal
        period.
        """
        if stamp is None or target.stamp is None or stamp <= target.stamp:
            return NOMINAL_PERIOD
        return max(stamp - target.stamp, _SHORTEST_STEP)

    def _result(self, target: _Target, confidence: float, seen: bool) -> TrackResult:
        state = self._presence.state
        box = None
        if seen and state in (TrackState.TRACKING, TrackState.UNCERTAIN):
            width, height = target.image_size
            left, top = max(target.cx - target.w / 2, 0.0), max(target.cy - target.h / 2, 0.0)
            right, bottom = (
                min(target.cx + target.w / 2, width),
                min(target.cy + target.h / 2, height),
            )
            box = (left, top, right - left, bottom - top)
        return TrackResult(box, confidence, state, self._presence.reacquisitions)


def _expected(target: _Target, lead: float) -> Point:
    """Where a target in sight will be in ``lead`` seconds, inside the image."""
    width, height = target.image_size
    x, y = target.cx + target.vx * lead, target.cy + target.vy * lead
    return min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))


def _coast(target: _Target, elapsed: float, camera: Observation | None) -> None:
    """Take a target out of sight to where it would be in this image, ``elapsed`` seconds later,
    perhaps outside of it: by dead reckoning, or going on as before where that is not possible.
    """
    ground = target.ground
    if camera is not None and camera.shift is not None and ground.place is not None:
        pace = camera.images * elapsed
        target.vx = ground.velocity[0] + camera.shift[0] / pace
        target.vy = ground.velocity[1] + camera.shift[1] / pace
        target.cx, target.cy = ground.place
        return
    fading = math.exp(-elapsed / _BLIND_COAST)
    target.vx, target.vy = target.vx * fading, target.vy * fading
    target.cx += target.vx * elapsed
    target.cy += target.vy * elapsed
    if camera is not None:
        ground.reckon_from((target.cx, target.cy))


def _keep_inside(target: _Target) -> None:
    width, height = target.image_size
    target.cx = min(max(target.cx, 0.0), float(width))
    target.cy = min(max(target.cy, 0.0), float(height))
    target.w = min(max(target.w, 4.0), float(width))
    target.h = min(max(target.h, 4.0), float(height))


def _candidate(
    window: CropWindow, px: float, py: float, w: float, h: float, score: float, penalty: float
) -> _Candidate:
    """A candidate in patch pixels brought to image pixels."""
    cx, cy = window.to_image(px, py)
    return _Candidate(cx, cy, w * window.scale, h * window.scale, score, penalty)


def update_together(
    trackers: Sequence[Tracker], image: np.ndarray | Frame, stamp: float | None = None
) -> list[TrackResult]:
    """``Tracker.update`` for several targets in one image, their search windows as one batch on the
    shared engine.

    ``trackers`` are one tracker and its siblings; ValueError when they are not. Raises what
    ``Tracker.update`` raises, before any target has moved on.
    """
    if not trackers:
        return []
    engine = trackers[0]._engine
    if any(tracker._engine is not engine for tracker in trackers):
        raise ValueError(
            "trackers updated together must be siblings on one engine: "
            "make them with Tracker.sibling()"
        )
    frame = as_frame(image)
    for tracker in trackers:
        tracker._check_image(frame)
    for tracker in trackers:
        tracker.settle()
    most = trackers[0].settings.presence.search_windows
    windows = trackers[0]._pace.windows(len(trackers), most)
    needed = any(tracker._in_doubt for tracker in trackers)
    camera = _one_camera(trackers).look(frame, needed)
    plans = [tracker._plan(frame, windows, stamp, camera) for tracker in trackers]
    found = _look(trackers, plans, frame)
    again = {
        i: second
        for i, tracker in enumerate(trackers)
        if (second := tracker._second_look(plans[i], found[i])) is not None
    }
    if again:
        rows = _look([trackers[i] for i in again], list(again.values()), frame)
        for (i, plan), row in zip(again.items(), rows, strict=True):
            plans[i], found[i] = plan, row
    return [
        tracker._conclude(plan, rows, stamp, camera)
        for tracker, plan, rows in zip(trackers, plans, found, strict=True)
    ]


def _one_camera(trackers: Sequence[Tracker]) -> CameraMotion:
    """That which has watched longest: from now on that of all. What the others reckoned by theirs
    does not go on with another, because the two have not looked at the same images.
    """
    camera = max((tracker._camera for tracker in trackers), key=lambda one: one.watched)
    for tracker in trackers:
        if tracker._camera is not camera:
            tracker._camera = camera
            if tracker._target is not None:
                tracker._target.ground.reckon_from(None)
    return camera


def _look(trackers: Sequence[Tracker], plans: Sequence[_Plan], frame: Frame) -> list[np.ndarray]:
    """The best candidate of each window of each plan, ``(n, 6)`` a plan, from one call of the
    engine.
    """
    regions = [
        region
        for tracker, plan in zip(trackers, plans, strict=True)
        for region in tracker._regions(plan)
    ]
    found = np.empty((0, 6), np.float32)
    if regions:
        engine, pace = trackers[0]._engine, trackers[0]._pace
        begin = time.perf_counter()
        found = engine.locate(frame, regions)
        whole = engine.search_sizes[0]
        pace.measured(
            time.perf_counter() - begin, sum((r.window.size / whole) ** 2 for r in regions)
        )
    ends = itertools.accumulate(len(plan.windows) for plan in plans)
    return [found[end - len(plan.windows) : end] for end, plan in zip(ends, plans, strict=True)]


def tracker_from_checkpoint(
    checkpoint: Checkpoint, device: str = "auto", engine: str = "auto", threads: int = 1
) -> Tracker:
    """``load_tracker`` for a checkpoint already in memory."""
    return Tracker(create_engine(checkpoint, device, engine, threads), checkpoint.settings)


def load_tracker(
    checkpoint: str | Path | None = None,
    device: str = "auto",
    engine: str = "auto",
    threads: int = 1,
    settings: TrackerSettings | None = None,
) -> Tracker:
    """A warmed-up tracker.

    checkpoint: path of a student; the shipped one by default.
    device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
    engine: ``auto`` or one of ``engine.ENGINES``; threads: CPU threads of the engine.
    settings: instead of those in the checkpoint.

    Raises CheckpointError for an unusable file and EngineError for a device or engine that cannot
    be had.
    """
    loaded = load_checkpoint(checkpoint)
    if settings is not None:
        loaded = replace(loaded, settings=settings)
    return tracker_from_checkpoint(loaded, device, engine, threads)
