# SPDX-License-Identifier: Apache-2.0
"""``mlkd track``: track a target through a video, an image folder or a bag, without ROS running."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

if TYPE_CHECKING:
    from mlkd_ros.data.sources import FrameSource, SourceFrame
    from mlkd_ros.tracking import Tracker, TrackResult

CSV_COLUMNS = ("frame", "stamp", "x", "y", "w", "h", "confidence", "state")
TRAIL_FRAMES = 45


def add_parser(subparsers: Any) -> None:
    """Add the ``track`` command."""
    parser = subparsers.add_parser(
        "track",
        help="track a target through a video, an image folder or a bag",
        description="Track one target through footage and write an annotated video, a table of "
        "boxes, or both. Without --output and --csv the table goes to standard output.",
    )
    parser.add_argument("input", type=Path, help="video file, folder of images, or rosbag2 bag")
    parser.add_argument(
        "--init",
        required=True,
        type=parse_box,
        metavar="X,Y,W,H",
        help="target on the first frame: left, top, width, height in pixels",
    )
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first frame (from 0)")
    parser.add_argument("--output", type=Path, metavar="MP4", help="annotated video to write")
    parser.add_argument("--csv", type=Path, help=f"table to write: {', '.join(CSV_COLUMNS)}")
    parser.add_argument(
        "--student", "--checkpoint", dest="student", default="auto", metavar="NAME",
        help="fast, accurate, or a .safetensors file (default: accurate on CUDA, else fast)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--topic", help="image topic of a bag that holds several")
    parser.add_argument(
        "--rate", type=float, default=30.0, help="frames a second of a folder of images"
    )
    parser.set_defaults(run_command=run)


def parse_box(text: str) -> tuple[float, float, float, float]:
    """Read ``x,y,w,h``."""
    try:
        x, y, w, h = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a box: four numbers x,y,w,h are expected"
        ) from None
    return x, y, w, h


@dataclass
class Summary:
    """What happened, for the closing line."""

    states: Counter[str] = field(default_factory=Counter)
    confidences: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, result: TrackResult, seconds: float) -> None:
        """Count one frame."""
        self.states[result.state.name] += 1
        self.confidences.append(result.confidence)
        self.seconds.append(seconds)

    def text(self, engine: str) -> str:
        """Say it in a line."""
        frames = len(self.seconds)
        if frames == 0:
            return "no frame after the first: nothing was tracked"
        shares = ", ".join(
            f"{name} {100 * n / frames:.0f}%" for name, n in self.states.most_common()
        )
        return (
            f"{frames} frames: {shares}; median confidence {np.median(self.confidences):.2f}, "
            f"median {1e3 * np.median(self.seconds):.1f} ms a frame on {engine}"
        )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, or an error that names what is wrong."""
    from mlkd_ros.data.sources import open_source
    from mlkd_ros.tracking import load_tracker

    for path in (arguments.output, arguments.csv):
        if path is not None and not path.resolve().parent.is_dir():
            raise ValueError(f"{path}: its folder does not exist")
    if arguments.output is not None and arguments.output.suffix.lower() != ".mp4":
        raise ValueError(f"{arguments.output}: the annotated video must be named *.mp4")
    if arguments.start < 0:
        raise ValueError(f"--start must be 0 or more, not {arguments.start}")
    with open_source(arguments.input, topic=arguments.topic, rate=arguments.rate) as source:
        tracker = load_tracker(arguments.student, device=arguments.device)
        summary = _track(source, tracker, arguments)
    print(summary.text(tracker.engine_name), file=sys.stderr)
    return 0


def _track(source: FrameSource, tracker: Tracker, arguments: argparse.Namespace) -> Summary:
    """Track to the end of the source, or to an interrupt: what was written by then is complete."""
    summary = Summary()
    with ExitStack() as stack:
        table = _Table(stack, arguments.csv, quiet=arguments.output is not None)
        video = stack.enter_context(_Video(arguments.output, source.rate))
        try:
            for number, frame in _numbered(source, arguments.start):
                began = time.perf_counter()
                result = _step(
                    tracker, frame, arguments.init if number == arguments.start else None
                )
                if number > arguments.start:
                    summary.add(result, time.perf_counter() - began)
                table.write(number, frame, result)
                video.write(frame, result)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
    return summary


def _step(
    tracker: Tracker, frame: SourceFrame, box: tuple[float, float, float, float] | None
) -> TrackResult:
    """Designate the target where a box is given, else follow it."""
    from mlkd_ros.tracking import TrackResult, TrackState

    if box is None:
        return tracker.update(frame.image, frame.stamp)
    try:
        tracker.init(frame.image, box, frame.stamp)
    except ValueError as error:
        raise ValueError(f"--init on {frame.name}: {error}") from error
    return TrackResult(box, 1.0, TrackState.TRACKING)


def _numbered(source: FrameSource, start: int) -> Iterator[tuple[int, SourceFrame]]:
    """Number the frames from ``start`` on, behind a progress bar."""
    number = -1
    for number, frame in enumerate(_progress(source)):
        if number >= start:
            yield number, frame
    if number < start:
        raise ValueError(f"{source.path}: has {number + 1} frames, --start asks for frame {start}")


def _progress(source: FrameSource) -> Iterator[SourceFrame]:
    try:
        from tqdm import tqdm
    except ImportError:
        return iter(source)
    return iter(tqdm(source, total=source.frame_count, unit="frame", desc=source.path.name))


class _Table:
    """The boxes as comma-separated values; empty fields where no box is reported."""

    def __init__(self, stack: ExitStack, path: Path | None, quiet: bool) -> None:
        file: TextIO | None = None if quiet else sys.stdout
        if path is not None:
            file = stack.enter_context(path.open("w", newline="", encoding="utf-8"))
        self._writer = csv.writer(file, lineterminator="\n") if file is not None else None
        if self._writer is not None:
            self._writer.writerow(CSV_COLUMNS)

    def write(self, number: int, frame: SourceFrame, result: TrackResult) -> None:
        if self._writer is not None:
            box = [f"{value:.2f}" for value in result.box] if result.box else [""] * 4
            row = [
                number,
                f"{frame.stamp:.6f}",
                *box,
                f"{result.confidence:.4f}",
                result.state.name,
            ]
            self._writer.writerow(row)


class _Video:
    """The annotated video; does nothing without a path."""

    def __init__(self, path: Path | None, rate: float) -> None:
        self._path, self._rate = path, rate
        self._writer: Any = None
        self._size = (0, 0)
        self._trail: deque[tuple[float, float] | None] = deque(maxlen=TRAIL_FRAMES)

    def __enter__(self) -> _Video:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()

    def write(self, frame: SourceFrame, result: TrackResult) -> None:
        if self._path is None:
            return
        if self._writer is None:
            self._open(frame.image)
        canvas = annotate(frame.image, result, self._trail, f"{frame.name}  {frame.stamp:.2f} s")
        if canvas.shape[1::-1] != self._size:
            import cv2

            canvas = cv2.resize(canvas, self._size)
        self._writer.write(canvas)

    def _open(self, image: np.ndarray) -> None:
        import cv2

        self._size = (image.shape[1], image.shape[0])
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._path), code, self._rate, self._size)
        if not self._writer.isOpened():
            raise ValueError(f"{self._path}: cannot be written as a video of {self._size} pixels")


def annotate(
    image: np.ndarray,
    result: TrackResult,
    trail: deque[tuple[float, float] | None],
    caption: str = "",
) -> np.ndarray:
    """Draw a result on a copy of its frame.

    Args:
        image: uint8 BGR.
        result: What the tracker said of it.
        trail: Centres of the frames before; the new one is appended.
        caption: Written in the lower left corner.

    Returns:
        A new uint8 BGR picture of the same size.
    """
    from mlkd_ros.imaging import drawing

    canvas = image.copy()
    colour = drawing.STATE_COLOURS[result.state]
    text = f"{result.state.name.replace('_', ' ')} {result.confidence:.2f}"
    if result.box is None:
        trail.append(None)
        drawing.draw_trail(canvas, list(trail), colour)
    else:
        x, y, w, h = result.box
        trail.append((x + w / 2, y + h / 2))
        drawing.draw_trail(canvas, list(trail), colour)
        drawing.draw_corners(canvas, result.box, colour)
        side = min(image.shape[:2]) // 4
        if side >= 48:
            drawing.draw_inset(canvas, image, result.box, colour, side)
    drawing.draw_label(canvas, text, 8, 22, colour)
    drawing.draw_label(canvas, caption, 8, image.shape[0] - 8)
    return canvas
