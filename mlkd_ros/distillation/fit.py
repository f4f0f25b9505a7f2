# SPDX-License-Identifier: Apache-2.0
"""Estimates the densities of the belief (``settings.BeliefSettings``) on annotated footage.

Two passes. In the first the student looks where the target was annotated in the image before, and
where it is not: what it says there are the samples of *visible* and *hidden*. In the second the
tracker flies with the densities so found, and its confidence is calibrated on its own boxes.
Everything is a maximum-likelihood estimate; regressions are logistic, with both classes weighing
the same where the ratio of likelihoods is asked for (Qin 1998).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from ..data.codec import STREAM_CONDITIONS
from ..data.sequences import Sequence
from ..evaluation.one_pass import darkened_frames
from ..evaluation.workers import results_in_order, worker_pool
from ..imaging.frame import Frame, as_frame
from ..tracking.appearance import TemplateMemory
from ..tracking.association import log_student
from ..tracking.checkpoint import Checkpoint
from ..tracking.engine import Engine, Region, create_engine
from ..tracking.geometry import Box, CropWindow, crop, iou
from ..tracking.peaks import Peak, peaks_of
from ..tracking.settings import PresenceSettings, TrackerSettings
from ..tracking.track import TrackResult
from ..tracking.tracker import Tracker
from .calibration import fit_platt
from .selection import ABSENT_EVERY, RIGHT_ABOVE, Trial

__all__ = ["Fit", "fit_belief"]

#: One image in so many is looked at; neighbours tell next to nothing new.
_EVERY = 3
#: The target is expected so far from where it was, in sizes: what a tracker's own box is off.
_OFF = 0.05
#: Places without the target lie at least so many of its sizes away.
_AWAY = 4.5
#: Frames a second that annotated sequences are taken to have.
RATE = 30.0
#: Share of the wrong boxes that may be called TRACKING, and the bounds of that threshold.
_WRONG_TRACKED, _TRACKING_BOUNDS = 0.12, (0.4, 0.8)
#: Of that threshold: below, a target is UNCERTAIN.
_UNCERTAIN = 0.6
#: Smaller mean changes of size are the annotator's.
_STILL = 0.02
#: Disappearances, and seconds in sight and out of sight for them, that count beside those seen:
#: annotated clips begin and end with the target and are short.
_PRIOR_TIMES, _PRIOR_SECONDS = 4, 5.0
#: Ridge of the regressions: keeps a separable set from infinite weights.
_RIDGE = 1e-2


@dataclass
class Looks:
    """Samples of the first pass.

    visible, hidden: rows ``(logit, place, size, usual logit)`` of the best peak of a window, as
    ``evidence`` weighs them. choices: for each image the rows ``(logit, place, size)`` of all
    peaks, and which is the target. logits, right: of best peaks, and whether their box was right.
    found: whether it was, of the images that show the target.
    """

    visible: list[list[float]] = field(default_factory=list)
    hidden: list[list[float]] = field(default_factory=list)
    choices: list[tuple[np.ndarray, int]] = field(default_factory=list)
    logits: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    found: list[bool] = field(default_factory=list)

    def extend(self, other: Looks) -> None:
        """Take in the samples of another sequence."""
        for name in ("visible", "hidden", "choices", "logits", "right", "found"):
            getattr(self, name).extend(getattr(other, name))


@dataclass(frozen=True)
class Fit:
    """Fitted settings, and what they were fitted on, for the checkpoint's provenance."""

    settings: TrackerSettings
    source: dict[str, Any]


def fit_belief(
    checkpoint: Checkpoint, trials: SequenceOf[Trial], jobs: int = 1,
    on_frames: Callable[[int], object] = lambda _: None, densities: bool = True,
) -> Fit:  # fmt: skip
    """Fit all of the belief for the student of ``checkpoint``, on the CPU, ``jobs`` trials at a
    time. ``on_frames`` is told of frames done; each is gone through twice, or once without the
    ``densities``: then only the confidence and its thresholds are fitted. Thresholds that are not
    are the package's own. ValueError when the trials show no target, or nothing but the target.
    """
    settings, looked = replace(checkpoint.settings, presence=PresenceSettings()), 0
    if densities:
        looks = Looks()
        for part in _each(_look_along, checkpoint, trials, jobs, on_frames):
            looks.extend(part)
        looked = len(looks.visible) + len(looks.hidden)
        belief = replace(settings.belief, **_densities(looks), **_presence_times(trials))
        calibration = fit_platt(_sigmoid(np.array(looks.logits)), np.array(looks.right))
        settings = replace(settings, belief=belief, calibration=calibration)
    flown = Flown()
    for one in _each(
        _fly_along, replace(checkpoint, settings=settings), trials, jobs, on_frames
    ):  # fmt: skip
        flown.extend(one)
    if 0 < sum(flown.right) < len(flown.right):
        settings = _calibrated(settings, flown)
    source = {
        "sequences": sorted({trial.sequence.name for trial in trials}),
        "conditions": sorted({trial.column for trial in trials}),
        "looks": looked, "boxes": len(flown.right),
    }  # fmt: skip
    return Fit(settings, source)


def _calibrated(settings: TrackerSettings, flown: Flown) -> TrackerSettings:
    """With the confidence and its thresholds fitted. (Footage on which the tracker is never wrong,
    or never right, says nothing of them.)
    """
    belief = replace(settings.belief, confidence=_confidence(flown))
    above = _tracking_above(flown, belief.confidence)
    presence = replace(
        settings.presence, tracking_above=above, uncertain_below=round(_UNCERTAIN * above, 3)
    )
    return replace(settings, belief=belief, presence=presence)


def _each(
    work: Callable[[Checkpoint, Trial], Any], checkpoint: Checkpoint, trials: SequenceOf[Trial],
    jobs: int, on_frames: Callable[[int], object],
) -> Iterator[Any]:  # fmt: skip
    """``work`` done for each trial, several at a time in processes of their own."""
    with contextlib.ExitStack() as stack:
        done: Iterator[Any] = (work(checkpoint, trial) for trial in trials)
        if jobs > 1:
            pool = stack.enter_context(worker_pool(jobs))
            done = results_in_order(pool, work, itertools.repeat(checkpoint), trials)
        for trial, result in zip(trials, done, strict=True):
            on_frames(len(trial.sequence))
            yield result


def _engine(checkpoint: Checkpoint) -> Engine:
    return create_engine(checkpoint, "cpu")


def _look_along(checkpoint: Checkpoint, trial: Trial) -> Looks:
    """Look where the target is expected, and elsewhere, along one sequence."""
    cv2.setNumThreads(1)
    engine, settings, looks = _engine(checkpoint), checkpoint.settings, Looks()
    truth, rng = trial.sequence.boxes, np.random.default_rng(0)
    memory: TemplateMemory | None = None
    last: Box | None = None
    usual: float | None = None
    for number, image in _wanted_frames(trial):
        frame, box = as_frame(image), _box(truth[number])
        if memory is None or last is None:
            if box is not None:
                memory = TemplateMemory(settings.memory, _template(engine, settings, frame, box))
                last = box
            continue
        before = _box(truth[number - 1])
        last = before or last
        peak = _look(engine, settings, frame, memory, last, rng, looks, box, usual)
        if peak is not None:
            gain = 1.0 - math.exp(-_EVERY / RATE / settings.belief.score_time)
            score = min(peak.logit, settings.belief.score_most)
            usual = score if usual is None else usual + gain * (score - usual)
        if peak is not None and memory.due(peak.quality, _EVERY / RATE):
            memory.renew(_template(engine, settings, frame, box or last))
        last = box or last
    return looks


def _wanted_frames(trial: Trial) -> Iterator[tuple[int, np.ndarray]]:
    """Every third frame, and those without the target, with their numbers."""
    hidden = ~np.isfinite(trial.sequence.boxes).all(axis=1)
    wanted = [i for i in range(len(hidden)) if i % _EVERY == 0 or hidden[i]]
    if trial.condition in STREAM_CONDITIONS:  # each frame depends on those before
        frames = darkened_frames(trial.sequence, trial.condition, trial.noise_seed)
        yield from ((i, frame) for i, frame in enumerate(frames) if i in set(wanted))
        return
    frames_of = _Some(trial.sequence.frames, wanted)
    some = replace(trial.sequence, frames=frames_of, boxes=trial.sequence.boxes[wanted])
    frames = darkened_frames(some, trial.condition, trial.noise_seed)
    yield from zip(wanted, frames, strict=True)


@dataclass(frozen=True)
class _Some:
    """Frames of a sequence by their numbers, in rising order."""

    frames: Any
    numbers: SequenceOf[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[np.ndarray]:
        wanted = iter(self.numbers)
        following = next(wanted, None)
        for number, frame in enumerate(self.frames):
            if following is None:
                return
            if number == following:
                following = next(wanted, None)
                yield frame


def _look(
    engine: Engine, settings: TrackerSettings, frame: Frame, memory: TemplateMemory, last: Box,
    rng: np.random.Generator, looks: Looks, box: Box | None, usual: float | None,
) -> Peak | None:  # fmt: skip
    """One image's samples; the peak that is the target. ``usual``: its logit of late."""
    x, y, w, h = last[0] + last[2] / 2, last[1] + last[3] / 2, last[2], last[3]
    size = math.sqrt(w * h)
    x, y = x + rng.normal(0, _OFF) * size, y + rng.normal(0, _OFF) * size
    rows, peaks = _rows(engine, settings, frame, memory, (x, y, w, h))
    elsewhere = _elsewhere(rng, frame, (x, y), _AWAY * size)
    if elsewhere is not None:
        away, other = _rows(engine, settings, frame, memory, (*elsewhere, w, h))
        if usual is not None:
            looks.hidden.append([*away[0], usual])
        if rng.random() < 1.0 / ABSENT_EVERY:
            looks.logits.append(other[0].logit)
            looks.right.append(False)
    if box is None:
        if usual is not None:
            looks.hidden.append([*rows[0], usual])
        return None
    overlaps = [float(iou((p.x - p.w / 2, p.y - p.h / 2, p.w, p.h), box)) for p in peaks]
    if usual is not None:
        looks.visible.append([*rows[0], usual])
    looks.logits.append(peaks[0].logit)
    looks.right.append(overlaps[0] > RIGHT_ABOVE)
    looks.found.append(overlaps[0] > RIGHT_ABOVE)
    best = int(np.argmax(overlaps))
    if overlaps[best] <= RIGHT_ABOVE:
        return None
    looks.choices.append((np.array(rows), best))
    return peaks[best]


def _rows(
    engine: Engine, settings: TrackerSettings, frame: Frame, memory: TemplateMemory,
    expected: tuple[float, float, float, float],
) -> tuple[list[list[float]], list[Peak]]:  # fmt: skip
    """``(logit, place, size)`` of each peak in the whole search region about the expected centre
    and size, the best first, and the peaks.
    """
    x, y, w, h = expected
    belief, shape = settings.belief, engine.shape
    side = shape.context_side(w, h, settings.context_amount, shape.search_size)
    window = CropWindow.around(x, y, side, shape.search_size)
    deviation = math.sqrt(w * h) * math.hypot(belief.displacement, belief.speed / RATE)
    region = Region(window, memory.current, w, h, deviation)
    (peaks,) = peaks_of([window], engine.locate(frame, [region]), settings)
    rows = [
        [
            min(peak.logit, belief.score_most),
            log_student(peak.distance(x, y) ** 2 / deviation**2, belief.freedom),
            abs(math.log(peak.w / w)) + abs(math.log(peak.h / h)),
        ]
        for peak in peaks
    ]
    return rows, peaks


def _elsewhere(
    rng: np.random.Generator, frame: Frame, place: tuple[float, float], away: float
) -> tuple[float, float] | None:
    """A place in the image that is ``away`` pixels from another, None where there is no room."""
    for _ in range(10):
        x, y = rng.uniform(0, frame.width), rng.uniform(0, frame.height)
        if math.dist((x, y), place) > away:
            return x, y
    return None


def _template(engine: Engine, settings: TrackerSettings, frame: Frame, box: Box) -> Any:
    x, y, w, h = box
    side = engine.shape.context_side(w, h, settings.context_amount)
    size = engine.shape.template_size
    patch = crop(frame, CropWindow.around(x + w / 2, y + h / 2, side, size))
    return engine.template(patch[None])


def _box(row: np.ndarray) -> Box | None:
    if not np.isfinite(row).all() or min(row[2:]) < 2.0:
        return None
    x, y, w, h = row.tolist()
    return x, y, w, h


def _densities(looks: Looks) -> dict[str, Any]:
    """Evidence, association, detection."""
    visible, hidden = np.array(looks.visible), np.array(looks.hidden)
    if not len(visible) or not len(hidden):
        raise ValueError(
            f"the belief needs images with and without the target, got {len(visible)} with and "
            f"{len(hidden)} without"
        )
    rows = np.concatenate((visible, hidden))
    labels = np.r_[np.ones(len(visible)), np.zeros(len(hidden))]
    constant, score, place, size, usual = _logistic(rows, labels)
    offset, slope = _logistic(rows[:, :1], labels)
    detection = float(np.mean(looks.found))
    return {
        "evidence": (constant, max(score, 0.05), max(place, 0.0), min(size, 0.0), min(usual, 0.0)),
        "score_slope": max(slope, 0.05), "score_offset": offset,
        # The log ratios of score, place and size, taken for independent; what a place's density
        # is worth needs no weight. (Weights of a conditional logit model, fitted to the choices,
        # give the place too much: there the target is never lost and always near.)
        "association": (max(slope, 0.05), 1.0, _size_weight(looks.choices)),
        "detection": min(max(detection, 0.5), 0.99),
    }  # fmt: skip


def _logistic(
    rows: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> list[float]:
    """Constant and weights of the logistic regression of ``labels`` (0 or 1) on ``rows``; both
    classes weigh the same unless ``weights`` of the rows are given.
    """
    features = np.c_[np.ones(len(rows)), rows]
    if weights is None:
        share = labels.mean()
        weights = np.where(labels > 0, 0.5 / share, 0.5 / (1 - share))
    beta = np.zeros(features.shape[1])
    for _ in range(60):
        p = _sigmoid(features @ beta)
        gradient = features.T @ (weights * (p - labels)) + _RIDGE * beta
        curve = features.T @ (features * (weights * p * (1 - p))[:, None])
        step = np.linalg.solve(curve + _RIDGE * np.eye(len(beta)), gradient)
        beta = beta - np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-8:
            break
    return [float(value) for value in beta]


def _size_weight(choices: SequenceOf[tuple[np.ndarray, int]]) -> float:
    """Weight of the change of size in the log ratio of target and other thing: of two exponential
    densities, the difference of their rates.
    """
    own = [rows[best, 2] for rows, best in choices]
    others = [row[2] for rows, best in choices for i, row in enumerate(rows) if i != best]
    if not own or not others:
        return 0.0
    rate_of_own, rate_of_others = (1.0 / max(float(np.mean(x)), _STILL) for x in (own, others))
    return min(rate_of_others - rate_of_own, 0.0)


def _distinct(trials: SequenceOf[Trial]) -> list[Sequence]:
    """The sequences of trials, each once; in another light they move as ever."""
    return list({trial.sequence.name: trial.sequence for trial in trials}.values())


def _presence_times(trials: SequenceOf[Trial]) -> dict[str, Any]:
    """Mean times for which targets are visible and hidden: of exponential densities, with gamma
    priors.
    """
    visible, hidden, times = 0, 0, 0
    for sequence in _distinct(trials):
        seen = np.isfinite(sequence.boxes).all(axis=1)
        visible, hidden = visible + int(seen.sum()), hidden + int((~seen).sum())
        times += int((np.diff(seen.astype(int)) < 0).sum())
    prior, times = _PRIOR_TIMES * _PRIOR_SECONDS, times + _PRIOR_TIMES
    return {
        "visible_for": (prior + visible / RATE) / times,
        "hidden_for": (prior + hidden / RATE) / times,
    }


@dataclass
class Flown:
    """What a tracker said of the images that it had a box for: rows of log-odds of existence,
    evidence and usual logit; whether the box was right; the condition.
    """

    rows: list[tuple[float, float, float]] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)

    def extend(self, other: Flown) -> None:
        """Take in the samples of another sequence."""
        for name in ("rows", "right", "conditions"):
            getattr(self, name).extend(getattr(other, name))

    def add(self, tracker: Tracker, result: TrackResult, truth: np.ndarray, name: str) -> None:
        """Take in one image."""
        if result.box is None:
            return
        shown = np.isfinite(truth).all()
        self.rows.append(tracker.belief)
        self.right.append(bool(shown and iou(np.array(result.box), truth) > RIGHT_ABOVE))
        self.conditions.append(name)


def _fly_along(checkpoint: Checkpoint, trial: Trial) -> Flown:
    """Track along one sequence."""
    cv2.setNumThreads(1)
    tracker, flown = Tracker(_engine(checkpoint), checkpoint.settings), Flown()
    truth = trial.sequence.boxes
    start = int(np.flatnonzero(np.isfinite(truth).all(axis=1))[0])
    frames = darkened_frames(trial.sequence, trial.condition, trial.noise_seed)
    for number, image in enumerate(frames):
        if number == start:
            tracker.init(image, truth[number].tolist(), number / RATE)
        elif number > start:
            result = tracker.update(image, number / RATE)
            flown.add(tracker, result, truth[number], trial.column)
    return flown


def _confidence(flown: Flown) -> tuple[float, float, float, float]:
    """Weights of the calibrated confidence, every condition weighing the same."""
    rows, right = np.array(flown.rows), np.array(flown.right, np.float64)
    names = np.array(flown.conditions)
    counts = {name: float(np.mean(names == name)) for name in set(flown.conditions)}
    weights = np.array([1.0 / (len(counts) * counts[name]) for name in flown.conditions])
    constant, odds, evidence, score = _logistic(rows, right, weights)
    return constant, max(odds, 0.0), max(evidence, 0.0), max(score, 0.0)


def _tracking_above(flown: Flown, weights: tuple[float, float, float, float]) -> float:
    """The confidence above which few wrong boxes are."""
    rows, right = np.array(flown.rows), np.array(flown.right)
    confidence = _sigmoid(weights[0] + rows @ np.array(weights[1:]))
    wrong = np.sort(confidence[~right])
    low, high = _TRACKING_BOUNDS
    return float(min(max(np.quantile(wrong, 1 - _WRONG_TRACKED), low), high))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1.0 / (1.0 + np.exp(-np.clip(values, -50.0, 50.0)))
    return result
