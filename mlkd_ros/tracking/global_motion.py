# SPDX-License-Identifier: Apache-2.0
"""The camera's motion as the picture shows it, with how sure that is: one for all targets.

The whole picture is taken to move by one shift: phase correlation of two thumbnails (Kuglin and
Hines 1975), in the band of frequencies in which a picture of the night is more than noise, and near
the motion before, because a camera has inertia. What moves by itself covers too little of the
picture to matter. Where that is asked for, parts of the picture are matched one by one as well,
and a similarity (rotation, zoom and shift) is fitted to their shifts.

Each step comes with a variance, which is large where the pictures match badly, where the step is
another than the ones before, and where nothing could be seen at all. A step that no camera makes
is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from ..imaging.frame import Frame

__all__ = ["STILL", "GlobalMotion", "Motion", "Point", "Shift"]

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
#: Nor is a change of the motion by so many parts of the picture's width in one step, in any case.
_IMPOSSIBLE = 0.12
#: Time constant in seconds with which a motion that cannot be seen is taken to fade.
_SLOWER = 0.15
#: Standard deviation of grey values below which a picture shows nothing at all.
_LEAST_CONTRAST = 0.5
#: While all targets are well in sight one image in so many seconds is looked at; more of them while
#: the camera turns, so that no more than ``_MOST_SHIFT`` passes between two looks.
_EVERY = 0.19
#: Seconds of looks in vain after which no more than that are spent on it.
_PATIENCE = 0.5
#: Deviation of a step in pixels of the thumbnail when the response is perfect, and how it grows
#: with what the response lacks and with the distance from the step expected.
_SHARP, _BLURRED, _SURPRISE = 0.15, 0.6, 0.1
#: Deviation of the speed of a camera that cannot be seen, in parts of the picture's width a second.
_UNSEEN = 0.25
#: Parts that are matched one by one: their size in pixels of the thumbnail, and their corners.
_PART = 64, 36
_CORNERS = tuple((x, y) for y in (0, 36) for x in (0, 32, 64))
#: A part has moved at most so far from where the whole picture went, in pixels of the thumbnail.
_PART_REACH = 6
#: Least response of a part, and least number of parts that a similarity is fitted to.
_PART_RESPONSE, _LEAST_PARTS = 0.25, 4
#: Deviation of a camera's turn in radians a second, and of its zoom as a factor a second: what is
#: fitted counts less the more noise is in it.
_TURNING = 0.15
#: Largest turn (radians) and change of scale between two looks that is believed.
_MOST_TURN, _MOST_ZOOM = 0.15, 0.1


@dataclass(frozen=True)
class Motion:
    """What a camera's motion did to the picture, from one image to the next.

    A similarity: ``(x, y)`` goes to ``(a x - b y + tx, b x + a y + ty)``, in pixels of the image.
    variance: of each coordinate of where a point goes to, in pixels^2. seen: whether it was looked
    at and found, or is only what is expected. revision: by how much faster the picture moved than
    was said for the images since the look before, in pixels a second.
    """

    tx: float = 0.0
    ty: float = 0.0
    a: float = 1.0
    b: float = 0.0
    variance: float = 0.0
    seen: bool = False
    revision: Shift = (0.0, 0.0)

    @property
    def scale(self) -> float:
        """Zoom factor."""
        return math.hypot(self.a, self.b)

    def applied(self, x: float, y: float) -> Point:
        """Where a point of the scene that was at ``(x, y)`` is now."""
        return self.a * x - self.b * y + self.tx, self.b * x + self.a * y + self.ty

    def turned(self, x: float, y: float) -> Shift:
        """A displacement in the picture before as one in the picture now."""
        return self.a * x - self.b * y, self.b * x + self.a * y


#: No motion, for certain.
STILL = Motion()


class GlobalMotion:
    """Watches how the picture moves, from the ``first`` image on; one for all targets of a camera.

    Each image looked at is compared with a *key* image as long as the two overlap well, so that
    errors do not add up from image to image, and noise that stands still in the picture does not
    hide a slow motion.

    watched: how many images.
    """

    def __init__(self, first: Frame | None = None) -> None:
        self._size = (0, 0)
        self._key: np.ndarray | None = None
        self._last: np.ndarray | None = None
        self._picture: np.ndarray | None = None
        self._since_key: Shift = (0.0, 0.0)
        #: Speed of the picture, in pixels a second.
        self._speed: Shift = (0.0, 0.0)
        self._since, self._images, self._vain = 0.0, 0, 0.0
        self.watched = 0
        if first is not None:
            self.look(first, 0.0, needed=True)
            self._vain = 0.0  # that one could not tell a motion

    def look(self, frame: Frame, seconds: float, needed: bool, turning: bool = False) -> Motion:
        """The motion up to this image, ``seconds`` after the one before. Called with every image;
        while the motion is not ``needed`` image by image, few of them are really looked at.
        ``turning``: rotation and zoom as well.
        """
        self.watched += 1
        self._images += 1
        self._since += seconds
        if (frame.width, frame.height) != self._size:
            self._begin(frame)
        elif not needed and not self._due:
            return self._expected(seconds)
        since, images = self._since, self._images
        self._since, self._images = 0.0, 0
        thumbnail = _thumbnail(frame, *self._shown, well=needed)
        spectrum = _spectrum(thumbnail)
        found = self._shift(spectrum, since) if spectrum is not None else None
        if spectrum is None:  # what comes next is not one look away from the key image
            self._key = None
        before, self._last = self._picture, spectrum
        self._picture = thumbnail if spectrum is not None else None
        if found is None or since <= 0:
            return self._in_vain(seconds)
        shift, variance = found
        self._vain = 0.0
        speed = shift[0] / since, shift[1] / since
        revision = (0.0, 0.0)
        if images > 1:
            revision = speed[0] - self._speed[0], speed[1] - self._speed[1]
        self._speed = speed
        part = seconds / since
        step = shift[0] * part, shift[1] * part
        if turning and images == 1 and before is not None:
            return self._similarity(before, thumbnail, step, variance, seconds)
        return Motion(*step, variance=variance * part, seen=True, revision=revision)

    def _begin(self, frame: Frame) -> None:
        """Another resolution: nothing to compare with."""
        self._size = frame.width, frame.height
        self._key = self._last = self._picture = None
        self._speed = (0.0, 0.0)

    @property
    def _due(self) -> bool:
        """Whether an image has to be looked at even though no target needs it."""
        if 0.0 < self._vain < _PATIENCE:
            return True
        fastest = max(1e-6, *map(abs, self._speed))
        return self._since >= min(_EVERY, _MOST_SHIFT * self._size[0] / fastest)

    def _expected(self, seconds: float) -> Motion:
        """An image that is not looked at: the picture goes on as before."""
        deviation = _UNSEEN * self._size[0] * seconds
        step = self._speed[0] * seconds, self._speed[1] * seconds
        return Motion(*step, variance=deviation**2)

    def _in_vain(self, seconds: float) -> Motion:
        """Looked at, but not found: the motion fades."""
        motion = self._expected(seconds)
        self._vain += max(seconds, 1e-3)
        kept = math.exp(-seconds / _SLOWER)
        self._speed = self._speed[0] * kept, self._speed[1] * kept
        return motion

    @property
    def _shown(self) -> tuple[int, int]:
        """Width and height of the part that is looked at."""
        return min(self._size[0], _LARGEST[0]), min(self._size[1], _LARGEST[1])

    @property
    def _unit(self) -> Shift:
        """Pixels of the image a pixel of the thumbnail."""
        return self._shown[0] / _THUMBNAIL[0], self._shown[1] / _THUMBNAIL[1]

    def _shift(self, seen: np.ndarray, seconds: float) -> tuple[Shift, float] | None:
        """Since the last look, ``seconds`` ago, with its variance; None when nothing matches."""
        step = self._speed[0] * seconds, self._speed[1] * seconds
        since, response, shift = self._since_key, 0.0, step
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
        if response < _LEAST_RESPONSE:
            return None
        surprise = math.dist(shift, step)
        deviation = self._unit[0] * (_SHARP + _BLURRED * (1.0 - min(response, 1.0)))
        return shift, deviation**2 + (_SURPRISE * (1.0 - min(response, 1.0)) * surprise) ** 2

    def _match(self, before: np.ndarray, seen: np.ndarray, expected: Shift) -> tuple[Shift, float]:
        """Shift between two spectra, in pixels of the image, and the response."""
        unit = self._unit
        surface = _correlation(before, seen)
        near = _inertia(expected[0] / unit[0], expected[1] / unit[1])
        ranked = surface * (_LEAST_SHARE + (1.0 - _LEAST_SHARE) * near)
        row, column = divmod(int(ranked.argmax()), _THUMBNAIL[0])
        least = _LEAST_RESPONSE if near[row, column] > _NEAR else _FAR_RESPONSE
        if surface[row, column] < least:
            return expected, 0.0
        shift = _peak(surface[row], column) * unit[0], _peak(surface[:, column], row) * unit[1]
        if math.dist(shift, expected) > _IMPOSSIBLE * self._size[0]:
            return expected, 0.0
        return shift, float(surface[row, column])

    def _similarity(
        self, before: np.ndarray, seen: np.ndarray, shift: Shift, variance: float, seconds: float
    ) -> Motion:
        """The similarity that fits the shifts of the picture's parts best, or the ``shift`` alone
        where they do not agree on one.
        """
        unit = self._unit
        places, moves = _parts(before, seen, (shift[0] / unit[0], shift[1] / unit[1]))
        enough = len(places) >= _LEAST_PARTS
        fitted = _fit_similarity(places, moves, _TURNING * seconds) if enough else None
        if fitted is None:
            return Motion(*shift, variance=variance, seen=True)
        a, b, tx, ty, residual = fitted
        # Brought from the thumbnail to the image; about its middle, where the thumbnail lies.
        left = (self._size[0] - self._shown[0]) / 2
        top = (self._size[1] - self._shown[1]) / 2
        tx = left - (a * left - b * top) + tx * unit[0]
        ty = top - (b * left + a * top) + ty * unit[1]
        x, y = self._size[0] / 2, self._size[1] / 2
        moved = a * x - b * y + tx - x, b * x + a * y + ty - y
        # It turns and zooms about the middle, whose motion the whole picture tells much better.
        if math.dist(moved, shift) > max(unit[0], 2.0 * math.sqrt(variance)):
            return Motion(*shift, variance=variance, seen=True)
        return Motion(tx, ty, a, b, max(variance, (residual * unit[0]) ** 2), seen=True)


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


def _band(size: tuple[int, int]) -> np.ndarray:
    """Weights of the frequencies of a picture of ``size`` (width, height), for a peak of 1."""
    across, down = np.fft.rfftfreq(size[0])[None], np.fft.fftfreq(size[1])[:, None]
    weights: np.ndarray = np.exp(-(across**2 + down**2) / (2 * _BAND**2))
    weights[0, 0] = 0.0
    weights /= np.fft.irfft2(weights, s=size[::-1])[0, 0]
    return weights


_TAPER = cv2.createHanningWindow(_THUMBNAIL, cv2.CV_32F)
_WEIGHTS = _band(_THUMBNAIL)
_PART_TAPER = cv2.createHanningWindow(_PART, cv2.CV_32F)
_PART_WEIGHTS = _band(_PART)
#: Signed shifts, in pixels of the thumbnail, of the columns and rows of a correlation surface.
_COLUMNS, _ROWS = (np.fft.fftfreq(side, 1 / side) for side in _THUMBNAIL)


def _phases(picture: np.ndarray, taper: np.ndarray) -> np.ndarray:
    phases: np.ndarray = np.fft.rfft2((picture - picture.mean()) * taper)
    phases /= np.maximum(np.abs(phases), 1e-9)
    return phases


def _spectrum(thumbnail: np.ndarray) -> np.ndarray | None:
    """``None`` for a picture that shows nothing."""
    if thumbnail.std() < _LEAST_CONTRAST:
        return None
    return _phases(thumbnail, _TAPER)


def _correlation(last: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Phase correlation surface of two spectra, 1 for the shift between two equal pictures."""
    return np.fft.irfft2(seen * last.conj() * _WEIGHTS, s=_THUMBNAIL[::-1])


def _inertia(x: float, y: float) -> np.ndarray:
    """How near each shift is to ``(x, y)``, the expected one in pixels of the thumbnail, 0 to 1."""
    spread = 2 * (_INERTIA * _THUMBNAIL[0]) ** 2
    down = np.exp(-((_ROWS - y) ** 2) / spread)[:, None]
    near: np.ndarray = down * np.exp(-((_COLUMNS - x) ** 2) / spread)
    return near


def _peak(line: np.ndarray, at: int) -> float:
    """Signed place of the peak at index ``at`` of a line that is closed to a ring, by the parabola
    through it and its neighbours.
    """
    before, peak, after = line[at - 1], line[at], line[(at + 1) % len(line)]
    bend = before - 2 * peak + after
    place = at + (0.0 if bend == 0 else 0.5 * float(before - after) / float(bend))
    return place - len(line) if place > len(line) / 2 else place


def _parts(before: np.ndarray, seen: np.ndarray, shift: Shift) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the parts of the picture that match, ``(n, 2)``, and where they went, ``(n, 2)``,
    in pixels of the thumbnail. Each is looked for about where the whole picture went.
    """
    dx, dy = round(shift[0]), round(shift[1])
    width, height = _PART
    places, moves = [], []
    for x, y in _CORNERS:
        # Both cut so that the same part of the scene is in both, inside either picture.
        left = min(max(x, -dx, 0), _THUMBNAIL[0] - width - max(dx, 0))
        top = min(max(y, -dy, 0), _THUMBNAIL[1] - height - max(dy, 0))
        if left < max(-dx, 0) or top < max(-dy, 0):
            continue
        one = before[top : top + height, left : left + width]
        two = seen[top + dy : top + dy + height, left + dx : left + dx + width]
        moved = _part_shift(one, two)
        if moved is not None:
            places.append((left + width / 2, top + height / 2))
            moves.append((left + width / 2 + dx + moved[0], top + height / 2 + dy + moved[1]))
    return np.array(places).reshape(-1, 2), np.array(moves).reshape(-1, 2)


def _part_shift(one: np.ndarray, two: np.ndarray) -> Shift | None:
    """Shift from one part of a picture to another, at most ``_PART_REACH``; None: no match."""
    if min(one.std(), two.std()) < _LEAST_CONTRAST:
        return None
    product = _phases(two, _PART_TAPER) * _phases(one, _PART_TAPER).conj()
    surface = np.fft.irfft2(product * _PART_WEIGHTS, s=_PART[::-1])
    near = np.roll(surface, (_PART_REACH, _PART_REACH), (0, 1))
    near = near[: 2 * _PART_REACH + 1, : 2 * _PART_REACH + 1]
    row, column = divmod(int(near.argmax()), 2 * _PART_REACH + 1)
    if near[row, column] < _PART_RESPONSE:
        return None
    row, column = (row - _PART_REACH) % _PART[1], (column - _PART_REACH) % _PART[0]
    return _peak(surface[row], column), _peak(surface[:, column], row)


def _fit_similarity(
    places: np.ndarray, moves: np.ndarray, deviation: float
) -> tuple[float, float, float, float, float] | None:
    """``a, b, tx, ty`` of the similarity from ``places`` to ``moves``, ``(n, 2)`` each, by least
    squares with the worst point left out once, and the deviation of what is left; turn and zoom as
    far as their noise lets them count, if their ``deviation`` is known. None for one that no camera
    makes.
    """
    for last in (False, True):
        middle, target = places.mean(0), moves.mean(0)
        p, q = places - middle, moves - target
        power = float((p**2).sum())
        a = float((p * q).sum()) / power
        b = float((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum()) / power
        turned = np.stack((a * p[:, 0] - b * p[:, 1], b * p[:, 0] + a * p[:, 1]), 1)
        error = np.hypot(*(q - turned).T)
        if last or len(places) <= _LEAST_PARTS:
            break
        kept = np.arange(len(places)) != error.argmax()
        places, moves = places[kept], moves[kept]
    if abs(math.atan2(b, a)) > _MOST_TURN or abs(math.hypot(a, b) - 1.0) > _MOST_ZOOM:
        return None
    residual = float((error**2).sum()) / max(2 * len(p) - 4, 1)
    share = deviation**2 / (deviation**2 + residual / power)
    a, b = 1.0 + share * (a - 1.0), share * b
    tx = float(target[0] - a * middle[0] + b * middle[1])
    ty = float(target[1] - b * middle[0] - a * middle[1])
    return a, b, tx, ty, math.sqrt(residual)
