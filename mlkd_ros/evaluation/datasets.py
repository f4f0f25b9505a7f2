# SPDX-License-Identifier: Apache-2.0
"""The data sets that ``mlkd evaluate`` knows, and how to find their frames again later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlkd_ros.data.benchmarks import LAYOUTS, load_benchmark
from mlkd_ros.data.sequences import (
    DatasetError,
    Frames,
    ImageFrames,
    Sequence,
    VideoFrames,
    load_otb_folders,
    load_video_pairs,
)
from mlkd_ros.evaluation.night_flights import NAME as NIGHT_FLIGHTS_V1
from mlkd_ros.evaluation.night_flights import RenderedFrames, load_night_flights

NIGHT_FLIGHTS = "night-flights"
DATASETS = ("pairs", "otb", *LAYOUTS, NIGHT_FLIGHTS)


def dataset_label(dataset: str) -> str:
    """Name of a data set's folder of results."""
    return NIGHT_FLIGHTS_V1 if dataset == NIGHT_FLIGHTS else dataset


def load_dataset(
    dataset: str,
    root: Path | None,
    problems: list[str],
    *,
    annotations: Path,
    jobs: int = 1,
    on_frames: Callable[[int], object] | None = None,
    names: list[str] | None = None,
) -> list[Sequence]:
    """Load a data set; what is wrong with a sequence is added to ``problems``.

    Args:
        dataset: One of :data:`DATASETS`.
        root: Its folder; None for the rendered night flights only.
        problems: One sentence for each sequence that had to be left out.
        annotations: Where the night flights keep their annotations.
        jobs: See :func:`~mlkd_ros.evaluation.night_flights.load_night_flights`.
        on_frames: See :func:`~mlkd_ros.evaluation.night_flights.load_night_flights`.
        names: Of the sequences that are wanted; None: all.

    Raises:
        ValueError: ``root`` is missing, or given where it has no meaning; there is no sequence of a
            name.
        DatasetError: There is no such data set in ``root``, or no sequence that can be used.
    """
    if dataset == NIGHT_FLIGHTS:
        if root is not None:
            raise ValueError("--root has no meaning for night-flights, which are rendered")
        return load_night_flights(annotations, jobs, on_frames, names)
    if root is None:
        raise ValueError(f"--root DIR is needed: the folder of {dataset}")
    if dataset == "pairs":
        sequences = load_video_pairs(root, problems=problems)
    elif dataset == "otb":
        sequences = load_otb_folders(root, allow_absent=True, problems=problems)
    else:
        sequences = load_benchmark(dataset, root, problems)
    return choose(sequences, names)


def choose(sequences: list[Sequence], names: list[str] | None) -> list[Sequence]:
    """Only the sequences of these names, or all.

    Raises:
        ValueError: There is no sequence of a name.
    """
    if not names:
        return sequences
    found = {sequence.name: sequence for sequence in sequences}
    missing = sorted(set(names) - found.keys())
    if missing:
        raise ValueError(f"no sequence {missing[0]!r}; there are {', '.join(sorted(found))}")
    return [found[name] for name in names]


def shortened(sequence: Sequence, count: int) -> Sequence:
    """The first ``count`` frames of a sequence, or all it has.

    Raises:
        TypeError: The frames are of a kind that cannot be cut.
    """
    count = min(count, len(sequence))
    frames = sequence.frames
    if isinstance(frames, ImageFrames):
        frames = ImageFrames(frames.paths[:count])
    elif isinstance(frames, (VideoFrames, RenderedFrames)):
        frames = replace(frames, count=count)
    else:
        raise TypeError(f"{type(frames).__name__} cannot be shortened")
    return replace(sequence, frames=frames, boxes=sequence.boxes[:count])


def describe_frames(frames: Frames) -> dict[str, Any]:
    """Say in JSON's types where frames come from; empty for frames in memory."""
    if isinstance(frames, ImageFrames):
        folder = frames.paths[0].parent.resolve()
        return {"folder": str(folder), "files": [path.name for path in frames.paths]}
    if isinstance(frames, VideoFrames):
        return {"video": str(frames.path.resolve()), "count": frames.count}
    if isinstance(frames, RenderedFrames):
        return {"flight": [frames.scenario, frames.seed, frames.start, frames.count]}
    return {}


def frames_from_description(description: dict[str, Any]) -> Frames:
    """The frames that :func:`describe_frames` described.

    Raises:
        DatasetError: They were in memory, or are no longer there.
    """
    if "flight" in description:
        return RenderedFrames(*description["flight"])
    if "video" in description and Path(description["video"]).is_file():
        return VideoFrames(Path(description["video"]), int(description["count"]))
    if "folder" in description and Path(description["folder"]).is_dir():
        folder = Path(description["folder"])
        return ImageFrames(tuple(folder / name for name in description["files"]))
    where = description.get("video") or description.get("folder") or "frames in memory"
    raise DatasetError(f"{where}: no longer there")
