# SPDX-License-Identifier: Apache-2.0
"""The coded windows of a pair cache: the windows of its videos again, as a dark stream behind a
camera's denoising and H.264 shows them. Made once, offline, for a codec needs its frames in order.

The windows of an object, frame after frame, are one stream. A window of a small object is enlarged:
the stream runs at the pixels of its source image. Stills are no stream and have none.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from mlkd_ros.data.cache import CODED_FILE, PairCache
from mlkd_ros.data.codec import processed, sample_processing
from mlkd_ros.data.lowlight import capture, sample_conditions, sample_high_gain

#: Smallest side of a stream, pixels.
MIN_SIDE = 96


def add_coded_windows(cache: PairCache, seed: int = 0, *, progress: bool = False) -> PairCache:
    """Write the coded windows of ``cache`` beside its windows, unless they are there, and open it.

    Light, noise, camera and bit rate are drawn for each object; they depend on ``seed`` and names
    only. ImportError without PyAV.
    """
    if cache.coded is not None:
        return cache
    path = cache.folder / CODED_FILE
    # A name of its own: two builders at once must not write into one file.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    coded = np.memmap(partial, np.uint8, "w+", shape=cache.windows.shape)
    tracks = [rows for rows in _tracks(cache) if not cache.still[cache.sequence[rows[0]]]]
    for rows in _shown(tracks, progress):
        for row, window in zip(rows, _stream(cache, rows, seed), strict=True):
            coded[row] = window
    coded.flush()
    del coded
    os.replace(partial, path)
    return PairCache.open(cache.folder)


def _shown(tracks: list[np.ndarray], progress: bool) -> Iterator[np.ndarray]:
    if not progress:
        return iter(tracks)
    from tqdm import tqdm

    return iter(tqdm(tracks, desc="coded windows", unit="object"))


def _tracks(cache: PairCache) -> Iterator[np.ndarray]:
    """Rows of each object in the order of their frames."""
    order = np.lexsort((cache.frame, cache.object, cache.sequence))
    keys = np.stack([cache.sequence, cache.object])[:, order]
    starts = np.flatnonzero(np.r_[True, (np.diff(keys, axis=1) != 0).any(axis=0)])
    yield from np.split(order, starts[1:])


def _stream(cache: PairCache, rows: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """The windows of one object as they come out of the camera, one for each row."""
    first = int(rows[0])
    name = cache.names[cache.sequence[first]]
    key = zlib.crc32(f"{name}/{cache.object[first]}".encode())
    rng = np.random.default_rng((seed, key))
    night = cache.night[cache.sequence[first]]
    light = sample_high_gain(rng) if rng.random() < 0.5 else sample_conditions(rng)
    if night:
        light = replace(
            light, exposure=1.0 / light.gain, lamp_colour=(1.0, 1.0, 1.0), vignette=0.0, pools=()
        )
    light = replace(light, jpeg_quality=None)
    camera = sample_processing(rng, coded=True)
    # One size for the stream: that of the object's median window in its source.
    native = cache.settings.context * float(np.median(cache.context[rows]))
    side = int(np.clip(round(native), MIN_SIDE, cache.settings.side)) // 2 * 2
    frames = (capture(_resized(cache.windows[row], side), light, rng) for row in rows)
    for shown in processed(frames, camera):
        yield _resized(shown, cache.settings.side)


def _resized(window: np.ndarray, side: int) -> np.ndarray:
    if window.shape[0] == side:
        return window
    how = cv2.INTER_AREA if window.shape[0] > side else cv2.INTER_LINEAR
    return cv2.resize(window, (side, side), interpolation=how)
