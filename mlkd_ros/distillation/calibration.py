# SPDX-License-Identifier: Apache-2.0
"""Calibration of the confidence: from raw scores to the probability that the box is right.

Platt scaling on the logit of the score (Platt 1999; Guo et al., arXiv 1706.04599): ``confidence =
sigmoid(slope logit(score) + offset)``, as ``tracking.peaks`` applies it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: Weak prior around the identity (slope 1, offset 0): keeps a separable set from infinite slopes.
PRIOR_DEVIATION = 10.0
MIN_SLOPE = 0.05


def logit(scores: np.ndarray) -> np.ndarray:
    """``log(p / (1 - p))`` of scores 0..1, clipped as the tracker clips them."""
    clipped = np.clip(np.asarray(scores, np.float64), 1e-6, 1.0 - 1e-6)
    return np.log(clipped / (1.0 - clipped))


def apply_platt(scores: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """Calibrated confidences of raw scores."""
    return 1.0 / (1.0 + np.exp(-(slope * logit(scores) + offset)))


def fit_platt(scores: np.ndarray, correct: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the most probable logistic curve, by Newton's method.

    scores: raw, ``(N,)``, 0..1. correct: ``(N,)`` bool. The slope is at least ``MIN_SLOPE``: a
    confidence must not fall while the score rises, or the tracker would follow the wrong things.

    Raises:
        ValueError: There is no sample, or all are right, or all wrong.
    """
    x, y = logit(scores), np.asarray(correct, np.float64)
    if not 0 < y.sum() < len(y):
        raise ValueError(
            f"calibration needs right and wrong frames, got {int(y.sum())} right of {len(y)}"
        )
    right, wrong = y.sum(), len(y) - y.sum()
    # Platt's targets: one sample less than sure.
    target = np.where(y > 0, (right + 1) / (right + 2), 1 / (wrong + 2))
    features = np.stack((x, np.ones_like(x)), 1)
    prior, precision = np.array([1.0, 0.0]), 1.0 / PRIOR_DEVIATION**2

    def loss(values: np.ndarray) -> float:
        z = features @ values
        return float(
            (np.logaddexp(0.0, z) - target * z).sum()
            + 0.5 * precision * ((values - prior) ** 2).sum()
        )

    parameters = prior.copy()
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-features @ parameters))
        gradient = features.T @ (p - target) + precision * (parameters - prior)
        curvature = (features * (p * (1 - p))[:, None]).T @ features + precision * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while loss(parameters - step) > loss(parameters) and np.abs(step).max() > 1e-9:
            step /= 2  # far from the minimum a whole Newton step may overshoot
        parameters = parameters - step
        if np.abs(step).max() < 1e-9:
            break
    slope, offset = (float(value) for value in parameters)
    return max(slope, MIN_SLOPE), offset


@dataclass(frozen=True)
class Reliability:
    """How often a confidence is right, in bins of equal width over 0..1.

    edges ``(B + 1,)``; confidence, accuracy ``(B,)`` means (NaN where empty); count ``(B,)``.
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean of |accuracy - confidence|, weighted by the counts."""
        used = self.count > 0
        gap = np.abs(self.accuracy[used] - self.confidence[used])
        return float((gap * self.count[used]).sum() / self.count.sum())


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 10) -> Reliability:
    """Reliability of ``(N,)`` confidences whose boxes were ``correct`` or not."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, confidence, bins) / count
        share = np.bincount(place, np.asarray(correct, np.float64), bins) / count
    return Reliability(edges, mean, share, count)


def cross_validated(scores: np.ndarray, correct: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Confidence of every sample by a calibration that has not seen its group, ``(N,)``.

    groups: ``(N,)``, for example the sequence. Where a fit is impossible without a group (all of
    the rest right), the fit on everything stands in.
    """
    confidence = np.empty(len(scores))
    everything = fit_platt(scores, correct)
    for group in np.unique(groups):
        held_out = groups == group
        try:
            fit = fit_platt(scores[~held_out], correct[~held_out])
        except ValueError:
            fit = everything
        confidence[held_out] = apply_platt(scores[held_out], *fit)
    return confidence


def reliability_table(table: Reliability) -> str:
    """The reliability as a Markdown table."""
    lines = ["| confidence | frames | mean confidence | share right |", "| --- | --- | --- | --- |"]
    for index, count in enumerate(table.count):
        low, high = table.edges[index], table.edges[index + 1]
        means = f"{table.confidence[index]:.2f} | {table.accuracy[index]:.2f}" if count else "- | -"
        lines.append(f"| {low:.1f} to {high:.1f} | {count} | {means} |")
    return "\n".join(lines)


def draw_reliability(table: Reliability, path: Path, title: str) -> None:
    """Write the reliability diagram as PNG. ImportError when matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("the reliability diagram needs mlkd_ros[plot]") from None
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    width = table.edges[1] - table.edges[0]
    used = table.count > 0
    axes.bar(
        table.edges[:-1][used], table.accuracy[used], width, align="edge", edgecolor="white",
        label="share right",
    )  # fmt: skip
    axes.plot([0, 1], [0, 1], "k--", linewidth=1, label="perfect")
    axes.plot(table.confidence[used], table.accuracy[used], "o", color="tab:red", markersize=4)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share of frames right")
    axes.set_title(f"{title} (expected error {table.expected_error:.3f})", fontsize=10)
    axes.legend()
    figure.savefig(path, dpi=120)
