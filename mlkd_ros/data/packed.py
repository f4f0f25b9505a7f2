# SPDX-License-Identifier: Apache-2.0
"""A pair cache in one file of a given size, to train from on another machine.

A zip of JPEG windows, their index and description. Where all windows are too many, every second,
third, ... of each object's frames is left out, evenly; stills likewise.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from mlkd_ros.data.cache import (
    CODED_FILE,
    FORMAT,
    INDEX_FILE,
    META_FILE,
    WINDOWS_FILE,
    PairCache,
)
from mlkd_ros.data.sequences import DatasetError
from mlkd_ros.files import replacing

#: Windows that the size of all is estimated from.
_SAMPLE = 64
_COLUMNS = ("box", "valid", "fill", "context", "sequence", "object", "frame")


def pack_cache(cache: PairCache, path: Path, limit: int, side: int = 256, quality: int = 80) -> int:
    """Write ``cache`` into ``path``, at most about ``limit`` bytes; returns the number of windows.

    side: of the packed windows, pixels. quality: of JPEG, 1 to 100.

    Raises:
        ValueError: The limit is too small for a window, or a value is out of its range.
    """
    if not 64 <= side <= cache.settings.side:
        raise ValueError(f"side must be 64 to {cache.settings.side}, not {side}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1 to 100, not {quality}")
    order = np.lexsort((cache.frame, cache.object, cache.sequence))
    probe = order[np.linspace(0, len(order) - 1, min(_SAMPLE, len(order))).astype(int)]
    each = np.mean([sum(map(len, _coded(cache, int(r), side, quality))) for r in probe])
    count = int(min(len(order), 0.97 * limit // each))
    if count < 1:
        raise ValueError(f"a window takes {each:.0f} bytes, the limit is {limit}")
    rows = np.sort(order[np.linspace(0, len(order) - 1, count).astype(int)])
    scale = np.float32(side / cache.settings.side)
    columns = {name: getattr(cache, name)[rows] for name in _COLUMNS}
    columns["box"], columns["valid"] = columns["box"] * scale, columns["valid"] * scale
    meta = {
        "settings": {**vars(replace(cache.settings, side=side))},
        "skipped": cache.skipped, "coded": cache.coded is not None,
        **{name: getattr(cache, name) for name in ("names", "groups", "night", "still")},
    }  # fmt: skip
    with replacing(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        file.writestr(META_FILE, json.dumps(meta))
        with file.open(INDEX_FILE, "w") as index:
            np.savez(index, allow_pickle=False, **columns)
        for number, row in enumerate(rows):
            for kind, data in zip("wc", _coded(cache, int(row), side, quality), strict=False):
                file.writestr(f"{kind}{number:06d}.jpg", data)
    return count


def _coded(cache: PairCache, row: int, side: int, quality: int) -> list[bytes]:
    """A window and, where there is one, its coded counterpart as JPEG."""
    sources = [cache.windows] if cache.coded is None else [cache.windows, cache.coded]
    packed = []
    for source in sources:
        window = cv2.resize(source[row], (side, side), interpolation=cv2.INTER_AREA)
        done, data = cv2.imencode(".jpg", window, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not done:
            raise RuntimeError(f"JPEG compression of window {row} failed")
        packed.append(data.tobytes())
    return packed


def unpack_cache(path: Path, folder: Path) -> PairCache:
    """The cache of a packed file in ``folder``, unless it is there already; opened.

    DatasetError when ``path`` is missing or no packed cache.
    """
    if (folder / META_FILE).exists():
        return PairCache.open(folder)
    try:
        with zipfile.ZipFile(path) as file:
            meta = json.loads(file.read(META_FILE))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / INDEX_FILE).write_bytes(file.read(INDEX_FILE))
            with np.load(folder / INDEX_FILE) as index:
                count = len(index["box"])
            kinds = {"w": WINDOWS_FILE, **({"c": CODED_FILE} if meta.pop("coded") else {})}
            for kind, name in kinds.items():
                with (folder / name).open("wb") as out:
                    for number in range(count):
                        out.write(_decoded(file.read(f"{kind}{number:06d}.jpg")))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DatasetError(f"{path}: no packed pair cache ({error})") from error
    (folder / META_FILE).write_text(json.dumps({"format": FORMAT, **meta}), encoding="utf-8")
    return PairCache.open(folder)


def _decoded(data: bytes) -> bytes:
    window = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if window is None:
        raise ValueError("a window is no JPEG")
    return window.tobytes()
