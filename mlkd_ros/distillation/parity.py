# SPDX-License-Identifier: Apache-2.0
"""Does an exported student find the same boxes as the one that was trained?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..data.night_flight import SCENARIOS, NightFlight
from ..imaging.frame import BgrFrame
from ..imaging.sources import open_source
from ..tracking.engine import Engine, Region
from ..tracking.geometry import Box, CropWindow, check_box, crop, iou

#: Images between the one of the template and the one of the search region.
_LATER = 5
_BOXES_AN_IMAGE = 8


class Pair(NamedTuple):
    """A box in one image, and a later image in which to look for it."""

    image: np.ndarray
    box: Box
    later: np.ndarray


def pairs_of(path: Path | None) -> Iterator[Pair]:
    """Pairs from a video, a folder of images or a bag: boxes around what has texture. Without a
    path, from rendered night flights, with the boxes of their targets.
    """
    if path is None:
        yield from _pairs_of_flights()
        return
    with open_source(path) as source:
        before: list[np.ndarray] = []
        for frame in source:
            if len(before) == _LATER:
                image = before.pop(0)
                for box in _textured_boxes(image):
                    yield Pair(image, box, frame.image)
            before.append(frame.image)


def _pairs_of_flights() -> Iterator[Pair]:
    for seed in itertools.count():
        for scenario in SCENARIOS:
            flight = NightFlight(scenario, seed, (640, 360))
            for index in (0, 20):
                frames = flight.render(index), flight.render(index + _LATER)
                for _, box, *_ in frames[0].targets[:_BOXES_AN_IMAGE]:
                    yield Pair(frames[0].image, box, frames[1].image)


def _textured_boxes(image: np.ndarray) -> list[Box]:
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    side = max(16.0, min(grey.shape) / 12)
    corners = cv2.goodFeaturesToTrack(grey, _BOXES_AN_IMAGE, 0.01, side)
    if corners is None:
        return []
    return [(x - side / 2, y - side / 3, side, side / 1.5) for x, y in corners[:, 0].tolist()]


def mean_agreement(
    engine: Engine, reference: Engine, path: Path | None, count: int
) -> dict[int, float]:
    """Mean IoU of the boxes that two engines find in ``count`` search regions, of each size that
    ``engine`` searches. ValueError when the source has fewer.
    """
    overlaps: list[list[float]] = []
    for pair in pairs_of(path):
        try:
            box = check_box(pair.box, pair.image.shape[1], pair.image.shape[0])
        except ValueError:
            continue  # at the border; only whole targets are compared
        ours, expected = (
            _find(each, pair, box, engine.search_sizes) for each in (engine, reference)
        )
        overlaps.append([float(iou(*boxes)) for boxes in zip(ours, expected, strict=True)])
        if len(overlaps) == count:
            means = np.mean(overlaps, axis=0).tolist()
            return dict(zip(engine.search_sizes, means, strict=True))
    raise ValueError(f"{path}: gives {len(overlaps)} crops, parity is judged on {count}")


def _find(engine: Engine, pair: Pair, box: Box, sizes: Sequence[int]) -> list[Box]:
    """The best candidate's box in a window of each size, in patch pixels."""
    x, y, w, h = box
    settings, shape = engine.settings, engine.shape

    def side(size: int) -> float:
        return shape.context_side(w, h, settings.context_amount, size)

    cx, cy = x + w / 2, y + h / 2
    patch = crop(
        BgrFrame(pair.image),
        CropWindow.around(cx, cy, side(shape.template_size), shape.template_size),
    )
    template = engine.template(patch[None])
    windows = (CropWindow.around(cx, cy, side(size), size) for size in sizes)
    regions = [Region(window, template, w, h, 0.35 * math.sqrt(w * h)) for window in windows]
    found = engine.locate(BgrFrame(pair.later), regions)[:, 0, :4].tolist()
    return [(px - pw / 2, py - ph / 2, pw, ph) for px, py, pw, ph in found]
