# SPDX-License-Identifier: Apache-2.0
"""Evaluation that one lucky run cannot move: several starts, several draws of the noise.

A sequence is flown from as many frames as there are *starts*, evenly spaced, each time to its end
(temporal robustness evaluation; Wu et al., TPAMI 2015), and in the dark once for each draw of the
noise. Figures are means over the runs of a sequence, then over sequences, with the standard error
of that mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from mlkd_ros.data.sequences import DatasetError, Sequence
from mlkd_ros.evaluation import trackers as adapters
from mlkd_ros.evaluation.metrics import score
from mlkd_ros.evaluation.one_pass import DAY, darkened_frames
from mlkd_ros.evaluation.workers import results_in_order, worker_pool
from mlkd_ros.tracking.geometry import iou

__all__ = ["Figures", "Run", "Summary", "fly_all", "fly_starts", "starts_of", "summarise"]

#: A run has ended *lost* when its last tenth has a mean IoU below this.
LOST_BELOW = 0.1
#: A box is right with an IoU above this, and found again from this on.
RIGHT_ABOVE, FOUND_FROM = 0.5, 0.3
#: Bins of the expected calibration error.
BINS = 10


@dataclass(frozen=True)
class Figures:
    """Of one run.

    success_auc: see ``metrics``; a frame without a box has IoU 0. lost: whether it ended lost.
    missed, frames: frames that show the target and have no box, and all that show it. false,
    absent: frames without the target that have a box, and all of these. reacquired: seconds from
    each return of the target to the first box on it, infinite where it was never found again.
    """

    success_auc: float
    lost: bool
    missed: int
    frames: int
    false: int
    absent: int
    reacquired: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """One run of one tracker: its figures, and for the frames with a box the published confidence
    (NaN for a tracker without one) and whether the box was right.
    """

    tracker: str
    sequence: str
    condition: str
    noise_seed: int
    start: int
    figures: Figures
    confidence: np.ndarray
    right: np.ndarray


def starts_of(sequence: Sequence, starts: int) -> list[int]:
    """The frames that a sequence is flown from: evenly spaced, the next annotated one each."""
    annotated = np.flatnonzero(np.isfinite(sequence.boxes).all(axis=1))
    found = []
    for number in range(starts):
        later = annotated[annotated >= number * len(sequence) // starts]
        if len(later):
            found.append(int(later[0]))
    return sorted(set(found))


def fly_starts(
    create: Callable[[str], adapters.EvaluatedTracker],
    names: SequenceOf[str],
    sequence: Sequence,
    condition: str = DAY,
    noise_seed: int = 0,
    starts: int = 1,
) -> list[Run]:
    """Fly every tracker from every start, all of them side by side on the same frames.

    create: makes a tracker from its name; called once for each name and start. DatasetError when no
    frame is annotated.
    """
    begins = starts_of(sequence, starts)
    if not begins:
        raise DatasetError(f"sequence {sequence.name}: no frame is annotated")
    flying = [(name, begin, create(name)) for name in names for begin in begins]
    count = len(sequence)
    boxes = [np.full((count, 4), np.nan) for _ in flying]
    confidence = [np.full(count, np.nan) for _ in flying]
    for number, frame in enumerate(darkened_frames(sequence, condition, noise_seed)):
        stamp = number / sequence.rate
        for (_, begin, tracker), own, sure in zip(flying, boxes, confidence, strict=True):
            if number == begin:
                x, y, w, h = sequence.boxes[number].tolist()
                tracker.init(frame, (x, y, w, h), stamp)
                own[number] = x, y, w, h
            elif number > begin:
                box = tracker.update(frame, stamp)
                if box is not None:
                    own[number] = box
                sure[number] = getattr(tracker, "confidence", math.nan)
    return [
        _run(name, sequence, condition, noise_seed, begin, own, sure)
        for (name, begin, _), own, sure in zip(flying, boxes, confidence, strict=True)
    ]


def _run(
    name: str, sequence: Sequence, condition: str, noise_seed: int, begin: int, boxes: np.ndarray,
    confidence: np.ndarray,
) -> Run:  # fmt: skip
    boxes, truth, confidence = boxes[begin:], sequence.boxes[begin:], confidence[begin:]
    scores = score(boxes, truth)
    present = np.isfinite(truth).all(axis=1)
    reported = np.isfinite(boxes).all(axis=1)
    overlap = np.where(reported & present, iou(boxes, truth), 0.0)
    seen = overlap[present]
    last = seen[-max(1, len(seen) // 10) :]
    figures = Figures(
        scores.success_auc, bool(last.mean() < LOST_BELOW), scores.missed, scores.frames,
        scores.false_positives, scores.absent, tuple(_reacquired(present, overlap, sequence.rate)),
    )  # fmt: skip
    after = reported.copy()
    after[0] = False  # the box of the designation is the truth
    return Run(
        name, sequence.name, condition, noise_seed, begin, figures, confidence[after],
        overlap[after] > RIGHT_ABOVE,
    )  # fmt: skip


def _reacquired(present: np.ndarray, overlap: np.ndarray, rate: float) -> Iterator[float]:
    """Seconds from each return of the target to the first box on it."""
    for back in np.flatnonzero(np.diff(present.astype(int)) > 0) + 1:
        found = np.flatnonzero(overlap[back:] >= FOUND_FROM)
        yield float(found[0]) / rate if len(found) else math.inf


#: Trackers of this process by name, one for each start: loading one takes a second or two.
_made: dict[str, list[adapters.EvaluatedTracker]] = {}


def _fly(names: SequenceOf[str], starts: int, work: tuple[Sequence, str, int]) -> list[Run] | str:
    """The runs of one work, or what is wrong with its sequence."""
    import cv2

    cv2.setNumThreads(1)
    used: dict[str, int] = {}

    def create(name: str) -> adapters.EvaluatedTracker:
        number = used[name] = used.get(name, 0) + 1
        made = _made.setdefault(name, [])
        if len(made) < number:
            made.append(adapters.create_tracker(name))
        return made[number - 1]

    sequence, condition, seed = work
    try:
        return fly_starts(create, names, sequence, condition, seed, starts)
    except DatasetError as error:
        return f"sequence {sequence.name} was not finished: {error}"


def fly_all(
    names: SequenceOf[str],
    sequences: SequenceOf[Sequence],
    conditions: SequenceOf[str],
    noise_seeds: SequenceOf[int],
    starts: int,
    jobs: int,
    problems: list[str],
) -> Iterator[Run]:
    """All runs: every sequence, in every condition, once for each draw of the noise where there is
    any. ``problems`` gets a sentence for each sequence that could not be flown.
    """
    works = [
        (sequence, condition, seed)
        for condition in conditions
        for seed in (noise_seeds if condition != DAY else noise_seeds[:1])
        for sequence in sequences
    ]
    for result in _mapped(partial(_fly, tuple(names), starts), works, jobs):
        if isinstance(result, str):
            problems.append(result)
        else:
            yield from result


def _mapped(work: Callable[[Any], Any], items: SequenceOf[Any], jobs: int) -> Iterator[Any]:
    if jobs == 1:
        yield from map(work, items)
        return
    with worker_pool(jobs) as pool:
        yield from results_in_order(pool, work, items)


@dataclass(frozen=True)
class Summary:
    """Of one tracker in one condition.

    success_auc, error: mean over sequences and its standard error. lost of runs: that ended lost.
    missed, false: shares of frames; NaN without such frames. reacquired: median seconds, of times
    returns. calibration_error: expected, NaN without a confidence. wrong_above: share of the wrong
    boxes whose confidence is at least ``above``.
    """

    success_auc: float
    error: float
    lost: int
    runs: int
    missed: float
    false: float
    reacquired: float
    returns: int
    calibration_error: float
    wrong_above: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def summarise(runs: Iterable[Run], above: float) -> Summary:
    """Means over the runs of one tracker in one condition. ValueError without any."""
    runs = list(runs)
    if not runs:
        raise ValueError("no runs to summarise")
    by_sequence: dict[str, list[float]] = {}
    for run in runs:
        by_sequence.setdefault(run.sequence, []).append(run.figures.success_auc)
    means = np.array([np.nanmean(own) for own in by_sequence.values()])
    error = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan
    returns = [seconds for run in runs for seconds in run.figures.reacquired]
    confidence = np.concatenate([run.confidence for run in runs])
    right = np.concatenate([run.right for run in runs])
    known = np.isfinite(confidence)
    wrong = confidence[known & ~right]
    return Summary(
        float(means.mean()), error, sum(run.figures.lost for run in runs), len(runs),
        _share(runs, "missed", "frames"), _share(runs, "false", "absent"),
        float(np.median(returns)) if returns else math.nan, len(returns),
        expected_calibration_error(confidence[known], right[known]),
        float((wrong >= above).mean()) if len(wrong) else math.nan,
    )  # fmt: skip


def _share(runs: SequenceOf[Run], part: str, whole: str) -> float:
    total = sum(getattr(run.figures, whole) for run in runs)
    return sum(getattr(run.figures, part) for run in runs) / total if total else math.nan


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean of |share right - mean confidence| over bins of equal width, weighted by their counts
    (Guo et al., arXiv 1706.04599); NaN without samples.
    """
    from mlkd_ros.distillation.calibration import reliability

    return reliability(confidence, right, BINS).expected_error if len(confidence) else math.nan


def table(summaries: Mapping[str, Summary]) -> list[str]:
    """A line for each tracker, by its label."""
    width = max(map(len, summaries), default=0) + 2
    lines = [" " * width + "success AUC     lost of runs  missed  false  again s     ECE  wrong"]
    for label, one in summaries.items():
        lines.append(
            f"{label:{width}}{one.success_auc:.3f} +- {_figure(one.error, '.3f')}"
            f"{one.lost:>6} of {one.runs:<6}{_percent(one.missed):>6}{_percent(one.false):>7}"
            f"{_figure(one.reacquired, '.2f'):>9}{_figure(one.calibration_error, '.3f'):>8}"
            f"{_percent(one.wrong_above):>7}"
        )
    return lines


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"


def _figure(value: float, form: str) -> str:
    return "-" if math.isnan(value) else "never" if math.isinf(value) else format(value, form)
