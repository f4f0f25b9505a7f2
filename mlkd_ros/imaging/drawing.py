# SPDX-License-Identifier: Apache-2.0
"""Marks for people on pictures of the night: light, outlined in dark, and never over the target
itself.

Every function draws on ``canvas`` (uint8 BGR, changed in place); coordinates are its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

DARK: Colour = (16, 16, 16)
LIGHT: Colour = (235, 235, 235)
#: By the number of the state, as in TrackStatus.msg: idle, tracking, uncertain, lost, given up.
STATE_COLOURS: dict[int, Colour] = {
    0: LIGHT,
    1: (120, 230, 90),
    2: (60, 190, 255),
    3: (90, 90, 255),
    4: (170, 170, 170),
}
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SHIFT = 4  # bits of sub-pixel position


def draw_corners(canvas: np.ndarray, box: Box, colour: Colour, thickness: int = 2) -> None:
    """Mark the four corners of a box, which leaves the target visible."""
    x, y, w, h = box
    arm_x, arm_y = (min(max(3.0, 0.3 * min(w, h)), side / 2) for side in (w, h))
    lines = [
        _fixed([(cx + sx * arm_x, cy), (cx, cy), (cx, cy + sy * arm_y)])
        for cx, sx in ((x, 1), (x + w, -1))
        for cy, sy in ((y, 1), (y + h, -1))
    ]
    for stroke, width in ((DARK, thickness + 2), (colour, thickness)):
        cv2.polylines(canvas, lines, False, stroke, width, cv2.LINE_AA, _SHIFT)


def draw_label(canvas: np.ndarray, text: str, x: float, y: float, colour: Colour = LIGHT) -> None:
    """Write outlined text with its baseline at (x, y), moved inside the picture if need be."""
    scale = min(max(canvas.shape[0] / 1000, 0.45), 1.2)
    stroke = 1 if scale < 0.65 else 2
    (width, height), base = cv2.getTextSize(text, _FONT, scale, stroke)
    left = int(min(max(x, 2), max(canvas.shape[1] - width - 2, 2)))
    bottom = int(min(max(y, height + 2), canvas.shape[0] - base - 1))
    for ink, thickness in ((DARK, stroke + 3), (colour, stroke)):
        cv2.putText(canvas, text, (left, bottom), _FONT, scale, ink, thickness, cv2.LINE_AA)


def draw_trail(
    canvas: np.ndarray, centres: Sequence[tuple[float, float] | None], colour: Colour
) -> None:
    """Draw where a target's centre has been, oldest first and faintest; ``None`` leaves a gap."""
    for age, (start, end) in enumerate(zip(centres, centres[1:], strict=False), 1):
        if start is not None and end is not None:
            strength = age / len(centres)
            faded = tuple(int(d + strength * (c - d)) for c, d in zip(colour, DARK, strict=True))
            cv2.polylines(canvas, [_fixed([start, end])], False, faded, 1, cv2.LINE_AA, _SHIFT)


def draw_inset(canvas: np.ndarray, image: np.ndarray, box: Box, colour: Colour, side: int) -> None:
    """Show the surroundings of a box in the upper right corner, enlarged and with lifted
    brightness.

    Args:
        canvas: Drawn on.
        image: uint8 BGR that the box refers to.
        box: ``x, y, w, h`` in pixels of ``image``.
        colour: Of the frame around the inset.
        side: Of the inset, pixels.
    """
    x, y, w, h = box
    reach = 1.2 * max(w, h, 8.0)
    patch = cv2.getRectSubPix(image, (max(8, round(2 * reach)),) * 2, (x + w / 2, y + h / 2))
    patch = cv2.resize(patch, (side, side), interpolation=cv2.INTER_LINEAR)
    white = max(float(np.percentile(patch, 99.5)), 24.0)
    lifted = (np.clip(np.arange(256) / white, 0, 1) ** 0.6 * 255).astype(np.uint8)
    right, top = canvas.shape[1] - 8, 8
    canvas[top : top + side, right - side : right] = cv2.LUT(patch, lifted)
    cv2.rectangle(canvas, (right - side, top), (right - 1, top + side - 1), colour, 1)


def _fixed(points: Sequence[tuple[float, float]]) -> np.ndarray:
    """Fixed-point positions; OpenCV's whole numbers are pixel centres, ours pixel corners."""
    return np.rint((np.asarray(points) - 0.5) * (1 << _SHIFT)).astype(np.int32)
