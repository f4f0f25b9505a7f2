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

from mlkd_ros.files import printable
from mlkd_ros.imaging.errors import DatasetError
from mlkd_ros.imaging.images import list_images, read_image
from mlkd_ros.imaging.sources import VIDEO_SUFFIXES, open_video

__all__ = [
    "DatasetError",
    "Frames",
    "ImageFrames",
    "Sequence",
    "VideoFrames",
    "check_no_gap",
    "collect",
    "list_images",
    "load_image_sequence",
    "load_otb_folders",
    "load_video_pairs",
    "read_boxes",
    "read_image",
    "text_lines",
]

_SEPARATORS = re.compile(r"\s*[,;]\s*|\s+")
_NUMBERED = re.compile(r"(.*?)(\d+)")


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
    """Frames of a video file, decoded in order; ``count`` is the number of frames that decode,
    ``rate`` that of the container in frames a second (30 where it tells none that can be).
    """

    path: Path
    count: int
    rate: float = 30.0

    @classmethod
    def open(cls, path: Path) -> VideoFrames:
        """Count the frames of ``path`` by decoding headers only; containers lie about their length
        too often.

        Raises:
            DatasetError: The file is missing, not a video, or holds no frame.
        """
        capture = open_video(path)
        try:
            count = 0
            rate = capture.get(cv2.CAP_PROP_FPS)
            while capture.grab():
                count += 1
        finally:
            capture.release()
        if count == 0:
            raise DatasetError(f"{path}: the video holds no frame that can be decoded")
        return cls(path, count, rate if 1.0 <= rate <= 1000.0 else cls.rate)

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.count

    def __iter__(self) -> Iterator[np.ndarray]:
        """Decode the frames one after another.

        Raises:
            DatasetError: A frame that was counted cannot be decoded.
        """
        capture = open_video(self.path)
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
        rate: Frames a second: frame ``n`` has the stamp ``n / rate`` seconds.
    """

    name: str
    frames: Frames
    boxes: np.ndarray
    group: str = "videos"
    night: bool = False
    attributes: frozenset[str] = field(default_factory=frozenset)
    rate: float = 30.0

    def __post_init__(self) -> None:
        """Check the shape of the boxes and that there is one for each frame."""
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise DatasetError(
                f"sequence {self.name}: boxes must be (N, 4), not {self.boxes.shape}"
            )
        if not 0 < self.rate < np.inf:
            raise DatasetError(f"sequence {self.name}: a rate of {self.rate} frames a second")
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
    lines = text_lines(path)
    if lines and _is_header(lines[0]):
        lines[0] = ""  # keeps the numbers of the others right
        numbered = list(enumerate(lines, 1))[1:]
    else:
        numbered = list(enumerate(lines, 1))
    if not numbered:
        raise DatasetError(f"{printable(path)}: the annotation file is empty")
    return np.array([_read_box(path, number, line, allow_absent) for number, line in numbered])


#: What begins a text file in an encoding that is not UTF-8 without a mark.
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
#: Characters of a line that are shown in an error.
_SHOWN = 60


def text_lines(path: Path) -> list[str]:
    """The lines of an annotation file, whatever program wrote them. Raises DatasetError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{printable(path)}: no such annotation file") from None
    except OSError as error:
        raise DatasetError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise DatasetError(f"{printable(path)}: not a text file") from None
    # Ctrl-Z ended a file under DOS, and some tools still write it.
    return text.rstrip("\x1a\0 \t\r\n").splitlines()


def _is_header(line: str) -> bool:
    """Whether a line names columns: letters, and not a number among its fields."""
    fields = _fields(line)
    return (
        bool(fields)
        and all(re.fullmatch(r"[^\W\d]\w*", field) for field in fields)
        and not any(field.lower() in ("nan", "inf") for field in fields)
    )


def _fields(line: str) -> list[str]:
    """The fields of a line; one separator at its end means nothing."""
    return _SEPARATORS.split(line.strip().rstrip(",;").strip())


def _read_box(path: Path, number: int, line: str, allow_absent: bool) -> list[float]:
    shown = repr(line.strip()[:_SHOWN]) + ("..." if len(line.strip()) > _SHOWN else "")
    try:
        box = [float(value) for value in _fields(line)]
    except ValueError:
        raise DatasetError(
            f"{printable(path)}, line {number}: {shown} is not four numbers x,y,w,h"
        ) from None
    if len(box) != 4:
        raise DatasetError(
            f"{printable(path)}, line {number}: {len(box)} numbers where four (x,y,w,h) are "
            f"expected: {shown}"
        )
    if np.all(np.isfinite(box)) and box[2] > 0 and box[3] > 0:
        return box
    if not allow_absent:
        raise DatasetError(
            f"{printable(path)}, line {number}: {shown} is no box "
            "(finite x,y,w,h with a positive area)"
        )
    return [np.nan] * 4


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
        return Sequence(video.stem, frames, boxes, group, night, rate=frames.rate)

    return collect([partial(load, video) for video in videos], problems)
