# SPDX-License-Identifier: Apache-2.0
"""What a training run minimises: supervision, single-student distillation, mutual learning.

An objective has ``students`` (the modules that are trained), their ``names``, and ``loss(batch)``:
a scalar and the figures to log (0-d tensors without gradient). Figures and losses are means over
the batch; with several processes the trainer averages both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..tracking.network import StudentOutput
from .config import DistillationSettings
from .distributed import mean_over_processes
from .enhancer import Enhancer
from .losses import (
    classification_distillation,
    correlation_loss,
    elect,
    gated,
    mutual_losses,
    peak_ratio,
    regression_distillation,
    resample,
)
from .supervised import Head, HeadLosses, class_logits, foreground_map
from .teacher import Teacher, TeacherView, check_fits, enhance_where

Batch = dict[str, Tensor]
Figures = dict[str, Tensor]


def _mean_of_shown(values: Tensor, shown: Tensor) -> Tensor:
    """Mean over the samples of all processes that show the target: this process's share of it."""
    shown = shown.to(values.dtype)
    return (values * shown).sum() / mean_over_processes(shown.sum()).clamp(min=1e-6)


def supervised_terms(
    losses: HeadLosses, batch: Batch, regression_weight: float
) -> tuple[Tensor, Figures]:
    """``L_cls + weight L_reg`` (arXiv 2312.07884, eq. 8) and its figures ``cls``, ``reg``."""
    cls = losses.classification.mean()
    reg = _mean_of_shown(losses.regression, batch["positive"])
    return cls + regression_weight * reg, {"cls": cls.detach(), "reg": reg.detach()}


class Supervised:
    """One student against ground truth; behind an enhancer where the tracker shall be a teacher."""

    def __init__(
        self, student: nn.Module, regression_weight: float, enhancer: Enhancer | None = None
    ) -> None:
        self.students = nn.ModuleList([student])
        self.names = ("student",)
        self.head = Head.of(student)
        self.enhancer = enhancer
        self.frozen = nn.ModuleList([] if enhancer is None else [enhancer])
        self.regression_weight = regression_weight

    def loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Mean loss of the batch; figures ``cls`` and ``reg``."""
        student = self.students[0]
        if self.enhancer is not None:
            dark = batch["night"] | batch["darkened"]
            with torch.no_grad():
                for name in ("template", "search"):
                    batch = {**batch, name: enhance_where(self.enhancer, batch[name], dark)}
        output = student(batch["template"], batch["search"])
        return supervised_terms(self.head.losses(output, batch), batch, self.regression_weight)


class Room:
    """The mutual-learning room: students of one architecture, each with its own correlation loss.

    ``L_i = L_cls + 1.2 L_reg + KDC + KDR + CRL_i + ML_i`` (arXiv 2312.07884). KDC and KDR are gated
    sample by sample; ML pulls to the elected student of the sample, which gets none. A room of one
    is single-student distillation. A teacher on another grid is resampled at the students' cells.
    """

    def __init__(
        self, students: Sequence[nn.Module], teacher: Teacher, settings: DistillationSettings,
        regression_weight: float,
    ) -> None:  # fmt: skip
        if len(students) != len(settings.crl):
            raise ValueError(
                f"{len(students)} students, but crl names {len(settings.crl)}: "
                f"{', '.join(settings.crl)}"
            )
        for student in students:
            check_fits(teacher, student)
        self.head = Head.of(students[0])
        self.students = nn.ModuleList(students)
        self.names = settings.crl if len(students) > 1 else ("student",)
        self.teacher = teacher
        self.frozen = nn.ModuleList([teacher])
        self.settings = settings
        self.regression_weight = regression_weight

    def loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Sum of the students' losses; figures of each, with its name where there are several."""
        view = self.teacher(batch)
        outputs = [student(batch["template"], batch["search"]) for student in self.students]
        view = self._on_grid(view, outputs[0])
        mutual, election = self._mutual(outputs, batch)
        total = torch.zeros((), device=batch["box"].device)
        figures: Figures = {}
        for number, output in enumerate(outputs):
            loss, own = self._student_loss(number, output, view, batch)
            own |= {"ml": mutual[number].detach()} if election else {}
            total = total + loss + self.settings.mutual * mutual[number]
            figures |= {self._label(name, number): value for name, value in own.items()}
        return total, figures | election

    def _label(self, figure: str, number: int) -> str:
        return f"{self.names[number]}.{figure}" if len(self.students) > 1 else figure

    def _on_grid(self, view: TeacherView, output: StudentOutput) -> TeacherView:
        """The teacher's maps at the students' cells."""
        cells, stride = output.classification.shape[-1], float(self.head.stride)

        def resampled(maps: Tensor) -> Tensor:
            flat = resample(maps.flatten(1, -3), view.stride, cells, stride)
            return flat.reshape(*maps.shape[:-2], cells, cells)

        return view._replace(
            classification=resampled(view.classification),
            sides=resampled(view.sides),
            correlation=tuple(resampled(m) for m in view.correlation),
        )

    def _student_loss(
        self, number: int, output: StudentOutput, view: TeacherView, batch: Batch
    ) -> tuple[Tensor, Figures]:
        """Everything but ML of one student."""
        settings = self.settings
        losses = self.head.losses(output, batch)
        total, figures = supervised_terms(losses, batch, self.regression_weight)
        terms = {
            "kdc": (settings.classification, self._kdc(output, losses, view)),
            "kdr": (settings.regression, self._kdr(output, losses, view, batch)),
        }
        kind = settings.crl[number]
        if kind != "none":
            maps = [m.float() for m in output.correlation]
            loss = correlation_loss(kind, view.correlation, maps)
            terms["crl"] = (settings.correlation[kind], loss)
        for name, (weight, loss) in terms.items():
            figures[name] = loss.detach().mean()
            if weight:
                total = total + weight * loss.mean()
        better = view.classification_loss < losses.classification.detach()
        figures["gate"] = better.float().mean()
        return total, figures

    def _kdc(self, output: StudentOutput, losses: HeadLosses, view: TeacherView) -> Tensor:
        logits = class_logits(output)
        loss = classification_distillation(
            view.classification.view_as(logits), logits, losses.labels, self.settings.temperature
        )
        return self._gated(loss, view.classification_loss, losses.classification)

    def _kdr(
        self, output: StudentOutput, losses: HeadLosses, view: TeacherView, batch: Batch
    ) -> Tensor:
        sides = self.head.sides(output, batch["search"].shape[-1])
        loss = regression_distillation(view.sides, sides, losses.labels, self.settings.temperature)
        return self._gated(loss, view.regression_loss, losses.regression)

    def _gated(self, loss: Tensor, teacher_loss: Tensor, student_loss: Tensor) -> Tensor:
        return gated(loss, teacher_loss, student_loss) if self.settings.gate else loss

    def _mutual(
        self, outputs: Sequence[StudentOutput], batch: Batch
    ) -> tuple[list[Tensor], Figures]:
        """ML of each student (means) and the election's figures: shares of wins, mean log ratio."""
        settings = self.settings
        zero = torch.zeros((), device=batch["box"].device)
        if settings.election == "none" or len(outputs) == 1:
            return [zero] * len(outputs), {}
        with torch.no_grad():
            ratios = torch.stack([peak_ratio(foreground_map(output)) for output in outputs])
            winner = self._elect(ratios)
        maps = [[m.float() for m in output.correlation] for output in outputs]
        part = torch.ones_like(batch["positive"])
        if not settings.mutual_on_negatives:
            part = batch["positive"]
        losses = [(loss * part).mean() for loss in mutual_losses(maps, winner)]
        figures: Figures = {}
        for number, name in enumerate(self.names):
            figures[f"{name}.wins"] = (winner == number).float().mean()
            figures[f"{name}.log_ratio"] = ratios[number].log().mean()
        return losses, figures

    def _elect(self, ratios: Tensor) -> Tensor:
        if self.settings.election == "batch":
            # One student for the batch of all processes.
            means = mean_over_processes(ratios.log().mean(1, keepdim=True))
            ratios = means.exp().expand_as(ratios)
        return elect(ratios, self.settings.election)


def single_student(
    student: nn.Module, teacher: Teacher, settings: DistillationSettings, regression_weight: float
) -> Room:
    """Distillation of one student with the kind that ``settings.crl`` names (the first stage)."""
    return Room([student], teacher, settings, regression_weight)
