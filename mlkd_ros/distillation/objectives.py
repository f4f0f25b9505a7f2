# SPDX-License-Identifier: Apache-2.0
"""What a training run minimises: supervision, single-student distillation, mutual learning.

An objective has ``students`` (the modules that are trained), their ``names``, ``views(batch)``:
what its teachers say, and ``loss(batch, views)``: a scalar and the figures to log (0-d tensors
without gradient). Figures and losses are means over the batch; with several processes the trainer
averages both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    feature_loss,
    gated,
    mutual_losses,
    peak_ratio,
    regression_distillation,
    resample,
)
from .supervised import Head, HeadLosses, LossRules, class_logits, foreground_map
from .teacher import (
    Teacher,
    TeacherView,
    TrunkFeatures,
    check_fits,
    enhance_where,
    fitted,
)

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
        self, student: nn.Module, regression_weight: float, enhancer: Enhancer | None = None,
        rules: LossRules | None = None,
    ) -> None:  # fmt: skip
        self.students = nn.ModuleList([student])
        self.names = ("student",)
        self.head = Head.of(student, rules)
        self.enhancer = enhancer
        self.frozen = nn.ModuleList([] if enhancer is None else [enhancer])
        self.regression_weight = regression_weight

    def views(self, batch: Batch) -> list[TeacherView]:
        """None: there is no teacher."""
        return []

    def loss(
        self, batch: Batch, views: Sequence[TeacherView] | None = None
    ) -> tuple[Tensor, Figures]:
        """Mean loss of the batch; figures ``cls`` and ``reg``."""
        student = self.students[0]
        if self.enhancer is not None:
            dark = batch["night"] | batch["darkened"]
            with torch.no_grad():
                for name in ("template", "search"):
                    batch = {**batch, name: enhance_where(self.enhancer, batch[name], dark)}
        output = student(fitted(student, batch["template"]), fitted(student, batch["search"]))
        return supervised_terms(self.head.losses(output, batch), batch, self.regression_weight)


def with_clean(batch: Batch, rows: Tensor) -> Batch:
    """A batch with the clean views of some of its rows after it, as further samples."""
    whole = {name: torch.cat((value, value[rows])) for name, value in batch.items()}
    for name in ("template", "search"):
        whole[name] = torch.cat((batch[name], batch[f"clean_{name}"][rows]))
    whole["darkened"] = torch.cat((batch["darkened"], torch.zeros_like(batch["darkened"][rows])))
    return whole


def best_box(view: TeacherView) -> Tensor:
    """Box of the cell in which a view sees the target, ``(N, 4)`` x0, y0, x1, y1.

    Of heads with one candidate a cell.
    """
    n = len(view.sides)
    logits = view.classification.reshape(n, 2, -1)
    best = (logits[:, 1] - logits[:, 0]).argmax(1)
    return view.sides.reshape(n, 4, -1)[torch.arange(n, device=best.device), :, best]


def box_iou(one: Tensor, other: Tensor) -> Tensor:
    """IoU of boxes ``(N, 4)`` x0, y0, x1, y1, to ``(N,)``."""
    low, high = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(1) for b in (one, other)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-6)


class Room:
    """The mutual-learning room: students of one architecture, each with its own correlation loss.

    ``L_i = L_cls + 1.2 L_reg + KDC + KDR + CRL_i + ML_i`` (arXiv 2312.07884). KDC and KDR are gated
    sample by sample, and are means over the teachers; ML pulls to the elected student of the
    sample, which gets none. A room of one is single-student distillation.

    Teachers may be of another grid, whose maps are resampled at the students' cells, and of another
    kind of head: such a one teaches by its score map, and by the box of its best cell. CRL, and the
    features, are those of the first teacher of the students' kind; of another one's maps the
    channel means count.
    """

    def __init__(
        self, students: Sequence[nn.Module], teacher: Teacher | Sequence[Teacher],
        settings: DistillationSettings, regression_weight: float, rules: LossRules | None = None,
    ) -> None:  # fmt: skip
        if len(students) != len(settings.crl):
            raise ValueError(
                f"{len(students)} students, but crl names {len(settings.crl)}: "
                f"{', '.join(settings.crl)}"
            )
        self.teachers = [teacher] if isinstance(teacher, Teacher) else list(teacher)
        for one in self.teachers:
            for student in students:
                check_fits(one, student)
        self.head = Head.of(students[0], rules)
        alike = [self.head.same_language(one.head) for one in self.teachers]
        self._first = alike.index(True) if True in alike else 0
        self._alike = alike
        if settings.features and not alike[self._first]:
            raise ValueError("features needs a teacher of the students' kind, there is none")
        self.students = nn.ModuleList(students)
        self.names = settings.crl if len(students) > 1 else ("student",)
        self.frozen = nn.ModuleList(self.teachers)
        self.settings = settings
        self.regression_weight = regression_weight

    @property
    def teacher(self) -> Teacher:
        """The one whose correlation maps and features are compared with."""
        return self.teachers[self._first]

    def views(self, batch: Batch) -> list[TeacherView]:
        """What each teacher says of a batch, in their own grids."""
        return [teacher(batch) for teacher in self.teachers]

    def loss(
        self, batch: Batch, views: Sequence[TeacherView] | None = None
    ) -> tuple[Tensor, Figures]:
        """Sum of the students' losses; figures of each, with its name where there are several."""
        views = self.views(batch) if views is None else views
        batch = self._tightened(batch, views)
        rows = self._paired_rows(batch)
        whole = with_clean(batch, rows) if len(rows) else batch
        outputs, features = [], []
        for student in self.students:
            with TrunkFeatures(student) as trunk:
                template, search = (fitted(student, whole[n]) for n in ("template", "search"))
                outputs.append(student(template, search))
            features.append(trunk.maps[-1].float())
        views = [self._on_grid(n, view, outputs[0], batch) for n, view in enumerate(views)]
        views = [TeacherView(*(_extended(part, rows) for part in view)) for view in views]
        mutual, election = self._mutual(outputs, whole)
        total = torch.zeros((), device=batch["box"].device)
        figures: Figures = {}
        for number, output in enumerate(outputs):
            loss, own = self._student_loss(number, output, views, whole)
            more, its = self._feature_terms(features[number], views[self._first], batch, rows)
            own |= its
            own |= {"ml": mutual[number].detach()} if election else {}
            total = total + loss + more + self.settings.mutual * mutual[number]
            figures |= {self._label(name, number): value for name, value in own.items()}
        return total, figures | election

    def _label(self, figure: str, number: int) -> str:
        return f"{self.names[number]}.{figure}" if len(self.students) > 1 else figure

    def _paired_rows(self, batch: Batch) -> Tensor:
        """Which samples the students see clean as well: degraded ones first."""
        count = round(self.settings.paired * len(batch["box"]))
        return torch.argsort((~batch["darkened"]).to(torch.uint8), stable=True)[:count]

    def _tightened(self, batch: Batch, views: Sequence[TeacherView]) -> Batch:
        """Where the annotation is loose, the mean of the teachers' boxes that agree with it."""
        loose = batch.get("loose")
        if loose is None or not bool((loose & batch["positive"]).any()):
            return batch
        box = batch["box"]
        boxes = torch.stack([best_box(view) for view in views])
        agrees = torch.stack([box_iou(b, box) > 0.5 for b in boxes])[..., None].to(box.dtype)
        mean = (boxes * agrees).sum(0) / agrees.sum(0).clamp(min=1)
        use = (loose & batch["positive"])[:, None] & (agrees.sum(0) > 0)
        return {**batch, "box": torch.where(use, mean, box)}

    def _on_grid(
        self, number: int, view: TeacherView, output: StudentOutput, batch: Batch
    ) -> TeacherView:
        """A teacher's maps at the students' cells; its losses by their measure."""
        head, size = self.teachers[number].head, batch["search"].shape[-1]
        cells, device = output.classification.shape[-1], batch["box"].device
        own = head.points(view.classification.shape[-1], size, device)
        points = self.head.points(cells, size, device)

        def resampled(maps: Tensor) -> Tensor:
            flat = resample(maps.flatten(1, -3), own, points)
            return flat.reshape(*maps.shape[:-2], cells, cells)

        moved = view._replace(
            classification=resampled(view.classification),
            correlation=tuple(resampled(m) for m in view.correlation),
        )
        if self._alike[number]:
            return moved._replace(sides=resampled(view.sides))
        sides = best_box(view)[:, None, :, None, None].expand(-1, 1, 4, cells, cells)
        logits = moved.classification.reshape(len(sides), 2, 1, cells, cells)
        losses = self.head.losses_of_boxes(logits, sides, batch)
        return moved._replace(
            sides=sides, classification_loss=losses.classification,
            regression_loss=losses.regression,
        )  # fmt: skip

    def _student_loss(
        self, number: int, output: StudentOutput, views: Sequence[TeacherView], batch: Batch
    ) -> tuple[Tensor, Figures]:
        """Everything but ML and the features of one student."""
        settings = self.settings
        losses = self.head.losses(output, batch)
        total, figures = supervised_terms(losses, batch, self.regression_weight)
        share = [1.0 if alike else settings.other_heads for alike in self._alike]
        kdc = [s * self._kdc(output, losses, v) for s, v in zip(share, views, strict=True)]
        terms = {
            "kdc": (settings.classification, torch.stack(kdc).mean(0)),
            "kdr": (
                settings.regression,
                torch.stack([self._kdr(output, losses, view, batch) for view in views]).mean(0),
            ),
        }
        kind = settings.crl[number]
        if kind != "none":
            maps = [m.float() for m in output.correlation]
            loss = correlation_loss(kind, *self._comparable(views[self._first].correlation, maps))
            terms["crl"] = (settings.correlation[kind], loss)
        for name, (weight, loss) in terms.items():
            figures[name] = loss.detach().mean()
            if weight:
                total = total + weight * loss.mean()
        better = views[self._first].classification_loss < losses.classification.detach()
        figures["gate"] = better.float().mean()
        return total, figures

    def _comparable(
        self, theirs: Sequence[Tensor], ours: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Correlation maps as they are of one architecture, channel means of another one."""
        if self._alike[self._first] and len(theirs) == len(ours):
            return theirs, ours
        means = [m.mean(1, keepdim=True) for m in theirs]
        return means[:1] * len(ours), [m.mean(1, keepdim=True) for m in ours]

    def _feature_terms(
        self, features: Tensor, view: TeacherView, batch: Batch, rows: Tensor
    ) -> tuple[Tensor, Figures]:
        """Features of the clean view, the student's own and the teacher's, as an aim."""
        settings, count = self.settings, len(batch["box"])
        total, figures = features.new_zeros(()), {}
        if settings.consistency and len(rows):
            loss = feature_loss(features[:count][rows], features[count:]).mean()
            total = total + settings.consistency * loss
            figures["consistency"] = loss.detach()
        if settings.features:
            loss = feature_loss(features, view.features).mean()
            total = total + settings.features * loss
            figures["features"] = loss.detach()
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


def _extended(part: Any, rows: Tensor) -> Any:
    """A tensor of a view, or several, for the batch with the clean views of ``rows`` after it."""
    if isinstance(part, tuple):
        return tuple(_extended(one, rows) for one in part)
    return torch.cat((part, part[rows])) if len(rows) else part


def single_student(
    student: nn.Module, teacher: Teacher | Sequence[Teacher], settings: DistillationSettings,
    regression_weight: float, rules: LossRules | None = None,
) -> Room:  # fmt: skip
    """Distillation of one student with the kind that ``settings.crl`` names (the first stage)."""
    return Room([student], teacher, settings, regression_weight, rules)
