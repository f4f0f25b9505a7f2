# SPDX-License-Identifier: Apache-2.0
"""What a training run minimises."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .supervised import cell_points, classification_loss, point_targets, regression_loss


class Supervised:
    """One student against ground truth: L_cls + weight * L_reg (the supervised part of arXiv 2312.07884, eq. 8)."""

    def __init__(self, student: nn.Module, regression_weight: float) -> None:
        self.students = nn.ModuleList([student])
        self.regression_weight = regression_weight

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Mean loss of the batch; figures ``cls``, ``reg`` and ``iou`` at the target cells."""
        student = self.students[0]
        output = student(batch["template"], batch["search"])
        points = cell_points(student.cells, student.stride, student.search_size, batch["search"].device)
        targets = point_targets(batch["box"], batch["positive"], points)
        cls = classification_loss(output.classification.float(), targets.labels).mean()
        shown = batch["positive"].to(cls.dtype)
        reg = (regression_loss(output.regression.float(), targets) * shown).sum() / shown.sum().clamp(min=1)
        with torch.no_grad():
            figures = {"cls": float(cls), "reg": float(reg)}
        return cls + self.regression_weight * reg, figures
