# SPDX-License-Identifier: Apache-2.0
"""The pair cache: every annotated object cut out once, so that training decodes no JPEG.

Each object becomes a square uint8 window centred on it, a few times its *context side*
``z = sqrt((w + p) (h + p))``, ``p = (w + h) / 2`` (the side that a Siamese template of 127 px
shows). With the defaults the window is 3.4 z wide, which leaves room around a search region (2 z)
for a shift of 64 px and a scale of 0.18 without running out of pixels. All windows live in one raw
file that is memory-mapped; an index holds boxes, sequence, object, frame number and the part of the
window that lay inside the image.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from mlkd_ros.data.sequences import DatasetError, Sequence, read_image
from mlkd_ros.data.stills import Still

FORMAT = 1
WINDOWS_FILE = "windows.u8"
INDEX_FILE = "index.npz"
META_FILE = "cache.json"
CODED_FILE = "coded.u8"

Item = TypeVar("Item", Sequence, Still)


def context_side(width: float, height: float) -> float:
    """Side of the square that a template shows around a box of this size, in the same unit."""
    pad = (width + height) / 2
    return float(np.sqrt((width + pad) * (height + pad)))


@dataclass(frozen=True)
class CacheSettings:
    """How objects are cut out.

    Attributes:
        side: Side of the stored window in pixels.
        context: Side of the window in multiples of the object's context side.
        min_side: Objects narrower or lower than this many image pixels are skipped.
        max_aspect: Objects more elongated than this are skipped.
        max_cover: Objects covering more than this share of the image are skipped.
        min_visible: Objects with less than this share of their area inside the image are skipped.
        per_still: Largest number of objects of one still image, evenly taken (0: all).
    """

    side: int = 384
    context: float = 3.4
    min_side: float = 6.0
    max_aspect: float = 8.0
    max_cover: float = 0.5
    min_visible: float = 0.6
    per_still: int = 0


@dataclass
class _Rows:
    """Columns of the index while the cache is built."""

    box: list[SequenceOf[float]] = field(default_factory=list)
    valid: list[SequenceOf[float]] = field(default_factory=list)
    fill: list[SequenceOf[float]] = field(default_factory=list)
    context: list[float] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    object: list[int] = field(default_factory=list)
    frame: list[int] = field(default_factory=list)

    def arrays(self) -> dict[str, np.ndarray]:
        types = {"sequence": np.int32, "object": np.int32, "frame": np.int32}
        return {
            name: np.asarray(rows, types.get(name, np.float32)) for name, rows in vars(self).items()
        }


@dataclass(frozen=True)
class PairCache:
    """An opened cache. ``N`` windows of ``side`` pixels.

    Attributes:
        folder: Where it lies.
        windows: uint8 ``(N, side, side, 3)`` BGR, memory-mapped, read-only.
        box: float32 ``(N, 4)`` object as ``x, y, w, h`` in window pixels.
        valid: float32 ``(N, 4)`` part of the window inside the image as ``x0, y0, x1, y1`` in
            window pixels.
        fill: float32 ``(N, 3)`` mean BGR colour of the image; what lies outside the image has it.
        context: float32 ``(N,)`` context side of the object in pixels of the source image.
        sequence: int32 ``(N,)`` index into the lists below.
        object: int32 ``(N,)`` number of the object in its sequence (0 in a video with one target).
        frame: int32 ``(N,)`` frame number in its sequence.
        names: Name of each sequence or still.
        groups: Group of each sequence.
        night: Whether each sequence was taken in the dark.
        still: Whether each sequence is a still image.
        settings: How the cache was built.
        skipped: Number of annotations left out, by reason.
        coded: uint8 ``(N, side, side, 3)``, memory-mapped, or None: the windows of videos in a dark
            stream behind a camera's denoising and H.264, see :mod:`mlkd_ros.data.coded`.
    """

    folder: Path
    windows: np.ndarray
    box: np.ndarray
    valid: np.ndarray
    fill: np.ndarray
    context: np.ndarray
    sequence: np.ndarray
    object: np.ndarray
    frame: np.ndarray
    names: list[str]
    groups: list[str]
    night: list[bool]
    still: list[bool]
    settings: CacheSettings
    skipped: dict[str, int]
    coded: np.ndarray | None = None

    @classmethod
    def open(cls, folder: str | Path) -> PairCache:
        """Open the cache in ``folder``.

        Raises:
            DatasetError: There is no complete cache of this format in the folder.
        """
        folder = Path(folder)
        try:
            meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DatasetError(
                f"{folder / META_FILE}: no pair cache here, or its build was interrupted"
            ) from None
        if meta.get("format") != FORMAT:
            raise DatasetError(
                f"{folder / META_FILE}: cache format {meta.get('format')!r}, expected {FORMAT}: "
                "rebuild the cache"
            )
        settings = CacheSettings(**meta["settings"])
        with np.load(folder / INDEX_FILE) as index:
            columns = {name: index[name] for name in index.files}
        count = len(columns["box"])
        shape = (count, settings.side, settings.side, 3)
        path = folder / WINDOWS_FILE
        size = int(np.prod(shape))
        if not path.is_file() or path.stat().st_size != size:
            raise DatasetError(
                f"{path}: {size} bytes expected for {count} windows: rebuild the cache"
            )
        windows = np.memmap(path, np.uint8, "r", shape=shape)
        coded_path, coded = folder / CODED_FILE, None
        if coded_path.is_file():
            if coded_path.stat().st_size != size:
                raise DatasetError(f"{coded_path}: {size} bytes expected: remove it")
            coded = np.memmap(coded_path, np.uint8, "r", shape=shape)
        lists = {name: meta[name] for name in ("names", "groups", "night", "still")}
        return cls(
            folder, windows, **columns, **lists, settings=settings, skipped=meta["skipped"],
            coded=coded,
        )  # fmt: skip

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.box)


class PairCacheWriter:
    """Writes a cache window by window, as a context manager; it is readable once closed cleanly."""

    def __init__(self, folder: str | Path, settings: CacheSettings | None = None) -> None:
        """Start an empty cache in ``folder``, made if needed; a cache already there is replaced."""
        self.folder = Path(folder)
        self.settings = settings or CacheSettings()
        self.skipped: Counter[str] = Counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / META_FILE).unlink(missing_ok=True)
        self._file = (self.folder / WINDOWS_FILE).open("wb")
        self._rows = _Rows()
        self._sequences: list[tuple[str, str, bool, bool]] = []

    def __enter__(self) -> PairCacheWriter:
        """Return self."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Finish the cache, or leave it unreadable if an error is passing through."""
        self._file.close()
        if kind is None:
            self._finish()

    def begin(self, name: str, group: str, *, night: bool = False, still: bool = False) -> None:
        """Start a sequence or still; ``add`` puts objects into it."""
        self._sequences.append((name, group, night, still))

    def add(self, image: np.ndarray, box: SequenceOf[float], frame: int, number: int = 0) -> bool:
        """Cut one object out of ``image`` (uint8 BGR), ``box`` in its pixels.

        Returns:
            Whether the object was stored; else the reason is counted in ``skipped``.
        """
        reason = self._reason_to_skip(image.shape[1], image.shape[0], box)
        if reason:
            self.skipped[reason] += 1
            return False
        x, y, w, h = map(float, box)
        z = context_side(w, h)
        scale = self.settings.side / (self.settings.context * z)
        x0 = x + w / 2 - self.settings.context * z / 2
        y0 = y + h / 2 - self.settings.context * z / 2
        fill = cv2.mean(image)[:3]
        self._file.write(self._cut(image, x0, y0, scale, fill).tobytes())
        side = self.settings.side
        corners = [
            -x0 * scale,
            -y0 * scale,
            (image.shape[1] - x0) * scale,
            (image.shape[0] - y0) * scale,
        ]
        self._rows.box.append([(x - x0) * scale, (y - y0) * scale, w * scale, h * scale])
        self._rows.valid.append(np.clip(corners, 0, side).tolist())
        self._rows.fill.append(fill)
        self._rows.context.append(z)
        self._rows.sequence.append(len(self._sequences) - 1)
        self._rows.object.append(number)
        self._rows.frame.append(frame)
        return True

    def _reason_to_skip(self, width: int, height: int, box: SequenceOf[float]) -> str | None:
        x, y, w, h = map(float, box)
        rules = self.settings
        if not np.isfinite([x, y, w, h]).all():
            return "absent"
        if w < rules.min_side or h < rules.min_side:
            return "too small"
        if max(w / h, h / w) > rules.max_aspect:
            return "too elongated"
        if w * h > rules.max_cover * width * height:
            return "fills the image"
        seen = max(0.0, min(x + w, width) - max(x, 0.0)) * max(
            0.0, min(y + h, height) - max(y, 0.0)
        )
        return "outside the image" if seen < rules.min_visible * w * h else None

    def _cut(
        self, image: np.ndarray, x0: float, y0: float, scale: float, fill: SequenceOf[float]
    ) -> np.ndarray:
        """Resample the window; strong reductions average first, as a bilinear warp would alias."""
        side = self.settings.side
        while scale < 0.6:
            image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            x0, y0, scale = x0 / 2, y0 / 2, scale * 2
        # Between pixel centres: output pixel u lies at x0 + (u + 0.5) / scale - 0.5 in the image.
        matrix = np.array(
            [[1 / scale, 0, x0 + 0.5 / scale - 0.5], [0, 1 / scale, y0 + 0.5 / scale - 0.5]]
        )
        return cv2.warpAffine(
            image,
            matrix,
            (side, side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        )

    def _finish(self) -> None:
        """Write index and description; the description last, as it marks a complete cache."""
        if not self._rows.box:
            raise DatasetError(
                f"{self.folder}: no usable object for the pair cache ({dict(self.skipped)})"
            )
        np.savez(self.folder / INDEX_FILE, allow_pickle=False, **self._rows.arrays())
        names, groups, night, still = (
            list(column) for column in zip(*self._sequences, strict=True)
        )
        meta = {
            "format": FORMAT,
            "settings": asdict(self.settings),
            "skipped": dict(self.skipped),
            "names": names,
            "groups": groups,
            "night": night,
            "still": still,
        }
        partial = self.folder / (META_FILE + ".partial")
        partial.write_text(json.dumps(meta), encoding="utf-8")
        os.replace(partial, self.folder / META_FILE)


def build_pair_cache(
    folder: str | Path,
    sequences: Iterable[Sequence] = (),
    stills: Iterable[Still] = (),
    settings: CacheSettings | None = None,
    *,
    progress: bool = False,
) -> PairCache:
    """Cut every annotated object of ``sequences`` and ``stills`` into a cache in ``folder`` and
    open it.

    Args:
        folder: Made if needed; about 0.44 MB per object with the default settings.
        sequences: Videos, cut frame by frame.
        stills: Images, each box of which becomes an object.
        settings: How objects are cut out.
        progress: Show a progress bar on stderr (needs tqdm).

    Raises:
        DatasetError: A frame is missing, does not decode, or has another size than its annotation
            says.
    """
    with PairCacheWriter(folder, settings) as writer:
        for sequence in _shown(sequences, "videos", progress):
            writer.begin(sequence.name, sequence.group, night=sequence.night)
            for number, (image, box) in enumerate(
                zip(sequence.frames, sequence.boxes, strict=True)
            ):
                writer.add(image, box, number)
        for still in _shown(stills, "stills", progress):
            _add_still(writer, still)
    return PairCache.open(folder)


def _add_still(writer: PairCacheWriter, still: Still) -> None:
    image = read_image(still.path)
    if (image.shape[1], image.shape[0]) != still.size:
        raise DatasetError(
            f"{still.path}: is {image.shape[1]}x{image.shape[0]}, "
            f"its annotation says {still.size[0]}x{still.size[1]}"
        )
    writer.begin(still.name, still.group, night=still.night, still=True)
    limit = writer.settings.per_still or len(still.boxes)
    step = max(1, math.ceil(len(still.boxes) / limit))
    for number in range(0, len(still.boxes), step):
        writer.add(image, still.boxes[number], 0, number)


def _shown(items: Iterable[Item], label: str, progress: bool) -> Iterator[Item]:
    if not progress:
        return iter(items)
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("a progress bar needs tqdm: pip install mlkd_ros[tools]") from None
    return iter(tqdm(list(items), desc=label, unit="file"))


def split_by_sequence(items: Iterable[Item], share: float = 0.1) -> tuple[list[Item], list[Item]]:
    """Split sequences or stills into training and validation, never one sequence into both.

    The choice depends on nothing but names, so that it stays when material is added. Stills that
    are numbered frames of one flight (``drone_00017`` ...) are near duplicates: blocks of ten go to
    one side together.

    Args:
        items: Videos or stills.
        share: Expected share of validation.

    Returns:
        ``(training, validation)``.
    """
    training: list[Item] = []
    validation: list[Item] = []
    for item in items:
        (validation if _fraction(_split_key(item)) < share else training).append(item)
    return training, validation


def _split_key(item: Sequence | Still) -> str:
    if isinstance(item, Still):
        stem = item.name.rstrip("0123456789")
        number = item.name[len(stem) :]
        return stem + number[:-1] if len(number) > 1 else item.name
    return item.name


def _fraction(text: str) -> float:
    """Map a name to [0, 1), the same on every machine."""
    return zlib.crc32(text.encode()) / 2**32
