# SPDX-License-Identifier: Apache-2.0
"""Two motions that add up in the picture: the camera's, and the target's own over ground.

While a target is out of sight its own motion goes on about as before, but the camera may turn at
any time. The camera's motion can be seen without the target: it is taken as one shift of the whole
picture, by phase correlation of two thumbnails (Kuglin and Hines 1975), in the band of frequencies
in which a picture of the night is more than noise, and near the motion before, because a camera has
inertia. What moves by itself covers too little of the picture to matter.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from ..imaging.frame import Frame

#: A place in the image, and a displacement, in pixels.
Point = tuple[float, float]
Shift = tuple[float, float]

#: Width and height of a thumbnail, and of the pixels that are averaged into it: few against noise,
#: but a small part of what averaging all of them costs; more of them when it matters.
_THUMBNAIL, _SAMPLED, _WELL_SAMPLED = (128, 72), (256, 144), (512, 288)
#: Largest part of the image that is looked at, about its centre, so that the cost of converting it
#: does not grow with the image.
_LARGEST = 1280, 720
#: Spatial frequencies that count, in cycles a pixel of the thumbnail (standard deviation of a
#: Gaussian): above, a picture of the night is noise.
_BAND = 0.12
#: A lower peak of the correlation is no match: too dark, too blurred, or another scene.
_LEAST_RESPONSE = 0.15
#: With a lower one, or more of the picture's width away, the key image has had its day.
_GOOD_RESPONSE, _MOST_SHIFT = 0.5, 0.1
#: Peaks farther from the motion before than so many parts of the picture's width (standard
#: deviation) count for less, down to this share.
_INERTIA, _LEAST_SHARE = 0.024, 0.15
#: Farther than where they count so much, no lower response than this is believed.
_NEAR, _FAR_RESPONSE = 0.1, 0.6
#: How much of its motion a camera keeps from one look in vain to the next.
_SLOWER = 0.8
#: Standard deviation of grey values below which a picture shows nothing at all.
_LEAST_CONTRAST = 0.5
#: While all targets are well in sight one of so many images is looked at; more of them while the
#: camera turns, so that no more than ``_MOST_SHIFT`` passes between two looks.
_EVERY = 6
#: Looks in vain after which no more than that are spent on it.
_PATIENCE = 15

#: Seconds that fixes are kept, in which the weight of older ones falls to 1/e, and before the last
#: one that are not trusted.
_HISTORY, _RECENT, _UNSURE = 2.0, 0.4, 0.1
#: A velocity counts half while the picture moves by so many sizes of the target a second.
_STEADY = 5.0
#: Weight of the velocity known before, in seconds.
_PRIOR = 0.02
#: Highest velocity over ground that is believed, in sizes of the target a second.
_FASTEST = 15.0
#: Time constant in seconds with which a velocity over ground fades.
_COAST = 8.0


@dataclass(frozen=True)
class Observation:
    """The camera's motion up to this image: the ``shift`` of the picture since the image looked at
    before, ``images`` images ago; ``None`` when the two do not match.
    """

    shift: Shift | None
    images: int


class CameraMotion:
    """Watches how the picture shifts, from the ``first`` image on; one for all targets of a camera.

    Each image looked at is compared with a *key* image as long as the two overlap well, so that
    errors do not add up from image to image, and noise that stands still in the picture does not
    hide a slow motion.

    watched: how many images.
    """

    def __init__(self, first: Frame | None = None) -> None:
        self._size = (0, 0)
        self._key: np.ndarray | None = None
        self._last: np.ndarray | None = None
        self._since_key: Shift = (0.0, 0.0)
        self._pace: Shift = (0.0, 0.0)
        self._images, self._every, self._vain = 0, _EVERY, 0
        self.watched = 0
        if first is not None:
            self.look(first, needed=True)
            self._every, self._vain = _EVERY, 0  # that one could not tell a motion

    def look(self, frame: Frame, needed: bool) -> Observation | None:
        """Called with every image; ``None`` for those that are left out while the motion is not
        ``needed`` image by image.
        """
        self.watched += 1
        self._images += 1
        if not needed and self._images < self._every:
            return None
        images, self._images = self._images, 0
        if (frame.width, frame.height) != self._size:
            self._size = (frame.width, frame.height)
            self._key = self._last = None
            self._pace = (0.0, 0.0)
        seen = _spectrum(_thumbnail(frame, *self._shown, well=needed))
        shift = self._shift(seen, images) if seen is not None else None
        if seen is None:  # what comes next is not one look away from the key image
            self._key = None
        self._last = seen
        self._plan_next(shift, images)
        return Observation(shift, images)

    def _plan_next(self, shift: Shift | None, images: int) -> None:
        """When to look again: after a look in vain at once, unless it is too dark for it."""
        self._vain = self._vain + 1 if shift is None else 0
        if shift is None:
            self._every = 1 if self._vain < _PATIENCE else _EVERY
            self._pace = self._pace[0] * _SLOWER, self._pace[1] * _SLOWER
            return
        self._pace = shift[0] / images, shift[1] / images
        most = _MOST_SHIFT * self._size[0] / max(1e-6, *map(abs, self._pace))
        self._every = int(min(max(most, 1), _EVERY))

    @property
    def _shown(self) -> tuple[int, int]:
        """Width and height of the part that is looked at."""
        return min(self._size[0], _LARGEST[0]), min(self._size[1], _LARGEST[1])

    def _shift(self, seen: np.ndarray, images: int) -> Shift | None:
        """Since the last look, ``images`` images ago."""
        step = self._pace[0] * images, self._pace[1] * images
        since, response = self._since_key, 0.0
        if self._key is not None:
            whole, response = self._match(self._key, seen, (since[0] + step[0], since[1] + step[1]))
            shift = whole[0] - since[0], whole[1] - since[1]
            self._since_key = whole
        if response < _LEAST_RESPONSE and self._last is not None:
            shift, response = self._match(self._last, seen, step)
            self._key = None
        far = max(map(abs, self._since_key)) > _MOST_SHIFT * self._size[0]
        if self._key is None or far or response < _GOOD_RESPONSE:
            self._key, self._since_key = seen, (0.0, 0.0)
        return shift if response >= _LEAST_RESPONSE else None

    def _match(self, before: np.ndarray, seen: np.ndarray, expected: Shift) -> tuple[Shift, float]:
        """Shift between two spectra, in pixels of the image, and the response."""
        unit = self._shown[0] / _THUMBNAIL[0], self._shown[1] / _THUMBNAIL[1]
        surface = _correlation(before, seen)
        near = _inertia(expected[0] / unit[0], expected[1] / unit[1])
        ranked = surface * (_LEAST_SHARE + (1.0 - _LEAST_SHARE) * near)
        row, column = divmod(int(ranked.argmax()), _THUMBNAIL[0])
        least = _LEAST_RESPONSE if near[row, column] > _NEAR else _FAR_RESPONSE
        if surface[row, column] < least:
            return expected, 0.0
        shift = _peak(surface[row], column) * unit[0], _peak(surface[:, column], row) * unit[1]
        return shift, float(surface[row, column])


def _thumbnail(frame: Frame, width: int, height: int, well: bool) -> np.ndarray:
    """Grey thumbnail, float32, of the middle ``width`` x ``height`` pixels."""
    left, top = (frame.width - width) // 2, (frame.height - height) // 2
    pixels = frame.window(left, top, left + width, top + height)
    pixels = cv2.resize(
        pixels, _WELL_SAMPLED if well else _SAMPLED, interpolation=cv2.INTER_NEAREST
    )
    # What a dark picture shows is less than a grey level: the mean is not rounded to whole ones.
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return cv2.resize(grey, _THUMBNAIL, interpolation=cv2.INTER_AREA)


_TAPER = cv2.createHanningWindow(_THUMBNAIL, cv2.CV_32F)
_FREQUENCIES = np.fft.rfftfreq(_THUMBNAIL[0])[None], np.fft.fftfreq(_THUMBNAIL[1])[:, None]
_WEIGHTS = np.exp(-(_FREQUENCIES[0] ** 2 + _FREQUENCIES[1] ** 2) / (2 * _BAND**2))
_WEIGHTS[0, 0] = 0.0
_WEIGHTS /= np.fft.irfft2(_WEIGHTS, s=_THUMBNAIL[::-1])[0, 0]
#: Signed shifts, in pixels of the thumbnail, of the columns and rows of a correlation surface.
_COLUMNS, _ROWS = (np.fft.fftfreq(side, 1 / side) for side in _THUMBNAIL)


def _spectrum(thumbnail: np.ndarray) -> np.ndarray | None:
    """``None`` for a picture that shows nothing."""
    if thumbnail.std() < _LEAST_CONTRAST:
        return None
    phases: np.ndarray = np.fft.rfft2((thumbnail - thumbnail.mean()) * _TAPER)
    return phases / np.maximum(np.abs(phases), 1e-9)


def _correlation(last: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Phase correlation surface of two spectra, 1 for the shift between two equal pictures."""
    return np.fft.irfft2(seen * last.conj() * _WEIGHTS, s=_THUMBNAIL[::-1])


def _inertia(x: float, y: float) -> np.ndarray:
    """How near each shift is to ``(x, y)``, the expected one in pixels of the thumbnail, 0 to 1."""
    spread = 2 * (_INERTIA * _THUMBNAIL[0]) ** 2
    near: np.ndarray = np.exp(-((_ROWS - y) ** 2) / spread)[:, None]
    return near * np.exp(-((_COLUMNS - x) ** 2) / spread)


def _peak(line: np.ndarray, at: int) -> float:
    """Signed place of the peak at index ``at`` of a line that is closed to a ring, by the parabola
    through it and its neighbours.
    """
    before, peak, after = line[at - 1], line[at], line[(at + 1) % len(line)]
    bend = before - 2 * peak + after
    place = at + (0.0 if bend == 0 else 0.5 * float(before - after) / float(bend))
    return place - len(line) if place > len(line) / 2 else place


@dataclass(frozen=True)
class _Fix:
    """A place in coordinates of the ground; ``shift``: of the picture, up to that ``time``."""

    time: float
    x: float
    y: float
    shift: Shift


class GroundTrack:
    """A target's way over ground, and where that leads once it is in doubt.

    Places are *fixed* in coordinates that move with the picture, so that what is left is the
    target's own motion. Dead reckoning goes on from the last fix by the mean velocity between the
    fixes of late and by the picture's shift. While a target is being covered or leaves the picture,
    the network takes the part that is seen for the whole; so the very last fixes do not count.
    """

    def __init__(self, place: Point | None = None, size: float = 1.0) -> None:
        self._now = self._looked = 0.0
        self._shift: Shift = (0.0, 0.0)
        self._velocity: Shift = (0.0, 0.0)
        self._size = size
        self._fixes: list[_Fix] = []
        self._origin: _Fix | None = None
        if place is not None:
            self.fix(place, size)

    def advance(self, elapsed: float, observed: Observation | None) -> None:
        """Go on to the next image, ``elapsed`` seconds later; before what is seen in it."""
        self._now += elapsed
        if observed is None:
            return
        self._looked = self._now
        if observed.shift is None:
            self.doubt()
            self.reckon_from(None)
            return
        self._shift = self._shift[0] + observed.shift[0], self._shift[1] + observed.shift[1]

    def fix(self, place: Point, size: float) -> None:
        """It is at ``place``, beyond doubt, in the image that has just been looked at."""
        self._size = size
        self._fixes = [one for one in self._fixes if self._now - one.time <= _HISTORY]
        self._fixes.append(self._ground(place))
        self._origin = None

    def doubt(self) -> None:
        """From now on it is only known where it should be. Again and again is as good as once."""
        if self._origin is not None or not self._fixes:
            return
        last = self._fixes[-1].time
        sure = [one for one in self._fixes if one.time <= last - _UNSURE] or self._fixes[:1]
        self._velocity = _mean_velocity(sure, self._size, self._velocity)
        self._origin, self._fixes = sure[-1], []

    def reckon_from(self, place: Point | None) -> None:
        """Go on from a place that is the best known, but not beyond doubt; ``None``: unknown."""
        self._fixes = []
        self._origin = self._ground(place) if place is not None else None

    @property
    def place(self) -> Point | None:
        """Where a target in doubt is by dead reckoning, in the image looked at last."""
        if self._origin is None:
            return None
        # Nothing goes straight on for ever: the velocity fades.
        on = _COAST * (1.0 - math.exp(-(self._looked - self._origin.time) / _COAST))
        return (
            self._origin.x + self._velocity[0] * on + self._shift[0],
            self._origin.y + self._velocity[1] * on + self._shift[1],
        )

    @property
    def age(self) -> float:
        """For how many seconds its place has been reckoned only."""
        return self._now - self._origin.time if self._origin is not None else 0.0

    @property
    def velocity(self) -> Shift:
        """Over ground in pixels a second, as it was when doubt began."""
        return self._velocity

    def scaled(self, sx: float, sy: float) -> None:
        """The same scene in another resolution."""
        self.doubt()
        self._velocity = self._velocity[0] * sx, self._velocity[1] * sy
        self.reckon_from(None)

    def _ground(self, place: Point) -> _Fix:
        x, y = place[0] - self._shift[0], place[1] - self._shift[1]
        return _Fix(self._now, x, y, self._shift)


def _mean_velocity(fixes: list[_Fix], size: float, before: Shift) -> Shift:
    """Weighted mean of the velocities between ``fixes``: the latest count most, and those little
    between which the picture moved far, as its parts do not move alike. Few of them change little
    on the one known ``before``.
    """
    x, y, sum_of_weights = before[0] * _PRIOR, before[1] * _PRIOR, _PRIOR
    for one, two in itertools.pairwise(fixes):
        pace = math.dist(one.shift, two.shift) / (two.time - one.time)
        weight = math.exp((two.time - fixes[-1].time) / _RECENT)
        weight /= 1.0 + (pace / (_STEADY * size)) ** 2
        x, y = x + weight * (two.x - one.x), y + weight * (two.y - one.y)
        sum_of_weights += weight * (two.time - one.time)
    vx, vy = x / sum_of_weights, y / sum_of_weights
    bound = min(1.0, _FASTEST * size / max(math.hypot(vx, vy), 1e-6))
    return vx * bound, vy * bound
