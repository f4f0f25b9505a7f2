# SPDX-License-Identifier: Apache-2.0
"""Figures, video, contact sheet and plot of a recorded flight."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from vision_msgs.msg import Detection2DArray

from mlkd_ros.evaluation.metrics import Scores, score
from mlkd_ros.imaging.drawing import LIGHT, STATE_COLOURS, draw_corners, draw_label
from mlkd_ros.imaging.images import write_image
from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import box_from_message
from mlkd_ros.recording.recorder import IMAGE_TOPIC
from mlkd_ros.tracking import TrackState
from mlkd_ros.tracking.geometry import iou

if TYPE_CHECKING:
    from mlkd_ros.imaging.sources import SourceFrame

__all__ = ["Figures", "Flight", "evaluate", "write_report"]

#: A target of which less is visible counts as absent: nobody can be asked to find it.
LEAST_VISIBLE = 0.1
#: The target counts as lost when the mean IoU of the last so many seconds is below this.
LOST_IOU, LOST_SECONDS = 0.2, 2.0
#: Latency counts as growing when the second half's median is this many times the first half's.
GROWTH = 1.5

_SHEET = (4, 3)  # pictures across and down
_SHEET_WIDTH_PX = 480
#: Of the truth.
_GREY = (150, 150, 150)


@dataclass(frozen=True)
class Flight:
    """What was said about the images of a flight; keys are the images' stamps in nanoseconds.

    Only images from `begin` (nanoseconds) on count: those after the target was designated.
    """

    truth: dict[int, Detection2DArray]
    detections: dict[int, Detection2DArray]
    statuses: dict[int, TrackStatus]
    begin: int

    @property
    def stamps(self) -> list[int]:
        """Images that were processed and whose truth is known, in order."""
        known = self.truth.keys() & self.detections.keys() & self.statuses.keys()
        return sorted(stamp for stamp in known if stamp >= self.begin)

    def true_box(self, stamp: int) -> tuple[float, float, float, float] | None:
        """The main target's box, or None when it is out of sight."""
        target = self.truth[stamp].detections[0]
        if target.results[0].hypothesis.score < LEAST_VISIBLE:
            return None
        return box_from_message(target.bbox)

    def found_box(self, stamp: int) -> tuple[float, float, float, float] | None:
        """The reported box, or None."""
        found = self.detections[stamp].detections if stamp in self.detections else []
        return box_from_message(found[0].bbox) if found else None


@dataclass(frozen=True)
class Figures:
    """How the flight went. Times in seconds; arrays have one value per processed image."""

    scores: Scores
    times: np.ndarray
    overlaps: np.ndarray  # IoU, NaN when the target is out of sight
    confidences: np.ndarray
    latencies: np.ndarray
    published: int
    dropped: int
    lost: str
    """Why the target counts as lost; empty if it was held."""

    def halves(self) -> tuple[float, float]:
        """Median latency of the first and of the second half."""
        middle = len(self.latencies) // 2
        return float(np.median(self.latencies[:middle])), float(np.median(self.latencies[middle:]))

    @property
    def growing(self) -> bool:
        """Whether the latency grew over the flight."""
        first, second = self.halves()
        return second > GROWTH * first and second - first > 0.005

    def table(self) -> str:
        """The figures for people."""
        first, second = (1e3 * value for value in self.halves())
        median, p99 = (1e3 * np.percentile(self.latencies, q) for q in (50, 99))
        span = float(self.times[-1] - self.times[0])
        rows = [
            ("mean IoU", f"{self.scores.mean_iou:.3f}"),
            ("success AUC", f"{self.scores.success_auc:.3f}"),
            ("precision at 20 px", f"{self.scores.precision:.3f}"),
            ("images with the target in sight", f"{self.scores.frames}"),
            ("images processed / dropped", f"{len(self.times)} / {self.dropped}"),
            ("images published, per second", f"{self.published}, {self.published / span:.1f}"),
            ("latency stamp to publish, median", f"{median:.1f} ms"),
            ("latency stamp to publish, p99", f"{p99:.1f} ms"),
            (
                "latency, first / second half",
                f"{first:.1f} / {second:.1f} ms" + (", growing" if self.growing else ", no growth"),
            ),
            ("confidence, mean", f"{float(self.confidences.mean()):.3f}"),
            ("target", "LOST" if self.lost else "held"),
        ]
        wide = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{wide}}  {value}" for name, value in rows)


def evaluate(flight: Flight) -> Figures:
    """Score a flight.

    Raises ValueError if the tracker processed fewer than ten images after the designation.
    """
    stamps = flight.stamps
    if len(stamps) < 10:
        raise ValueError(f"the tracker processed {len(stamps)} images: too few to say anything")
    truth = np.array([flight.true_box(stamp) or (np.nan,) * 4 for stamp in stamps])
    found = np.array([flight.found_box(stamp) or (np.nan,) * 4 for stamp in stamps])
    statuses = [flight.statuses[stamp] for stamp in stamps]
    times = (np.array(stamps) - stamps[0]) * 1e-9
    overlaps = np.where(np.isfinite(found[:, 0]), iou(found, truth), 0.0)
    overlaps[np.isnan(truth[:, 0])] = np.nan
    return Figures(
        scores=score(found, truth),
        times=times,
        overlaps=overlaps,
        confidences=np.array([status.confidence for status in statuses]),
        latencies=np.array([status.latency for status in statuses]),
        published=sum(stamps[0] <= stamp <= stamps[-1] for stamp in flight.truth),
        dropped=int(statuses[-1].frames_dropped - statuses[0].frames_dropped),
        lost=_why_lost(times, overlaps),
    )


def _why_lost(times: np.ndarray, overlaps: np.ndarray) -> str:
    in_sight = np.isfinite(overlaps)
    last = in_sight & (times > times[in_sight].max() - LOST_SECONDS) if in_sight.any() else in_sight
    if not last.any():
        return "it was never in sight"
    mean = float(overlaps[last].mean())
    if mean < LOST_IOU:
        return f"mean IoU of the last {LOST_SECONDS:g} s in sight is {mean:.2f}"
    return ""


def write_report(flight: Flight, figures: Figures, output: Path, namespace: str) -> None:
    """Write flight.mp4, contact_sheet.png and plot.png beside the bag in `output/bag`."""
    _write_pictures(flight, output, f"{namespace}/{IMAGE_TOPIC}")
    _write_plot(figures, output / "plot.png")


def _write_pictures(flight: Flight, output: Path, topic: str) -> None:
    from mlkd_ros.imaging.sources import open_source
    from mlkd_ros.imaging.video import VideoWriter

    last = max(flight.statuses, default=0)  # nothing is known of later images
    with open_source(output / "bag", topic=topic) as source:
        count = sum(frame.time <= last for frame in source)
    if count < 2:
        raise ValueError(f"{output / 'bag'}: holds {count} images, too few for a video")
    across, down = _SHEET
    chosen = set(np.linspace(0, count - 1, across * down).round().astype(int).tolist())
    sheet: list[np.ndarray] = []
    with (
        open_source(output / "bag", topic=topic) as source,
        VideoWriter(output / "flight.mp4") as video,
    ):
        pictures = itertools.islice(_annotated(flight, source), count)
        for number, (frame, picture) in enumerate(pictures):
            video.write(picture, frame.time)
            if number in chosen:
                sheet.append(_small(picture))
    rows = [np.hstack(sheet[i : i + across]) for i in range(0, len(sheet) - across + 1, across)]
    write_image(output / "contact_sheet.png", np.vstack(rows))


def _small(picture: np.ndarray) -> np.ndarray:
    height = round(picture.shape[0] * _SHEET_WIDTH_PX / picture.shape[1])
    return cv2.resize(picture, (_SHEET_WIDTH_PX, height), interpolation=cv2.INTER_AREA)


def _annotated(flight: Flight, source: Any) -> Iterator[tuple[SourceFrame, np.ndarray]]:
    """The recorded images, with what the tracker said about each."""
    first: float | None = None
    for frame in source:
        first = frame.seconds if first is None else first
        picture = frame.image.copy()
        if frame.stamp in flight.statuses:
            _annotate(picture, flight, frame.stamp)
        draw_label(picture, f"{frame.seconds - first:5.1f} s", 16, picture.shape[0] - 18)
        yield frame, picture


def _annotate(picture: np.ndarray, flight: Flight, stamp: int) -> None:
    status = flight.statuses[stamp]
    colour = STATE_COLOURS.get(status.state, LIGHT)
    if stamp in flight.truth and (true_box := flight.true_box(stamp)) is not None:
        draw_corners(picture, true_box, _GREY, 1)
    name = TrackState(status.state).name.replace("_", " ")
    text = f"{name}  {status.confidence:.2f}  {status.latency * 1e3:.0f} ms"
    draw_label(picture, text, 16, 34, colour)
    box = flight.found_box(stamp)
    if box is not None:
        draw_corners(picture, box, colour)


def _write_plot(figures: Figures, path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        raise ImportError("the plot needs matplotlib: pip install mlkd_ros[plot]") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(3, 1, sharex=True, figsize=(9, 6.5), layout="constrained")
    rows = (
        ("IoU with the truth", figures.overlaps, (0.0, 1.0)),
        ("confidence", figures.confidences, (0.0, 1.0)),
        ("latency, ms", figures.latencies * 1e3, None),
    )
    for axis, (name, values, limits) in zip(axes, rows, strict=True):
        axis.plot(figures.times, values, linewidth=1.0, color="#1f5fa8")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
        axis.set_ylim(limits if limits else (0.0, float(np.max(values)) * 1.1))
    axes[-1].axhline(
        float(np.median(figures.latencies)) * 1e3, color="#c0562b", linewidth=1.0, linestyle="--"
    )
    axes[-1].set_xlabel("time since the designation, s")
    axes[0].set_title(
        f"mean IoU {figures.scores.mean_iou:.3f}, success AUC {figures.scores.success_auc:.3f}, "
        f"precision {figures.scores.precision:.3f}"
    )
    drawing.savefig(path, dpi=110)
    pyplot.close(drawing)
