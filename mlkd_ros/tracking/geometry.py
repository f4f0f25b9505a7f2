# SPDX-License-Identifier: Apache-2.0
"""Boxes, crop windows and the candidates of a search region.

Coordinates are continuous pixels: pixel ``i`` covers ``[i, i + 1)``, the origin is the top-left
corner of the image. A box is ``(x, y, w, h)``, top-left corner and size, unless a name says
otherwise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..imaging.frame import Frame

Box = tuple[float, float, float, float]

#: A side shorter than this many pixels carries no shape a tracker could hold on to.
MIN_BOX_SIDE = 2.0


class InvalidBoxError(ValueError):
    """A box that is no box: wrong length, not finite, or without area."""


class BoxOutsideImageError(ValueError):
    """A box that has too little in common with the image."""


def check_box(box: Sequence[float], width: int, height: int) -> Box:
    """The part of ``box`` inside a ``width`` x ``height`` image, as four Python floats.

    Raises InvalidBoxError when the box is not four finite numbers with sides of at least
    ``MIN_BOX_SIDE`` pixels, and BoxOutsideImageError when less than a quarter of it (or less than
    ``MIN_BOX_SIDE`` pixels of a side) is inside.
    """
    values = tuple(float(v) for v in box)
    if len(values) != 4:
        raise InvalidBoxError(f"a box needs 4 numbers (x, y, width, height), got {len(values)}")
    if not all(math.isfinite(v) for v in values):
        raise InvalidBoxError(
            f"box {values} must be finite numbers (x, y, width, height) in pixels"
        )
    x, y, w, h = values
    if w < MIN_BOX_SIDE or h < MIN_BOX_SIDE:
        raise InvalidBoxError(
            f"box {values} must be at least {MIN_BOX_SIDE:g} pixels wide and high"
        )
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
    inside_w, inside_h = right - left, bottom - top
    if inside_w < MIN_BOX_SIDE or inside_h < MIN_BOX_SIDE or inside_w * inside_h < 0.25 * w * h:
        raise BoxOutsideImageError(
            f"box {values} must lie inside the {width}x{height} image (at least a quarter of it)"
        )
    return left, top, inside_w, inside_h


def iou(a: np.ndarray | Sequence[float], b: np.ndarray | Sequence[float]) -> np.ndarray:
    """Intersection over union of ``(..., 4)`` xywh boxes, broadcast; NaN boxes give NaN, empty ones
    0.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(
        a[..., :2], b[..., :2]
    )
    sides = np.where(np.isnan(sides), np.nan, np.maximum(sides, 0.0))
    intersection = sides[..., 0] * sides[..., 1]
    union = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - intersection
    return np.where(union > 0, intersection / np.where(union > 0, union, 1.0), union * 0.0)


def context_side(w: float, h: float, amount: float, rule: str = "margin") -> float:
    """Side of the square template region of a target of width ``w`` and height ``h``.

    rule: ``margin``, the box with ``amount`` of its mean side as margin on each of its sides
    (SiamFC, 1606.09549), or ``area``, as many times the square root of its area as that is for a
    square box (``1 + 2 amount``; OSTrack, 2203.11991): less of the surroundings of a long target.
    """
    if rule == "area":
        return (1.0 + 2.0 * amount) * math.sqrt(w * h)
    margin = amount * (w + h)
    return math.sqrt((w + margin) * (h + margin))


@dataclass(frozen=True)
class CropWindow:
    """A square of ``side`` image pixels with integer top-left corner (``x``, ``y``), shown as
    ``size`` patch pixels.
    """

    x: int
    y: int
    side: int
    size: int

    @classmethod
    def around(cls, cx: float, cy: float, side: float, size: int) -> CropWindow:
        """The window of about ``side`` pixels centred as near to (``cx``, ``cy``) as whole pixels
        allow.
        """
        whole = max(2, round(side))
        return cls(round(cx - whole / 2), round(cy - whole / 2), whole, size)

    @property
    def scale(self) -> float:
        """Image pixels a patch pixel."""
        return self.side / self.size

    def to_image(self, px: float, py: float) -> tuple[float, float]:
        """Patch coordinates to image coordinates, through the integer corner really cropped."""
        return self.x + px * self.scale, self.y + py * self.scale


def visible(frame: Frame, window: CropWindow) -> tuple[int, int, int, int] | None:
    """The part of a window inside the image as x0, y0, x1, y1, or None."""
    x0, y0 = max(window.x, 0), max(window.y, 0)
    x1, y1 = min(window.x + window.side, frame.width), min(window.y + window.side, frame.height)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def crop(frame: Frame, window: CropWindow, out: np.ndarray | None = None) -> np.ndarray:
    """The window's pixels as a ``(size, size, 3)`` uint8 BGR patch; only these pixels of the frame
    are touched. It is written to ``out`` where that is given, an array of this shape without gaps.

    What lies outside the image is filled with the mean colour of what lies inside. A window wholly
    outside gives grey.
    """
    if out is None:
        out = np.empty((window.size, window.size, 3), np.uint8)
    inside = visible(frame, window)
    if inside is None:
        out.fill(128)
        return out
    smaller, factor = frame.reduced(window.scale)
    if factor > 1:
        return _crop_reduced(smaller, factor, window, inside, out)
    x0, y0, x1, y1 = inside
    pixels = frame.window(x0, y0, x1, y1)
    if (x1 - x0, y1 - y0) != (window.side, window.side):
        above, left = y0 - window.y, x0 - window.x
        below, right = window.y + window.side - y1, window.x + window.side - x1
        mean = cv2.mean(pixels)[:3]
        pixels = cv2.copyMakeBorder(
            pixels, above, below, left, right, cv2.BORDER_CONSTANT, value=mean
        )
    return cv2.resize(pixels, (window.size, window.size), out, interpolation=cv2.INTER_LINEAR)


def _crop_reduced(
    smaller: Frame,
    factor: int,
    window: CropWindow,
    inside: tuple[int, int, int, int],
    out: np.ndarray,
) -> np.ndarray:
    """`crop` from a picture whose pixels are ``factor`` of the image's wide and high.

    Its pixels do not begin where the window does, so the patch is sampled in between them.
    """
    left, top = inside[0] // factor, inside[1] // factor
    right = min(math.ceil(inside[2] / factor), smaller.width)
    bottom = min(math.ceil(inside[3] / factor), smaller.height)
    pixels = smaller.window(left, top, right, bottom)
    step = window.scale / factor
    # OpenCV's whole numbers are pixel centres, ours are pixel corners.
    x = (window.x + 0.5 * window.scale) / factor - 0.5 - left
    y = (window.y + 0.5 * window.scale) / factor - 0.5 - top
    whole = inside == (window.x, window.y, window.x + window.side, window.y + window.side)
    return cv2.warpAffine(
        pixels,
        np.array([[step, 0.0, x], [0.0, step, y]]),
        (window.size, window.size),
        out,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE if whole else cv2.BORDER_CONSTANT,
        borderValue=cv2.mean(pixels)[:3],
    )


class PointCoder:
    """Candidates of an anchor-free head: one a cell, sides as distances from the cell's point
    (FCOS, 1904.01355).
    """

    def __init__(self, cells: int, stride: int, size: int) -> None:
        offset = (np.arange(cells) - cells // 2) * float(stride) + size / 2
        self.cells = cells
        self.x = np.tile(offset, cells).astype(np.float32)
        self.y = np.repeat(offset, cells).astype(np.float32)

    def converted(self, xp: Any, convert: Callable[[np.ndarray], Any]) -> PointCoder:
        """The same for arrays of module ``xp``, its constants made by ``convert``."""
        other = copy.copy(self)
        other.x, other.y = convert(self.x), convert(self.y)
        return other

    def decode(self, regression: Any) -> tuple[Any, Any, Any, Any]:
        """``(N, 4, S, S)`` distances (left, top, right, bottom) to centre x, y, width and height in
        patch pixels, ``(N, S*S)`` each.
        """
        flat = regression.reshape(len(regression), 4, -1)
        left, top, right, bottom = flat[:, 0], flat[:, 1], flat[:, 2], flat[:, 3]
        return (
            self.x + (right - left) * 0.5,
            self.y + (bottom - top) * 0.5,
            left + right,
            top + bottom,
        )


class AnchorCoder:
    """Candidates of an RPN head: ``K`` anchors a cell (SiamRPN; Li et al. 2018)."""

    def __init__(
        self, cells: int, stride: int, size: int, ratios: Sequence[float], scale: float
    ) -> None:
        self.cells = cells
        # Anchor sides in whole pixels, as the paper's code has them.
        areas = float(stride * stride)
        widths = [int(math.sqrt(areas / r)) for r in ratios]
        heights = [int(w * r) for w, r in zip(widths, ratios, strict=True)]
        offset = (np.arange(cells) - cells // 2) * float(stride) + size / 2
        per_anchor = cells * cells
        self.x = np.tile(np.tile(offset, cells), len(ratios))
        self.y = np.tile(np.repeat(offset, cells), len(ratios))
        self.w = np.repeat(np.array(widths, np.float64) * scale, per_anchor)
        self.h = np.repeat(np.array(heights, np.float64) * scale, per_anchor)
        self._exp: Callable[[Any], Any] = np.exp

    def converted(self, xp: Any, convert: Callable[[np.ndarray], Any]) -> AnchorCoder:
        """The same for arrays of module ``xp``, its constants made by ``convert``."""
        other = copy.copy(self)
        other._exp = xp.exp
        for name in ("x", "y", "w", "h"):
            setattr(other, name, convert(getattr(self, name).astype(np.float32)))
        return other

    def decode(self, regression: Any) -> tuple[Any, Any, Any, Any]:
        """``(N, 4K, S, S)`` offsets, grouped as dx of all anchors, dy, dw, dh, to centre x, y,
        width and height in patch pixels, ``(N, K*S*S)`` each.
        """
        flat = regression.reshape(len(regression), 4, -1)
        return (
            flat[:, 0] * self.w + self.x,
            flat[:, 1] * self.h + self.y,
            self._exp(flat[:, 2]) * self.w,
            self._exp(flat[:, 3]) * self.h,
        )


class CentreCoder:
    """Candidates of a centre head: one a cell, that says where in it the centre is, and how large
    the target is (CenterNet, 1904.07850).

    whole: side in patch pixels of the search region of which sizes are parts; that of the largest
    one, because smaller ones are of the same scale.
    """

    def __init__(self, cells: int, stride: int, whole: int) -> None:
        corner = np.arange(cells) * float(stride)
        self.cells, self.stride, self.whole = cells, float(stride), float(whole)
        self.x = np.tile(corner, cells).astype(np.float32)
        self.y = np.repeat(corner, cells).astype(np.float32)

    def converted(self, xp: Any, convert: Callable[[np.ndarray], Any]) -> CentreCoder:
        """The same for arrays of module ``xp``, its constants made by ``convert``."""
        other = copy.copy(self)
        other.x, other.y = convert(self.x), convert(self.y)
        return other

    def decode(self, regression: Any) -> tuple[Any, Any, Any, Any]:
        """``(N, 4, S, S)`` width and height as parts of the whole search region, and the centre's
        distance from the cell's left and upper side in cells, to centre x, y, width and height in
        patch pixels, ``(N, S*S)`` each.
        """
        flat = regression.reshape(len(regression), 4, -1)
        return (
            self.x + flat[:, 2] * self.stride,
            self.y + flat[:, 3] * self.stride,
            flat[:, 0] * self.whole,
            flat[:, 1] * self.whole,
        )
