# SPDX-License-Identifier: Apache-2.0
"""Figures of a report: curves, overlap over time, contact sheets. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence as Many
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mlkd_ros.data.sequences import Frames
from mlkd_ros.evaluation.metrics import (
    NORMALISED_THRESHOLDS,
    PRECISION_THRESHOLDS,
    SUCCESS_THRESHOLDS,
    Scores,
)
from mlkd_ros.evaluation.results import Annotated, TrackerResults
from mlkd_ros.tracking.geometry import iou

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#d1495b", "#2e6f95", "#4f9d69", "#e0a030", "#7d5ba6", "#3aa6a6", "#8a6d5b", "#707070")
"""Of the trackers, in the order of the report; used again from the first on."""
SHEET = (4, 2)
"""Pictures across and down a contact sheet."""
PICTURE = (400, 225)
"""Size of a picture of a contact sheet, pixels."""
VIEW = 7.0
"""Width of a picture in sizes of the target."""
BRIGHTENING = 0.6
"""Exponent of the power curve that makes a night frame legible on paper."""


def colour(index: int) -> str:
    """Colour of the tracker of this number, ``#rrggbb``."""
    return COLOURS[index % len(COLOURS)]


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of this size in inches and its axes, as a 2-D array.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need matplotlib: pip install mlkd_ros[plot]") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def as_svg(figure: Figure) -> str:
    """A figure as an SVG element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def curves(trackers: Many[TrackerResults]) -> Figure:
    """Success, precision and normalised precision of all trackers, and accuracy against time."""
    figure, axes = new_figure(11.0, 7.4, 2, 2)
    _curve(axes[0, 0], trackers, SUCCESS_THRESHOLDS, "success_curve", "success_auc")
    _curve(axes[0, 1], trackers, PRECISION_THRESHOLDS, "precision_curve", "precision")
    _curve(axes[1, 0], trackers, NORMALISED_THRESHOLDS, "normalised_curve", "normalised_precision")
    axes[0, 0].set(title="Success (area)", xlabel="IoU above", ylabel="share of frames")
    axes[0, 1].set(title="Precision (at 20 px)", xlabel="centre error within, px")
    axes[0, 1].axvline(20, color="#999999", linewidth=0.8, linestyle=":")
    axes[1, 0].set(
        title="Normalised precision (area)",
        xlabel="centre error within, in target sizes",
        ylabel="share of frames",
    )
    _speed(axes[1, 1], trackers)
    return figure


def _curve(
    axis: Axes, trackers: Many[TrackerResults], thresholds: np.ndarray, curve: str, figure: str
) -> None:
    found: list[tuple[float, int, str, Scores]] = []
    for index, one in enumerate(trackers):
        mean = one.mean()
        if mean is not None:
            found.append((getattr(mean, figure), index, one.label, mean))
    for value, index, label, mean in sorted(found, key=lambda row: -row[0]):
        axis.plot(
            thresholds,
            getattr(mean, curve),
            color=colour(index),
            linewidth=2.6 if index == 0 else 1.6,
            label=f"{label}  {value:.3f}",
        )
    axis.set_xlim(thresholds[0], thresholds[-1])
    axis.set_ylim(0, 1)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8.5, framealpha=0.85)


def _speed(axis: Axes, trackers: Many[TrackerResults]) -> None:
    """Success AUC over the median time of an update, on a logarithmic scale."""
    axis.set(title="Accuracy and time", xlabel="median ms a frame", ylabel="success AUC")
    timed = []
    for index, one in enumerate(trackers):
        times, mean = one.milliseconds(), one.mean()
        if len(times) and mean is not None:
            timed.append((float(np.median(times)), mean.success_auc, index, one.label))
    if not timed:
        axis.text(0.5, 0.5, "no times recorded", ha="center", transform=axis.transAxes)
        return
    axis.set_xscale("log")
    low, high = min(row[0] for row in timed), max(row[0] for row in timed)
    limits = low / 1.6, high * 1.6
    lowest = -np.inf
    for time, area, index, label in sorted(timed, key=lambda row: row[1]):
        axis.scatter(time, area, s=110 if index == 0 else 55, color=colour(index), zorder=3)
        right = time > np.sqrt(limits[0] * limits[1])
        # Labels from below to above, each clear of the one before.
        lowest = max(area, lowest + 0.045)
        axis.annotate(
            label,
            (time, lowest),
            xytext=(-9 if right else 9, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            fontsize=9,
        )
    axis.set_xlim(*limits)
    axis.set_ylim(0, max(row[1] for row in timed) * 1.15 + 0.02)
    axis.axvline(1000 / 30, color="#999999", linewidth=0.8, linestyle=":")
    axis.annotate("30 Hz", (1000 / 30, 0.01), fontsize=8, color="#777777", xytext=(3, 2),
                  textcoords="offset points")  # fmt: skip
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(
        lambda value, _: f"{value:g}" if high / low < 10 and f"{value:g}"[0] in "2346" else ""
    )
    axis.grid(alpha=0.25, which="both")


def overlaps(one: TrackerResults, sequence: Annotated) -> np.ndarray:
    """IoU on each frame, 0 where no box was reported, NaN where the target is absent."""
    boxes = one.passes[sequence.name].boxes
    overlap = np.where(np.isfinite(boxes).all(axis=1), iou(boxes, sequence.boxes), 0.0)
    return np.where(np.isfinite(sequence.boxes).all(axis=1), overlap, np.nan)


def timeline(trackers: Many[TrackerResults], sequence: Annotated) -> Figure:
    """IoU of each tracker over the frames of a sequence; shaded where the target is absent."""
    figure, axes = new_figure(11.0, 1.9)
    axis = axes[0, 0]
    for index in range(len(trackers) - 1, -1, -1):
        if sequence.name in trackers[index].passes:
            axis.plot(
                overlaps(trackers[index], sequence),
                color=colour(index),
                linewidth=2.0 if index == 0 else 1.0,
                alpha=1.0 if index == 0 else 0.75,
            )
    absent = ~np.isfinite(sequence.boxes).all(axis=1)
    axis.fill_between(
        np.arange(len(absent)), 0, 1, where=absent, color="#888888", alpha=0.25, step="mid"
    )
    axis.set_xlim(0, max(len(absent) - 1, 1))
    axis.set_ylim(0, 1)
    axis.set(xlabel="frame", ylabel="IoU")
    axis.grid(alpha=0.25)
    return figure


def contact_sheet(
    trackers: Many[TrackerResults], sequence: Annotated, frames: Frames
) -> np.ndarray:
    """Pictures around the target, evenly over a sequence, with truth and boxes; uint8 BGR."""
    across, down = SHEET
    numbers = np.linspace(0, len(sequence.boxes) - 1, across * down + 1).round().astype(int)[1:]
    wanted = set(numbers.tolist())
    pictures = {}
    if hasattr(frames, "__getitem__"):
        pictures = {n: _picture(frames[n], n, trackers, sequence) for n in sorted(wanted)}
    else:
        for number, image in enumerate(frames):
            if number in wanted:
                pictures[number] = _picture(image, number, trackers, sequence)
    rows = [
        np.hstack([pictures[n] for n in numbers[row * across : (row + 1) * across]])
        for row in range(down)
    ]
    return np.vstack(rows)


def _picture(
    image: np.ndarray, number: int, trackers: Many[TrackerResults], sequence: Annotated
) -> np.ndarray:
    """One frame, cut around the target (or where it was last), brightened, with the boxes."""
    left, top, scale = _view(image.shape, sequence.boxes, number)
    width, height = PICTURE
    matrix = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = cv2.warpAffine(image, matrix, PICTURE, flags=kind)
    if picture.mean() < 90:
        table = np.round(255 * (np.arange(256) / 255) ** BRIGHTENING).astype(np.uint8)
        picture = cv2.LUT(picture, table)
    for index in range(len(trackers) - 1, -1, -1):
        if sequence.name in trackers[index].passes:
            box = trackers[index].passes[sequence.name].boxes[number]
            blue_green_red = tuple(int(colour(index)[i : i + 2], 16) for i in (5, 3, 1))
            _box(picture, box, (left, top, scale), blue_green_red, 2 if index == 0 else 1)
    _corners(picture, sequence.boxes[number], (left, top, scale))
    text = f"{number}" if np.isfinite(sequence.boxes[number]).all() else f"{number}  absent"
    cv2.rectangle(picture, (0, height - 20), (11 + 9 * len(text), height), (0, 0, 0), -1)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, text, (5, height - 6), font, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    cv2.rectangle(picture, (0, 0), (width - 1, height - 1), (60, 60, 60), 1)
    return picture


def _view(shape: tuple[int, ...], boxes: np.ndarray, number: int) -> tuple[float, float, float]:
    """Left, top and scale of the cut around the target, or where it was seen last."""
    seen = np.flatnonzero(np.isfinite(boxes[: number + 1]).all(axis=1))
    x, y, w, h = boxes[seen[-1]] if len(seen) else (0, 0, shape[1], shape[0])
    ratio = PICTURE[1] / PICTURE[0]
    width = min(max(VIEW * max(w, h / ratio), 200.0), shape[1], shape[0] / ratio)
    left = min(max(x + w / 2 - width / 2, 0), shape[1] - width)
    top = min(max(y + h / 2 - width * ratio / 2, 0), shape[0] - width * ratio)
    return left, top, PICTURE[0] / width


def _corner_points(box: np.ndarray, view: tuple[float, float, float]) -> np.ndarray:
    left, top, scale = view
    points = np.array([[box[0], box[1]], [box[0] + box[2], box[1] + box[3]]])
    return np.round((points - [left, top]) * scale).clip(-9999, 9999).astype(int)


def _box(
    picture: np.ndarray,
    box: np.ndarray,
    view: tuple[float, float, float],
    bgr: tuple[int, ...],
    thickness: int,
) -> None:
    if np.isfinite(box).all():
        (x0, y0), (x1, y1) = _corner_points(box, view).tolist()
        cv2.rectangle(picture, (x0, y0), (x1, y1), bgr, thickness, cv2.LINE_AA)


def _corners(picture: np.ndarray, box: np.ndarray, view: tuple[float, float, float]) -> None:
    """The truth, as white corners so that the trackers' boxes stay visible."""
    if not np.isfinite(box).all():
        return
    (x0, y0), (x1, y1) = _corner_points(box, view).tolist()
    size = max(5, min(x1 - x0, y1 - y0) // 4)
    for x, y, dx, dy in ((x0, y0, 1, 1), (x1, y0, -1, 1), (x0, y1, 1, -1), (x1, y1, -1, -1)):
        for colour_, thickness in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            cv2.line(picture, (x, y), (x + dx * size, y), colour_, thickness)
            cv2.line(picture, (x, y), (x, y + dy * size), colour_, thickness)
