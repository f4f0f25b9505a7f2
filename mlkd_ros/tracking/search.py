# SPDX-License-Identifier: Apache-2.0
"""Where a lost target may be, and whether what was seen somewhere may be it.

Looks do not tell a car from the next one of its model. Place and time do: a target that was lost a
moment ago cannot be at the other end of the picture. So a lost target has a *reach*: circles about
its predicted place and about the place in the picture where it was last seen (which for a target
that left the picture is the border it crossed). They widen with time, and only what is inside them
is taken for the target. What looks like it elsewhere is a known lookalike from then on, so that it
is not mistaken for the target when the reach has come to include it.

All lengths are pixels of the image, unless they are in sizes of the target (square root of its
area).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .motion import Point, Shift
from .settings import PresenceSettings

#: The reach grows so many times as fast while the camera's motion cannot be seen.
_BLIND = 1.5
#: A lookalike was out of reach when it was first seen. It stays refused until the reach is this
#: many times as wide as that distance: by then the prediction may have been wrong.
_REFUSED_UNTIL = 2.0
#: Two sightings this near, in sizes, are of the same object.
_SAME = 1.0
#: Lookalikes remembered, and for how many seconds unseen.
_MOST_LOOKALIKES, _REMEMBERED_FOR = 6, 2.0


@dataclass
class Lookalike:
    """Something that looks like the target where it cannot be. away: how far from where the target
    was expected, when it was first seen. unseen: seconds since it was seen last.
    """

    x: float
    y: float
    away: float
    unseen: float = 0.0


@dataclass(frozen=True)
class Sighting:
    """What the last image showed that may be the target: centre and size in image pixels. A second
    look at it is one at its own size, which tells more.
    """

    place: Point
    size: tuple[float, float]


def _distance(a: Point, b: Point) -> float:
    return math.hypot(a[0] - b[0], a[1] - b[1])


class LostSearch:
    """The search for one lost target, from image to image.

    last: where it was seen last. size: of the target; step: between the places of a scan.
    unseen: seconds since it was seen last. sighting: what the last image showed that may be the
    target; one resemblance alone is no re-acquisition.
    """

    def __init__(
        self,
        settings: PresenceSettings,
        last: Point,
        size: float,
        step: float,
        image_size: tuple[int, int],
        unseen: float = 0.0,
    ) -> None:
        self.settings = settings
        self.reach = (settings.near + settings.spread * unseen) * size
        self.lookalikes: list[Lookalike] = []
        self.sighting: Sighting | None = None
        self.shift: Shift = (0.0, 0.0)
        self._last = last
        self._size = size
        self._step = step
        self._image_size = image_size
        self._scan: Iterator[Point] = iter(())
        self._turn = 0

    def advance(self, elapsed: float, shift: Shift | None) -> None:
        """Go on to the next image: ``elapsed`` seconds later, the picture moved by ``shift``."""
        growth = self.settings.spread * self._size * elapsed
        self.reach += growth if shift is not None else _BLIND * growth
        dx, dy = self.shift = shift or (0.0, 0.0)
        for one in self.lookalikes:
            one.x, one.y, one.unseen = one.x + dx, one.y + dy, one.unseen + elapsed
        self.lookalikes = [one for one in self.lookalikes if one.unseen <= _REMEMBERED_FOR]
        if self.sighting is not None:
            x, y = self.sighting.place
            self.sighting = replace(self.sighting, place=(x + dx, y + dy))

    def scaled(self, sx: float, sy: float, image_size: tuple[int, int]) -> None:
        """The same scene in another resolution."""
        mean = math.sqrt(sx * sy)
        self._size, self._step, self.reach = self._size * mean, self._step * mean, self.reach * mean
        self._image_size = image_size
        self._scan = iter(())
        self._last = self._last[0] * sx, self._last[1] * sy
        for one in self.lookalikes:
            one.x, one.y, one.away = one.x * sx, one.y * sy, one.away * mean
        if self.sighting is not None:
            (x, y), (w, h) = self.sighting.place, self.sighting.size
            self.sighting = Sighting((x * sx, y * sy), (w * sx, h * sy))

    def centres(self, predicted: Point, windows: int) -> list[Point]:
        """Where to look in this image: at the last sighting alone where there is one; else, as far
        as ``windows`` go, at the predicted place (the border nearest to it), at the last place, and
        at the next places of a scan over the whole image. With one window they take turns.
        """
        if self.sighting is not None:
            return [self.sighting.place]
        here = self._inside(predicted)
        if windows == 1:
            self._turn = (self._turn + 1) % 3
            return self._scanned(here, 1) if self._turn == 2 else [(here, self._last)[self._turn]]
        places = [here]
        if windows > 2 and _distance(here, self._last) > self._step / 2:
            places.append(self._last)
        return places + self._scanned(here, windows - len(places))

    def _inside(self, place: Point) -> Point:
        width, height = self._image_size
        return min(max(place[0], 0.0), float(width)), min(max(place[1], 0.0), float(height))

    def _scanned(self, here: Point, count: int) -> list[Point]:
        places = list(itertools.islice(self._scan, count))
        if not places:
            self._scan = self._grid(here)
            places = list(itertools.islice(self._scan, count))
        return places

    def _grid(self, here: Point) -> Iterator[Point]:
        """Places of half-overlapping windows over the whole image, the nearest to where the target
        is expected first.
        """
        width, height = self._image_size
        step = max(8.0, self._step)
        columns = np.linspace(0, width, max(2, math.ceil(width / step)) + 1)
        rows = np.linspace(0, height, max(2, math.ceil(height / step)) + 1)
        grid = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        distance = np.minimum(*(np.hypot(*(grid - place).T) for place in (here, self._last)))
        return iter([(float(x), float(y)) for x, y in grid[np.argsort(distance, kind="stable")]])

    def away(self, place: Point, predicted: Point) -> float:
        """Distance of ``place`` from where the target is expected."""
        return min(_distance(place, self._inside(predicted)), _distance(place, self._last))

    def rank(self, place: Point, confidence: float, predicted: Point) -> float | None:
        """Log-odds, by looks and by distance, that the target is what was seen at ``place``;
        ``None`` when it cannot be. What is out of reach is remembered as a lookalike.
        """
        settings, away = self.settings, self.away(place, predicted)
        near = away <= settings.near * self._size
        if confidence < settings.tracking_above:
            return None
        if self.sighting is not None and _distance(place, self.sighting.place) > _SAME * self._size:
            return None
        if self._refused(place, away):
            return None
        if confidence < (settings.tracking_above if near else settings.reacquire_above):
            return None
        odds = math.log(max(confidence, 1e-6) / max(1.0 - confidence, 1e-6))
        return odds - 2.0 * (away / self.reach) ** 2

    def _refused(self, place: Point, away: float) -> bool:
        """Whether ``place`` is out of reach, or that of a known lookalike."""
        known = min(self.lookalikes, key=lambda one: _distance((one.x, one.y), place), default=None)
        if known is not None and _distance((known.x, known.y), place) <= _SAME * self._size:
            known.x, known.y, known.unseen = place[0], place[1], 0.0
            if self.reach < _REFUSED_UNTIL * known.away:
                return True
            self.lookalikes.remove(known)
            return False
        if away <= self.reach:
            return False
        self.lookalikes.append(Lookalike(*place, away))
        self.lookalikes = sorted(self.lookalikes, key=lambda one: one.unseen)[:_MOST_LOOKALIKES]
        return True
