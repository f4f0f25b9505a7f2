# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of night-time and UAV tracking on disk, in the layouts in which they are published.

- NAT2021-train, NAT2021-test, NAT2021-L-test, DarkTrack2021: ``data_seq/<sequence>/*.jpg`` and
  ``anno/<sequence>.txt``;
- UAVDark135: ``Sequences/<sequence>/*.jpg`` (or ``data_seq``), ``anno/<sequence>.txt``;
- UAV123: ``data_seq/UAV123/<folder>/*.jpg``, ``anno/UAV123/<sequence>.txt`` and
  ``anno/UAV123/att/<sequence>.txt``; long videos are split, several sequences share one folder.

Attributes come from UAV123's ``att`` files, or from a table ``attributes.csv`` beside the
annotations: a first line ``sequence,NAME,NAME,...`` and a line of 0 and 1 for each sequence.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlkd_ros.data.sequences import (
    DatasetError,
    ImageFrames,
    Sequence,
    check_no_gap,
    collect,
    list_images,
    load_image_sequence,
    read_boxes,
    text_lines,
)

Problems = list[str]
"""What is wrong with sequences that were left out, a sentence each that names the file."""


@dataclass(frozen=True)
class _Layout:
    """Names of the folders, the first one that exists is taken; below the root or one of bases."""

    bases: tuple[str, ...]
    frames: tuple[str, ...] = ("data_seq", "Sequences")
    annotations: tuple[str, ...] = ("anno",)
    night: bool = True


LAYOUTS = {
    "NAT2021-test": _Layout(("", "test", "NAT2021-test", "NAT2021/test", "NAT2021")),
    "NAT2021-L-test": _Layout(("", "L-test", "NAT2021-L-test", "NAT2021/L-test", "NAT2021-L")),
    "UAVDark135": _Layout(("", "UAVDark135"), frames=("Sequences", "data_seq")),
    "DarkTrack2021": _Layout(("", "DarkTrack2021")),
    "UAV123": _Layout(("", "UAV123"), ("data_seq/UAV123",), ("anno/UAV123",), night=False),
}
"""The published benchmarks by the names that the command line takes."""
TRAINING_ONLY = {"NAT2021-train": _Layout(("", "train", "NAT2021-train", "NAT2021/train"))}
"""Published without boxes: the annotations are pseudo-annotations, and it is no benchmark."""

# Number of the first frame of those sequences of UAV123 that begin within a longer video.
_UAV123_STARTS = {
    "bird1": (1, 775, 1573),
    "car1": (1, 751, 1627),
    "car6": (1, 487, 1807, 2953, 3925),
    "car8": (1, 1357),
    "car16": (1, 415),
    "group1": (1, 1333, 2515, 3925),
    "group2": (1, 907, 1771),
    "group3": (1, 1567, 2827, 4369),
    "person2": (1, 1189),
    "person4": (1, 1501),
    "person5": (1, 877),
    "person7": (1, 1249),
    "person8": (1, 1075),
    "person12": (1, 601),
    "person14": (1, 847, 1813),
    "person17": (1, 1501),
    "person19": (1, 1243, 2791),
    "truck4": (1, 577),
    "uav1": (1, 1555, 2473),
}
_UAV123_ATTRIBUTES = (
    "scale variation",
    "aspect ratio change",
    "low resolution",
    "fast motion",
    "full occlusion",
    "partial occlusion",
    "out of view",
    "background clutter",
    "illumination variation",
    "viewpoint change",
    "camera motion",
    "similar object",
)


def load_benchmark(name: str, root: Path, problems: Problems | None = None) -> list[Sequence]:
    """Load a published benchmark, by name of its sequences.

    Args:
        name: A key of :data:`LAYOUTS` or :data:`TRAINING_ONLY`.
        root: The folder that holds the benchmark's folders, or the one above.
        problems: Where to say what is wrong with sequences, which are left out then; without it
            the first such sequence is an error.

    Raises:
        ValueError: The name is unknown.
        DatasetError: There is no such data set in ``root``, or (see ``problems``) a sequence of it
            is wrong, or all are; the file is named.
    """
    layouts = {**LAYOUTS, **TRAINING_ONLY}
    if name not in layouts:
        raise ValueError(f"benchmark must be one of {', '.join(layouts)}, not {name!r}")
    layout = layouts[name]
    frames, annotations = _find(name, layout, root)
    tables = sorted(annotations.glob("*.txt"))
    if not tables:
        raise DatasetError(f"{annotations}: holds no annotation file <sequence>.txt")
    attributes = _attribute_table(annotations)

    def load(table: Path) -> Sequence:
        given = attributes.get(table.stem) or _flags(annotations / "att" / table.name, name)
        if name == "UAV123":
            return _load_uav123(frames, table, given)
        return load_image_sequence(
            frames / table.stem, table, night=layout.night, allow_absent=True, attributes=given
        )

    return collect([partial(load, table) for table in tables], problems)


def _find(name: str, layout: _Layout, root: Path) -> tuple[Path, Path]:
    """The folders of frames and annotations."""
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder of {name}")
    for base in layout.bases:
        frames = [root / base / part for part in layout.frames if (root / base / part).is_dir()]
        tables = [root / base / p for p in layout.annotations if (root / base / p).is_dir()]
        if frames and tables:
            return frames[0], tables[0]
    wanted = " and ".join(
        " or ".join(f"{part}/" for part in parts) for parts in (layout.frames, layout.annotations)
    )
    raise DatasetError(f"{root}: not {name}, which has {wanted}")


def _load_uav123(frames: Path, table: Path, attributes: frozenset[str]) -> Sequence:
    """A sequence of UAV123: as many frames as there are annotations, from its first one on."""
    name = table.stem
    video, _, part = name.rpartition("_")
    starts = _UAV123_STARTS.get(video, ())
    first = 1
    if part.isdigit() and int(part) <= len(starts):
        first, folder = starts[int(part) - 1], frames / video
    else:
        folder = frames / name
    paths = list_images(folder)
    check_no_gap(paths)
    boxes = read_boxes(table, allow_absent=True)
    chosen = paths[first - 1 : first - 1 + len(boxes)]
    if len(chosen) != len(boxes):
        raise DatasetError(
            f"{table}: {len(boxes)} lines from frame {first} on, "
            f"but {folder} holds {len(paths)} frames"
        )
    return Sequence(name, ImageFrames(chosen), boxes, attributes=attributes)


def _flags(path: Path, dataset: str) -> frozenset[str]:
    """Attributes of a sequence from a file of comma-separated 0 and 1, if there is one."""
    if dataset != "UAV123" or not path.is_file():
        return frozenset()
    flags = " ".join(text_lines(path)).replace(",", " ").split()
    if len(flags) != len(_UAV123_ATTRIBUTES) or set(flags) - {"0", "1"}:
        raise DatasetError(f"{path}: {len(_UAV123_ATTRIBUTES)} flags 0 or 1 expected")
    pairs = zip(_UAV123_ATTRIBUTES, flags, strict=True)
    return frozenset(name for name, flag in pairs if flag == "1")


def _attribute_table(annotations: Path) -> dict[str, frozenset[str]]:
    """Attributes by sequence from ``attributes.csv``, if there is one."""
    path = annotations / "attributes.csv"
    if not path.is_file():
        return {}
    rows = [[cell.strip() for cell in row] for row in csv.reader(text_lines(path)) if row]
    names = rows[0][1:] if rows else []
    found = {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(names) + 1 or set(row[1:]) - {"0", "1"}:
            raise DatasetError(f"{path}, line {number}: a name and {len(names)} flags 0 or 1")
        pairs = zip(names, row[1:], strict=True)
        found[row[0]] = frozenset(name for name, flag in pairs if flag == "1")
    return found
