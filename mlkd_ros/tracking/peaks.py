# SPDX-License-Identifier: Apache-2.0
"""Peaks of a search window in image pixels: the measurements of the data association."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .candidates import NO_PEAK
from .existence import probability_of
from .geometry import CropWindow
from .settings import TrackerSettings

__all__ = ["Peak", "peaks_of"]

#: Two peaks whose centres are nearer than this share of their mean half sides are of one thing.
_SAME = 0.35


@dataclass(frozen=True)
class Peak:
    """A local maximum of the score map: centre and size of its box in pixels of the image, the
    network's logit, the log ratio of *target* to *clutter* that the logit stands for, and the
    probability that the box is right where the target is followed.
    """

    x: float
    y: float
    w: float
    h: float
    logit: float
    log_ratio: float
    quality: float

    @property
    def size(self) -> float:
        """Square root of its area, pixels."""
        return math.sqrt(self.w * self.h)

    def distance(self, x: float, y: float) -> float:
        """From its centre, in pixels."""
        return math.hypot(self.x - x, self.y - y)

    def same(self, other: Peak) -> bool:
        """Whether both are of one thing."""
        return (
            abs(self.x - other.x) < _SAME * (self.w + other.w) / 2
            and abs(self.y - other.y) < _SAME * (self.h + other.h) / 2
        )


def peaks_of(
    windows: Iterable[CropWindow], found: np.ndarray, settings: TrackerSettings
) -> list[list[Peak]]:
    """The peaks of each window, the best first, from what the engine ``found`` there, ``(n, PEAKS,
    6)``; of those that are of one thing the best only.
    """
    belief, (slope, offset) = settings.belief, settings.calibration
    result = []
    for window, rows in zip(windows, found.tolist(), strict=True):
        peaks: list[Peak] = []
        for px, py, w, h, logit, rank in rows:
            if not rank > NO_PEAK:  # nor is what is not a number
                break
            x, y = window.to_image(px, py)
            scale = window.scale
            ratio = belief.score_slope * min(logit, belief.score_most) + belief.score_offset
            quality = probability_of(slope * logit + offset)
            peak = Peak(x, y, w * scale, h * scale, logit, ratio, quality)
            if not any(peak.same(other) for other in peaks):
                peaks.append(peak)
        result.append(peaks)
    return result
