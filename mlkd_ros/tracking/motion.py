# SPDX-License-Identifier: Apache-2.0
"""Two motions that add up in the picture: the camera's, and the target's own over ground.

While a target is out of sight its own motion goes on about as before, but the camera may turn at
any time. The camera's motion can be seen without the target: it is taken as one shift of the whole
picture, by phase correlation of two thumbnails (Kuglin and Hines 1975, as in OpenCV's
``phaseCorrelate``). What moves by itself covers too little of the picture to matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .frame import Frame

#: A place in the image, and a displacement, in pixels.
Point = tuple[float, float]
Shift = tuple[float, float]

#: Width and height of a thumbnail. Four pixels of the image are averaged into one of it: enough
#: against noise, and a small part of what averaging all of them costs.
_THUMBNAIL, _SAMPLED = (128, 72), (256, 144)
#: Largest part of the image that is looked at, about its centre, so that the cost of converting it
#: does not grow with the image.
_LARGEST = 1280, 720
#: A lower peak of the correlation is no match: too dark, too blurred, or another scene.
_LEAST_RESPONSE = 0.4
#: Standard deviation of grey values below which a picture shows nothing but noise.
_LEAST_CONTRAST = 2.0
#: While all targets are in sight one of so many images is looked at.
_EVERY = 6

#: Least time between two places that give a velocity over ground, in seconds.
_BASELINE = 0.15
#: How much an older measurement of it counts when a newer one comes.
_OLDER = 0.7
#: Highest velocity over ground that is believed, in sizes of the target a second.
_FASTEST = 15.0


@dataclass(frozen=True)
class Observation:
    """The camera's motion up to this image. ``shift`` is that of the picture since the image looked
    at before, ``None`` when the two do not match; ``single``: that was the image just before.
    """

    shift: Shift | None
    single: bool


class CameraMotion:
    """Watches how the picture shifts; one for all targets of a camera."""

    def __init__(self) -> None:
        self._size = (0, 0)
        self._last: np.ndarray | None = None
        self._images = 0
        self._taper = cv2.createHanningWindow(_THUMBNAIL, cv2.CV_32F)

    def look(self, frame: Frame, needed: bool) -> Observation | None:
        """Called with every image; ``None`` for those that are left out while the motion is not
        ``needed`` image by image.
        """
        self._images += 1
        if not needed and self._images < _EVERY:
            return None
        single, self._images = self._images == 1, 0
        width, height = (
            min(side, most)
            for side, most in zip((frame.width, frame.height), _LARGEST, strict=True)
        )
        seen = _thumbnail(frame, width, height)
        last = self._last if (frame.width, frame.height) == self._size else None
        self._last, self._size = seen, (frame.width, frame.height)
        if last is None or seen.std() < _LEAST_CONTRAST:
            return Observation(None, single)
        (dx, dy), response = cv2.phaseCorrelate(last, seen, self._taper)
        if response < _LEAST_RESPONSE:
            return Observation(None, single)
        return Observation((dx * width / _THUMBNAIL[0], dy * height / _THUMBNAIL[1]), single)


def _thumbnail(frame: Frame, width: int, height: int) -> np.ndarray:
    """Grey thumbnail, float32, of the middle ``width`` x ``height`` pixels."""
    left, top = (frame.width - width) // 2, (frame.height - height) // 2
    pixels = frame.window(left, top, left + width, top + height)
    sampled = cv2.resize(pixels, _SAMPLED, interpolation=cv2.INTER_NEAREST)
    small = cv2.resize(sampled, _THUMBNAIL, interpolation=cv2.INTER_AREA)
    grey: np.ndarray = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return grey


class GroundVelocity:
    """A target's velocity over ground in pixels a second: its way in the picture less the
    picture's shift.
    """

    def __init__(self) -> None:
        self.value: Shift = (0.0, 0.0)
        self._weight = 0.0
        self._mark: Point | None = None
        self._shift: Shift = (0.0, 0.0)
        self._age = 0.0

    def wait(self, elapsed: float) -> None:
        """Time that passed with an image."""
        self._age += elapsed

    def measure(self, place: Point | None, shift: Shift | None, size: float) -> None:
        """The target is at ``place`` (``None``: not seen well) and the picture moved by ``shift``
        since the last call.
        """
        if place is None or shift is None or self._mark is None:
            self._restart(place)
            return
        self._shift = self._shift[0] + shift[0], self._shift[1] + shift[1]
        if self._age < _BASELINE:
            return
        vx = (place[0] - self._mark[0] - self._shift[0]) / self._age
        vy = (place[1] - self._mark[1] - self._shift[1]) / self._age
        bound = min(1.0, _FASTEST * size / max(math.hypot(vx, vy), 1e-6))
        # The shift's error grows with the shift.
        weight = 1.0 / (1.0 + (self._shift[0] ** 2 + self._shift[1] ** 2) / size**2)
        self._weight = _OLDER * self._weight + weight
        gain = weight / self._weight
        x, y = self.value
        self.value = x + gain * (vx * bound - x), y + gain * (vy * bound - y)
        self._restart(place)

    def _restart(self, place: Point | None) -> None:
        self._mark, self._shift, self._age = place, (0.0, 0.0), 0.0

    def fade(self, share: float) -> None:
        """Keep this share of it: nothing goes straight on for ever."""
        self.value = self.value[0] * share, self.value[1] * share

    def scaled(self, sx: float, sy: float) -> None:
        """The same scene in another resolution."""
        self.value = self.value[0] * sx, self.value[1] * sy
        self._restart(None)
