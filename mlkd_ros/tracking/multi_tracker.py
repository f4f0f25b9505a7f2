# SPDX-License-Identifier: Apache-2.0
"""Several targets in the images of one camera: one engine, one camera motion, one time budget.

What an image costs outside the network is one crop a target and a few operations on a few hundred
candidates; the windows of all targets run as one batch.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence

import numpy as np

from ..imaging.encodings import UnusableImageError
from ..imaging.frame import Frame
from .engine import Engine, Region
from .geometry import CropWindow, crop
from .global_motion import GlobalMotion
from .track import Plan, Track, TrackResult

__all__ = ["MultiTracker", "SearchBudget"]

#: Time between two frames when the caller gives no stamps, in seconds.
NOMINAL_PERIOD = 1.0 / 30.0
#: Longest step in time that is taken at once, in seconds: after a gap in the images a target gets
#: the chance to be seen again before it counts as lost.
_LONGEST_STEP = 1.0
#: Shortest time between two images that is believed, in seconds: a burst of images with nearly the
#: same stamp must not look like a target at the speed of sound.
_SHORTEST_STEP = 1.0 / 240.0
#: Another resolution of the same scene has sides of at least this many pixels, and an aspect ratio
#: within this factor of that of the image where the target was designated: 16:9 squeezed into 5:4,
#: but no picture that is turned.
_MIN_IMAGE_SIDE, _MAX_ASPECT_CHANGE = 16, 1.5
#: Weight of the newest cost in the mean cost of a search window.
_COST_GAIN = 0.2


class SearchBudget:
    """What a search window costs on an engine, and what may be spent on looking for lost targets.

    seconds: an image, all targets together; infinite: as many windows as the settings allow.
    """

    def __init__(self) -> None:
        self.seconds = math.inf
        self._cost: float | None = None

    def measured(self, seconds: float, windows: float) -> None:
        """Account for one batch; a near window counts as the part that it is of a whole one."""
        cost = seconds / windows
        self._cost = cost if self._cost is None else self._cost + _COST_GAIN * (cost - self._cost)

    def windows(self, targets: int, most: int) -> int:
        """How many windows each of ``targets`` may look at in this image: 1 to ``most``."""
        if self._cost is None or math.isinf(self.seconds):
            return most
        affordable = self.seconds / max(self._cost, 1e-6) / targets
        return max(1, min(most, int(affordable)))


class MultiTracker:
    """The targets of one camera's images, updated together. Not thread-safe: one thread owns it.

    tracks: those followed; the caller adds and removes them.
    """

    def __init__(self, engine: Engine, budget: SearchBudget, first: Frame | None = None) -> None:
        """first: the image that the targets were designated in, if the camera's motion is to be
        watched from there on.
        """
        self.engine = engine
        self.budget = budget
        self.tracks: list[Track] = []
        self._motion = GlobalMotion(first)
        self._stamp: float | None = None

    def begin(self, stamp: float | None) -> None:
        """The image that the targets were designated in is of this time, in seconds."""
        self._stamp = stamp

    @property
    def watched(self) -> int:
        """For how many images the camera's motion has been watched."""
        return self._motion.watched

    def adopt(self, other: MultiTracker) -> None:
        """Follow the targets of another one from now on. What they did over ground does not go on
        here, because the two have not looked at the same images.
        """
        self.tracks += other.tracks
        other.tracks = []

    def check(self, frame: Frame) -> None:
        """UnusableImageError for an image that cannot be of the scene of the ones before."""
        for track in self.tracks:
            width, height = track.image_size
            if (frame.width, frame.height) == (width, height):
                continue
            # Against the first image: a chain of odd ones must not lead it away for good.
            change = (frame.width / frame.height) / track.aspect
            too_small = min(frame.width, frame.height) < _MIN_IMAGE_SIDE
            if too_small or not 1 / _MAX_ASPECT_CHANGE <= change <= _MAX_ASPECT_CHANGE:
                raise UnusableImageError(
                    "pixels",
                    f"a {frame.width}x{frame.height} image cannot show the scene of the "
                    f"{width}x{height} images before: designate the target anew to go on in these",
                )

    def update(self, frame: Frame, stamp: float | None) -> list[TrackResult]:
        """Find every target in the next image; stamp: in seconds."""
        self.check(frame)
        seconds = self._elapsed(stamp)
        size = frame.width, frame.height
        for track in self.tracks:
            if track.image_size != size:
                track.rescale(size)
        needed = any(track.in_doubt for track in self.tracks)
        turning = any(track.unseen > 0 or track.search is not None for track in self.tracks)
        motion = self._motion.look(frame, seconds, needed, turning)
        for track in self.tracks:
            track.predict(seconds, motion)
        return self._found(frame, seconds)

    def _found(self, frame: Frame, seconds: float) -> list[TrackResult]:
        """Look for the targets where they are predicted to be."""
        sizes = self.engine.search_sizes
        most = max(track.settings.presence.search_windows for track in self.tracks)
        windows = self.budget.windows(len(self.tracks), most)
        plans = [track.plan(seconds, windows, sizes) for track in self.tracks]
        found = self._look(frame, self.tracks, plans)
        again = {
            i: second
            for i, track in enumerate(self.tracks)
            if (second := track.look_again(plans[i], found[i], sizes)) is not None
        }
        if again:
            rows = self._look(frame, [self.tracks[i] for i in again], list(again.values()))
            for (i, plan), row in zip(again.items(), rows, strict=True):
                plans[i], found[i] = plan, row
        results = []
        for track, plan, rows_ in zip(self.tracks, plans, found, strict=True):
            results.append(track.conclude(plan, rows_, seconds))
            if track.renews:
                track.view = self.patch(frame, track, track.x, track.y, track.w, track.h)
        return results

    def settle(self) -> None:
        """Take new views of the targets into their template memories."""
        for track in self.tracks:
            if track.view is not None:
                view, track.view = track.view, None
                track.appearance.renew(self.engine.template(view[None]))

    def patch(
        self, frame: Frame, track: Track, cx: float, cy: float, w: float, h: float
    ) -> np.ndarray:
        """Template pixels of a box given by centre and size."""
        side = self.engine.shape.context_side(w, h, track.settings.context_amount)
        return crop(frame, CropWindow.around(cx, cy, side, self.engine.shape.template_size))

    def _elapsed(self, stamp: float | None) -> float:
        """Seconds since the last image; a stamp that jumped backwards counts as one nominal
        period.
        """
        last, self._stamp = self._stamp, stamp
        if stamp is None or last is None or stamp <= last:
            return NOMINAL_PERIOD
        return min(max(stamp - last, _SHORTEST_STEP), _LONGEST_STEP)

    def _look(
        self, frame: Frame, tracks: Sequence[Track], plans: Sequence[Plan]
    ) -> list[np.ndarray]:
        """The peaks of each window of each plan, ``(n, PEAKS, 6)`` a plan, from one call of the
        engine.
        """
        regions = [
            Region(window, track.appearance.current, plan.width, plan.height, plan.deviation)
            for track, plan in zip(tracks, plans, strict=True)
            for window in plan.windows
        ]
        found = np.empty((0, 1, 6), np.float32)
        if regions:
            begin = time.perf_counter()
            found = self.engine.locate(frame, regions)
            whole = self.engine.search_sizes[0]
            part = sum((region.window.size / whole) ** 2 for region in regions)
            self.budget.measured(time.perf_counter() - begin, part)
        ends = itertools.accumulate(len(plan.windows) for plan in plans)
        return [found[end - len(plan.windows) : end] for end, plan in zip(ends, plans, strict=True)]
