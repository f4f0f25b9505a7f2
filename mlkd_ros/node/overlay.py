# SPDX-License-Identifier: Apache-2.0
"""A small picture of what the tracker sees, for people."""

from __future__ import annotations

import array
from collections.abc import Sequence

import cv2
import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from mlkd_ros.node.targets import TargetReport
from mlkd_ros.tracking import TrackState
from mlkd_ros.tracking.frame import Frame

__all__ = ["draw_overlay", "image_message"]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_DARK = (16, 16, 16)
_LIGHT = (235, 235, 235)
# BGR, light enough to stand out from night footage.
_COLOURS = {
    TrackState.TRACKING: (120, 230, 90),
    TrackState.UNCERTAIN: (60, 190, 255),
    TrackState.LOST: (90, 90, 255),
    TrackState.GIVEN_UP: (170, 170, 170),
}


def draw_overlay(
    frame: Frame, reports: Sequence[TargetReport], latency: float, max_width: int
) -> np.ndarray:
    """The frame at most `max_width` pixels wide, BGR, with each target's box, state, confidence.

    `latency` in seconds is written in a corner.
    """
    image = frame.window(0, 0, frame.width, frame.height)
    scale = min(1.0, max_width / frame.width)
    size = (max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
    # A new array in any case: the frame's own memory is not drawn on.
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image.copy()
    lines = []
    for report in reports:
        result, colour = report.result, _COLOURS.get(report.result.state, _LIGHT)
        text = f"{report.target_id} {result.state.name.replace('_', ' ')}"
        if result.box is None:
            lines.append((text, colour))
            continue
        x, y, w, h = (value * scale for value in result.box)
        _brackets(canvas, x, y, w, h, colour)
        _label(canvas, f"{text} {result.confidence:.2f}", round(x), round(y) - 6, colour)
    if not reports:
        lines.append(("no target", _LIGHT))
    for row, (text, colour) in enumerate(lines):
        _label(canvas, text, 8, 22 + 20 * row, colour)
    _label(canvas, f"{latency * 1e3:.0f} ms", 8, size[1] - 8, _LIGHT)
    return canvas


def image_message(canvas: np.ndarray, header: Header) -> Image:
    """A contiguous HxWx3 uint8 BGR image as a bgr8 message."""
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(canvas).data.cast("B"))
    return Image(
        header=header,
        height=canvas.shape[0],
        width=canvas.shape[1],
        encoding="bgr8",
        is_bigendian=0,
        step=canvas.shape[1] * 3,
        data=data,
    )


def _brackets(
    canvas: np.ndarray, x: float, y: float, w: float, h: float, colour: tuple[int, int, int]
) -> None:
    """Four corners: they mark the target without covering it."""
    # Outside the target by a little, so that a small one stays visible.
    x, y, w, h = x - 3, y - 3, w + 6, h + 6
    arm = max(4.0, min(w, h) * 0.3)
    corners = [(x, y, 1, 1), (x + w, y, -1, 1), (x, y + h, 1, -1), (x + w, y + h, -1, -1)]
    for stroke, width in ((_DARK, 4), (colour, 2)):
        for cx, cy, right, down in corners:
            points = np.array(
                [(cx + right * min(arm, w / 2), cy), (cx, cy), (cx, cy + down * min(arm, h / 2))]
            )
            cv2.polylines(canvas, [np.rint(points).astype(np.int32)], False, stroke, width)


def _label(canvas: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """Outlined text with its baseline near (x, y), moved inside the picture."""
    (width, height), _ = cv2.getTextSize(text, _FONT, 0.5, 1)
    x = min(max(x, 2), max(canvas.shape[1] - width - 2, 2))
    y = min(max(y, height + 2), canvas.shape[0] - 3)
    for stroke, thickness in ((_DARK, 3), (colour, 1)):
        cv2.putText(canvas, text, (x, y), _FONT, 0.5, stroke, thickness, cv2.LINE_AA)
