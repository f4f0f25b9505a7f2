# SPDX-License-Identifier: Apache-2.0
"""A small picture of what the tracker sees, for people."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import cv2
import numpy as np

from mlkd_ros.imaging import drawing
from mlkd_ros.imaging.frame import Frame
from mlkd_ros.session.targets import TargetReport
from mlkd_ros.tracking import TrackState

__all__ = ["Overlay"]

#: Seconds that a trail looks back.
_TRAIL = 2.0
#: A picture whose 98th percentile of brightness is below this is lifted to it, the shadows more
#: than the lights: a monitor in daylight does not show what is darker.
_WHITE, _PERCENTILE, _GAMMA = 150.0, 98, 0.75
#: Never taken for darker: noise would be all there is to see.
_DARKEST = 30.0
#: Share of the new brightness in the lift, so that a lamp that passes does not make it flicker.
_LIFT_GAIN = 0.15
#: Every n-th pixel is looked at for the brightness.
_STRIDE = 8
#: Share of the picture's shorter side that the enlarged target takes, and the least pixels of it.
_INSET, _LEAST_INSET = 0.25, 64
#: Boxes with a longer side above this need no enlarging.
_LARGE = 48.0
#: About the size of a label, pixels.
_LABEL = (140.0, 18.0)

_ADVICE = {
    TrackState.LOST: "searching",
    TrackState.GIVEN_UP: "designate again",
}


class Overlay:
    """Draws pictures; remembers where the targets were and how bright the picture was.

    One thread owns it.
    """

    def __init__(self) -> None:
        self._trails: dict[str, deque[tuple[float, tuple[float, float] | None]]] = {}
        self._white: float | None = None

    def note(self, seconds: float, frame: Frame, reports: Sequence[TargetReport]) -> None:
        """Where the targets are in the image of that time; for every image, drawn or not."""
        known = {report.target_id for report in reports}
        self._trails = {name: trail for name, trail in self._trails.items() if name in known}
        for report in reports:
            trail, centre = self._trails.setdefault(report.target_id, deque()), None
            if report.result.box is not None:
                x, y, w, h = report.result.box
                # Shares of the image, which may change its size.
                centre = ((x + w / 2) / frame.width, (y + h / 2) / frame.height)
            if trail and trail[-1][0] > seconds:
                trail.clear()
            trail.append((seconds, centre))
            while trail[0][0] < seconds - _TRAIL:
                trail.popleft()

    def draw(
        self, frame: Frame, reports: Sequence[TargetReport], latency: float, max_width: int
    ) -> np.ndarray:
        """The frame at most `max_width` pixels wide, BGR, lifted if it is dark, with the targets.

        Each has its box, trail, state and confidence, and a small one is shown enlarged; while all
        of them are lost the picture has a border.
        `latency` in seconds is written in a corner, unless it is NaN.
        """
        canvas, scale = self._picture(frame, max_width)
        clean = canvas.copy()
        height, width = canvas.shape[:2]
        labelled: list[tuple[float, float]] = []
        lines = [] if reports else [("no target", drawing.LIGHT)]
        for report in reports:
            result, colour = report.result, drawing.STATE_COLOURS[report.result.state]
            text = f"{report.target_id} {result.state.name.replace('_', ' ')}"
            trail = [c for _, c in self._trails.get(report.target_id, ())]
            places = [(c[0] * width, c[1] * height) if c else None for c in trail]
            drawing.draw_trail(canvas, places, colour)
            if result.box is None:
                lines.append((f"{text}: {_ADVICE.get(result.state, 'no box')}", colour))
                continue
            x, y, w, h = (value * scale for value in result.box)
            drawing.draw_corners(canvas, (x - 2, y - 2, w + 4, h + 4), colour)
            # Below the box where another label is above it.
            near = any(abs(x - a) < _LABEL[0] and abs(y - b) < _LABEL[1] for a, b in labelled)
            labelled.append((x, y))
            above = y + h + 20 if near else y - 8
            drawing.draw_label(canvas, f"{text} {result.confidence:.2f}", x, above, colour)
        self._inset(canvas, clean, reports, scale)
        if reports and all(report.result.box is None for report in reports):
            # To be seen from the corner of the eye.
            colour = drawing.STATE_COLOURS[min(report.result.state for report in reports)]
            cv2.rectangle(canvas, (1, 1), (width - 2, height - 2), colour, 3)
        for row, (text, colour) in enumerate(lines):
            drawing.draw_label(canvas, text, 8, 22 + 22 * row, colour)
        if math.isfinite(latency):
            drawing.draw_label(canvas, f"{latency * 1e3:.0f} ms", 8, height - 8)
        return canvas

    def _picture(self, frame: Frame, max_width: int) -> tuple[np.ndarray, float]:
        """A new array with the scaled, lifted picture, and its pixels per pixel of the frame."""
        scale = min(1.0, max_width / frame.width)
        size = (max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
        smaller, _ = frame.reduced(1.0 / scale)
        image = smaller.window(0, 0, smaller.width, smaller.height)
        canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        if np.shares_memory(canvas, image):
            canvas = canvas.copy()
        return self._lifted(canvas), scale

    def _lifted(self, canvas: np.ndarray) -> np.ndarray:
        white = float(np.percentile(canvas[::_STRIDE, ::_STRIDE], _PERCENTILE))
        old = white if self._white is None else self._white
        self._white = old + _LIFT_GAIN * (white - old)
        if self._white >= _WHITE:
            return canvas
        shares = np.arange(256) / max(self._white, _DARKEST)
        return cv2.LUT(canvas, np.clip(shares**_GAMMA * _WHITE, 0, 255).astype(np.uint8))

    @staticmethod
    def _inset(
        canvas: np.ndarray, clean: np.ndarray, reports: Sequence[TargetReport], scale: float
    ) -> None:
        """The only target, enlarged, where it is small and does not lie under its own picture."""
        side = round(min(canvas.shape[:2]) * _INSET)
        if len(reports) != 1 or reports[0].result.box is None or side < _LEAST_INSET:
            return
        x, y, w, h = (value * scale for value in reports[0].result.box)
        covered = x + w > canvas.shape[1] - side - 24 and y < side + 40
        if max(w, h) < _LARGE and not covered:
            colour = drawing.STATE_COLOURS[reports[0].result.state]
            drawing.draw_inset(canvas, clean, (x, y, w, h), colour, side)
