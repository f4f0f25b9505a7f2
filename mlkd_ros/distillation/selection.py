# SPDX-License-Identifier: Apache-2.0
"""Selection: every student of a room flies the validation sequences; the best is calibrated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..data.flights import flight_sequence
from ..data.night_flight import SCENARIOS, NightFlight
from ..data.sequences import Sequence
from ..evaluation.metrics import Scores, average, score
from ..evaluation.one_pass import DAY, run_one_pass
from ..tracking.checkpoint import CheckpointError, load_checkpoint
from ..tracking.geometry import Box, iou
from ..tracking.settings import PresenceSettings, TrackerSettings
from ..tracking.tracker import Tracker, load_tracker
from .calibration import Reliability, cross_validated, fit_platt, reliability

#: Every so many frames the tracker is also shown a place where the target is not.
ABSENT_EVERY = 4
#: A box is right above this IoU.
RIGHT_ABOVE = 0.5
#: Rendered flights for validation: the first one's seed, and which of their frames.
VALIDATION_FLIGHT_SEED = 200
FLIGHT_START, FLIGHT_FRAMES = 120, 240
#: Never doubts, never loses: one-pass evaluation in the field's manner.
ALWAYS_THERE = PresenceSettings(
    tracking_above=0.0, uncertain_below=0.0, lost_below=0.0, shown_above=0.0
)


@dataclass
class Samples:
    """Frames for the calibration: raw score, whether the box was right, and the sequence."""

    scores: list[float] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def add(self, score: float, correct: bool, group: str) -> None:
        """Take one frame."""
        self.scores.append(score)
        self.correct.append(correct)
        self.groups.append(group)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, correct, groups as arrays ``(N,)``."""
        return np.array(self.scores), np.array(self.correct, bool), np.array(self.groups)


@dataclass
class CandidateResult:
    """How one student did: scores by condition (means over sequences), and calibration samples.

    successes, boxes: by condition, a value for each flight: success AUC, and the mean IoU of the
    frames on which it was on the target (NaN where on none).
    """

    path: Path
    scores: dict[str, Scores] = field(default_factory=dict)
    samples: Samples = field(default_factory=Samples)
    successes: dict[str, list[float]] = field(default_factory=dict)
    boxes: dict[str, list[float]] = field(default_factory=dict)

    @property
    def success(self) -> float:
        """Mean success AUC over the conditions: what is selected by."""
        return float(np.mean([scores.success_auc for scores in self.scores.values()]))

    @property
    def box_quality(self) -> float:
        """Mean IoU on the target over the conditions; NaN where it was on none."""
        values = [v for flights in self.boxes.values() for v in flights if np.isfinite(v)]
        return float(np.mean(values)) if values else float("nan")


def overlap_on_target(boxes: np.ndarray, truth: np.ndarray) -> float:
    """Mean IoU of the frames on which a tracker is on the target (IoU above ``RIGHT_ABOVE``), the
    first, on which it is told, left out; NaN where there is none.

    boxes, truth: ``(N, 4)`` x, y, w, h; rows of NaN where there is none.
    """
    known = np.isfinite(boxes).all(axis=1) & np.isfinite(truth).all(axis=1)
    rows = np.flatnonzero(known)[1:]
    values = [float(iou(boxes[row], truth[row])) for row in rows]
    right = [value for value in values if value > RIGHT_ABOVE]
    return float(np.mean(right)) if right else float("nan")


def falls_behind(own: SequenceOf[float], other: SequenceOf[float]) -> tuple[bool, float, float]:
    """Whether values are below others of the same flights by more than a standard error.

    Returns the answer, the mean of the differences and its standard error (0 for one flight);
    flights without a value of both are left out, and without any the answer is no.
    """
    differences = np.asarray(own, np.float64) - np.asarray(other, np.float64)
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return False, 0.0, 0.0
    mean = float(differences.mean())
    count = len(differences)
    error = float(differences.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0
    return mean < -error, mean, error


def refusal(result: CandidateResult, start: CandidateResult) -> str:
    """Why a student must not ship: it forgot the day that its start knows, or its boxes.

    Empty when it may. Success AUC by day, and the IoU on the target in every condition, are
    compared flight by flight, see ``falls_behind``.
    """
    compared = {"success AUC by day": (result.successes.get(DAY, []), start.successes.get(DAY, []))}
    for column, values in result.boxes.items():
        compared[f"IoU on the target, {column}"] = values, start.boxes[column]
    reasons = []
    for name, (own, other) in compared.items():
        behind, mean, error = falls_behind(own, other)
        if behind:
            reasons.append(f"{name} {mean:+.4f} against its start (standard error {error:.4f})")
    return "; ".join(reasons)


def find_candidates(runs: SequenceOf[Path]) -> list[Path]:
    """Student checkpoints of training runs (folders), or files given directly.

    CheckpointError names a folder without a student, or a file that is none.
    """
    found: list[Path] = []
    for run in runs:
        paths = [run]
        if run.is_dir():
            paths = sorted(run.glob("student*.safetensors"))
            if not paths:
                raise CheckpointError(f"{run}: no student*.safetensors here: not a finished run")
        found += paths
    for path in found:
        load_checkpoint(path)  # wrong files are named before anything is run
    return found


class _Probe:
    """A tracker under evaluation that keeps its raw scores, and looks where the target is not.

    Fits ``EvaluatedTracker``. One probe sees one sequence in one condition.
    """

    def __init__(self, tracker: Tracker, sequence: Sequence, samples: Samples) -> None:
        self._tracker, self._other = tracker, tracker.sibling()
        self._truth = sequence.boxes
        self._name, self._samples = sequence.name, samples
        self._frame = int(np.flatnonzero(np.isfinite(sequence.boxes).all(axis=1))[0])
        self._first: tuple[np.ndarray, Box] | None = None
        self._rng = np.random.default_rng(0)

    def init(self, image: np.ndarray, box: Box, stamp: float | None = None) -> None:
        """Designate the target; remembered for the looks elsewhere."""
        self._tracker.init(image, box, stamp)
        self._first = image.copy(), box

    def update(self, image: np.ndarray, stamp: float | None = None) -> Box | None:
        """Track; the raw score and whether the box was right become a sample."""
        self._frame += 1
        result = self._tracker.update(image, stamp)
        truth = self._truth[self._frame]
        right = bool(np.isfinite(truth).all() and iou(np.array(result.box), truth) > RIGHT_ABOVE)
        self._samples.add(result.score, right, self._name)
        if self._frame % ABSENT_EVERY == 0:
            self._look_elsewhere(image, truth)
        return result.box

    def _look_elsewhere(self, image: np.ndarray, truth: np.ndarray) -> None:
        """The picture is shifted around, so that another place comes where the tracker looks."""
        assert self._first is not None
        first, box = self._first
        if first.shape != image.shape:
            return
        shift = self._shift_away(image.shape[:2], box, truth)
        if shift is None:
            return
        self._other.init(first, box)
        elsewhere = np.roll(image, shift, axis=(0, 1))
        self._samples.add(self._other.update(elsewhere).score, False, self._name)

    def _shift_away(
        self, size: tuple[int, ...], box: Box, truth: np.ndarray
    ) -> tuple[int, int] | None:
        """Rows and columns to shift by so that the target is outside the search region, or None."""
        if not np.isfinite(truth).all():
            return 0, 0  # it is nowhere
        start = np.array([box[1] + box[3] / 2, box[0] + box[2] / 2])
        now = np.array([truth[1] + truth[3] / 2, truth[0] + truth[2] / 2])
        shape, context = self._tracker.shape, self._tracker.settings.context_amount
        side = shape.context_side(box[2], box[3], context, shape.search_size)
        clear = (side + np.array([truth[3], truth[2]])) / 2
        for _ in range(20):
            shift = np.array([self._rng.integers(size[0]), self._rng.integers(size[1])])
            offset = np.abs((now + shift) % size - start)
            # The picture is closed to a ring by the shift, but the search region is not.
            if (offset > clear).any():
                return int(shift[0]), int(shift[1])
        return None


def _settings_for_selection(path: Path) -> TrackerSettings:
    return replace(load_checkpoint(path).settings, calibration=(1.0, 0.0), presence=ALWAYS_THERE)


@dataclass(frozen=True)
class Trial:
    """One flight of every candidate: a sequence in a condition, counted in a column of the table.

    condition, noise_seed: as of ``evaluation.one_pass.darkened_frames``.
    """

    column: str
    sequence: Sequence
    condition: str = DAY
    noise_seed: int = 0


def make_trials(
    sequences: SequenceOf[Sequence], conditions: SequenceOf[str],
    noise_seeds: SequenceOf[int] = (0,), flights: int = 0, starts: int = 1,
) -> list[Trial]:  # fmt: skip
    """Every sequence in every condition, darkened once for each noise seed; then rendered flights.

    With several ``starts`` a sequence is flown from its beginning and from as many later frames,
    evenly spaced, to its end (temporal robustness evaluation; Wu et al., TPAMI 2015): a target
    that is lost at one moment then counts for less. All of them count alike.

    Flights (column ``flights``) go through the scenarios from seed ``VALIDATION_FLIGHT_SEED`` on,
    which neither training nor ``night-flights-v1`` uses.
    """
    trials = [
        Trial(condition, part, condition, seed)
        for condition in conditions
        for seed in (noise_seeds if condition != DAY else noise_seeds[:1])
        for sequence in sequences
        for part in _from_starts(sequence, starts)
    ]
    names = list(SCENARIOS)
    for number in range(flights):
        flight = NightFlight(names[number % len(names)], VALIDATION_FLIGHT_SEED + number)
        sequence = flight_sequence(flight, FLIGHT_FRAMES, FLIGHT_START)
        trials.append(Trial("flights", sequence))
    return trials


def _from_starts(sequence: Sequence, starts: int) -> Iterator[Sequence]:
    """The sequence from ``starts`` frames on; the next annotated one where there is no box."""
    annotated = np.flatnonzero(np.isfinite(sequence.boxes).all(axis=1))
    for number in range(starts):
        later = annotated[annotated >= number * len(sequence) // starts]
        if len(later):
            begin = int(later[0])
            frames = _LaterFrames(sequence.frames, begin)
            yield replace(sequence, frames=frames, boxes=sequence.boxes[begin:])


@dataclass(frozen=True)
class _LaterFrames:
    """The frames of a sequence from number ``begin`` on, read when they are asked for."""

    frames: Any
    begin: int

    def __len__(self) -> int:
        return len(self.frames) - self.begin

    def __getitem__(self, index: int) -> np.ndarray:
        return cast(np.ndarray, self.frames[self.begin + index])

    def __iter__(self) -> Iterator[np.ndarray]:
        return itertools.islice(iter(self.frames), self.begin, None)


def fly_candidates(
    paths: SequenceOf[Path], trials: SequenceOf[Trial],
    *, device: str = "auto", on_frame: Any = None,
) -> list[CandidateResult]:  # fmt: skip
    """One-pass evaluation of all candidates side by side on the same frames."""
    results = [CandidateResult(path) for path in paths]
    trackers = [
        load_tracker(path, device=device, settings=_settings_for_selection(path)) for path in paths
    ]
    columns: list[dict[str, list[Scores]]] = [{} for _ in paths]
    for trial in trials:
        probes = {
            str(n): _Probe(tracker, trial.sequence, result.samples)
            for n, (tracker, result) in enumerate(zip(trackers, results, strict=True))
        }
        passes = run_one_pass(probes, trial.sequence, trial.condition, trial.noise_seed, on_frame)
        for name, one in passes.items():
            own, result = score(one.boxes, trial.sequence.boxes), results[int(name)]
            columns[int(name)].setdefault(trial.column, []).append(own)
            result.successes.setdefault(trial.column, []).append(own.success_auc)
            overlap = overlap_on_target(one.boxes, trial.sequence.boxes)
            result.boxes.setdefault(trial.column, []).append(overlap)
    for result, scores in zip(results, columns, strict=True):
        result.scores = {column: average(own) for column, own in scores.items()}
    return results


def _fly(trackers: Mapping[str, Any], trial: Trial, on_frame: Any) -> dict[str, Scores]:
    passes = run_one_pass(trackers, trial.sequence, trial.condition, trial.noise_seed, on_frame)
    return {name: score(one.boxes, trial.sequence.boxes) for name, one in passes.items()}


@dataclass(frozen=True)
class Calibration:
    """Fit on all samples, and its reliability on sequences that each fit had not seen."""

    slope: float
    offset: float
    table: Reliability
    raw_error: float
    frames: int
    right: int

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the provenance."""
        return {
            "slope": self.slope, "offset": self.offset, "frames": self.frames, "right": self.right,
            "expected_calibration_error": self.table.expected_error,
            "expected_calibration_error_raw_score": self.raw_error,
        }  # fmt: skip


def calibrate(samples: Samples) -> Calibration:
    """Fit the calibration. ValueError when all frames are right, or all wrong."""
    scores, correct, groups = samples.arrays()
    slope, offset = fit_platt(scores, correct)
    confidence = cross_validated(scores, correct, groups)
    return Calibration(
        slope, offset, reliability(confidence, correct),
        reliability(scores, correct).expected_error, len(scores), int(correct.sum()),
    )  # fmt: skip


def fly_as_shipped(
    path: Path, trials: SequenceOf[Trial], *, device: str = "auto", on_frame: Any = None
) -> dict[str, Scores]:
    """Scores of a finished checkpoint as the node runs it: with doubt, loss and re-acquisition."""
    from ..evaluation.trackers import OursTracker

    tracker = OursTracker(str(path), device=device)
    columns: dict[str, list[Scores]] = {}
    for trial in trials:
        own = _fly({"ours": tracker}, trial, on_frame)["ours"]
        columns.setdefault(trial.column, []).append(own)
    return {column: average(own) for column, own in columns.items()}
