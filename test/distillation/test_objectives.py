# SPDX-License-Identifier: Apache-2.0
"""Supervision, single-student distillation and the mutual-learning room, put together."""

import copy

import pytest
import torch
from training_support import ToyStudent, toy_batch

from mlkd_ros.distillation import losses as L  # noqa: N812
from mlkd_ros.distillation.config import DistillationSettings
from mlkd_ros.distillation.enhancer import GammaEnhancer, IdentityEnhancer
from mlkd_ros.distillation.objectives import (
    Room,
    Supervised,
    best_box,
    box_iou,
    single_student,
    with_clean,
)
from mlkd_ros.distillation.supervised import class_logits, foreground_map
from mlkd_ros.distillation.teacher import Teacher, TrunkFeatures, enhance_where, fitted
from mlkd_ros.tracking.network import StudentOutput, build_student

WITHOUT_CRL = {"crl": ("none",), "election": "none"}


def toys(count, **options):
    torch.manual_seed(5)
    return [ToyStudent(**options) for _ in range(count)]


def room(students, teacher=None, **settings):
    torch.manual_seed(9)
    teacher = teacher or Teacher([ToyStudent()], IdentityEnhancer())
    return Room(students, teacher, DistillationSettings(**settings), 1.2)


class PerfectTeacher(Teacher):
    """Its supervised losses are below or above those of any student, as wanted."""

    def __init__(self, loss):
        super().__init__([ToyStudent()], IdentityEnhancer())
        self.loss = loss

    def forward(self, batch):
        view = super().forward(batch)
        fixed = torch.full_like(view.classification_loss, self.loss)
        return view._replace(classification_loss=fixed, regression_loss=fixed)


def gradients(objective, batch):
    loss, figures = objective.loss(batch)
    loss.backward()
    return [p.grad.clone() for p in objective.students.parameters()], loss.detach(), figures


def test_gated_off_distillation_contributes_exactly_nothing():
    student = toys(1)[0]
    batch = toy_batch()
    alone, loss, _ = gradients(Supervised(copy.deepcopy(student), 1.2), batch)
    worse = room([copy.deepcopy(student)], PerfectTeacher(1e9), **WITHOUT_CRL)
    off, off_loss, figures = gradients(worse, batch)
    assert off_loss == loss and figures["kdc"] == 0 and figures["kdr"] == 0
    assert all(torch.equal(a, b) for a, b in zip(alone, off, strict=True))
    better = room([copy.deepcopy(student)], PerfectTeacher(-1.0), **WITHOUT_CRL)
    on, _, figures = gradients(better, batch)
    assert figures["kdc"] > 0 and figures["kdr"] > 0 and figures["gate"] == 1
    assert not all(torch.equal(a, b) for a, b in zip(alone, on, strict=True))


def test_gate_can_be_left_out_for_the_ablation():
    batch = toy_batch()
    _, _, figures = gradients(room(toys(1), PerfectTeacher(1e9), gate=False, **WITHOUT_CRL), batch)
    assert figures["kdc"] > 0


def test_loss_of_one_student_is_the_sum_of_its_terms():
    weights = {"classification": 0.3, "regression": 0.7, "correlation": {"spatial": 2.0}}
    objective = room(toys(1), crl=("spatial",), election="none", gate=False, **weights)
    batch = toy_batch()
    total, figures = objective.loss(batch)
    expected = figures["cls"] + 1.2 * figures["reg"] + 0.3 * figures["kdc"]
    expected += 0.7 * figures["kdr"] + 2.0 * figures["crl"]
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    # Each term by itself, from the maps.
    view, student = objective.teacher(batch), objective.students[0]
    output = student(batch["template"], batch["search"])
    labels = objective.head.losses(output, batch).labels
    kdc = L.classification_distillation(
        view.classification.view_as(class_logits(output)), class_logits(output), labels, 10.0
    )
    assert figures["kdc"].item() == pytest.approx(kdc.mean().item(), rel=1e-4)
    crl = L.correlation_loss("spatial", view.correlation, output.correlation)
    assert figures["crl"].item() == pytest.approx(crl.mean().item(), rel=1e-4)


def test_regression_is_averaged_over_samples_that_show_the_target():
    batch, student = toy_batch(), toys(1)[0]
    objective = Supervised(student, 1.0)
    losses = objective.head.losses(student(batch["template"], batch["search"]), batch)
    assert losses.regression[-1] == 0  # the negative pair
    _, figures = objective.loss(batch)
    assert figures["reg"].item() == pytest.approx(losses.regression[:-1].mean().item(), rel=1e-5)


@pytest.mark.parametrize("election", ["sample", "batch"])
def test_the_room_elects_by_peak_ratio_and_spares_the_winner(election):
    objective = room(toys(3), election=election, mutual_on_negatives=True, mutual=1.0)
    batch = toy_batch(8)
    outputs = [s(batch["template"], batch["search"]) for s in objective.students]
    ratios = torch.stack([L.peak_ratio(foreground_map(o)) for o in outputs])
    winner = L.elect(ratios, election)
    expected = L.mutual_losses([o.correlation for o in outputs], winner)
    total, figures = objective.loss(batch)
    wins = [figures[f"{kind}.wins"].item() for kind in objective.names]
    assert wins == [pytest.approx((winner == n).float().mean().item()) for n in range(3)]
    assert sum(wins) == pytest.approx(1.0)
    if election == "sample":
        assert max(wins) < 1.0
    for number, kind in enumerate(objective.names):
        ml = figures[f"{kind}.ml"].item()
        assert ml == pytest.approx(expected[number].mean().item(), rel=1e-4)


def test_negative_pairs_take_no_part_in_mutual_learning_unless_asked():
    batch = toy_batch(4)
    batch["positive"] = torch.zeros(4, dtype=torch.bool)
    students = toys(3)
    _, figures = room(students).loss(batch)
    assert figures["l2.ml"] == 0 and figures["threshold.ml"] == 0
    _, figures = room(students, mutual_on_negatives=True).loss(batch)
    assert sum(figures[f"{kind}.ml"] for kind in ("l2", "spatial", "threshold")) > 0


def test_without_election_the_students_do_not_touch_each_other():
    batch = toy_batch()
    students = toys(3)
    together, _, _ = gradients(room(copy.deepcopy(students), election="none"), batch)
    kinds, apart = ("l2", "spatial", "threshold"), []
    for student, kind in zip(copy.deepcopy(students), kinds, strict=True):
        apart += gradients(room([student], crl=(kind,)), batch)[0]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(together, apart, strict=True))


def test_a_teacher_on_another_grid_is_resampled():
    teacher = Teacher([ToyStudent(channels=4, stride=8)], IdentityEnhancer())
    total, figures = room(toys(3), teacher).loss(toy_batch())
    assert torch.isfinite(total) and figures["l2.crl"] > 0


def test_a_teacher_of_another_kind_of_head_is_refused():
    teacher = Teacher([build_student("alexnet_rpn")], IdentityEnhancer())
    with pytest.raises(ValueError, match="anchor head cannot teach a ToyStudent"):
        room(toys(3), teacher)
    with pytest.raises(ValueError, match="2 students, but crl names 3"):
        room(toys(2))


def test_teachers_see_dark_patches_enhanced_or_before_they_were_darkened():
    batch, gamma = toy_batch(), GammaEnhancer(0.5)
    enhanced = Teacher([ToyStudent()], gamma, "enhanced").patches(batch)[1]
    dark = batch["night"] | batch["darkened"]
    assert torch.equal(enhanced[~dark], batch["search"][~dark])
    assert torch.allclose(enhanced[dark], gamma(batch["search"][dark]))
    clean = Teacher([ToyStudent()], gamma, "clean").patches(batch)[1]
    night = batch["night"]
    assert torch.equal(clean[~night], batch["clean_search"][~night])
    assert torch.allclose(clean[night], gamma(batch["clean_search"][night]))


def test_teachers_are_frozen_and_an_ensemble_is_the_mean():
    one, two = ToyStudent(), ToyStudent()
    batch = toy_batch()
    teacher = Teacher([one, two], IdentityEnhancer())
    teacher.train()
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    views = [Teacher([network], IdentityEnhancer())(batch) for network in (one, two)]
    mean = (views[0].classification + views[1].classification) / 2
    assert torch.allclose(teacher(batch).classification, mean, atol=1e-5)
    assert not teacher(batch).classification.requires_grad


def test_teachers_are_trained_behind_their_enhancer():
    batch, student, gamma = toy_batch(), toys(1)[0], GammaEnhancer(0.5)
    behind = Supervised(student, 1.2, gamma).loss(batch)[0]
    dark = batch["night"] | batch["darkened"]
    lit = {k: enhance_where(gamma, batch[k], dark) for k in ("template", "search")}
    assert behind == Supervised(student, 1.2).loss({**batch, **lit})[0]
    assert behind != Supervised(student, 1.2).loss(batch)[0]


def test_single_student_distillation_is_a_room_of_one():
    settings = DistillationSettings(crl=("l2",), election="none")
    teacher = Teacher([ToyStudent()], IdentityEnhancer())
    objective = single_student(toys(1)[0], teacher, settings, 1.2)
    _, figures = objective.loss(toy_batch())
    assert objective.names == ("student",)
    assert set(figures) == {"cls", "reg", "kdc", "kdr", "crl", "gate"}


class CentreToy(torch.nn.Module):
    """A centre head on 16 x 16 cells that always sees 64 x 64 pixels at one cell."""

    coder, stride, cells, search_size = "centre", 16, 16, 256

    def __init__(self, row, column):
        super().__init__()
        self.trunk = torch.nn.Conv2d(3, 6, 16, 16)
        self.place = row, column

    def template(self, patch):
        return (self.trunk(patch).mean((2, 3), keepdim=True),)

    def search(self, patch, kernel):
        maps = self.trunk(patch) * kernel
        n, _, height, width = maps.shape
        classification = torch.zeros(n, 2, height, width)
        classification[:, 1] = -5
        classification[:, 1, self.place[0], self.place[1]] = 5
        regression = torch.tensor([0.25, 0.25, 0.5, 0.5])[None, :, None, None]
        return StudentOutput(classification, regression.expand(n, 4, height, width), (maps,))

    def forward(self, template, search):
        return self.search(search, *self.template(template))


def test_a_teacher_of_a_centre_head_teaches_by_its_map_and_its_best_box():
    centre = Teacher([CentreToy(6, 9)], IdentityEnhancer())
    batch = toy_batch()
    batch["box"] = torch.tensor([[120.0, 72.0, 184.0, 136.0]]).expand(6, 4)  # about (152, 104)
    view = centre(batch)
    assert best_box(view).tolist() == [pytest.approx([120.0, 72.0, 184.0, 136.0])] * 6
    objective = room(toys(1), centre, other_heads=1.0, **WITHOUT_CRL)
    output = objective.students[0](batch["template"], batch["search"])
    moved = objective._on_grid(0, view, output, batch)
    assert moved.sides.shape == (6, 1, 4, 15, 15) and moved.classification.shape == (6, 2, 15, 15)
    assert moved.regression_loss[:-1].max() < 1e-5  # its box is the true one
    # (152, 104) lies 7.5 pixels before a cell of the students' and 8.5 behind another.
    fg = moved.classification[0, 1]
    assert fg[6, 9] == fg.max() and fg[0, 0] == pytest.approx(-5, abs=1e-4)
    _, figures = objective.loss(batch)
    assert figures["kdr"] > 0
    both = room(toys(1), [Teacher([ToyStudent()], IdentityEnhancer()), centre], **WITHOUT_CRL)
    assert torch.isfinite(both.loss(batch)[0]) and both.teacher.head.coder == "point"
    silent = room(toys(1), centre, other_heads=0.0, **WITHOUT_CRL)
    assert silent.loss(batch)[1]["kdc"] == 0


def test_correlation_maps_of_another_architecture_are_compared_by_their_means():
    centre = Teacher([CentreToy(6, 9)], IdentityEnhancer())
    loss, figures = room(toys(1), centre, crl=("l2",), election="none").loss(toy_batch())
    assert torch.isfinite(loss) and figures["crl"] > 0
    with pytest.raises(ValueError, match="features needs a teacher"):
        room(toys(1), centre, features=1.0, **WITHOUT_CRL)


def test_a_student_of_a_centre_head_learns_from_either_kind():
    batch = toy_batch()
    for teacher in (CentreToy(3, 3), ToyStudent()):
        student = CentreToy(6, 9)
        objective = room([student], Teacher([teacher], IdentityEnhancer()), **WITHOUT_CRL)
        assert torch.isfinite(objective.loss(batch)[0])


def test_patches_of_odd_side_get_a_line_where_a_network_wants_even_ones():
    patch = torch.rand(1, 3, 255, 255)
    assert fitted(ToyStudent(), patch) is patch
    even = fitted(CentreToy(0, 0), patch)
    assert even.shape[-2:] == (256, 256) and torch.equal(even[..., :255, :255], patch)
    assert torch.equal(even[..., 255, :255], patch[..., 254, :])


def test_clean_views_go_along_as_further_samples_degraded_ones_first():
    settings = {"teacher_input": "clean", "paired": 0.34, **WITHOUT_CRL}
    objective = room(toys(1), **settings)
    batch = toy_batch()
    rows = objective._paired_rows(batch)
    assert rows.tolist() == [1, 4]  # those that are darkened
    whole = with_clean(batch, rows)
    assert torch.equal(whole["search"][6:], batch["clean_search"][rows])
    assert torch.equal(whole["box"][6:], batch["box"][rows]) and not whole["darkened"][6:].any()
    # The loss is that of the larger batch.
    alone = Room(
        objective.students,
        objective.teachers,
        DistillationSettings(
            teacher_input="clean", classification=0.0, regression=0.0, **WITHOUT_CRL
        ),
        1.2,
    )
    paired = Room(
        objective.students,
        objective.teachers,
        DistillationSettings(classification=0.0, regression=0.0, **settings),
        1.2,
    )
    assert paired.loss(batch)[0].item() == pytest.approx(alone.loss(whole)[0].item(), rel=1e-5)


def test_features_of_the_noisy_view_are_pulled_to_those_of_the_clean_one():
    weights = {"classification": 0.0, "regression": 0.0, "teacher_input": "clean"}
    batch, student = toy_batch(), toys(1)[0]
    plain = room([student], **weights, **WITHOUT_CRL, paired=0.34)
    pulled = room([student], **weights, **WITHOUT_CRL, paired=0.34, consistency=2.0)
    base, loss = plain.loss(batch)[0], pulled.loss(batch)
    with TrunkFeatures(student) as trunk:
        student(batch["template"], batch["search"])
        student(batch["clean_template"], batch["clean_search"])
    noisy, clean = trunk.maps[1], trunk.maps[3]
    expected = L.feature_loss(noisy[[1, 4]], clean[[1, 4]]).mean()
    assert loss[1]["consistency"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert (loss[0] - base).item() == pytest.approx(2 * expected.item(), rel=1e-3)
    assert not student.trunk._forward_hooks  # nothing keeps listening
    identical = {**batch, "search": batch["clean_search"], "template": batch["clean_template"]}
    assert pulled.loss(identical)[1]["consistency"] < 1e-10


def test_features_of_the_teacher_are_an_aim():
    teacher = Teacher([ToyStudent()], IdentityEnhancer(), "clean")
    same = copy.deepcopy(teacher.network.networks[0]).requires_grad_(True)
    batch = toy_batch()
    clean = {**batch, "search": batch["clean_search"], "template": batch["clean_template"]}
    settings = {"teacher_input": "clean", "features": 1.0, **WITHOUT_CRL}
    assert room([same], teacher, **settings).loss(clean)[1]["features"] < 1e-10
    assert room(toys(1), teacher, **settings).loss(batch)[1]["features"] > 0


def test_where_annotations_are_loose_the_box_of_a_teacher_that_agrees_counts():
    teacher = Teacher([CentreToy(6, 9)], IdentityEnhancer())
    objective = room(toys(1), teacher, **WITHOUT_CRL)
    batch = toy_batch()
    true = torch.tensor([120.0, 72.0, 184.0, 136.0])
    batch["box"] = torch.stack([true + 4, true + 4, true + 60, true, true, true * 0])
    batch["loose"] = torch.tensor([True, False, True, True, False, True])
    tight = objective._tightened(batch, [teacher(batch)])["box"]
    assert torch.allclose(tight[0], true)  # loose, and near the teacher's
    assert torch.equal(tight[1:3], batch["box"][1:3])  # not loose; loose, but somewhere else
    assert torch.equal(tight[-1], batch["box"][-1])  # shows no target
    assert box_iou(true[None], true[None] + 64).item() == 0


def test_paired_views_need_clean_patches():
    with pytest.raises(ValueError, match="need teacher_input: clean"):
        DistillationSettings(paired=0.5)
    with pytest.raises(ValueError, match="paired must be a share"):
        DistillationSettings(paired=1.5, teacher_input="clean")
