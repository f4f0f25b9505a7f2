# SPDX-License-Identifier: Apache-2.0
"""Annotated video sequences on disk, in the layouts that tracking data sets use.

Boxes are ``x, y, w, h`` in pixels of the stored frame, taken as the annotation file gives them
(data sets that count pixels from one are off by one pixel, which the field's published figures
leave in). A frame without its target is a row of NaN.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"})

_SEPARATORS = re.compile(r"[\s,;]+")
_NUMBERED = re.compile(r"(.*?)(\d+)")


class DatasetError(ValueError):
    """A file of a data set is missing or wrong; the message names it and what would be right."""


def read_image(path: Path) -> np.ndarray:
    """Read an image file as uint8 BGR of shape ``(height, width, 3)``.

    Raises:
        DatasetError: The file is missing or is not an image that OpenCV can decode.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such image file")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DatasetError(f"{path}: cannot be decoded as an image (truncated, or not an image?)")
    return image


class Frames(Protocol):
    """The frames of a sequence, in order: a length and an iterator over uint8 BGR images."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True)
class ImageFrames:
    """Frames kept as one image file each; they are decoded when asked for."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Decode frame ``index`` to uint8 BGR."""
        return read_image(self.paths[index])

    def __iter__(self) -> Iterator[np.ndarray]:
        """Decode the frames one after another."""
        return (read_image(path) for path in self.paths)


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video file, decoded in order; ``count`` is the number of frames that decode."""

    path: Path
    count: int

    @classmethod
    def open(cls, path: Path) -> VideoFrames:
        """Count the frames of ``path`` by decoding headers only; containers lie about their length
        too often.

        Raises:
            DatasetError: The file is missing, not a video, or holds no frame.
        """
        if not path.is_file():
            raise DatasetError(f"{path}: no such video file")
        capture = cv2.VideoCapture(str(path))
        try:
            if not capture.isOpened():
                raise DatasetError(f"{path}: cannot be opened as a video")
            count = 0
            while capture.grab():
                count += 1
        finally:
            capture.release()
        if count == 0:
            raise DatasetError(f"{path}: the video holds no frame that can be decoded")
        return cls(path, count)

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.count

    def __iter__(self) -> Iterator[np.ndarray]:
        """Decode the frames one after another.

        Raises:
            DatasetError: A frame that was counted cannot be decoded.
        """
        capture = cv2.VideoCapture(str(self.path))
        try:
            for index in range(self.count):
                good, image = capture.read()
                if not good:
                    raise DatasetError(
                        f"{self.path}: frame {index} of {self.count} cannot be decoded"
                    )
                yield image
        finally:
            capture.release()


@dataclass(frozen=True)
class Sequence:
    """A video with one annotated target.

    Attributes:
        name: Unique in its data set; also the stem of result files.
        frames: The images, uint8 BGR.
        boxes: float64 ``(N, 4)``, ``x, y, w, h`` in pixels, a row per frame, NaN where the target
            is absent.
        group: What kind of material it is (``videos``, ``flights``, ...); the pair sampler weighs
            groups.
        night: The frames were taken in the dark, so that they must not be darkened again.
        attributes: Names of the data set's challenge attributes that hold for this sequence.
    """

    name: str
    frames: Frames
    boxes: np.ndarray
    group: str = "videos"
    night: bool = False
    attributes: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        """Check the shape of the boxes and that there is one for each frame."""
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise DatasetError(
                f"sequence {self.name}: boxes must be (N, 4), not {self.boxes.shape}"
            )
        if len(self.boxes) != len(self.frames):
            raise DatasetError(
                f"sequence {self.name}: {len(self.boxes)} annotations for {len(self.frames)} frames"
            )

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.boxes)


def read_boxes(path: Path, *, allow_absent: bool = False) -> np.ndarray:
    """Read a file with one ``x, y, w, h`` box a line, separated by commas, semicolons, spaces or
    tabs.

    Args:
        path: Text file. Blank lines at its end are ignored, elsewhere they are an error.
        allow_absent: Whether NaN, or a box of all zeros or without area, stands for "no target in
            this frame".

    Returns:
        float64 ``(N, 4)``; absent targets are rows of NaN.

    Raises:
        DatasetError: The file is missing or a line is wrong; the message gives the line number.
    """
    try:
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such annotation file") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: not a text file") from None
    if not lines:
        raise DatasetError(f"{path}: the annotation file is empty")
    return np.array(
        [_read_box(path, number, line, allow_absent) for number, line in enumerate(lines, 1)]
    )


def _read_box(path: Path, number: int, line: str, allow_absent: bool) -> list[float]:
    fields = _SEPARATORS.split(line.strip())
    try:
        box = [float(value) for value in fields]
    except ValueError:
        raise DatasetError(
            f"{path}, line {number}: {line.strip()!r} is not four numbers x,y,w,h"
        ) from None
    if len(box) != 4:
        raise DatasetError(
            f"{path}, line {number}: {len(box)} numbers where four (x,y,w,h) are expected"
        )
    if np.all(np.isfinite(box)) and box[2] > 0 and box[3] > 0:
        return box
    if not allow_absent:
        raise DatasetError(
            f"{path}, line {number}: {line.strip()!r} is no box "
            "(finite x,y,w,h with a positive area)"
        )
    return [np.nan] * 4


def _natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Sort ``img9`` before ``img10``."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def list_images(folder: Path) -> tuple[Path, ...]:
    """List the image files of ``folder`` in natural order of their names.

    Raises:
        DatasetError: The folder is missing, holds no image, or its frame numbers have a gap.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such image folder")
    paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise DatasetError(f"{folder}: holds no image file ({', '.join(sorted(IMAGE_SUFFIXES))})")
    paths.sort(key=_natural_key)
    return tuple(paths)


def check_no_gap(paths: tuple[Path, ...]) -> None:
    """Refuse numbered frames with one missing: boxes would slide against frames unseen.

    Raises:
        DatasetError: A number between the first and the last is missing; the file is named.
    """
    parts = [_NUMBERED.fullmatch(path.stem) for path in paths]
    numbers = [int(part[2]) for part in parts if part]
    if len(numbers) != len(paths) or len({part[1] for part in parts if part}) != 1:
        return
    steps = np.diff(numbers)
    if len(steps) and (steps != steps.min()).any():
        last = int(np.flatnonzero(steps != steps.min())[0])
        missing = str(numbers[last] + int(steps.min()))
        before = _NUMBERED.fullmatch(paths[last].stem)
        assert before is not None  # all of them matched
        name = before[1] + missing.zfill(len(before[2])) + paths[last].suffix
        raise DatasetError(f"{paths[0].parent / name}: missing frame (its neighbours are there)")


def load_image_sequence(
    folder: Path,
    annotation: Path,
    *,
    name: str | None = None,
    group: str = "videos",
    night: bool = False,
    allow_absent: bool = False,
    attributes: frozenset[str] = frozenset(),
) -> Sequence:
    """Load a folder of frames and its annotation file.

    Raises:
        DatasetError: A frame is missing, the annotation is wrong, or their counts differ; the file
            is named.
    """
    paths = list_images(folder)
    check_no_gap(paths)
    boxes = read_boxes(annotation, allow_absent=allow_absent)
    if len(boxes) != len(paths):
        raise DatasetError(
            f"{annotation}: {len(boxes)} lines, but {folder} holds {len(paths)} frames"
        )
    return Sequence(name or folder.name, ImageFrames(paths), boxes, group, night, attributes)


def collect(
    loaders: Iterable[Callable[[], Sequence]], problems: list[str] | None
) -> list[Sequence]:
    """Load sequences; one that is wrong is an error, or is left out and said in ``problems``.

    Raises:
        DatasetError: A sequence is wrong and there is no ``problems``; or all of them are wrong.
    """
    sequences = []
    first: DatasetError | None = None
    for load in loaders:
        try:
            sequences.append(load())
        except DatasetError as error:
            if problems is None:
                raise
            first = first or error
            problems.append(str(error))
    if first is not None and not sequences:
        raise first
    return sequences


def load_otb_folders(
    root: Path,
    *,
    group: str = "videos",
    night: bool = False,
    allow_absent: bool = False,
    problems: list[str] | None = None,
) -> list[Sequence]:
    """Load every ``<sequence>/img/*.jpg`` with ``<sequence>/groundtruth_rect.txt`` below ``root``,
    by name.

    Sequences that are wrong are left out if there is a list of ``problems`` to say so in.

    Raises:
        DatasetError: There is no sequence, or one of them is wrong (with ``problems``: all are).
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder of sequences")
    folders = sorted(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if not folders:
        raise DatasetError(
            f"{root}: holds no sequence folder (<sequence>/img, <sequence>/groundtruth_rect.txt)"
        )
    load = partial(load_image_sequence, group=group, night=night, allow_absent=allow_absent)
    loaders = [
        partial(load, folder / "img", folder / "groundtruth_rect.txt", name=folder.name)
        for folder in folders
    ]
    return collect(loaders, problems)


def load_video_pairs(
    root: Path,
    *,
    group: str = "videos",
    night: bool = False,
    allow_absent: bool = True,
    problems: list[str] | None = None,
) -> list[Sequence]:
    """Load every ``<name>.mp4`` (or another video format) with ``<name>.txt`` beside it, by name.

    Sequences that are wrong are left out if there is a list of ``problems`` to say so in.

    Raises:
        DatasetError: There is no video, one has no annotation, or their counts differ (with
            ``problems``: all are wrong).
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder of videos")
    videos = sorted(path for path in root.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise DatasetError(f"{root}: holds no video file ({', '.join(sorted(VIDEO_SUFFIXES))})")

    def load(video: Path) -> Sequence:
        annotation = video.with_suffix(".txt")
        boxes = read_boxes(annotation, allow_absent=allow_absent)
        frames = VideoFrames.open(video)
        if len(boxes) != len(frames):
            raise DatasetError(
                f"{annotation}: {len(boxes)} lines, but {video} holds {len(frames)} frames"
            )
        return Sequence(video.stem, frames, boxes, group, night)

    return collect([partial(load, video) for video in videos], problems)
