# SPDX-License-Identifier: Apache-2.0
"""Supervision of a centre head: one cell of the score map holds the target's centre (CenterNet,
arXiv 1904.07850), as OSTrack (arXiv 2203.11991, section 3.3) and LightFC train it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812, the name that PyTorch's own docs use

from .losses import mean_where

#: IoU that a box moved by the radius of a target's bump still has with the box (CornerNet).
_LEAST_OVERLAP = 0.7
#: Weight of the L1 distance against the generalised IoU (5 and 2 in OSTrack).
_L1_WEIGHT = 2.5


@dataclass(frozen=True)
class CentreTargets:
    """Ground truth on the grid of cells.

    labels: ``(N, S, S)`` int64: 1 in the cell that holds the centre of a visible target, else 0.
    heat: ``(N, S, S)`` float32, a Gaussian bump about that cell, 1 in it.
    """

    labels: Tensor
    heat: Tensor


def bump_radius(w: Tensor, h: Tensor) -> Tensor:
    """Whole cells by which a box of ``w x h`` cells may be moved until its IoU is
    ``_LEAST_OVERLAP`` (CornerNet, arXiv 1808.01244, section 3.2), the least of its three cases.
    """
    least = _LEAST_OVERLAP
    total, area = w + h, w * h
    apart = (total - (total**2 - 4 * area * (1 - least) / (1 + least)).sqrt()) / 2
    inside = (2 * total - (4 * total**2 - 16 * area * (1 - least)).sqrt()) / 8
    around = (
        -2 * least * total + (4 * least**2 * total**2 + 16 * least * area * (1 - least)).sqrt()
    ) / (8 * least)
    return torch.minimum(torch.minimum(apart, inside), around).clamp(min=0).floor()


def centre_targets(boxes: Tensor, positive: Tensor, cells: int, stride: int) -> CentreTargets:
    """Targets of ``boxes`` ``(N, 4)``, x0, y0, x1, y1 in search pixels, of samples that show the
    target where ``positive`` ``(N,)`` says so.
    """
    low, high = boxes[:, :2] / stride, boxes[:, 2:] / stride
    centre = ((low + high) / 2).floor().clamp(0, cells - 1)
    w, h = (high - low).clamp(min=0.1).unbind(1)
    deviation = (2 * bump_radius(w, h) + 1) / 6
    place = torch.arange(cells, device=boxes.device, dtype=boxes.dtype)
    x, y = ((place - centre[:, i, None]).square() for i in (0, 1))
    heat = torch.exp(-(x[:, None, :] + y[:, :, None]) / (2 * deviation[:, None, None] ** 2))
    heat = heat * positive[:, None, None]
    return CentreTargets((heat == 1).long(), heat)


def focal_loss(logits: Tensor, targets: CentreTargets) -> Tensor:
    """Penalty-reduced focal loss of each sample ``(N,)`` (CornerNet, equation 1), summed over the
    cells, of which one at most is positive. logits ``(N, 2, S, S)``, background and foreground.
    """
    logit = logits[:, 1] - logits[:, 0]
    score = torch.sigmoid(logit)
    hit = (1 - score).square() * F.logsigmoid(logit)
    miss = (1 - targets.heat) ** 4 * score.square() * F.logsigmoid(-logit)
    return -torch.where(targets.labels == 1, hit, miss).sum((1, 2))


def centre_boxes(regression: Tensor, stride: int, whole: int) -> Tensor:
    """Box of each cell, ``(N, 4, S, S)`` x0, y0, x1, y1 in search pixels, of ``(N, 4, S, S)`` as
    ``CentreCoder`` decodes it.
    """
    place = torch.arange(regression.shape[-1], device=regression.device)
    half_w, half_h = regression[:, 0] * (whole / 2), regression[:, 1] * (whole / 2)
    x = (place[None, None, :] + regression[:, 2]) * stride
    y = (place[None, :, None] + regression[:, 3]) * stride
    return torch.stack((x - half_w, y - half_h, x + half_w, y + half_h), 1)


def box_loss(found: Tensor, boxes: Tensor, targets: CentreTargets, whole: int) -> Tensor:
    """1 - generalised IoU (arXiv 1902.09630) and the L1 distance of the sides in parts of the
    search region, of the cell with the centre, ``(N,)``; 0 for a sample without target.

    found ``(N, 4, S, S)`` and boxes ``(N, 4)``: x0, y0, x1, y1 in search pixels.
    """
    true = boxes[:, :, None, None]
    sides = torch.minimum(found[:, 2:], true[:, 2:]) - torch.maximum(found[:, :2], true[:, :2])
    hull = torch.maximum(found[:, 2:], true[:, 2:]) - torch.minimum(found[:, :2], true[:, :2])
    overlap = sides.clamp(min=0).prod(1)
    union = (found[:, 2:] - found[:, :2]).prod(1) + (true[:, 2:] - true[:, :2]).prod(1) - overlap
    around = hull.prod(1).clamp(min=1e-6)
    giou = overlap / union.clamp(min=1e-6) - (around - union) / around
    distance = (found - true).abs().mean(1) / whole
    return mean_where(1 - giou + _L1_WEIGHT * distance, targets.labels == 1)
