# SPDX-License-Identifier: Apache-2.0
"""The heads' own losses against ground truth, and their maps in one form for distillation.

Three kinds of head: anchor-free (``coder = "point"``; SiamBAN, arXiv 2003.06761, section 3.3), RPN
(``coder = "anchor"``; SiamRPN, Li et al. 2018, section 3.2) and centre (``coder = "centre"``;
CenterNet, arXiv 1904.07850). ``K`` candidates a cell (1 but for RPN), ``S x S`` cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812, the name that PyTorch's own docs use

from ..tracking.geometry import AnchorCoder
from ..tracking.network import StudentOutput
from .losses import mean_where

IGNORE = -1
BOX_LOSSES = ("iou", "giou")
#: Pixels of the largest search region of a centre head: its sizes are parts of it.
CENTRE_WHOLE = 256
#: Overlap of a box that is moved by the radius of its heat (CornerNet, arXiv 1808.01244).
HEAT_OVERLAP = 0.3
#: Anchors above the first IoU are target, below the second background (SiamRPN).
ANCHOR_TARGET, ANCHOR_BACKGROUND = 0.6, 0.3


@dataclass(frozen=True)
class PointTargets:
    """Ground truth on the grid of cells.

    labels: ``(N, S, S)`` int64: 1 target, 0 background, ``IGNORE`` between the two.
    distances: ``(N, 4, S, S)`` float32, left, top, right, bottom from each cell's point to the box,
        search pixels.
    """

    labels: Tensor
    distances: Tensor


@dataclass(frozen=True)
class AnchorTargets:
    """Ground truth on the anchors.

    labels: ``(N, K, S, S)`` int64: 1 target, 0 background, ``IGNORE`` between the two.
    offsets: ``(N, 4, K, S, S)`` float32, dx, dy, dw, dh of the box in the anchors' encoding.
    """

    labels: Tensor
    offsets: Tensor


class HeadLosses(NamedTuple):
    """Supervised losses of one student, a value a sample.

    classification, regression: ``(N,)``; regression is 0 for samples that do not show the target.
    labels: ``(N, K, S, S)`` int64 as in the targets.
    """

    classification: Tensor
    regression: Tensor
    labels: Tensor


def cell_points(cells: int, stride: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Coordinates of the cells' points along one axis, continuous search pixels, ``(cells,)``."""
    return (torch.arange(cells, device=device) - cells // 2) * float(stride) + size / 2


def point_targets(boxes: Tensor, positive: Tensor, points: Tensor) -> PointTargets:
    """Targets of each cell: positive inside the ellipse of half the box's axes, negative outside
    that of the whole axes.

    boxes ``(N, 4)`` x0, y0, x1, y1 in search pixels; positive ``(N,)`` bool, False where the patch
    does not show the target. The cell nearest to the centre of a visible target is always positive,
    however thin the target is.
    """
    x, y = points[None, None, :], points[None, :, None]
    x0, y0, x1, y1 = (boxes[:, i, None, None] for i in range(4))
    cx, cy, w, h = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0).clamp(min=1), (y1 - y0).clamp(min=1)
    ellipse = ((x - cx) / (w / 2)) ** 2 + ((y - cy) / (h / 2)) ** 2
    distance = (x - cx) ** 2 + (y - cy) ** 2
    nearest = distance == distance.amin((1, 2), keepdim=True)
    labels = torch.where(ellipse <= 0.25, 1, torch.where(ellipse > 1.0, 0, IGNORE))
    labels = torch.where(nearest, 1, labels)
    labels = torch.where(positive[:, None, None], labels, torch.zeros_like(labels))
    distances = torch.stack(torch.broadcast_tensors(x - x0, y - y0, x1 - x, y1 - y), 1)
    return PointTargets(labels, distances)


def anchor_targets(boxes: Tensor, positive: Tensor, anchors: Tensor) -> AnchorTargets:
    """Targets of each anchor by its IoU with the box; the best one of a visible target is target.

    boxes ``(N, 4)`` x0, y0, x1, y1 in search pixels; anchors as of ``Head.anchors``. All anchors
    take part: the published code draws 64 of them at random, which has the same expectation.
    """
    x0, y0, x1, y1 = (boxes[:, i, None, None, None] for i in range(4))
    ax, ay, aw, ah = anchors[:, None]
    overlap_w = torch.minimum(x1, ax + aw / 2) - torch.maximum(x0, ax - aw / 2)
    overlap_h = torch.minimum(y1, ay + ah / 2) - torch.maximum(y0, ay - ah / 2)
    intersection = overlap_w.clamp(min=0) * overlap_h.clamp(min=0)
    w, h = (x1 - x0).clamp(min=1), (y1 - y0).clamp(min=1)
    iou = intersection / (w * h + aw * ah - intersection)
    labels = torch.where(iou > ANCHOR_TARGET, 1, torch.where(iou < ANCHOR_BACKGROUND, 0, IGNORE))
    # Of the many anchors that hold a small box whole, the one around it.
    nearest = iou - 1e-5 * ((x0 + x1) / 2 - ax).abs() - 1e-5 * ((y0 + y1) / 2 - ay).abs()
    best = (nearest == nearest.amax((1, 2, 3), keepdim=True)) & (iou > 0)
    labels = torch.where(best, 1, labels)
    labels = torch.where(positive[:, None, None, None], labels, torch.zeros_like(labels))
    offsets = torch.broadcast_tensors(
        ((x0 + x1) / 2 - ax) / aw, ((y0 + y1) / 2 - ay) / ah, (w / aw).log(), (h / ah).log()
    )
    return AnchorTargets(labels, torch.stack(offsets, 1))


def classification_loss(logits: Tensor, labels: Tensor, quality: Tensor | None = None) -> Tensor:
    """Cross-entropy of each sample ``(N,)``: target and background cells weigh one half each.

    logits ``(N, 2, ...)`` (background, foreground), labels ``(N, ...)`` as in the targets.
    quality: ``(N, ...)`` probability 0..1 that target cells shall say; 1 by default. With the IoU
    of a cell's own box the score ranks the boxes as well (arXiv 2006.04388, section 3.1).
    """
    entropy = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    if quality is not None:
        other = F.cross_entropy(logits, torch.zeros_like(labels), reduction="none")
        entropy = torch.where(labels == 1, quality * entropy + (1 - quality) * other, entropy)
    return 0.5 * mean_where(entropy, labels == 1) + 0.5 * mean_where(entropy, labels == 0)


def overlaps(distances: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (arXiv 1902.09630) of boxes about common points.

    Both ``(N, 4, S, S)``: distances left, top, right, bottom from the point to the sides, negative
    where the point is outside; returns two ``(N, S, S)``.
    """
    inner, outer = torch.minimum(distances, true), torch.maximum(distances, true)

    def area(d: Tensor) -> Tensor:
        return (d[:, 0] + d[:, 2]).clamp(min=0) * (d[:, 1] + d[:, 3]).clamp(min=0)

    intersection = area(inner)
    union = (area(distances) + area(true) - intersection).clamp(min=1e-6)
    iou, hull = intersection / union, area(outer).clamp(min=1e-6)
    return iou, iou - (hull - union) / hull


def regression_loss(
    distances: Tensor, targets: PointTargets, kind: str = "iou", l1: float = 0.0
) -> Tensor:
    """1 - overlap of predicted and true box, mean over each sample's target cells, ``(N,)``.

    distances ``(N, 4, S, S)`` predicted left, top, right, bottom in search pixels; 0 for a sample
    without target. kind: ``iou`` (UnitBox, arXiv 1608.01471) or ``giou``. l1: weight of the mean
    distance of the four sides, in parts of the root of the true area: near a tight box an overlap
    hardly changes, and this does.
    """
    true = targets.distances
    plain, generalised = overlaps(distances, true)
    loss = 1.0 - (generalised if kind == "giou" else plain)
    if l1:
        area = (true[:, 0] + true[:, 2]) * (true[:, 1] + true[:, 3])
        loss = loss + l1 * (distances - true).abs().mean(1) / area.clamp(min=1.0).sqrt()
    return mean_where(loss, targets.labels == 1)


def centre_heat(boxes: Tensor, positive: Tensor, points: Tensor) -> Tensor:
    """Heat 0..1 of each cell, ``(N, S, S)``: 1 in the cell of the centre, a Gaussian around it.

    The deviation is a third of the distance by which a box can be moved before its overlap falls to
    ``HEAT_OVERLAP`` (CornerNet, arXiv 1808.01244, as CenterNet and LightFC take it). Zeros for a
    sample without target. boxes ``(N, 4)`` as for ``point_targets``; points: the cells' centres.
    """
    stride = float(points[1] - points[0])
    w, h = ((boxes[:, i + 2] - boxes[:, i]).clamp(min=1) / stride for i in (0, 1))
    # Moved by (r, r): (w - r)(h - r) / (2wh - (w - r)(h - r)) = o, the smaller root.
    share = 2 * HEAT_OVERLAP / (1 + HEAT_OVERLAP)
    total = w + h
    radius = (total - (total.square() - 4 * w * h * (1 - share)).clamp(min=0).sqrt()) / 2
    deviation = ((2 * radius.clamp(min=0).floor() + 1) / 6)[:, None, None]
    centre = [(boxes[:, i] + boxes[:, i + 2]) / 2 for i in (0, 1)]
    last = len(points) - 1
    column, row = (((c - points[0]) / stride + 0.5).floor().clamp(0, last) for c in centre)
    cells = torch.arange(len(points), device=boxes.device)
    dx, dy = cells[None, None, :] - column[:, None, None], cells[None, :, None] - row[:, None, None]
    heat = torch.exp(-(dx.square() + dy.square()) / (2 * deviation.square()))
    return torch.where(positive[:, None, None], heat, torch.zeros_like(heat))


def centre_targets(boxes: Tensor, positive: Tensor, points: Tensor) -> PointTargets:
    """Targets of a centre head: the centre's cell is target, cells with less than a tenth of its
    heat are background. Arguments as for ``centre_heat``.
    """
    heat = centre_heat(boxes, positive, points)
    labels = torch.where(heat == 1, 1, torch.where(heat < 0.1, 0, IGNORE))
    x, y = points[None, None, :], points[None, :, None]
    x0, y0, x1, y1 = (boxes[:, i, None, None] for i in range(4))
    distances = torch.stack(torch.broadcast_tensors(x - x0, y - y0, x1 - x, y1 - y), 1)
    return PointTargets(labels, distances)


def heat_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Focal loss of a centre head (arXiv 1808.01244, equation 1, one target a sample), ``(N,)``.

    logits ``(N, 2, S, S)`` (background, foreground), heat ``(N, S, S)``.
    """
    log_other, log_target = F.log_softmax(logits, 1).unbind(1)
    target = heat == 1
    wrong = log_other.exp().square() * log_target
    right = (1 - heat) ** 4 * log_target.exp().square() * log_other
    return -torch.where(target, wrong, right).flatten(1).sum(1)


def anchor_regression_loss(offsets: Tensor, targets: AnchorTargets) -> Tensor:
    """L1 distance of the offsets, summed over the four, mean over each sample's target anchors,
    ``(N,)``.

    offsets ``(N, 4, K, S, S)`` predicted dx, dy, dw, dh.
    """
    return mean_where((offsets - targets.offsets).abs().sum(1), targets.labels == 1)


def class_logits(output: StudentOutput) -> Tensor:
    """Classification map as ``(N, 2, K, S, S)`` float32 (background, foreground)."""
    n, channels, height, width = output.classification.shape
    return output.classification.float().reshape(n, 2, channels // 2, height, width)


@dataclass(frozen=True)
class LossRules:
    """How the heads are supervised.

    box: ``iou`` or ``giou``. l1: weight of the distance of the sides. quality: how far target cells
    shall say the IoU of their own box and not 1, 0 to 1.
    """

    box: str = "iou"
    l1: float = 0.0
    quality: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no loss."""
        if self.box not in BOX_LOSSES:
            raise ValueError(f"box must be one of {', '.join(BOX_LOSSES)}, not {self.box!r}")
        if not 0 <= self.quality <= 1:
            raise ValueError(f"quality must be 0 to 1, not {self.quality:g}")
        if not self.l1 >= 0:
            raise ValueError(f"l1 must be zero or more, not {self.l1:g}")


def foreground_map(output: StudentOutput) -> Tensor:
    """Foreground minus background logit of each cell's best candidate, ``(N, S, S)`` float32."""
    logits = class_logits(output)
    return (logits[:, 1] - logits[:, 0]).amax(1)


@dataclass(frozen=True)
class Head:
    """What a network's regression maps mean; networks with equal heads speak one language.

    coder: ``point``, ``anchor`` or ``centre``. stride: of the cells, search pixels. ratios, scale:
    of the anchors. The number of cells follows from the size of the search patch. rules: of its
    supervision.
    """

    coder: str
    stride: int
    ratios: tuple[float, ...] = ()
    scale: float = 0.0
    rules: LossRules = LossRules()

    @classmethod
    def of(cls, student: Any, rules: LossRules | None = None) -> Head:
        """The head of a network of ``tracking.network``. ValueError names a kind without losses."""
        rules = rules or LossRules()
        if student.coder in ("point", "centre"):
            return cls(student.coder, student.stride, rules=rules)
        if student.coder != "anchor":
            raise ValueError(
                f"{type(student).__name__}: a {student.coder} head has outputs that training does "
                "not know: it knows point, anchor and centre"
            )
        ratios = tuple(student.anchor_ratios)
        return cls("anchor", student.stride, ratios, student.anchor_scale, rules)

    def same_language(self, other: Head) -> bool:
        """Whether maps of the two mean the same at each cell, but for the places of the cells."""
        return (self.coder, self.ratios, self.scale) == (other.coder, other.ratios, other.scale)

    def points(self, cells: int, size: int, device: torch.device | str = "cpu") -> Tensor:
        """Places of the cells along one axis of a ``size`` pixel search patch, ``(cells,)``."""
        if self.coder == "centre":
            return (torch.arange(cells, device=device) + 0.5) * float(self.stride)
        return cell_points(cells, self.stride, size, device)

    def anchors(self, cells: int, size: int, device: torch.device | str = "cpu") -> Tensor:
        """Anchors, ``(4, K, S, S)`` float32: cx, cy, w, h in search pixels."""
        coder = AnchorCoder(cells, self.stride, size, self.ratios, self.scale)
        columns = [torch.as_tensor(column) for column in (coder.x, coder.y, coder.w, coder.h)]
        anchors = torch.stack(columns).float().to(device)
        return anchors.reshape(4, len(self.ratios), cells, cells)

    def losses(self, output: StudentOutput, batch: dict[str, Tensor]) -> HeadLosses:
        """Supervised losses of a network's maps against ``batch``'s ``box`` and ``positive``."""
        cells, size = output.classification.shape[-1], batch["search"].shape[-1]
        if self.coder == "anchor":
            logits, device = class_logits(output), batch["box"].device
            regression = output.regression.float()
            anchors = self.anchors(cells, size, device)
            aims = anchor_targets(batch["box"], batch["positive"], anchors)
            offsets = regression.reshape(len(regression), 4, -1, cells, cells)
            cls = classification_loss(logits, aims.labels)
            return HeadLosses(cls, anchor_regression_loss(offsets, aims), aims.labels)
        return self.losses_of_boxes(class_logits(output), self.sides(output, size), batch)

    def losses_of_boxes(
        self, logits: Tensor, sides: Tensor, batch: dict[str, Tensor]
    ) -> HeadLosses:
        """The same of maps in one form: logits ``(N, 2, 1, S, S)``, sides ``(N, 1, 4, S, S)`` as of
        ``sides``, for heads with one candidate a cell.
        """
        cells, size, device = sides.shape[-1], batch["search"].shape[-1], sides.device
        points = self.points(cells, size, device)
        make = centre_targets if self.coder == "centre" else point_targets
        targets = make(batch["box"], batch["positive"], points)
        x, y = points[None, None, :], points[None, :, None]
        x0, y0, x1, y1 = sides[:, 0].unbind(1)
        distances = torch.stack((x - x0, y - y0, x1 - x, y1 - y), 1)
        rules = self.rules
        reg = regression_loss(distances, targets, rules.box, rules.l1)
        if self.coder == "centre":
            cls = heat_loss(logits[:, :, 0], centre_heat(batch["box"], batch["positive"], points))
        else:
            quality = None
            if rules.quality:
                iou = overlaps(distances.detach(), targets.distances)[0]
                quality = (1.0 - rules.quality * (1.0 - iou))[:, None]
            cls = classification_loss(logits, targets.labels[:, None], quality)
        return HeadLosses(cls, reg, targets.labels[:, None])

    def sides(self, output: StudentOutput, size: int) -> Tensor:
        """Boxes of all candidates, ``(N, K, 4, S, S)`` float32: x0, y0, x1, y1 in search pixels."""
        cells = output.classification.shape[-1]
        regression = output.regression.float()
        if self.coder != "anchor":
            points = self.points(cells, size, regression.device)
            y, x = torch.meshgrid(points, points, indexing="ij")
            if self.coder == "centre":
                w, h, dx, dy = regression.unbind(1)
                w, h = w * CENTRE_WHOLE / 2, h * CENTRE_WHOLE / 2
                x, y = x + (dx - 0.5) * self.stride, y + (dy - 0.5) * self.stride
                return torch.stack((x - w, y - h, x + w, y + h), 1)[:, None]
            left, top, right, bottom = regression.unbind(1)
            return torch.stack((x - left, y - top, x + right, y + bottom), 1)[:, None]
        ax, ay, aw, ah = self.anchors(cells, size, regression.device)
        dx, dy, dw, dh = regression.reshape(len(regression), 4, -1, cells, cells).unbind(1)
        # A student at its start may ask for boxes of any size; e^4 is beyond every patch.
        cx, cy = dx * aw + ax, dy * ah + ay
        half_w, half_h = dw.clamp(max=4).exp() * aw / 2, dh.clamp(max=4).exp() * ah / 2
        return torch.stack((cx - half_w, cy - half_h, cx + half_w, cy + half_h), 2)
