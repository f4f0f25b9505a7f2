# SPDX-License-Identifier: Apache-2.0
"""The heads' own losses against ground truth, and their maps in one form for distillation.

Three kinds of head: anchor-free (``coder = "point"``; SiamBAN, arXiv 2003.06761, section 3.3), RPN
(``coder = "anchor"``; SiamRPN, Li et al. 2018, section 3.2) and centre (``coder = "centre"``, see
``centre_head``). ``K`` candidates a cell (1 but for RPN), ``S x S`` cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812, the name that PyTorch's own docs use

from ..tracking.geometry import AnchorCoder
from ..tracking.network import StudentOutput
from .centre_head import box_loss, centre_boxes, centre_targets, focal_loss
from .losses import mean_where

IGNORE = -1
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


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample ``(N,)``: target and background cells weigh one half each.

    logits ``(N, 2, ...)`` (background, foreground), labels ``(N, ...)`` as in the targets.
    """
    entropy = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    return 0.5 * mean_where(entropy, labels == 1) + 0.5 * mean_where(entropy, labels == 0)


def regression_loss(distances: Tensor, targets: PointTargets) -> Tensor:
    """1 - IoU of predicted and true box (UnitBox, arXiv 1608.01471), mean over each sample's target
    cells, ``(N,)``.

    distances ``(N, 4, S, S)`` predicted left, top, right, bottom in search pixels; 0 for a sample
    without target.
    """
    mask = targets.labels == 1
    # Cells outside the box have negative true distances; masked out, clamping keeps them finite.
    true = targets.distances.clamp(min=0)
    overlap = torch.minimum(distances, true)
    intersection = (overlap[:, 0] + overlap[:, 2]) * (overlap[:, 1] + overlap[:, 3])
    area = (distances[:, 0] + distances[:, 2]) * (distances[:, 1] + distances[:, 3])
    true_area = (true[:, 0] + true[:, 2]) * (true[:, 1] + true[:, 3])
    iou = intersection / (area + true_area - intersection).clamp(min=1e-6)
    return mean_where(1.0 - iou, mask)


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


def foreground_map(output: StudentOutput) -> Tensor:
    """Foreground minus background logit of each cell's best candidate, ``(N, S, S)`` float32."""
    logits = class_logits(output)
    return (logits[:, 1] - logits[:, 0]).amax(1)


@dataclass(frozen=True)
class Head:
    """What a network's regression maps mean; networks with equal heads speak one language.

    coder: ``point``, ``anchor`` or ``centre``. stride: of the cells, search pixels. ratios, scale:
    of the anchors. whole: side in search pixels of which a centre head's sizes are parts. The
    number of cells follows from the size of the search patch.
    """

    coder: str
    stride: int
    ratios: tuple[float, ...] = ()
    scale: float = 0.0
    whole: int = 0

    @classmethod
    def of(cls, student: Any) -> Head:
        """The head of a network of ``tracking.network``."""
        if student.coder == "point":
            return cls("point", student.stride)
        if student.coder == "centre":
            return cls("centre", student.stride, whole=student.search_size)
        return cls("anchor", student.stride, tuple(student.anchor_ratios), student.anchor_scale)

    def anchors(self, cells: int, size: int, device: torch.device | str = "cpu") -> Tensor:
        """Anchors, ``(4, K, S, S)`` float32: cx, cy, w, h in search pixels."""
        coder = AnchorCoder(cells, self.stride, size, self.ratios, self.scale)
        columns = [torch.as_tensor(column) for column in (coder.x, coder.y, coder.w, coder.h)]
        anchors = torch.stack(columns).float().to(device)
        return anchors.reshape(4, len(self.ratios), cells, cells)

    def losses(self, output: StudentOutput, batch: dict[str, Tensor]) -> HeadLosses:
        """Supervised losses of a network's maps against ``batch``'s ``box`` and ``positive``."""
        cells, size = output.classification.shape[-1], batch["search"].shape[-1]
        logits, device = class_logits(output), batch["box"].device
        regression = output.regression.float()
        if self.coder == "point":
            points = cell_points(cells, self.stride, size, device)
            targets = point_targets(batch["box"], batch["positive"], points)
            labels, reg = targets.labels[:, None], regression_loss(regression, targets)
        elif self.coder == "centre":
            centre = centre_targets(batch["box"], batch["positive"], cells, self.stride)
            found = centre_boxes(regression, self.stride, self.whole)
            return HeadLosses(
                focal_loss(logits[:, :, 0], centre),
                box_loss(found, batch["box"], centre, self.whole),
                centre.labels[:, None],
            )
        else:
            anchors = self.anchors(cells, size, device)
            aims = anchor_targets(batch["box"], batch["positive"], anchors)
            offsets = regression.reshape(len(regression), 4, -1, cells, cells)
            labels, reg = aims.labels, anchor_regression_loss(offsets, aims)
        return HeadLosses(classification_loss(logits, labels), reg, labels)

    def sides(self, output: StudentOutput, size: int) -> Tensor:
        """Boxes of all candidates, ``(N, K, 4, S, S)`` float32: x0, y0, x1, y1 in search pixels."""
        cells = output.classification.shape[-1]
        regression = output.regression.float()
        if self.coder == "point":
            points = cell_points(cells, self.stride, size, regression.device)
            y, x = torch.meshgrid(points, points, indexing="ij")
            left, top, right, bottom = regression.unbind(1)
            return torch.stack((x - left, y - top, x + right, y + bottom), 1)[:, None]
        if self.coder == "centre":
            return centre_boxes(regression, self.stride, self.whole)[:, None]
        ax, ay, aw, ah = self.anchors(cells, size, regression.device)
        dx, dy, dw, dh = regression.reshape(len(regression), 4, -1, cells, cells).unbind(1)
        # A student at its start may ask for boxes of any size; e^4 is beyond every patch.
        cx, cy = dx * aw + ax, dy * ah + ay
        half_w, half_h = dw.clamp(max=4).exp() * aw / 2, dh.clamp(max=4).exp() * ah / 2
        return torch.stack((cx - half_w, cy - half_h, cx + half_w, cy + half_h), 2)
