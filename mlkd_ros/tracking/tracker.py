# SPDX-License-Identifier: Apache-2.0
"""The tracker: ``init`` on a box, then ``update`` with every frame. Knows no ROS and no training.

Post-processing follows the Siamese-RPN family (SiamRPN, Li et al. 2018, section 3.4; SiamBAN, arXiv
2003.06761): a penalty on changes of scale and ratio, a cosine window, a smoothed size. What a frame
costs outside the network is one crop of the search region and NumPy on a few hundred candidates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .checkpoint import Checkpoint, CheckpointError, load_checkpoint
from .engine import Engine, Template, create_engine
from .frame import Frame, as_frame
from .geometry import AnchorCoder, Box, CropWindow, PointCoder, check_box, context_side, crop
from .memory import TemplateMemory
from .presence import Presence, TrackState, calibrated_confidence
from .settings import TrackerSettings

#: Time between two frames when the caller gives no stamps, in seconds.
NOMINAL_PERIOD = 1.0 / 30.0
#: A coasting target keeps this share of its velocity from frame to frame.
_COAST_DECAY = 0.9
#: Weight of the newest displacement in the velocity estimate.
_VELOCITY_GAIN = 0.3


@dataclass(frozen=True)
class TrackResult:
    """One frame's answer.

    box: x, y, w, h in pixels of the full image, inside it; ``None`` when LOST or GIVEN_UP.
    confidence: calibrated probability that the best candidate is right, 0..1.
    """

    box: Box | None
    confidence: float
    state: TrackState
    reacquisitions: int = 0


@dataclass
class _Target:
    """Where a target was last seen: centre and size in image pixels, velocity in pixels a
    second.
    """

    memory: TemplateMemory
    cx: float
    cy: float
    w: float
    h: float
    image_size: tuple[int, int]
    vx: float = 0.0
    vy: float = 0.0
    stamp: float | None = None


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
    """The search windows of one target in one image; none for a target that was given up."""

    target: _Target
    frame: Frame
    windows: list[CropWindow]


@dataclass(frozen=True)
class StudentShape:
    """Sizes of an architecture that post-processing needs, known without importing PyTorch."""

    template_size: int
    search_size: int
    cells: int
    stride: int
    anchor_ratios: tuple[float, ...] = ()
    anchor_scale: float = 0.0

    def coder(self) -> PointCoder | AnchorCoder:
        """The decoder of this architecture's regression maps."""
        if self.anchor_ratios:
            return AnchorCoder(
                self.cells, self.stride, self.search_size, self.anchor_ratios, self.anchor_scale
            )
        return PointCoder(self.cells, self.stride, self.search_size)


#: By architecture name; a test asserts agreement with the classes of ``network.ARCHITECTURES``.
STUDENT_SHAPES = {
    "mobile_s16": StudentShape(127, 255, 15, 16),
    "alexnet_rpn": StudentShape(127, 287, 21, 8, (0.33, 0.5, 1.0, 2.0, 3.0), 8.0),
}


class Tracker:
    """Tracks one target with one student. Not thread-safe: one thread owns it.

    Build it with ``load_tracker``. Images are ``(H, W, 3)`` uint8 BGR arrays with any strides, or a
    ``Frame``.
    """

    def __init__(
        self, engine: Engine, shape: StudentShape, settings: TrackerSettings, warm_up: bool = True
    ) -> None:
        self._engine = engine
        self._shape = shape
        self.settings = settings
        self._coder = shape.coder()
        anchors = max(1, len(shape.anchor_ratios))
        hanning = np.hanning(shape.cells)
        self._cosine = np.tile(np.outer(hanning, hanning).ravel(), anchors).astype(np.float32)
        self._target: _Target | None = None
        self._presence = Presence(settings.presence)
        self._scan: Iterator[tuple[float, float]] = iter(())
        if warm_up:
            engine.warm_up(shape.template_size, shape.search_size)

    @property
    def engine_name(self) -> str:
        """Runtime, device and threads, for logs and diagnostics."""
        return self._engine.name

    @property
    def has_target(self) -> bool:
        """Whether ``update`` may be called."""
        return self._target is not None

    @property
    def template_size(self) -> int:
        """Side of the template patch in pixels."""
        return self._shape.template_size

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
        memory = TemplateMemory(self.settings.memory, self._template(frame, cx, cy, w, h))
        size = (frame.width, frame.height)
        self._target = _Target(memory, cx, cy, w, h, size, stamp=stamp)
        self._presence = Presence(self.settings.presence)

    def update(self, image: np.ndarray | Frame, stamp: float | None = None) -> TrackResult:
        """Find the target in the next image. ``stamp`` in seconds; without stamps 30 images a
        second are assumed.

        Raises RuntimeError when there is no target, and ValueError when the image is unusable; the
        target is kept.
        """
        return update_together([self], image, stamp)[0]

    def _template(self, frame: Frame, cx: float, cy: float, w: float, h: float) -> Template:
        """Template features of a box given by centre and size."""
        side = context_side(w, h, self.settings.context_amount)
        patch = crop(frame, CropWindow.around(cx, cy, side, self._shape.template_size))
        return self._engine.template(patch[None])

    def sibling(self) -> Tracker:
        """A tracker for another target on the same engine; ``update_together`` runs siblings as one
        batch.
        """
        return Tracker(self._engine, self._shape, self.settings, warm_up=False)

    def _plan(self, frame: Frame) -> _Plan:
        """Where to look in the next image. Changes nothing but the image scale that the target is
        kept in.
        """
        target = self._target
        if target is None:
            raise RuntimeError("no target: call init(image, box) first")
        self._follow_resolution(target, frame)
        state = self._presence.state
        centres = [] if state == TrackState.GIVEN_UP else [(target.cx, target.cy)]
        if state == TrackState.LOST:
            # Around the last place, and at the next few windows of a scan that widens to the whole
            # image.
            centres += list(itertools.islice(self._scan, self.settings.presence.search_windows - 1))
            if len(centres) == 1:
                self._scan = self._scan_centres(target)
        ratio = self._shape.search_size / self._shape.template_size
        side = context_side(target.w, target.h, self.settings.context_amount) * ratio
        windows = [CropWindow.around(cx, cy, side, self._shape.search_size) for cx, cy in centres]
        return _Plan(target, frame, windows)

    def _conclude(
        self, plan: _Plan, logits: np.ndarray, regression: np.ndarray, stamp: float | None
    ) -> TrackResult:
        """From the maps of the planned windows, ``(n, ...)`` each, to the target's new place and
        state.
        """
        target = plan.target
        elapsed = self._elapsed(target, stamp)
        target.stamp = stamp
        if not plan.windows:
            return self._result(target, 0.0)
        lost = self._presence.state == TrackState.LOST
        # A lost target may be anywhere: only the penalty on its shape is left, not the cosine
        # window.
        influence = 0.0 if lost else self.settings.window_influence
        candidate = max(
            (
                self._best(target, *maps, influence)
                for maps in zip(plan.windows, logits, regression, strict=True)
            ),
            key=lambda candidate: candidate.score,
        )
        confidence = calibrated_confidence(candidate.score, *self.settings.calibration)
        if lost:
            self._look_again(target, candidate, confidence)
        elif confidence >= self.settings.presence.lost_below:
            self._follow(target, candidate, elapsed)
        else:
            self._coast(target, elapsed)
        self._keep_inside(target)
        state = self._presence.step(confidence, elapsed)
        if state == TrackState.LOST and not lost:
            self._scan = self._scan_centres(target)
        elif state == TrackState.TRACKING and target.memory.due(confidence, elapsed):
            seen = self._template(plan.frame, target.cx, target.cy, target.w, target.h)
            target.memory.renew(seen)
        return self._result(target, confidence)

    def _look_again(self, target: _Target, candidate: _Candidate, confidence: float) -> None:
        """Search around a promising place first in the next image: one resemblance alone is no
        re-acquisition.
        """
        if confidence >= self.settings.presence.reacquire_above:
            target.cx, target.cy = candidate.cx, candidate.cy
            target.vx = target.vy = 0.0

    def _best(
        self,
        target: _Target,
        window: CropWindow,
        logits: np.ndarray,
        regression: np.ndarray,
        influence: float,
    ) -> _Candidate:
        background, foreground = logits.reshape(2, -1)
        scores = 1.0 / (1.0 + np.exp(np.clip(background - foreground, -50.0, 50.0)))
        boxes = self._coder.decode(regression)
        penalty = self._penalty(
            boxes[:, 2], boxes[:, 3], target.w / window.scale, target.h / window.scale
        )
        ranking = penalty * scores * (1.0 - influence) + self._cosine * influence
        best = int(ranking.argmax())
        cx, cy = window.to_image(float(boxes[best, 0]), float(boxes[best, 1]))
        w, h = float(boxes[best, 2]) * window.scale, float(boxes[best, 3]) * window.scale
        return _Candidate(cx, cy, w, h, float(scores[best]), float(penalty[best]))

    def _penalty(self, w: np.ndarray, h: np.ndarray, last_w: float, last_h: float) -> np.ndarray:
        """Factor in 0..1 for a change of scale and of aspect ratio against the last size (SiamRPN,
        equation 12).
        """
        scale = np.sqrt((w + (w + h) / 2) * (h + (w + h) / 2)) / context_side(last_w, last_h, 0.5)
        aspect = (last_w / last_h) / (w / h)
        change = np.maximum(scale, 1.0 / scale) * np.maximum(aspect, 1.0 / aspect)
        return np.exp((1.0 - change) * self.settings.penalty_k)

    def _follow(self, target: _Target, candidate: _Candidate, elapsed: float) -> None:
        """Take the candidate's centre; approach its size by a rate that grows with its score."""
        rate = candidate.penalty * candidate.score * self.settings.size_lr
        if elapsed > 0:
            target.vx += _VELOCITY_GAIN * ((candidate.cx - target.cx) / elapsed - target.vx)
            target.vy += _VELOCITY_GAIN * ((candidate.cy - target.cy) / elapsed - target.vy)
        target.cx, target.cy = candidate.cx, candidate.cy
        target.w += rate * (candidate.w - target.w)
        target.h += rate * (candidate.h - target.h)

    def _coast(self, target: _Target, elapsed: float) -> None:
        """Go on with the last velocity, fading, while nothing in the search region looks like the
        target.
        """
        target.cx += target.vx * elapsed
        target.cy += target.vy * elapsed
        target.vx *= _COAST_DECAY
        target.vy *= _COAST_DECAY

    def _keep_inside(self, target: _Target) -> None:
        width, height = target.image_size
        target.cx = min(max(target.cx, 0.0), float(width))
        target.cy = min(max(target.cy, 0.0), float(height))
        target.w = min(max(target.w, 4.0), float(width))
        target.h = min(max(target.h, 4.0), float(height))

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
        if self._presence.state == TrackState.LOST:
            self._scan = self._scan_centres(target)

    @staticmethod
    def _elapsed(target: _Target, stamp: float | None) -> float:
        """Seconds since the last image; a stamp that jumped backwards counts as one nominal
        period.
        """
        if stamp is None or target.stamp is None or stamp <= target.stamp:
            return NOMINAL_PERIOD
        return stamp - target.stamp

    def _scan_centres(self, target: _Target) -> Iterator[tuple[float, float]]:
        """Centres of half-overlapping search windows over the whole image, nearest to the last
        place first.
        """
        ratio = self._shape.search_size / self._shape.template_size
        step = max(8.0, context_side(target.w, target.h, self.settings.context_amount) * ratio / 2)
        width, height = target.image_size
        columns = np.linspace(0, width, max(2, math.ceil(width / step)) + 1)
        rows = np.linspace(0, height, max(2, math.ceil(height / step)) + 1)
        grid = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        distance = np.hypot(grid[:, 0] - target.cx, grid[:, 1] - target.cy)
        return iter([(float(x), float(y)) for x, y in grid[np.argsort(distance, kind="stable")]])

    def _result(self, target: _Target, confidence: float) -> TrackResult:
        state = self._presence.state
        box = None
        if state in (TrackState.TRACKING, TrackState.UNCERTAIN):
            width, height = target.image_size
            left, top = max(target.cx - target.w / 2, 0.0), max(target.cy - target.h / 2, 0.0)
            right, bottom = (
                min(target.cx + target.w / 2, width),
                min(target.cy + target.h / 2, height),
            )
            box = (left, top, right - left, bottom - top)
        return TrackResult(box, confidence, state, self._presence.reacquisitions)


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
    plans = [tracker._plan(frame) for tracker in trackers]
    counts = [len(plan.windows) for plan in plans]
    patches = [crop(frame, window) for plan in plans for window in plan.windows]
    if not patches:
        empty = np.empty((0, 0))
        return [
            t._conclude(plan, empty, empty, stamp) for t, plan in zip(trackers, plans, strict=True)
        ]
    template = engine.join([plan.target.memory.current for plan in plans], counts)
    logits, regression = engine.search(
        template, np.stack(patches) if len(patches) > 1 else patches[0][None]
    )
    results, first = [], 0
    for tracker, plan, count in zip(trackers, plans, counts, strict=True):
        maps = slice(first, first + count)
        results.append(tracker._conclude(plan, logits[maps], regression[maps], stamp))
        first += count
    return results


def tracker_from_checkpoint(
    checkpoint: Checkpoint, device: str = "auto", engine: str = "auto", threads: int = 1
) -> Tracker:
    """``load_tracker`` for a checkpoint already in memory."""
    if checkpoint.architecture not in STUDENT_SHAPES:
        known = ", ".join(sorted(STUDENT_SHAPES))
        raise CheckpointError(
            f"{checkpoint.path}: unknown architecture {checkpoint.architecture!r}: "
            f"known are {known}"
        )
    runtime = create_engine(checkpoint, device, engine, threads)
    return Tracker(runtime, STUDENT_SHAPES[checkpoint.architecture], checkpoint.settings)


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
    engine: ``auto``, ``onnxruntime`` or ``torch``; threads: CPU threads of the engine.
    settings: instead of those in the checkpoint.

    Raises CheckpointError for an unusable file and EngineError for a device or engine that cannot
    be had.
    """
    loaded = load_checkpoint(checkpoint)
    if settings is not None:
        loaded = replace(loaded, settings=settings)
    return tracker_from_checkpoint(loaded, device, engine, threads)
