# SPDX-License-Identifier: Apache-2.0
"""From the student's maps to the best candidate of each search window.

Follows the Siamese-RPN family (SiamRPN, Li et al. 2018, section 3.4; SiamBAN, arXiv 2003.06761): a
penalty on changes of scale and ratio, and a cosine window. Written once, for NumPy arrays and for
PyTorch tensors on any device: only operators and functions that both have under one name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .geometry import AnchorCoder, CentreCoder, PointCoder, context_side

#: Candidates with a longer side, in patch pixels, are as good as infinite: keeps half precision
#: from producing infinities and, out of those, NaN.
_LONGEST = 1e4


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

    def cosine(self, size: int) -> np.ndarray:
        """The cosine window over the cells of a search region of ``size`` patch pixels, ``(S, S)``:
        the middle of that of the largest region. A centre head's does not end with zeros.
        """
        cells = self.cells_of(size)
        hanning = (
            np.hanning(self.cells + 2)[1:-1] if self.head == "centre" else np.hanning(self.cells)
        )
        first = (self.cells - cells) // 2
        middle = hanning[first : first + cells]
        return np.outer(middle, middle)


#: By architecture name; a test asserts agreement with the classes of ``network.ARCHITECTURES``.
STUDENT_SHAPES = {
    "mobile_s16": StudentShape(127, 255, 15, 16, near_size=159),
    "alexnet_rpn": StudentShape(127, 287, 21, 8, (0.33, 0.5, 1.0, 2.0, 3.0), 8.0, head="anchor"),
    "mobilenetv2_s8": StudentShape(127, 255, 31, 8),
    "lightfc_s16": StudentShape(128, 256, 16, 16, near_size=160, head="centre", context="area"),
}


class Ranking:
    """Ranks the candidates of a batch of search windows, on one kind of array.

    size: side of these windows in patch pixels, the architecture's ``search_size`` by default. A
    smaller one's cosine window is the middle of the largest one's: what is nearer than its border
    ranks alike in both.

    xp: the module that has ``exp``, ``sqrt``, ``maximum``, ``arange`` and ``stack``: ``numpy`` or
    ``torch``. convert: makes a constant of that kind from a NumPy array.
    """

    def __init__(
        self,
        shape: StudentShape,
        penalty_k: float,
        xp: Any = np,
        convert: Callable[[np.ndarray], Any] = np.asarray,
        size: int | None = None,
    ) -> None:
        size = size or shape.search_size
        self._xp = xp
        self._convert = convert
        self._penalty_k = penalty_k
        self._firsts: dict[int, Any] = {}
        self._coder = shape.coder(size).converted(xp, convert)
        cosine = np.tile(shape.cosine(size).ravel(), max(1, len(shape.anchor_ratios)))
        self._cosine = convert(cosine.astype(np.float32))
        self._weighs = shape.head == "centre"

    def best(self, logits: Any, regression: Any, prior: Any) -> Any:
        """The best candidate of each window, ``(N, 6)``: centre x, y, width and height in patch
        pixels, score 0..1 and penalty factor 0..1.

        logits: ``(N, 2K, S, S)``, regression: ``(N, 4K, S, S)``, float32. prior: ``(N, 3)``, the
        target's last width and height in patch pixels and the share of the cosine window, 0..1.
        """
        xp, count = self._xp, len(logits)
        logits = logits.reshape(count, 2, -1)
        # At 80 the score is 0 to float32, and exp does not overflow.
        scores = 1.0 / (1.0 + xp.exp((logits[:, 0] - logits[:, 1]).clip(max=80.0)))
        x, y, w, h = self._coder.decode(regression)
        w, h = w.clip(max=_LONGEST), h.clip(max=_LONGEST)
        penalty = self._penalty(w, h, prior[:, 0:1], prior[:, 1:2])
        influence = prior[:, 2:3]
        ranking = self._ranking(penalty * scores, influence)
        best = ranking.argmax(1)
        # One flat index a window: the only form of picking that is quick in both.
        flat = best + self._first(count, ranking.shape[1])
        picked = [part.reshape(-1)[flat] for part in (x, y, w, h, scores, penalty)]
        return xp.stack(picked, 1)

    def _ranking(self, scores: Any, influence: Any) -> Any:
        """Scores under the cosine window. It is added to those of the SiamRPN family, and weighs
        those of a centre head, whose scores are low where it is not sure (LightFC has an influence
        of 1).
        """
        if self._weighs:
            return scores * (1.0 - influence * (1.0 - self._cosine))
        return scores * (1.0 - influence) + self._cosine * influence

    def _first(self, count: int, candidates: int) -> Any:
        """Flat index of each window's first candidate; made once, as constants of a graph must."""
        if count not in self._firsts:
            self._firsts[count] = self._convert(np.arange(count) * candidates)
        return self._firsts[count]

    def _penalty(self, w: Any, h: Any, last_w: Any, last_h: Any) -> Any:
        """Factor in 0..1 for a change of scale and of aspect ratio against the last size (SiamRPN,
        equation 12).
        """
        xp = self._xp
        scale = xp.sqrt(_padded_area(w, h) / _padded_area(last_w, last_h))
        aspect = (h / w) * (last_w / last_h)
        change = xp.maximum(scale, 1.0 / scale) * xp.maximum(aspect, 1.0 / aspect)
        return xp.exp((1.0 - change) * self._penalty_k)


def _padded_area(w: Any, h: Any) -> Any:
    """Area of a box with half its mean side as margin, as SiamRPN compares sizes."""
    margin = (w + h) * 0.5
    return (w + margin) * (h + margin)
