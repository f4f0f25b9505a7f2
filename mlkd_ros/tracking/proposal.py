# SPDX-License-Identifier: Apache-2.0
"""A box around a point: what an operator who clicks on the target means by it.

The network is asked at several scales what it takes the target to be; given roughly the right scale
it finds the borders well, but at any scale it is content with what it finds. Which scale is right
is told by the picture: a target has edges where its box has them, and more of them inside than
around it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import cv2
import numpy as np

from ..imaging.frame import Frame
from .geometry import Box, BoxOutsideImageError, InvalidBoxError, check_box

__all__ = ["propose_box", "square_around"]

#: What the network makes of a box: the target's box as it sees it, and a score 0..1.
Look = Callable[[Box], tuple[Box, float]]

#: Sides that are tried, as shares of the image's height, in the order of how likely they are.
_SIDES = (0.046, 0.068, 0.031, 0.1, 0.021, 0.15, 0.22, 0.014)
_SMALLEST_SIDE = 8.0
#: The network looks again at what it found, because its first answer leans to what it was given.
_LOOKS = 2
#: Surroundings that are compared with a box, in box sides, and the least of them in pixels.
_MARGIN, _LEAST_MARGIN = 0.35, 3.0
#: Long side of the picture that is compared.
_SIZE = 64
#: How far outside a box the point may be, in box sides, for the box still to be what was meant.
_REACH = 0.1
#: Weights of the score's logit, of the edges on the border, of how they concentrate inside, and of
#: the logarithm of the size: fitted, and rounded, on 167 targets of rendered night flights for the
#: greatest overlap of the box that wins.
_WEIGHTS = (0.25, 1.0, 1.0, -0.13)


def square_around(frame: Frame, point: tuple[float, float], side: float) -> Box:
    """A square around a point, cut at the image's border. Raises what `check_point` raises."""
    x, y = check_point(frame, point)
    left, top = max(x - side / 2, 0.0), max(y - side / 2, 0.0)
    right, bottom = min(x + side / 2, frame.width), min(y + side / 2, frame.height)
    return left, top, right - left, bottom - top


def check_point(frame: Frame, point: tuple[float, float]) -> tuple[float, float]:
    """A point inside the image, as two floats; InvalidBoxError or BoxOutsideImageError if not."""
    x, y = float(point[0]), float(point[1])
    if not (math.isfinite(x) and math.isfinite(y)):
        raise InvalidBoxError(f"point ({x}, {y}) must be two finite numbers (x, y) in pixels")
    if not (0 <= x <= frame.width and 0 <= y <= frame.height):
        raise BoxOutsideImageError(
            f"point ({x:g}, {y:g}) must lie inside the {frame.width}x{frame.height} image"
        )
    return x, y


def propose_box(
    look: Look, frame: Frame, point: tuple[float, float], budget: float = math.inf
) -> Box:
    """The box of what is at ``point`` (x, y in pixels of ``frame``).

    ``look`` is the network, see ``Tracker.look``. After ``budget`` seconds the best box so far is
    taken; at least one scale is tried. Raises InvalidBoxError or BoxOutsideImageError for a point
    that is not in the image.
    """
    x, y = check_point(frame, point)
    deadline = time.monotonic() + budget
    best = square_around(frame, (x, y), max(_SIDES[0] * frame.height, _SMALLEST_SIDE))
    best_merit = -math.inf
    for share in _SIDES:
        square = square_around(frame, (x, y), max(share * frame.height, _SMALLEST_SIDE))
        box, score = _refined(look, frame, square)
        # What does not hold the point is something else nearby.
        merit = _merit(frame, box, score) if _holds(box, x, y) else -math.inf
        if merit > best_merit:
            best, best_merit = box, merit
        if time.monotonic() > deadline:
            break
    return best


def _refined(look: Look, frame: Frame, box: Box) -> tuple[Box, float]:
    score = 0.0
    for _ in range(_LOOKS):
        found, score = look(box)
        try:
            box = check_box(found, frame.width, frame.height)
        except ValueError:  # It went astray; what it was given is as good.
            break
    return box, score


def _holds(box: Box, px: float, py: float) -> bool:
    x, y, w, h = box
    return abs(px - x - w / 2) <= (0.5 + _REACH) * w and abs(py - y - h / 2) <= (0.5 + _REACH) * h


def _merit(frame: Frame, box: Box, score: float) -> float:
    """How much a box looks like the border of something, in no unit."""
    certain = math.log(max(score, 1e-6) / max(1 - score, 1e-6))
    size = 0.5 * math.log(box[2] * box[3])
    return float(np.dot(_WEIGHTS, (certain, *_evidence(frame, box), size)))


def _evidence(frame: Frame, box: Box) -> tuple[float, float]:
    """Edges on the border of a box relative to those everywhere, and the logarithm of those inside
    relative to those around it.
    """
    patch, (x0, y0, x1, y1) = _surroundings(frame, box)
    grey = cv2.GaussianBlur(cv2.cvtColor(patch, cv2.COLOR_BGR2GRAY), (0, 0), 1).astype(np.float32)
    across = np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0))
    down = np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    edges = across + down
    inside = float(edges[y0:y1, x0:x1].mean())
    area = (x1 - x0) * (y1 - y0)
    around = (float(edges.sum()) - inside * area) / max(edges.size - area, 1)
    border = [_strongest(across[y0:y1].T, x) for x in (x0, x1)]
    border += [_strongest(down[:, x0:x1], y) for y in (y0, y1)]
    half = 0.5  # of a grey level: nothing is divided by nothing
    return (
        float(np.mean(border)) / (float(edges.mean()) + half),
        math.log((inside + half) / (max(around, 0.0) + half)),
    )


def _surroundings(frame: Frame, box: Box) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """A small picture of a box and what is around it, and the box in it as x0, y0, x1, y1."""
    x, y, w, h = box
    margin_x, margin_y = max(_MARGIN * w, _LEAST_MARGIN), max(_MARGIN * h, _LEAST_MARGIN)
    left, top = max(int(x - margin_x), 0), max(int(y - margin_y), 0)
    right = min(math.ceil(x + w + margin_x), frame.width)
    bottom = min(math.ceil(y + h + margin_y), frame.height)
    scale = _SIZE / max(right - left, bottom - top)
    size = max(round((right - left) * scale), 4), max(round((bottom - top) * scale), 4)
    shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    patch = cv2.resize(frame.window(left, top, right, bottom), size, interpolation=shrinks)
    x0, x1 = (min(max(round((v - left) * scale), 0), size[0]) for v in (x, x + w))
    y0, y1 = (min(max(round((v - top) * scale), 0), size[1]) for v in (y, y + h))
    return patch, (min(x0, size[0] - 1), min(y0, size[1] - 1), max(x1, x0 + 1), max(y1, y0 + 1))


def _strongest(edges: np.ndarray, line: int) -> float:
    """Mean along a line of the strongest edge within two rows of it."""
    return float(edges[max(line - 2, 0) : line + 2].max(0, initial=0.0).mean())
