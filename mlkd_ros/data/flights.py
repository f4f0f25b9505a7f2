# SPDX-License-Identifier: Apache-2.0
"""Rendered night flights as annotated sequences and as material for training pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlkd_ros.data.cache import CacheSettings, PairCache, PairCacheWriter
from mlkd_ros.data.night_flight import NightFlight, RenderedFrame
from mlkd_ros.data.sequences import Sequence

MIN_VISIBLE = 0.4
"""Objects of which less is seen are not cut out."""
SETTINGS = CacheSettings(min_side=10.0)
"""Smaller objects drown in the noise of most flights."""


@dataclass(frozen=True)
class FlightFrames:
    """The pictures of a flight from frame ``start`` on; rendered when asked for."""

    flight: NightFlight
    count: int
    start: int = 0

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        """Render frame ``index``, uint8 BGR."""
        return self.flight.render(self.start + index).image

    def __iter__(self) -> Iterator[np.ndarray]:
        """Render one frame after another."""
        return (self[index] for index in range(self.count))


def target_boxes(
    flight: NightFlight,
    count: int,
    start: int = 0,
    visible_from: float = 0.0,
    on_frame: Callable[[int], object] | None = None,
) -> np.ndarray:
    """Boxes ``(count, 4)`` of a flight's main target, by rendering every frame.

    Rows of NaN where no more than the fraction ``visible_from`` of it is seen. ``on_frame`` is
    called with 1 after each frame.
    """
    boxes = np.full((count, 4), np.nan)
    for index in range(count):
        _, box, visible, _ = flight.render(start + index).targets[0]
        if visible > visible_from:
            boxes[index] = box
        if on_frame is not None:
            on_frame(1)
    return boxes


def flight_sequence(flight: NightFlight, count: int | None = None, start: int = 0) -> Sequence:
    """Make an annotated sequence of a flight's main target; absent is where nothing of it is seen.

    Every frame is rendered once for its annotation, and again whenever it is looked at.
    """
    count = flight.frame_count - start if count is None else count
    boxes = target_boxes(flight, count, start)
    name = f"{flight.scenario}_{flight.seed}"
    frames = FlightFrames(flight, count, start)
    return Sequence(name, frames, boxes, "flights", night=True, rate=flight.rate)


def build_flight_cache(
    folder: str | Path,
    flights: Iterable[NightFlight],
    settings: CacheSettings = SETTINGS,
    *,
    frames: int = 150,
    every: int = 4,
    objects: int = 4,
) -> PairCache:
    """Cut targets and passers-by of rendered flights into a pair cache, group ``flights``.

    Args:
        folder: See :func:`mlkd_ros.data.cache.build_pair_cache`.
        flights: Rendered one after another.
        settings: How objects are cut out.
        frames: Pictures of each flight.
        every: Distance of these pictures in frames.
        objects: Objects cut from a picture: the main target, and others that stay from picture to
            picture as long as they are seen.
    """
    with PairCacheWriter(folder, settings) as writer:
        for flight in flights:
            name = f"{flight.scenario}_{flight.seed}"
            writer.begin(name, "flights", night=True)
            numbers: dict[str, int] = {}
            for index in range(min(frames, (flight.frame_count + every - 1) // every)):
                picture = flight.render(index * every)
                for identity, box in _chosen(picture, numbers, objects):
                    number = numbers.setdefault(identity, len(numbers))
                    writer.add(picture.image, box, index, number)
    return PairCache.open(folder)


def _chosen(
    picture: RenderedFrame, known: dict[str, int], objects: int
) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Choose well visible objects: the main target, then those met before, then the largest."""
    main = picture.targets[0][0]
    seen = [target for target in picture.targets if target[2] >= MIN_VISIBLE]
    seen.sort(
        key=lambda target: (
            target[0] != main,
            target[0] not in known,
            -target[1][2] * target[1][3],
        )
    )
    return [(target[0], target[1]) for target in seen[:objects]]
