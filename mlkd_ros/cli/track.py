# SPDX-License-Identifier: Apache-2.0
"""``mlkd track``: track a target through a video, an image folder or a bag, without ROS running."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from mlkd_ros.files import naming, printable, unused
from mlkd_ros.imaging.camera import add_options, from_options
from mlkd_ros.session.parsing import parse_box

if TYPE_CHECKING:
    from mlkd_ros.imaging.sources import FrameSource, SourceFrame
    from mlkd_ros.tracking import Tracker, TrackResult

CSV_COLUMNS = ("frame", "stamp", "x", "y", "w", "h", "confidence", "state")
#: Seconds that a trail looks back.
TRAIL = 1.5
#: Exit code when the footage ended before it should have.
CUT_SHORT = 1


def add_parser(subparsers: Any) -> None:
    """Add the ``track`` command."""
    parser = subparsers.add_parser(
        "track",
        help="track a target through a video, an image folder or a bag",
        description="Track one target through footage and write an annotated video, a table of "
        "boxes, or both. Without --output and --csv the table goes to standard output. The tracker "
        "sees the pixels that it would get in flight.",
        epilog=f"Exit codes: 0 done, {CUT_SHORT} the footage is cut off or damaged (what could be "
        "read was tracked), 2 wrong usage, 130 interrupted.",
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
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    parser.add_argument(
        "--student", "--checkpoint", dest="student", default="auto", metavar="NAME",
        help="fast, accurate, or a .safetensors file (default: accurate on CUDA, else fast)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--topic", help="image topic of a bag that holds several")
    parser.add_argument(
        "--rate", type=float, default=30.0, help="frames a second of a folder of images"
    )
    add_options(parser)
    parser.set_defaults(run_command=run)


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
    """Run the command; the exit code, or an error that names what is wrong."""
    from mlkd_ros.imaging.sources import open_source
    from mlkd_ros.tracking import load_tracker

    for path in (arguments.output, arguments.csv):
        if path is not None:
            unused(path, arguments.force)
    if arguments.output is not None and arguments.output.suffix.lower() != ".mp4":
        raise ValueError(f"{printable(arguments.output)}: the annotated video must be named *.mp4")
    if arguments.start < 0:
        raise ValueError(f"--start must be 0 or more, not {arguments.start}")
    camera = from_options(arguments)
    with open_source(
        arguments.input, topic=arguments.topic, rate=arguments.rate, camera=camera
    ) as source:
        tracker = load_tracker(arguments.student, device=arguments.device)
        summary = Summary()
        try:
            _track(source, tracker, arguments, summary)
        finally:
            print(summary.text(tracker.engine_name), file=sys.stderr)
            for note in source.notes:
                print(f"mlkd track: {source.name}: {note}", file=sys.stderr)
        return CUT_SHORT if source.cut_short else 0


def _track(
    source: FrameSource, tracker: Tracker, arguments: argparse.Namespace, summary: Summary
) -> None:
    """Track to the end of the source, or to an interrupt: what was written by then is complete."""
    from mlkd_ros.imaging.encodings import UnusableImageError

    box = arguments.init
    with ExitStack() as stack:
        table = _Table(stack, arguments.csv, quiet=arguments.output is not None)
        video = stack.enter_context(_Video(arguments.output))
        for number, frame in _numbered(source, arguments.start):
            began = time.perf_counter()
            try:
                result = _step(tracker, frame, box)
                if box is None:
                    summary.add(result, time.perf_counter() - began)
                video.write(frame, result)
            except UnusableImageError as error:
                source.refuse(error)
                continue
            box = None
            table.write(number, frame, result)


def _step(
    tracker: Tracker, frame: SourceFrame, box: tuple[float, float, float, float] | None
) -> TrackResult:
    """Designate the target where a box is given, else follow it."""
    from mlkd_ros.imaging.encodings import UnusableImageError
    from mlkd_ros.tracking import TrackResult, TrackState

    if box is None:
        return tracker.update(frame.frame, frame.seconds)
    try:
        tracker.init(frame.frame, box, frame.seconds)
    except UnusableImageError:
        raise
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
        raise ValueError(f"{source.name}: has {number + 1} frames, --start asks for frame {start}")


def _progress(source: FrameSource) -> Iterator[SourceFrame]:
    try:
        from tqdm import tqdm
    except ImportError:
        return iter(source)
    return iter(tqdm(source, total=source.frame_count, unit="frame", desc=source.path.name))


class _NamedFile:
    """A text file whose errors name it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with naming(path):
            self._file = path.open("w", newline="", encoding="utf-8")

    def write(self, text: str) -> int:
        with naming(self._path):
            return self._file.write(text)

    def close(self) -> None:
        with naming(self._path):
            self._file.close()


class _Table:
    """The boxes as comma-separated values; empty fields where no box is reported."""

    def __init__(self, stack: ExitStack, path: Path | None, quiet: bool) -> None:
        file: TextIO | _NamedFile | None = None if quiet else sys.stdout
        if path is not None:
            file = _NamedFile(path)
            stack.callback(file.close)
        self._writer = csv.writer(file, lineterminator="\n") if file is not None else None
        if self._writer is not None:
            self._writer.writerow(CSV_COLUMNS)

    def write(self, number: int, frame: SourceFrame, result: TrackResult) -> None:
        if self._writer is not None:
            box = [f"{value:.2f}" for value in result.box] if result.box else [""] * 4
            row = [
                number,
                f"{frame.seconds:.6f}",
                *box,
                f"{result.confidence:.4f}",
                result.state.name,
            ]
            self._writer.writerow(row)


class _Video:
    """The annotated video; does nothing without a path."""

    def __init__(self, path: Path | None) -> None:
        self._writer: Any = None
        if path is not None:
            from mlkd_ros.imaging.video import VideoWriter

            self._writer = VideoWriter(path)
        self._trail: deque[tuple[float, tuple[float, float] | None]] = deque()

    def __enter__(self) -> _Video:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, frame: SourceFrame, result: TrackResult) -> None:
        if self._writer is None:
            return
        self._trail.append((frame.seconds, _centre(result)))
        while self._trail[0][0] < frame.seconds - TRAIL:
            self._trail.popleft()
        caption = f"{frame.name}  {frame.seconds:.2f} s"
        trail = [centre for _, centre in self._trail]
        self._writer.write(annotate(frame.image, result, trail, caption), frame.time)


def _centre(result: TrackResult) -> tuple[float, float] | None:
    if result.box is None:
        return None
    x, y, w, h = result.box
    return x + w / 2, y + h / 2


def annotate(
    image: np.ndarray,
    result: TrackResult,
    trail: Sequence[tuple[float, float] | None],
    caption: str = "",
) -> np.ndarray:
    """Draw a result on a copy of its frame.

    Args:
        image: uint8 BGR.
        result: What the tracker said of it.
        trail: Centres of the frames before and of this one, None where there was no box.
        caption: Written in the lower left corner.

    Returns:
        A new uint8 BGR picture of the same size.
    """
    from mlkd_ros.imaging import drawing

    canvas: np.ndarray = image.copy()
    colour = drawing.STATE_COLOURS[result.state]
    text = f"{result.state.name.replace('_', ' ')} {result.confidence:.2f}"
    drawing.draw_trail(canvas, trail, colour)
    if result.box is not None:
        drawing.draw_corners(canvas, result.box, colour)
        side = min(image.shape[:2]) // 4
        if side >= 48:
            drawing.draw_inset(canvas, image, result.box, colour, side)
    drawing.draw_label(canvas, text, 8, 22, colour)
    drawing.draw_label(canvas, caption, 8, image.shape[0] - 8)
    return canvas
