# SPDX-License-Identifier: Apache-2.0
"""What ``mlkd train --data [LAYOUT=]PATH`` takes: material for training pairs, in the layouts in
which it is published.

============= ================================================================================
layout        what PATH holds
============= ================================================================================
own           ``videos/<sequence>/img/*.jpg`` with ``groundtruth_rect.txt``, and optionally
              ``annotations.jsonl`` (stills); the default
otb           ``<sequence>/img/*.jpg``, ``<sequence>/groundtruth_rect.txt``
pairs         ``<name>.mp4``, ``<name>.txt``
got10k        ``[train/]<sequence>/*.jpg``, ``groundtruth.txt``, optionally ``absence.label``
lasot         ``[<class>/]<sequence>/img/*.jpg``, ``groundtruth.txt``, optionally
              ``full_occlusion.txt`` and ``out_of_view.txt``
coco          ``annotations/instances_<split>.json`` with ``<split>/`` or ``images/<split>/``; or
              ``_annotations.coco.json`` beside its images
NAT2021-train ``data_seq/<sequence>/*.jpg``, ``anno/<sequence>.txt``; the set is published without
              boxes, so these are pseudo-annotations
============= ================================================================================

and the benchmarks of :mod:`mlkd_ros.data.benchmarks` by their names. Videos of night benchmarks
are group ``night`` and never darkened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from mlkd_ros.data.benchmarks import LAYOUTS, TRAINING_ONLY, load_benchmark
from mlkd_ros.data.sequences import (
    DatasetError,
    ImageFrames,
    Sequence,
    check_no_gap,
    collect,
    list_images,
    load_otb_folders,
    load_video_pairs,
    read_boxes,
    text_lines,
)
from mlkd_ros.data.stills import Still, load_coco_stills, load_jsonl_stills

NIGHT_GROUP = "night"


@dataclass
class Material:
    """Videos and stills for a pair cache."""

    sequences: list[Sequence] = field(default_factory=list)
    stills: list[Still] = field(default_factory=list)


def load_material(sources: Iterable[str]) -> Material:
    """Load several sources ``[LAYOUT=]PATH``.

    With several sources, names begin with the source's number and layout (``2-got10k/``), so that
    two of the same name stay apart.

    Raises:
        ValueError: A layout is unknown, or no source is given.
        DatasetError: A file is missing or wrong; it is named.
    """
    sources = list(sources)
    if not sources:
        raise ValueError("no training material: give --data [LAYOUT=]PATH")
    whole = Material()
    for number, source in enumerate(sources, 1):
        layout, path = parse_source(source)
        material = _LOADERS[layout](path)
        if len(sources) > 1:
            prefix = f"{number}-{layout}/"
            material.sequences = [replace(s, name=prefix + s.name) for s in material.sequences]
            material.stills = [replace(s, name=prefix + s.name) for s in material.stills]
        whole.sequences += material.sequences
        whole.stills += material.stills
    return whole


def parse_source(source: str) -> tuple[str, Path]:
    """``LAYOUT=PATH``, or a path of layout ``own``. ValueError names an unknown layout."""
    layout, equals, path = source.partition("=")
    if not equals:
        return "own", Path(source)
    if layout not in _LOADERS:
        raise ValueError(
            f"--data {source}: unknown layout {layout!r}: known are {', '.join(_LOADERS)}"
        )
    return layout, Path(path)


def _own(root: Path) -> Material:
    annotations = root / "annotations.jsonl"
    stills = load_jsonl_stills(annotations) if annotations.exists() else []
    return Material(load_otb_folders(root / "videos"), stills)


def _otb(root: Path) -> Material:
    return Material(load_otb_folders(root, allow_absent=True))


def _pairs(root: Path) -> Material:
    return Material(load_video_pairs(root))


def _benchmark(name: str, root: Path) -> Material:
    sequences = load_benchmark(name, root)
    return Material([replace(s, group=NIGHT_GROUP) if s.night else s for s in sequences])


def _got10k(root: Path) -> Material:
    """GOT-10k (Huang et al., arXiv 1810.11981): absent frames are marked in ``absence.label``."""
    folders = _sequence_folders(root / "train" if (root / "train").is_dir() else root)

    def load(folder: Path) -> Sequence:
        label = folder / "absence.label"
        absent = _flags(label) if label.is_file() else None
        return _masked(folder, folder, absent, "absence.label")

    return Material(collect([partial(load, folder) for folder in folders], None))


def _lasot(root: Path) -> Material:
    """LaSOT (Fan et al., arXiv 1809.07845): hidden and out-of-view frames count as absent."""
    folders = _sequence_folders(root)

    def load(folder: Path) -> Sequence:
        paths = [folder / name for name in ("full_occlusion.txt", "out_of_view.txt")]
        marks = [_flags(path) for path in paths if path.is_file()]
        if len({len(mark) for mark in marks}) > 1:
            raise DatasetError(f"{paths[0]}: {len(marks[0])} flags, {paths[1]}: {len(marks[1])}")
        absent = np.any(marks, axis=0) if marks else None
        return _masked(folder, folder / "img", absent, "full_occlusion.txt or out_of_view.txt")

    return Material(collect([partial(load, folder) for folder in folders], None))


def _sequence_folders(root: Path) -> list[Path]:
    """Folders with a ``groundtruth.txt``, in ``root`` or one level below."""
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder of sequences")
    found = sorted(
        path.parent for depth in ("*", "*/*") for path in root.glob(f"{depth}/groundtruth.txt")
    )
    if not found:
        raise DatasetError(f"{root}: holds no <sequence>/groundtruth.txt")
    return found


def _flags(path: Path) -> np.ndarray:
    """0 and 1, separated by commas or lines, as bool ``(N,)``."""
    fields = " ".join(text_lines(path)).replace(",", " ").split()
    if set(fields) - {"0", "1"}:
        raise DatasetError(f"{path}: flags 0 or 1 expected")
    flags: np.ndarray = np.array(fields) == "1"
    return flags


def _masked(folder: Path, frames: Path, absent: np.ndarray | None, source: str) -> Sequence:
    """A sequence with ``groundtruth.txt`` whose marked frames have no box."""
    paths = list_images(frames)
    check_no_gap(paths)
    boxes = read_boxes(folder / "groundtruth.txt", allow_absent=True)
    if len(boxes) != len(paths):
        raise DatasetError(
            f"{folder / 'groundtruth.txt'}: {len(boxes)} lines, "
            f"but {frames} holds {len(paths)} frames"
        )
    if absent is not None:
        if len(absent) != len(boxes):
            raise DatasetError(
                f"{folder}: {source} has {len(absent)} flags for {len(boxes)} frames"
            )
        boxes = np.where(absent[:, None], np.nan, boxes)
    return Sequence(folder.name, ImageFrames(paths), boxes)


def _coco(root: Path) -> Material:
    """COCO detection files (Lin et al., arXiv 1405.0312), every split that is there."""
    stills: list[Still] = []
    for file in sorted(root.glob("annotations/instances_*.json")):
        split = file.stem.removeprefix("instances_")
        folders = [root / split, root / "images" / split]
        images = next((folder for folder in folders if folder.is_dir()), None)
        if images is None:
            raise DatasetError(f"{file}: no images in {folders[0]} or {folders[1]}")
        stills += load_coco_stills(file, images)
    for file in sorted(root.rglob("_annotations.coco.json")):
        stills += load_coco_stills(file, file.parent)
    if not stills:
        raise DatasetError(
            f"{root}: holds no annotations/instances_<split>.json and no _annotations.coco.json"
        )
    return Material(stills=stills)


_LOADERS: dict[str, Callable[[Path], Material]] = {
    "own": _own,
    "otb": _otb,
    "pairs": _pairs,
    "got10k": _got10k,
    "lasot": _lasot,
    "coco": _coco,
    **{name: partial(_benchmark, name) for name in (*TRAINING_ONLY, *LAYOUTS)},
}
#: Layouts by the names that the command line takes.
TRAINING_LAYOUTS = tuple(_LOADERS)
