# SPDX-License-Identifier: Apache-2.0
"""From the student's maps to the peaks of each search window.

A cell is ranked by the logarithm of how much likelier it is the target's than clutter's: by its
score, by its distance from where the target is expected, and by how far its box differs from the
target's last one. The local maxima are the *peaks*, the measurements of the data association. The
Siamese-RPN family ranks in the same way, with a cosine window for the distance and a penalty for
the shape (SiamRPN, Li et al. 2018, section 3.4). Written once, for NumPy arrays and for PyTorch
tensors on any device: only operators and functions that both have under one name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .geometry import AnchorCoder, CentreCoder, PointCoder, context_side
from .settings import BeliefSettings

#: Candidates with a longer side, in patch pixels, are as good as infinite: keeps half precision
#: from producing infinities and, out of those, NaN. Of shorter ones there is no logarithm.
_LONGEST, _SHORTEST = 1e4, 0.1


@dataclass(frozen=True)
class StudentShape:
    """Sizes of an architecture that post-processing needs, known without importing PyTorch.

    near_size: side of the smaller search region, of the same scale, 0 for none; smaller than
    ``search_size`` by an even number of strides, so that the cells of both are in the same places.
    head: ``point``, ``anchor`` or ``centre``, whose maps ``PointCoder``, ``AnchorCoder`` and
    ``CentreCoder`` decode. context: the rule of ``geometry.context_side`` for what is cut out.
    """

    template_size: int
    search_size: int
    cells: int
    stride: int
    anchor_ratios: tuple[float, ...] = ()
    anchor_scale: float = 0.0
    near_size: int = 0
    head: str = "point"
    context: str = "margin"

    @property
    def search_sizes(self) -> tuple[int, ...]:
        """Sides of the search regions that there are, the largest first."""
        return (self.search_size, self.near_size) if self.near_size else (self.search_size,)

    def cells_of(self, size: int) -> int:
        """Cells along a side of a search region of ``size`` patch pixels."""
        return self.cells - (self.search_size - size) // self.stride

    def context_side(self, w: float, h: float, amount: float, size: int | None = None) -> float:
        """Side in image pixels of a patch of ``size`` pixels, the template's by default, for a
        target of width ``w`` and height ``h`` (``TrackerSettings.context_amount``).
        """
        side = context_side(w, h, amount, self.context)
        return side if size is None else side * (size / self.template_size)

    def coder(self, size: int) -> PointCoder | AnchorCoder | CentreCoder:
        """The decoder of the regression maps of a search region of ``size`` patch pixels."""
        cells = self.cells_of(size)
        if self.head == "anchor":
            return AnchorCoder(cells, self.stride, size, self.anchor_ratios, self.anchor_scale)
        if self.head == "centre":
            return CentreCoder(cells, self.stride, self.search_size)
        return PointCoder(cells, self.stride, size)


#: By architecture name; a test asserts agreement with the classes of ``network.ARCHITECTURES``.
STUDENT_SHAPES = {
    "mobile_s16": StudentShape(127, 255, 15, 16, near_size=159),
    "alexnet_rpn": StudentShape(127, 287, 21, 8, (0.33, 0.5, 1.0, 2.0, 3.0), 8.0, head="anchor"),
    "mobilenetv2_s8": StudentShape(127, 255, 31, 8),
    "lightfc_s16": StudentShape(128, 256, 16, 16, near_size=160, head="centre", context="area"),
}


#: Peaks that are returned of each window, the best first.
PEAKS = 5
#: Rank of what is no peak.
NO_PEAK = -1e9
#: Logits of a network are kept within this: half precision must not make infinities of them.
_MOST_LOGIT = 80.0


class PeakFinder:
    """Finds the peaks in a batch of search windows, on one kind of array.

    size: side of these windows in patch pixels, the architecture's ``search_size`` by default.

    xp: the module that has ``log``, ``abs``, ``amax``, ``maximum``, ``where`` and ``stack``:
    ``numpy`` or ``torch``. convert: makes a constant of that kind from a NumPy array.
    """

    def __init__(
        self,
        shape: StudentShape,
        belief: BeliefSettings,
        xp: Any = np,
        convert: Callable[[np.ndarray], Any] = np.asarray,
        size: int | None = None,
    ) -> None:
        self._size = size or shape.search_size
        self._xp = xp
        self._convert = convert
        self._belief = belief
        self._firsts: dict[int, Any] = {}
        self._cells = shape.cells_of(self._size)
        self._coder = shape.coder(self._size).converted(xp, convert)

    def find(self, logits: Any, regression: Any, prior: Any) -> Any:
        """The peaks of each window, ``(N, PEAKS, 6)``, the best first: centre x, y, width and
        height in patch pixels, logit of the score, rank (``NO_PEAK`` where there are fewer).

        logits: ``(N, 2K, S, S)``, regression: ``(N, 4K, S, S)``, float32. prior: ``(N, 3)``, the
        target's last width and height, and the deviation of its place about the window's middle,
        all in patch pixels.
        """
        count = len(logits)
        logits = logits.reshape(count, 2, -1)
        logit = (logits[:, 1] - logits[:, 0]).clip(-_MOST_LOGIT, _MOST_LOGIT)
        x, y, w, h = self._coder.decode(regression)
        w, h = w.clip(_SHORTEST, _LONGEST), h.clip(_SHORTEST, _LONGEST)
        rank = self._local_maxima(self._rank(logit, x, y, w, h, prior), count)
        first = self._first(count, logit.shape[1])
        columns = []
        for _ in range(PEAKS):
            # One flat index a window: the only form of picking that is quick in both.
            flat = rank.argmax(1) + first
            picked = [part.reshape(-1)[flat] for part in (x, y, w, h, logit, rank)]
            columns.append(self._xp.stack(picked, 1))
            rank.reshape(-1)[flat] = NO_PEAK
        return self._xp.stack(columns, 1)

    def _rank(self, logit: Any, x: Any, y: Any, w: Any, h: Any, prior: Any) -> Any:
        """Log ratio of target to clutter of each cell, but for terms that all have in common."""
        xp, belief, middle = self._xp, self._belief, self._size / 2
        squared = ((x - middle) ** 2 + (y - middle) ** 2) / prior[:, 2:3] ** 2
        change = xp.abs(xp.log(w / prior[:, 0:1])) + xp.abs(xp.log(h / prior[:, 1:2]))
        score, place, size = belief.association
        return (
            score * logit.clip(max=belief.score_most)
            - place * 0.5 * (belief.freedom + 2.0) * xp.log(1.0 + squared / belief.freedom)
            + size * change
        )

    def _local_maxima(self, rank: Any, count: int) -> Any:
        """The ranks of cells that no neighbour exceeds, and ``NO_PEAK`` elsewhere. Candidates of
        one cell compete with each other as well.
        """
        xp, cells = self._xp, self._cells
        grid = rank.reshape(count, -1, cells, cells)
        across = xp.amax(grid, axis=1, keepdims=True) if grid.shape[1] > 1 else grid * 1.0
        best = across * 1.0
        best[..., 1:] = xp.maximum(best[..., 1:], across[..., :-1])
        best[..., :-1] = xp.maximum(best[..., :-1], across[..., 1:])
        down = best * 1.0
        down[..., 1:, :] = xp.maximum(down[..., 1:, :], best[..., :-1, :])
        down[..., :-1, :] = xp.maximum(down[..., :-1, :], best[..., 1:, :])
        return xp.where(grid >= down, grid, NO_PEAK).reshape(count, -1)

    def _first(self, count: int, candidates: int) -> Any:
        """Flat index of each window's first candidate; made once, as constants of a graph must."""
        if count not in self._firsts:
            self._firsts[count] = self._convert(np.arange(count) * candidates)
        return self._firsts[count]
