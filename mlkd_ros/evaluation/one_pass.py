# SPDX-License-Identifier: Apache-2.0
"""One-pass evaluation: initialise on the first annotated frame, then track to the end, once.

Several trackers run side by side on the very same frames. Frames may be darkened on the fly by the
low-light camera: its noise is a pure function of sequence, condition and frame number, so every
tracker and every run sees the same.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlkd_ros.data.codec import STREAM_CONDITIONS, degraded
from mlkd_ros.data.lowlight import NAMED_CONDITIONS
from mlkd_ros.data.sequences import DatasetError, Sequence, text_lines
from mlkd_ros.evaluation.trackers import EvaluatedTracker

DAY = "day"
CONDITIONS = (DAY, *NAMED_CONDITIONS, *STREAM_CONDITIONS)


@dataclass(frozen=True)
class OnePass:
    """What a tracker said on a sequence of ``N`` frames.

    Attributes:
        boxes: float64 ``(N, 4)``, ``x, y, w, h`` in pixels; NaN before initialisation and where it
            reported none.
        seconds: float64 ``(N,)`` time inside the tracker, initialisation on its frame; NaN before.
    """

    boxes: np.ndarray
    seconds: np.ndarray


def darkened_frames(
    sequence: Sequence, condition: str, noise_seed: int = 0
) -> Iterator[np.ndarray]:
    """Iterate over the frames of a sequence as a camera saw them under a named condition.

    Args:
        sequence: Any sequence.
        condition: ``day`` for the frames as they are, else a name of ``lowlight.NAMED_CONDITIONS``
            or ``codec.STREAM_CONDITIONS``.
        noise_seed: Other seeds give other noise, to see how much a figure owes to chance.

    Raises:
        ValueError: The condition is unknown.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"condition must be one of {', '.join(CONDITIONS)}, not {condition!r}")
    if condition == DAY:
        return iter(sequence.frames)
    key = zlib.crc32(f"{sequence.name}/{condition}".encode())
    return degraded(sequence.frames, condition, (key, noise_seed) if noise_seed else (key,))


def run_one_pass(
    trackers: Mapping[str, EvaluatedTracker],
    sequence: Sequence,
    condition: str = DAY,
    noise_seed: int = 0,
    on_frame: Callable[[int], object] | None = None,
) -> dict[str, OnePass]:
    """Run trackers over a sequence, interleaved frame by frame.

    Args:
        trackers: By name; they are re-initialised, so they can be used for one sequence after
            another.
        sequence: With at least one annotated frame.
        condition: See :func:`darkened_frames`.
        noise_seed: See :func:`darkened_frames`.
        on_frame: Called with the number of each finished frame, for a progress bar.

    Raises:
        DatasetError: No frame is annotated, or a frame cannot be read.
    """
    annotated = np.flatnonzero(np.isfinite(sequence.boxes).all(axis=1))
    if not len(annotated):
        raise DatasetError(
            f"sequence {sequence.name}: no frame is annotated, nothing to initialise on"
        )
    start = int(annotated[0])
    passes = {
        name: OnePass(np.full((len(sequence), 4), np.nan), np.full(len(sequence), np.nan))
        for name in trackers
    }
    for number, frame in enumerate(darkened_frames(sequence, condition, noise_seed)):
        for name, tracker in trackers.items():
            if number >= start:
                _one_frame(
                    tracker,
                    frame,
                    number,
                    number / sequence.rate,
                    sequence.boxes[number] if number == start else None,
                    passes[name],
                )
        if on_frame is not None:
            on_frame(number)
    return passes


def _one_frame(
    tracker: EvaluatedTracker,
    frame: np.ndarray,
    number: int,
    stamp: float,
    truth: np.ndarray | None,
    result: OnePass,
) -> None:
    """Initialise if ``truth`` is given, else update; keep box and time."""
    began = time.perf_counter()
    if truth is not None:
        x, y, w, h = truth.tolist()
        tracker.init(frame, (x, y, w, h), stamp)
        box: tuple[float, ...] | None = (x, y, w, h)
    else:
        box = tracker.update(frame, stamp)
    result.seconds[number] = time.perf_counter() - began
    if box is not None:
        result.boxes[number] = box


def result_file(
    folder: Path, dataset: str, condition: str, tracker: str, sequence: str, noise_seed: int = 0
) -> Path:
    """Name ``<folder>/<dataset>[-<condition>]/<tracker>/<sequence>.txt``, the field's layout."""
    name = dataset if condition == DAY else f"{dataset}-{condition}"
    if noise_seed and condition != DAY:
        name += f"-noise{noise_seed}"
    return folder / name / tracker / f"{sequence}.txt"


def write_result(path: Path, result: OnePass) -> None:
    """Write boxes, ``x,y,w,h`` or NaN a line, and in ``times`` beside them the seconds a frame."""
    times = path.parent / "times" / f"{path.stem}_time.txt"
    times.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(times, result.seconds, fmt="%.6f")
    # Boxes last and in one step: a boxes file that exists is complete.
    partial = path.with_suffix(".partial")
    np.savetxt(partial, result.boxes, fmt="%.3f", delimiter=",")
    partial.replace(path)


def read_result(path: Path, frames: int) -> OnePass:
    """Read what :func:`write_result` wrote, or another tracker's file in this layout (without
    times: NaN).

    Raises:
        DatasetError: The file is wrong or has another number of lines than the sequence has frames.
    """
    boxes = _read_table(path, 4)
    if len(boxes) != frames:
        raise DatasetError(f"{path}: {len(boxes)} lines for a sequence of {frames} frames")
    times = path.parent / "times" / f"{path.stem}_time.txt"
    seconds = _read_table(times, 1)[:, 0] if times.is_file() else np.full(frames, np.nan)
    if len(seconds) != frames:
        raise DatasetError(f"{times}: {len(seconds)} lines for a sequence of {frames} frames")
    return OnePass(boxes, seconds)


def _read_table(path: Path, columns: int) -> np.ndarray:
    rows = []
    for number, line in enumerate(text_lines(path), 1):
        try:
            row = [float(value) for value in line.replace(",", " ").split()]
        except ValueError:
            row = []
        if len(row) != columns:
            raise DatasetError(
                f"{path}, line {number}: {columns} numbers expected, not {line.strip()!r}"
            )
        rows.append(row)
    return np.array(rows, np.float64).reshape(-1, columns)
