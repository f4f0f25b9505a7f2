# SPDX-License-Identifier: Apache-2.0
"""The head's own losses against ground truth, for the anchor-free student (SiamBAN, arXiv 2003.06761, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -1


@dataclass(frozen=True)
class PointTargets:
    """Ground truth on the grid of cells.

    labels: ``(N, S, S)`` int64: 1 target, 0 background, ``IGNORE`` between the two.
    distances: ``(N, 4, S, S)`` float32, left, top, right, bottom from each cell's point to the box, search pixels.
    """

    labels: Tensor
    distances: Tensor


def cell_points(cells: int, stride: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Coordinates of the cells' points along one axis, in continuous pixels of the search patch, ``(cells,)``."""
    return (torch.arange(cells, device=device) - cells // 2) * float(stride) + size / 2


def point_targets(boxes: Tensor, positive: Tensor, points: Tensor) -> PointTargets:
    """Targets of each cell: inside the ellipse of half the box's axes positive, outside the whole ellipse negative.

    boxes ``(N, 4)`` x0, y0, x1, y1 in search pixels; positive ``(N,)`` bool, False where the patch does not show the
    target. The cell nearest to the centre of a visible target is always positive, however thin the target is.
    """
    x, y = points[None, None, :], points[None, :, None]
    x0, y0, x1, y1 = (boxes[:, i, None, None] for i in range(4))
    cx, cy, w, h = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0).clamp(min=1), (y1 - y0).clamp(min=1)
    ellipse = ((x - cx) / (w / 2)) ** 2 + ((y - cy) / (h / 2)) ** 2
    distance = (x - cx) ** 2 + (y - cy) ** 2
    nearest = distance == distance.amin((1, 2), keepdim=True)
    labels = torch.where(ellipse <= 0.25, 1, torch.where(ellipse > 1.0, 0, IGNORE))
    labels = torch.where(nearest, 1, labels) * positive[:, None, None]
    labels = torch.where(positive[:, None, None], labels, torch.zeros_like(labels))
    distances = torch.stack(torch.broadcast_tensors(x - x0, y - y0, x1 - x, y1 - y), 1)
    return PointTargets(labels, distances)


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each sample's masked values, ``(N, S, S)`` to ``(N,)``; 0 where the mask is empty."""
    mask = mask.to(values.dtype)
    return (values * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample ``(N,)``: target and background cells weigh one half each.

    logits ``(N, 2, S, S)`` (background, foreground), labels as in ``PointTargets``.
    """
    entropy = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    return 0.5 * _mean_where(entropy, labels == 1) + 0.5 * _mean_where(entropy, labels == 0)


def regression_loss(distances: Tensor, targets: PointTargets) -> Tensor:
    """1 - IoU of predicted and true box (UnitBox, arXiv 1608.01471), mean over each sample's target cells, ``(N,)``.

    distances ``(N, 4, S, S)`` predicted left, top, right, bottom in search pixels; 0 for a sample without target.
    """
    mask = targets.labels == 1
    # Cells outside the box have negative true distances; they are masked out, clamping keeps them finite.
    true = targets.distances.clamp(min=0)
    overlap = torch.minimum(distances, true)
    intersection = (overlap[:, 0] + overlap[:, 2]) * (overlap[:, 1] + overlap[:, 3])
    area = (distances[:, 0] + distances[:, 2]) * (distances[:, 1] + distances[:, 3])
    true_area = (true[:, 0] + true[:, 2]) * (true[:, 1] + true[:, 3])
    iou = intersection / (area + true_area - intersection).clamp(min=1e-6)
    return _mean_where(1.0 - iou, mask)
