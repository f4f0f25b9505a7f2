# SPDX-License-Identifier: Apache-2.0
"""A folder of results, in the layout of the field, and the scores of what lies in it.

``<results>/<dataset>[-<condition>]/<tracker>/<sequence>.txt`` holds ``x,y,w,h`` a line,
``times/<sequence>_time.txt`` beside it the seconds of each frame. Beside the trackers' folders,
``sequences.json`` and ``annotations/`` keep what is needed to score and to plot without the data
set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlkd_ros.data.sequences import DatasetError, Sequence, read_boxes
from mlkd_ros.evaluation.datasets import describe_frames
from mlkd_ros.evaluation.metrics import Scores, average, score
from mlkd_ros.evaluation.one_pass import OnePass, read_result

ANNOTATIONS = "annotations"
MANIFEST = "sequences.json"


@dataclass(frozen=True)
class Annotated:
    """A sequence as far as scoring needs it."""

    name: str
    boxes: np.ndarray
    """float64 ``(N, 4)``, NaN where the target is absent."""
    attributes: frozenset[str] = frozenset()
    frames: dict[str, Any] = field(default_factory=dict)
    """See :func:`~mlkd_ros.evaluation.datasets.describe_frames`."""


@dataclass(frozen=True)
class TrackerResults:
    """Scores and passes of one tracker by sequence; some sequences may be missing."""

    label: str
    scores: dict[str, Scores]
    passes: dict[str, OnePass]

    def mean(self, names: Iterable[str] | None = None) -> Scores | None:
        """Mean over sequences (of these names), each counting alike; None without any."""
        chosen = self.scores if names is None else set(names) & self.scores.keys()
        found = [self.scores[name] for name in self.scores if name in chosen]
        return average(found) if found else None

    def milliseconds(self) -> np.ndarray:
        """Times of all updates, without initialisation; empty where no times are known."""
        parts = [one.seconds[np.isfinite(one.seconds)][1:] * 1e3 for one in self.passes.values()]
        return np.concatenate([np.empty(0), *parts])


def write_manifest(
    folder: Path, dataset: str, condition: str, sequences: Iterable[Sequence]
) -> None:
    """Keep in a folder of results what a report needs. What other runs noted stays."""
    annotations = folder / ANNOTATIONS
    annotations.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST
    known = _read_manifest(path)["sequences"] if path.is_file() else {}
    for sequence in sequences:
        table = annotations / f"{sequence.name}.txt"
        np.savetxt(table, sequence.boxes, fmt="%.3f", delimiter=",")
        known[sequence.name] = {
            "attributes": sorted(sequence.attributes),
            "frames": describe_frames(sequence.frames),
        }
    content = {"dataset": dataset, "condition": condition, "sequences": known}
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    partial.replace(path)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["sequences"], dict):
            raise TypeError("'sequences' is no object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: not the list of sequences that mlkd evaluate writes ({error})"
        ) from None
    return content


def read_annotated(folder: Path) -> tuple[str, list[Annotated]]:
    """Title (data set and condition) and sequences of a folder of results.

    Raises:
        DatasetError: It was not written by ``mlkd evaluate``, or a file of it is wrong.
    """
    content = _read_manifest(folder / MANIFEST)
    condition = content.get("condition", "day")
    title = content.get("dataset", folder.name)
    sequences = [
        Annotated(
            name,
            read_boxes(folder / ANNOTATIONS / f"{name}.txt", allow_absent=True),
            frozenset(entry.get("attributes", ())),
            entry.get("frames", {}),
        )
        for name, entry in content["sequences"].items()
    ]
    return (title if condition == "day" else f"{title}, {condition}"), sequences


def tracker_folders(folder: Path) -> list[Path]:
    """Folders of trackers below a folder of results."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and path.name != ANNOTATIONS and any(path.glob("*.txt"))
    )


def score_folder(
    folder: Path,
    sequences: Iterable[Annotated | Sequence],
    problems: list[str],
    label: str | None = None,
) -> TrackerResults:
    """Score one tracker's folder; what is missing or wrong is said in ``problems``."""
    scores: dict[str, Scores] = {}
    passes: dict[str, OnePass] = {}
    for sequence in sequences:
        path = folder / f"{sequence.name}.txt"
        if not path.is_file():
            problems.append(f"{path}: no result")
            continue
        try:
            passes[sequence.name] = read_result(path, len(sequence.boxes))
        except DatasetError as error:
            problems.append(str(error))
            continue
        scores[sequence.name] = score(passes[sequence.name].boxes, sequence.boxes)
    return TrackerResults(label or folder.name, scores, passes)
