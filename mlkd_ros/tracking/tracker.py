# SPDX-License-Identifier: Apache-2.0
"""The tracker: ``init`` on a box, then ``update`` with every frame. Knows no ROS and no training.

One target's face of ``MultiTracker``: what is believed of a target is in ``track``, where all
targets of an image are looked for together in ``multi_tracker``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..imaging.frame import Frame, as_frame
from .appearance import TemplateMemory
from .candidates import StudentShape
from .checkpoint import Checkpoint, load_checkpoint
from .engine import Engine, Region, choose_student, create_engine
from .existence import TrackState
from .geometry import Box, CropWindow, check_box, crop
from .multi_tracker import MultiTracker, SearchBudget
from .peaks import peaks_of
from .settings import PresenceSettings, TrackerSettings
from .track import Track, TrackResult

__all__ = [
    "TargetRecord",
    "TrackResult",
    "Tracker",
    "load_tracker",
    "tracker_from_checkpoint",
    "update_together",
]


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


class Tracker:
    """Tracks one target with one student. Not thread-safe: one thread owns it.

    Build it with ``load_tracker``. Images are ``(H, W, 3)`` uint8 BGR arrays with any strides, or a
    ``Frame``.
    """

    def __init__(
        self, engine: Engine, settings: TrackerSettings, sibling: Tracker | None = None
    ) -> None:
        self._engine = engine
        self.settings = settings
        self._budget: SearchBudget = sibling._budget if sibling else SearchBudget()
        self._multi = MultiTracker(engine, self._budget)
        self._track: Track | None = None
        if sibling is None:
            engine.warm_up()

    @property
    def search_budget(self) -> float:
        """Seconds that looking for lost targets may take in one image, all siblings together.

        Infinite by default: each lost target looks at ``settings.presence.search_windows`` windows
        an image. With less, as many as fit at the pace measured, at the least one a target.
        """
        return self._budget.seconds

    @search_budget.setter
    def search_budget(self, seconds: float) -> None:
        if not seconds > 0:
            raise ValueError(f"search_budget must be above 0 seconds, not {seconds}")
        self._budget.seconds = float(seconds)

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
        return self._track is not None

    @property
    def shape(self) -> StudentShape:
        """Sizes of the patches that the student takes."""
        return self._engine.shape

    def reset(self) -> None:
        """Forget the target."""
        if self._track is not None:
            self._multi.tracks.remove(self._track)
        self._track = None

    def _start(self, track: Track, first: Frame | None) -> None:
        """Follow ``track``, with a camera motion of its own until it is updated together with
        siblings: it may begin with an image of the past.
        """
        self.reset()
        self._multi = MultiTracker(self._engine, self._budget, first)
        self._multi.tracks.append(track)
        self._track = track

    def _patch(self, frame: Frame, box: Box) -> np.ndarray:
        """Template pixels of a box."""
        x, y, w, h = box
        side = self.shape.context_side(w, h, self.settings.context_amount)
        window = CropWindow.around(x + w / 2, y + h / 2, side, self.shape.template_size)
        return crop(frame, window)

    def _memory(self, patch: np.ndarray) -> TemplateMemory:
        return TemplateMemory(self.settings.memory, self._engine.template(patch[None]))

    def init(
        self, image: np.ndarray | Frame, box: Sequence[float], stamp: float | None = None
    ) -> None:
        """Designate the target: ``box`` is x, y, w, h in pixels of ``image``, ``stamp`` the image's
        time in seconds.

        Raises ValueError (``InvalidBoxError``, ``BoxOutsideImageError``, or an unusable image)
        before the current target is touched.
        """
        frame = as_frame(image)
        inside = check_box(box, frame.width, frame.height)
        patch = self._patch(frame, inside)
        size = frame.width, frame.height
        memory = self._memory(patch)
        self._start(Track(self.shape, self.settings, memory, patch, inside, size), frame)
        self._multi.begin(stamp)

    def record(self) -> TargetRecord:
        """The target, for ``restore``. RuntimeError without one."""
        track = self._followed()
        box = (track.x - track.w / 2, track.y - track.h / 2, track.w, track.h)
        again = track.existence.reacquisitions
        return TargetRecord(track.patch, box, track.image_size, track.state, again)

    def restore(self, record: TargetRecord) -> None:
        """Take on a recorded target, in the state it was recorded in: a LOST one is searched for.

        Its looks are those of the first template again. ValueError for a record that does not fit
        this student.
        """
        side = self.shape.template_size
        if record.patch.shape != (side, side, 3) or record.patch.dtype != np.uint8:
            raise ValueError(
                f"the template patch is {record.patch.shape} {record.patch.dtype}, this student "
                f"needs ({side}, {side}, 3) uint8"
            )
        if not (all(map(math.isfinite, record.box)) and record.box[2] > 0 and record.box[3] > 0):
            raise ValueError(f"the recorded box {record.box} is no box")
        memory = self._memory(record.patch)
        track = Track(
            self.shape, self.settings, memory, record.patch, record.box, record.image_size
        )
        track.existence.state = record.state
        track.existence.reacquisitions = record.reacquisitions
        if record.state == TrackState.LOST:
            track.lose(anywhere=True)
        self._start(track, None)

    def set_presence(self, presence: PresenceSettings) -> None:
        """Other thresholds of presence, from the next image on."""
        self.settings = replace(self.settings, presence=presence)
        if self._track is not None:
            self._track.tune(self.settings)

    def update(self, image: np.ndarray | Frame, stamp: float | None = None) -> TrackResult:
        """Find the target in the next image. ``stamp`` in seconds; without stamps 30 images a
        second are assumed.

        Raises RuntimeError when there is no target, and ValueError when the image is unusable; the
        target is kept.
        """
        return update_together([self], image, stamp)[0]

    @property
    def belief(self) -> tuple[float, float, float]:
        """What the confidence of the last image is made of: log-odds of existence, evidence of the
        image, usual logit. RuntimeError without a target.
        """
        track = self._followed()
        return track.existence.odds, track.evidence, track.usual_logit

    def settle(self) -> None:
        """Do now what the next ``update`` would have to do first: take a new view of the target
        into the template memory. For a moment at which nobody waits for a box; the boxes are the
        same with or without it.
        """
        self._multi.settle()

    def look(self, image: np.ndarray | Frame, box: Sequence[float]) -> tuple[Box, float]:
        """What the network takes a target to be that is marked with ``box`` in this very image: its
        box, which may reach outside, and the score 0..1. The tracker's own target is left alone.

        Raises ValueError as ``init`` does.
        """
        frame = as_frame(image)
        inside = check_box(box, frame.width, frame.height)
        x, y, w, h = inside
        size = self.shape.search_size
        side = self.shape.context_side(w, h, self.settings.context_amount, size)
        window = CropWindow.around(x + w / 2, y + h / 2, side, size)
        template = self._engine.template(self._patch(frame, inside)[None])
        deviation = self.settings.belief.speed / 30.0 * math.sqrt(w * h)
        found = self._engine.locate(frame, [Region(window, template, w, h, deviation)])
        best = peaks_of([window], found, self.settings)[0][0]
        score = 1.0 / (1.0 + math.exp(-best.logit))
        return (best.x - best.w / 2, best.y - best.h / 2, best.w, best.h), score

    def sibling(self) -> Tracker:
        """A tracker for another target on the same engine; ``update_together`` runs siblings as one
        batch.
        """
        return Tracker(self._engine, self.settings, sibling=self)

    def _followed(self) -> Track:
        if self._track is None:
            raise RuntimeError("no target: call init(image, box) first")
        return self._track


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
    if any(tracker._engine is not trackers[0]._engine for tracker in trackers):
        raise ValueError(
            "trackers updated together must be siblings on one engine: "
            "make them with Tracker.sibling()"
        )
    frame = as_frame(image)
    tracks = [tracker._followed() for tracker in trackers]
    multi = _together(trackers)
    for tracker in trackers:
        tracker._multi.check(frame)
    multi.settle()
    results = dict(zip(map(id, multi.tracks), multi.update(frame, stamp), strict=True))
    return [results[id(track)] for track in tracks]


def _together(trackers: Sequence[Tracker]) -> MultiTracker:
    """That which has watched the camera longest: from now on that of all."""
    multi = max((tracker._multi for tracker in trackers), key=lambda one: one.watched)
    followed = {id(tracker._track) for tracker in trackers}
    for tracker in trackers:
        if tracker._multi is not multi:
            multi.adopt(tracker._multi)
            tracker._multi = multi
    # A sibling that takes no part in this update goes on by itself.
    multi.tracks = [track for track in multi.tracks if id(track) in followed]
    return multi


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

    checkpoint: path of a student, ``fast`` or ``accurate`` for one that ships with the package, or
        ``auto`` (the default), which chooses between these two by device and engine
        (``engine.choose_student``).
    device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
    engine: ``auto`` or one of ``engine.ENGINES``; threads: CPU threads of the engine.
    settings: instead of those in the checkpoint.

    Raises CheckpointError for an unusable file and EngineError for a device or engine that cannot
    be had.
    """
    loaded = load_checkpoint(choose_student(checkpoint, device, engine))
    if settings is not None:
        loaded = replace(loaded, settings=settings)
    return tracker_from_checkpoint(loaded, device, engine, threads)
