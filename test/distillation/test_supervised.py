# SPDX-License-Identifier: Apache-2.0
"""Targets and losses of the three kinds of head."""

import math

import numpy as np
import pytest
import torch

from mlkd_ros.distillation.supervised import (
    IGNORE,
    Head,
    LossRules,
    PointTargets,
    anchor_targets,
    cell_points,
    centre_heat,
    centre_targets,
    class_logits,
    classification_loss,
    foreground_map,
    overlaps,
    point_targets,
    regression_loss,
)
from mlkd_ros.tracking.geometry import CentreCoder, PointCoder, iou
from mlkd_ros.tracking.network import StudentOutput, build_student

POINT = Head.of(build_student("mobile_s16"))
ANCHOR = Head.of(build_student("alexnet_rpn"))


def batch(*boxes, positive=None, size=255):
    shown = [True] * len(boxes) if positive is None else positive
    return {
        "box": torch.tensor(boxes, dtype=torch.float32),
        "positive": torch.tensor(shown),
        "search": torch.zeros(len(boxes), 3, size, size),
    }


def test_points_are_those_of_the_tracker():
    coder = PointCoder(15, 16, 255)
    assert cell_points(15, 16, 255).tolist() == coder.x[:15].tolist()


def test_point_targets_by_hand():
    points = cell_points(15, 16, 255)  # 15.5, 31.5, ..., 239.5
    boxes = torch.tensor([[96.0, 96.0, 160.0, 160.0], [127.0, 20.0, 131.0, 24.0], [0.0] * 4])
    targets = point_targets(boxes, torch.tensor([True, True, False]), points)
    first = targets.labels[0]
    assert first[7, 7] == 1 and first[7, 8] == 1  # 0.5 and 15.5 px from the centre, half axis 16
    assert first[7, 6] == IGNORE  # 16.5 px
    assert first[7, 5] == 0 and first[0, 0] == 0  # 32.5 px: outside the whole ellipse
    assert (targets.labels[1] == 1).sum() == 1  # thin: the nearest cell only
    assert (targets.labels[2] == 0).all()
    assert targets.distances[0, :, 7, 7].tolist() == [31.5, 31.5, 32.5, 32.5]


def test_a_perfect_point_map_has_no_loss():
    data = batch([80.0, 90.0, 170.0, 150.0])
    points = cell_points(15, 16, 255)
    targets = point_targets(data["box"], data["positive"], points)
    logits = torch.stack((-20.0 * targets.labels, 20.0 * targets.labels), 1)
    logits[:, 0] += 20.0 * (targets.labels == 0)
    output = StudentOutput(logits, targets.distances.clamp(min=0.1), ())
    losses = POINT.losses(output, data)
    assert losses.classification.item() < 1e-6 and losses.regression.item() < 1e-6
    sides = POINT.sides(output, 255)
    assert sides.shape == (1, 1, 4, 15, 15)
    assert sides[0, 0, :, 7, 7].tolist() == pytest.approx([80, 90, 170, 150])


def test_classification_weighs_target_and_background_alike():
    logits = torch.zeros(1, 2, 4, 4)
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[0, 0, 0], labels[0, 0, 1] = 1, IGNORE
    logits[0, 0, 0, 1] = 100.0  # ignored
    logits[0, 1, 0, 0] = 2.0
    expected = 0.5 * math.log(1 + math.exp(-2)) + 0.5 * math.log(2)
    assert classification_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_anchor_targets_equal_numpy():
    anchors = ANCHOR.anchors(17, 255)
    assert anchors.shape == (4, 5, 17, 17)
    assert anchors[:, 2, 8, 8].tolist() == [127.5, 127.5, 64.0, 64.0]
    boxes = torch.tensor([[90.0, 100.0, 150.0, 170.0], [120.0, 120.0, 128.0, 128.0], [0.0] * 4])
    boxes = torch.cat((boxes, torch.tensor([[0.0, 0.0, 4.0, 4.0]])))
    targets = anchor_targets(boxes, torch.tensor([True, True, False, True]), anchors)
    cx, cy, w, h = anchors.numpy().reshape(4, -1)
    as_boxes = np.stack((cx - w / 2, cy - h / 2, w, h), 1)
    overlap = iou(as_boxes, [90, 100, 60, 70])
    expected = np.where(overlap > 0.6, 1, np.where(overlap < 0.3, 0, IGNORE))
    assert (targets.labels[0].flatten().numpy() == expected).all()
    assert (targets.labels[0] == 1).sum() > 4
    assert 1 <= (targets.labels[1] == 1).sum() <= 9  # far too small: the best anchors only
    assert (targets.labels[2] == 0).all()
    assert (targets.labels[3] == 0).all()  # touches no anchor


def test_perfect_anchor_offsets_have_no_loss_and_decode_to_the_box():
    data = batch([90.0, 100.0, 150.0, 170.0], [0.0] * 4, positive=[True, False])
    targets = anchor_targets(data["box"], data["positive"], ANCHOR.anchors(17, 255))
    output = StudentOutput(torch.zeros(2, 10, 17, 17), targets.offsets.reshape(2, 20, 17, 17), ())
    losses = ANCHOR.losses(output, data)
    assert losses.regression.tolist() == [pytest.approx(0.0, abs=1e-6), 0.0]
    assert losses.classification[0].item() == pytest.approx(math.log(2), rel=1e-5)
    sides = ANCHOR.sides(output, 255)
    mask = targets.labels[0] == 1
    found = sides[0].permute(1, 0, 2, 3)[:, mask]
    assert torch.allclose(found, data["box"][0][:, None].expand_as(found), atol=1e-2)


def test_channels_of_anchors_are_background_first():
    classification = torch.zeros(1, 10, 3, 3)
    classification[0, 5 + 3, 1, 2] = 4.0  # foreground of the fourth anchor
    output = StudentOutput(classification, torch.zeros(1, 20, 3, 3), ())
    assert class_logits(output)[0, 1, 3, 1, 2] == 4.0
    assert foreground_map(output)[0, 1, 2] == 4.0


def distances(*values):
    """One cell's left, top, right, bottom as a map ``(1, 4, 1, 1)``."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, 4, 1, 1)


def test_overlaps_by_hand():
    one, same = distances(10, 10, 10, 10), distances(10, 10, 10, 10)
    assert [o.item() for o in overlaps(one, same)] == pytest.approx([1.0, 1.0])
    # 20 x 20 in 30 x 30 about one centre: 400 of 900, and the hull is the larger one.
    around = overlaps(one, distances(15, 15, 15, 15))
    assert [o.item() for o in around] == pytest.approx([4 / 9] * 2)
    # Apart: 2 x 10 beside 2 x 10 with a gap of 6: hull 10 x 10, union 40.
    apart = overlaps(distances(2, 5, 0, 5), distances(-6, 5, 8, 5))
    assert [o.item() for o in apart] == pytest.approx([0.0, -0.6])


def test_box_losses_let_nothing_go_near_a_tight_box():
    targets = PointTargets(torch.ones(1, 1, 1, dtype=torch.int64), distances(16, 16, 16, 16))
    near = distances(16, 16, 17, 16)
    plain = regression_loss(near, targets).item()
    assert plain == pytest.approx(1 - 32 / 33, abs=1e-6)
    assert regression_loss(near, targets, "giou").item() == pytest.approx(plain, abs=1e-6)
    assert regression_loss(near, targets, l1=2.0).item() == pytest.approx(plain + 2 * 0.25 / 32)
    far = distances(-100, 16, 132, 16).requires_grad_()
    regression_loss(far, targets).backward()
    assert far.grad.abs().sum() == 0  # no overlap: the IoU has no gradient, the generalised one has
    regression_loss(far, targets, "giou").backward()
    assert far.grad.abs().sum() > 0


def test_scores_are_asked_for_the_quality_of_their_boxes():
    labels = torch.tensor([[[[1, 0]]]])
    quality = torch.tensor([[[[0.7, 1.0]]]])
    logits = torch.zeros(1, 2, 1, 1, 2)
    logits[0, 1, 0, 0, 0] = math.log(0.7 / 0.3)
    logits.requires_grad_()
    loss = classification_loss(logits, labels, quality)
    loss.backward()
    # At the asked score the target's cell has no gradient, and its loss is the entropy.
    assert logits.grad[..., 0].abs().max() < 1e-6
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    assert loss.item() == pytest.approx(0.5 * entropy + 0.5 * math.log(2))


@pytest.mark.parametrize(
    ("rules", "name"), [({"box": "l7"}, "box"), ({"quality": 2.0}, "quality"), ({"l1": -1.0}, "l1")]
)
def test_rules_without_a_meaning_are_named(rules, name):
    with pytest.raises(ValueError, match=name):
        LossRules(**rules)


def test_the_heat_of_a_centre_by_hand():
    head = Head("centre", 16)
    points = head.points(16, 256)
    assert points.tolist() == [8.0 + 16 * i for i in range(16)]
    boxes = torch.tensor([[80.0, 96.0, 208.0, 224.0], [0.0] * 4])
    heat = centre_heat(boxes, torch.tensor([True, False]), points)
    assert heat[0, 10, 9] == 1 and (heat[0] == 1).sum() == 1  # centre (144, 160): cells 9 and 10
    # 8 x 8 cells: (8 - r)^2 / (128 - (8 - r)^2) = 0.3 at r = 2.57, floor 2, deviation 5 / 6.
    assert heat[0, 10, 10].item() == pytest.approx(math.exp(-0.5 * 1.2**2))
    assert (heat[1] == 0).all()
    labels = centre_targets(boxes, torch.tensor([True, False]), points).labels
    assert labels[0, 10, 9] == 1 and labels[0, 10, 10] == IGNORE and labels[0, 0, 0] == 0
    assert (labels[1] == 0).all()


def test_a_perfect_centre_map_has_no_loss_and_decodes_to_the_box():
    torch.manual_seed(0)
    head, coder = Head("centre", 16), CentreCoder(16, 16, 256)
    box = [70.0, 100.0, 110.0, 120.0]
    logits = torch.full((1, 2, 16, 16), 0.0)
    logits[0, 1] = -20.0
    logits[0, 1, 6, 5] = 20.0  # of centre (90, 110)
    regression = torch.zeros(1, 4, 16, 16)
    regression[0, :, 6, 5] = torch.tensor([40 / 256, 20 / 256, 90 / 16 - 5, 110 / 16 - 6])
    output = StudentOutput(logits, regression, ())
    losses = head.losses(output, batch(box, size=256))
    assert losses.regression.item() < 1e-4 and losses.classification.item() < 1e-4
    sides = head.sides(output, 256)[0, 0, :, 6, 5]
    assert sides.tolist() == pytest.approx(box)
    cx, cy, w, h = (part.reshape(16, 16)[6, 5] for part in coder.decode(regression.numpy()))
    assert [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2] == pytest.approx(box)
    wrong = StudentOutput(-logits, regression, ())
    assert head.losses(wrong, batch(box, size=256)).classification.item() > 5


def test_a_head_with_unknown_outputs_is_named():
    student = build_student("mobile_s16")
    student.coder = "corner"
    with pytest.raises(ValueError, match=r"MobileStudent: a corner head.*knows point"):
        Head.of(student)
