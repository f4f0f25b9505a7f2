# SPDX-License-Identifier: Apache-2.0
"""The distillation losses of MLKD (arXiv 2312.07884) and the election of the superior student.

Every loss returns one value a sample, shape ``(N,)``; gates and means over the batch are taken by
the objectives. ``N`` samples, ``K`` candidates a cell, ``C`` channels, ``S x S`` cells.

*Units.* Correlation maps of different networks differ in scale by orders of magnitude (0.03 in a
MobileNet student, several units in an AlexNet one). So that one weight suits all, every correlation
loss is measured in the standard deviation of its reference map (the teacher's, or the elected
student's), see :func:`spread`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812, the name that PyTorch's own docs use

EPSILON = 1e-6
#: Steepness of the smooth mask around the mean, in standard deviations of the map.
STEEPNESS = 10.0
#: Largest loss of a feature, see ``feature_loss``.
FEATURE_LIMIT = 2.0


# --------------------------------------------------------------------------- response distillation


def softened_kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of two-class cells, softened: ``(N, 2, ...)`` logits to ``(N, ...)``.

    ``p = softmax(z / T)`` over the two classes; ``T^2 sum_c p_t (log p_t - log p_s)``. The factor
    keeps the strength of the gradient independent of ``T`` (Hinton et al., arXiv 1503.02531).
    """
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    log_student = F.log_softmax(student / temperature, dim=1)
    return temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(1)


def classification_distillation(
    teacher: Tensor, student: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """KDC: softened KL of the classification maps, ``(N,)``.

    teacher, student: ``(N, 2, K, S, S)`` logits. labels ``(N, K, S, S)``, 1 on the target. Target
    cells and all others weigh one half each, as in the supervised loss: a plain mean would be one
    over background, of which there are twenty times as many.
    """
    divergence = softened_kl(teacher, student, temperature)
    target = labels == 1
    return 0.5 * mean_where(divergence, target) + 0.5 * mean_where(divergence, ~target)


def laplace_kl(difference: Tensor, width: float) -> Tensor:
    """KL of two Laplace distributions of one ``width`` whose means differ by ``difference``.

    ``|d| / b + exp(-|d| / b) - 1``: quadratic within the width, linear beyond it.
    """
    distance = difference.abs() / width
    return distance + torch.exp(-distance) - 1.0


def regression_distillation(
    teacher: Tensor, student: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """KDR: softened KL of the regression maps over the target's cells, ``(N,)``.

    teacher, student: ``(N, K, 4, S, S)`` box sides x0, y0, x1, y1 in search pixels, whatever the
    head encodes. A regressed side is no distribution, so it is made one: a Laplace distribution
    around it whose width is the temperature in search pixels (T = 10: teacher and student are
    nearly the same within 10 px, and a wild teacher pulls no harder than linearly). A softmax over
    the four distances would not do: it does not change when the box grows on all sides.
    """
    divergence = laplace_kl(teacher - student, temperature).mean(2)
    return mean_where(divergence, labels == 1)


def gated(loss: Tensor, teacher_loss: Tensor, student_loss: Tensor) -> Tensor:
    """``loss`` of the samples on which the teacher's own supervised loss is lower, else exactly 0.

    All ``(N,)``. No gradient passes through the gate.
    """
    return torch.where(teacher_loss.detach() < student_loss.detach(), loss, torch.zeros_like(loss))


# ----------------------------------------------------------------------- correlation-map losses


def spread(reference: Tensor) -> Tensor:
    """Standard deviation of a map over its cells, pooled over channels: to ``(N, 1, 1, 1)``."""
    variance = reference.detach().var((2, 3), unbiased=False).mean(1)
    return (variance.sqrt() + EPSILON)[:, None, None, None]


def match_channels(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Maps as they are where the channels correspond, else the mean over the channels of each.

    Channels of the same number are taken to correspond (same architecture, as in the paper).
    """
    if teacher.shape[1] == student.shape[1]:
        return teacher, student
    return teacher.mean(1, keepdim=True), student.mean(1, keepdim=True)


def correlation_l2(teacher: Tensor, student: Tensor) -> Tensor:
    """CRL of student S1: squared difference of the softmax-normalised correlation maps, ``(N,)``.

    ``(N, C, S, S)`` maps. Each channel becomes a distribution over the cells, ``p = softmax(m /
    spread)``; ``mean_cells (S^2 p_t - S^2 p_s)^2``, that is: densities relative to a uniform map,
    so that the value does not vanish with the number of cells.
    """
    teacher, student = match_channels(teacher.detach(), student)
    scale = spread(teacher)
    cells = teacher.shape[2] * teacher.shape[3]
    p_teacher = torch.softmax((teacher / scale).flatten(2), -1) * cells
    p_student = torch.softmax((student / scale).flatten(2), -1) * cells
    return (p_teacher - p_student).square().mean((1, 2))


def neighbour_differences(maps: Tensor) -> Tensor:
    """Cell minus its left, right, upper, lower neighbour, ``(N, 1, S, S)`` to ``(N, 4, S, S)``.

    0 where there is no neighbour.
    """
    padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
    left, right = padded[:, :, 1:-1, :-2], padded[:, :, 1:-1, 2:]
    upper, lower = padded[:, :, :-2, 1:-1], padded[:, :, 2:, 1:-1]
    return torch.cat([maps - other for other in (left, right, upper, lower)], 1)


def correlation_spatial(teacher: Tensor, student: Tensor) -> Tensor:
    """CRL of student S2: difference of the spatial gradients of the channel means, ``(N,)``.

    ``mean_cells sum_4 ((d_t - d_s) / spread)^2`` over the four neighbour differences ``d``.
    """
    teacher, student = teacher.detach().mean(1, keepdim=True), student.mean(1, keepdim=True)
    difference = neighbour_differences(teacher) - neighbour_differences(student)
    return (difference / spread(teacher)).square().sum(1).mean((1, 2))


def response_mask(maps: Tensor) -> Tensor:
    """Smooth mask "response above the map's own mean", ``(N, C, S, S)`` in 0..1.

    ``sigmoid(STEEPNESS (m - mean) / std)`` a channel. A hard threshold passes no gradient; this one
    does, and it is within 0.01 of the hard mask beyond half a standard deviation.
    """
    centred = maps - maps.mean((2, 3), keepdim=True)
    deviation = centred.square().mean((2, 3), keepdim=True).add(EPSILON**2).sqrt()
    return torch.sigmoid(STEEPNESS * centred / deviation)


def correlation_threshold(teacher: Tensor, student: Tensor) -> Tensor:
    """CRL of student S3: disagreement of the masks of responding cells, ``(N,)``.

    ``mean (mask_t - mask_s)^2`` over channels and cells: about the share of cells on which the two
    disagree.
    """
    teacher, student = match_channels(teacher.detach(), student)
    return (response_mask(teacher) - response_mask(student)).square().mean((1, 2, 3))


def feature_loss(student: Tensor, reference: Tensor) -> Tensor:
    """Clamped smooth L1 of feature maps ``(N, C, S, S)``, to ``(N,)``; the reference is detached.

    Disturbance suppression of instance segmentation in the dark (arXiv 2304.14298): what noise does
    to the features is to vanish, but what it has destroyed (beyond ``FEATURE_LIMIT``) gets no
    gradient. In the reference's :func:`spread`.
    """
    reference = reference.detach()
    difference = (student - reference) / spread(reference)
    loss = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")
    return loss.clamp(max=FEATURE_LIMIT).mean((1, 2, 3))


CorrelationLoss = Callable[[Tensor, Tensor], Tensor]

#: Kinds of correlation-map loss, by the name used in experiments.
CORRELATION_LOSSES: dict[str, CorrelationLoss] = {
    "l2": correlation_l2,
    "spatial": correlation_spatial,
    "threshold": correlation_threshold,
}


def correlation_loss(kind: str, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """CRL of one kind, mean over the branches (classification, regression), ``(N,)``."""
    loss = CORRELATION_LOSSES[kind]
    return torch.stack([loss(t, s) for t, s in zip(teacher, student, strict=True)]).mean(0)


# ---------------------------------------------------------------------------- mutual learning


def mutual_loss(student: Sequence[Tensor], elected: Sequence[Tensor]) -> Tensor:
    """ML: mean squared difference to the elected student's maps, ``(N,)``, mean over branches.

    The elected maps are detached here; the difference is in their own :func:`spread`. Whoever is
    the elected one must not get this term: see :func:`mutual_losses`.
    """
    terms = [
        ((s - e.detach()) / spread(e)).square().mean((1, 2, 3))
        for s, e in zip(student, elected, strict=True)
    ]
    return torch.stack(terms).mean(0)


def mutual_losses(maps: Sequence[Sequence[Tensor]], winner: Tensor) -> list[Tensor]:
    """ML of every student, each ``(N,)``: exactly 0, and without gradient, on samples it won.

    maps: of each student its branches' ``(N, C, S, S)`` correlation maps; winner ``(N,)`` int64.
    """
    rows = torch.arange(len(winner), device=winner.device)
    branches = range(len(maps[0]))
    with torch.no_grad():
        elected = [torch.stack([m[b] for m in maps])[winner, rows] for b in branches]
    losses = []
    for number, student in enumerate(maps):
        loss = mutual_loss(student, elected)
        losses.append(torch.where(winner == number, torch.zeros_like(loss), loss))
    return losses


def local_maxima(maps: Tensor) -> Tensor:
    """Mask of the 2-D local maxima (8 neighbours) of ``(N, S, S)`` maps.

    A plateau counts once: of two equal neighbours the first in reading order is the peak.
    """
    height, width = maps.shape[1:]
    padded = F.pad(maps, (1, 1, 1, 1), value=-torch.inf)
    peaks = torch.ones_like(maps, dtype=torch.bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if dy == 0 and dx == 0:
                continue
            other = padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
            peaks &= (maps > other) if (dy, dx) < (0, 0) else (maps >= other)
    return peaks


def peak_ratio(logit: Tensor) -> Tensor:
    """(highest peak) / (second-highest peak) of the foreground probability, to ``(N,)``.

    ``logit`` ``(N, S, S)`` is foreground minus background. Peaks are found on it and not on the
    probability, which is 1.0 on many cells in float32. A map with a single peak has its second at
    ``EPSILON``.
    """
    floor = torch.logit(torch.tensor(EPSILON)).item()
    peaks = torch.where(local_maxima(logit), logit, torch.full_like(logit, floor))
    highest = torch.sigmoid(peaks.flatten(1).topk(2).values.clamp(min=floor))
    return highest[:, 0] / highest[:, 1]


def elect(ratios: Tensor, election: str) -> Tensor:
    """Index of the superior student of each sample, ``(students, N)`` peak ratios to ``(N,)``.

    election: ``sample``: the highest ratio of each sample. ``batch``: one student for the whole
    batch, that of the highest mean logarithm (kept for the ablation).
    """
    if election == "sample":
        return ratios.argmax(0)
    if election == "batch":
        best = ratios.log().mean(1).argmax()
        return best.expand(ratios.shape[1])
    raise ValueError(f"election {election!r} is unknown: use sample or batch")


# ------------------------------------------------------------------------------------- helpers


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each sample's masked values, ``(N, ...)`` to ``(N,)``; 0 where the mask is empty."""
    values, mask = values.flatten(1), mask.flatten(1).to(values.dtype)
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)


def resample(maps: Tensor, own: Tensor, points: Tensor) -> Tensor:
    """A map at the cells of another grid, ``(N, C, S, S)`` to ``(N, C, P, P)``, bilinear.

    own ``(S,)``, points ``(P,)``: places of the cells along one axis, search pixels, evenly spaced.
    Cells beyond the other grid's edge get its border.
    """
    if len(own) == len(points) and torch.allclose(own, points):
        return maps
    place = (points - own[0]) / (own[1] - own[0])
    axis = (2.0 * place / (len(own) - 1) - 1.0).to(maps.dtype)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    grid = grid.expand(len(maps), len(points), len(points), 2)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)
