# SPDX-License-Identifier: Apache-2.0
"""Targets and losses of a centre head against their definitions."""

import numpy as np
import pytest
import torch

from mlkd_ros.distillation.supervised import (
    Head,
    LossRules,
    centre_heat,
    centre_targets,
    heat_loss,
)
from mlkd_ros.tracking.candidates import STUDENT_SHAPES
from mlkd_ros.tracking.network import StudentOutput, build_student

HEAD = Head("centre", 16, rules=LossRules("giou", 0.5))
POINTS = HEAD.points(16, 256)


def batch(boxes, positive):
    return {
        "box": torch.tensor(boxes),
        "positive": torch.tensor(positive),
        "search": torch.zeros(len(boxes), 3, 256, 256),
    }


def test_the_head_of_the_network_is_a_centre_head():
    assert Head.of(build_student("lightfc_s16"), HEAD.rules) == HEAD


def test_one_cell_holds_the_centre():
    boxes = torch.tensor([[20.0, 30.0, 60.0, 50.0], [0.0, 0.0, 250.0, 250.0], [1.0, 1.0, 9.0, 9.0]])
    positive = torch.tensor([True, True, False])
    labels = centre_targets(boxes, positive, POINTS).labels
    assert (labels == 1).sum((1, 2)).tolist() == [1, 1, 0]
    assert labels[0, 2, 2] == 1 and labels[1, 7, 7] == 1
    heat = centre_heat(boxes, positive, POINTS)
    # A large target has a wide bump, a small one none, an absent one nothing at all.
    assert heat[1, 7, 8] > 0.5 and heat[0, 2, 3] < 0.05
    assert heat[2].max() == 0


def output(box, score=6.0, cells=16):
    """Maps that find one box, by the coder that flies."""
    x0, y0, x1, y1 = box
    cx, cy = (x0 + x1) / 2 / 16, (y0 + y1) / 2 / 16
    logits = torch.full((1, 2, cells, cells), 0.0)
    logits[:, 1] = -score
    logits[0, 1, int(cy), int(cx)] = score
    regression = torch.zeros(1, 4, cells, cells)
    regression[0, :, int(cy), int(cx)] = torch.tensor(
        [(x1 - x0) / 256, (y1 - y0) / 256, cx % 1, cy % 1]
    )
    return StudentOutput(logits, regression, ())


def test_losses_are_small_for_the_right_box_and_grow_with_the_error():
    box = [83.0, 100.0, 153.0, 140.0]
    given = batch([box], [True])
    right = HEAD.losses(output(box), given)
    assert right.regression.item() == pytest.approx(0, abs=1e-5)
    assert right.classification.item() < 0.01
    moved = [HEAD.losses(output([83.0 + d, 100.0, 153.0 + d, 140.0]), given) for d in (1, 4, 12)]
    errors = [losses.regression.item() for losses in moved]
    assert 0 < errors[0] < errors[1] < errors[2]
    unsure = HEAD.losses(output(box, score=1.0), given)
    assert unsure.classification > 10 * right.classification
    absent = HEAD.losses(output(box), batch([[0.0] * 4], [False]))
    assert absent.regression.item() == 0 and absent.classification.item() > 5


def test_boxes_are_those_of_the_coder_that_flies():
    regression = torch.rand(2, 4, 16, 16)
    sides = HEAD.sides(StudentOutput(torch.zeros(2, 2, 16, 16), regression, ()), 256)
    assert sides.shape == (2, 1, 4, 16, 16)
    x, y, w, h = STUDENT_SHAPES["lightfc_s16"].coder(256).decode(regression.numpy())
    expected = np.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), 1).reshape(2, 1, 4, 16, 16)
    np.testing.assert_allclose(sides.numpy(), expected, atol=1e-3)


def test_gradients_of_extreme_maps_are_finite():
    logits = torch.tensor([80.0, -80.0]).repeat(1, 2, 16, 8).requires_grad_()
    heat = centre_heat(torch.tensor([[0.0, 0.0, 64.0, 64.0]]), torch.tensor([True]), POINTS)
    heat_loss(logits, heat).sum().backward()
    assert torch.isfinite(logits.grad).all()
