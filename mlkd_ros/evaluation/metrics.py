# SPDX-License-Identifier: Apache-2.0
"""Scores of one-pass evaluation.

Conventions, those of OTB and of the benchmarks after it:

- *Success curve*: share of frames whose IoU is **above** each of 21 thresholds 0, 0.05, ..., 1 (at
  the last one it is 0 by definition). *Success AUC* is the mean of the 21 values, so a perfect
  tracker has 20/21 = 0.952.
- *Precision curve*: share of frames whose centre is **within** 0, 1, ..., 50 pixels of the truth;
  the figure quoted is the one at 20 pixels.
- *Normalised precision curve* (TrackingNet, LaSOT): the centre error's x and y are divided by the
  true width and height; shares within 0, 0.01, ..., 0.5; the figure quoted is the mean of these 51
  values.
- The frame of initialisation counts. A data set's figure is the mean over its sequences.
- Frames whose truth is NaN (the target is absent) do not count in any of these; a box reported
  there is counted as a false positive. A frame with a target but no reported box has IoU 0 and an
  infinite centre error, and is counted as missed.

Boxes are ``x, y, w, h`` in pixels, rows of NaN where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlkd_ros.tracking.geometry import iou

SUCCESS_THRESHOLDS = np.arange(21) / 20
PRECISION_THRESHOLDS = np.arange(51, dtype=np.float64)
NORMALISED_THRESHOLDS = np.arange(51) / 100
PRECISION_AT = 20


@dataclass(frozen=True)
class Scores:
    """Scores of one sequence, or their means over several.

    Attributes:
        success_curve: float64 ``(21,)`` at SUCCESS_THRESHOLDS; NaN where no frame has a target.
        precision_curve: float64 ``(51,)`` at PRECISION_THRESHOLDS.
        normalised_curve: float64 ``(51,)`` at NORMALISED_THRESHOLDS.
        mean_iou: Mean IoU over frames with a target.
        frames: Number of frames with a target.
        missed: Frames with a target but without a reported box.
        absent: Number of frames without a target.
        false_positives: Frames without a target but with a reported box.
    """

    success_curve: np.ndarray
    precision_curve: np.ndarray
    normalised_curve: np.ndarray
    mean_iou: float
    frames: int
    missed: int
    absent: int
    false_positives: int

    @property
    def success_auc(self) -> float:
        """Area under the success curve, 0..1."""
        return float(self.success_curve.mean())

    @property
    def precision(self) -> float:
        """Share of frames within 20 pixels, 0..1."""
        return float(self.precision_curve[PRECISION_AT])

    @property
    def miss_rate(self) -> float:
        """Share of the frames with a target on which no box was reported; NaN without such."""
        return self.missed / self.frames if self.frames else float("nan")

    @property
    def false_positive_rate(self) -> float:
        """Share of the frames without a target on which a box was reported; NaN without such."""
        return self.false_positives / self.absent if self.absent else float("nan")

    @property
    def normalised_precision(self) -> float:
        """Area under the normalised precision curve, 0..1."""
        return float(self.normalised_curve.mean())


def centre_errors(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Offsets ``(N, 2)`` of the boxes' centres from the true ones, pixels, or NaN."""
    return (boxes[:, :2] + boxes[:, 2:] / 2) - (truth[:, :2] + truth[:, 2:] / 2)


def score(boxes: np.ndarray, truth: np.ndarray) -> Scores:
    """Score one sequence.

    Args:
        boxes: ``(N, 4)`` reported, a NaN row where none was reported.
        truth: ``(N, 4)`` annotated, a NaN row where the target is absent.

    Raises:
        ValueError: The shapes are not both ``(N, 4)``.
    """
    boxes, truth = np.asarray(boxes, np.float64), np.asarray(truth, np.float64)
    if boxes.shape != truth.shape or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes {boxes.shape} and truth {truth.shape} must both be (N, 4)")
    present = np.isfinite(truth).all(axis=1)
    reported = np.isfinite(boxes).all(axis=1)
    overlap = np.where(reported, iou(boxes, truth), 0.0)[present]
    offset = centre_errors(boxes, truth)[present]
    offset[~reported[present]] = np.inf
    distance = np.hypot(offset[:, 0], offset[:, 1])
    relative = np.hypot(*(offset / truth[present, 2:]).T)
    return Scores(
        success_curve=_share(overlap[:, None] > SUCCESS_THRESHOLDS),
        precision_curve=_share(distance[:, None] <= PRECISION_THRESHOLDS),
        normalised_curve=_share(relative[:, None] <= NORMALISED_THRESHOLDS),
        mean_iou=float(overlap.mean()) if present.any() else float("nan"),
        frames=int(present.sum()),
        missed=int((present & ~reported).sum()),
        absent=int((~present).sum()),
        false_positives=int((~present & reported).sum()),
    )


def _share(hits: np.ndarray) -> np.ndarray:
    """Share of frames per threshold; NaN without a frame."""
    return hits.mean(axis=0) if len(hits) else np.full(hits.shape[1], np.nan)


def average(scores: Sequence[Scores]) -> Scores:
    """Mean over sequences, each counting alike; sequences without a target count in the totals
    only.

    Raises:
        ValueError: There is nothing to average.
    """
    if not scores:
        raise ValueError("no scores to average")
    counted = [one for one in scores if one.frames] or list(scores)
    return Scores(
        success_curve=np.mean([one.success_curve for one in counted], axis=0),
        precision_curve=np.mean([one.precision_curve for one in counted], axis=0),
        normalised_curve=np.mean([one.normalised_curve for one in counted], axis=0),
        mean_iou=float(np.mean([one.mean_iou for one in counted])),
        frames=sum(one.frames for one in scores),
        missed=sum(one.missed for one in scores),
        absent=sum(one.absent for one in scores),
        false_positives=sum(one.false_positives for one in scores),
    )


class RunningScores:
    """Scores of one sequence, frame by frame, in constant memory; the same as :func:`score`."""

    def __init__(self) -> None:
        self._success = np.zeros(len(SUCCESS_THRESHOLDS), np.int64)
        self._precision = np.zeros(len(PRECISION_THRESHOLDS), np.int64)
        self._normalised = np.zeros(len(NORMALISED_THRESHOLDS), np.int64)
        self._overlap = 0.0
        self._frames = self._missed = self._absent = self._false = 0

    def add(
        self,
        box: tuple[float, float, float, float] | None,
        truth: tuple[float, float, float, float] | None,
    ) -> None:
        """Count one frame: the reported box and the true one, None where there is none."""
        if truth is None:
            self._absent += 1
            self._false += box is not None
            return
        self._frames += 1
        if box is None:
            self._missed += 1
            return
        reported, true = np.array([box], np.float64), np.array([truth], np.float64)
        overlap = float(iou(reported, true)[0])
        offset = centre_errors(reported, true)[0]
        self._overlap += overlap
        self._success += overlap > SUCCESS_THRESHOLDS
        self._precision += np.hypot(*offset) <= PRECISION_THRESHOLDS
        self._normalised += np.hypot(*(offset / true[0, 2:])) <= NORMALISED_THRESHOLDS

    def scores(self) -> Scores:
        """The scores so far; curves of NaN without a frame that has a target."""
        total = self._frames or float("nan")
        return Scores(
            success_curve=self._success / total,
            precision_curve=self._precision / total,
            normalised_curve=self._normalised / total,
            mean_iou=self._overlap / total,
            frames=self._frames,
            missed=self._missed,
            absent=self._absent,
            false_positives=self._false,
        )
