# SPDX-License-Identifier: Apache-2.0
"""Targets and losses of both kinds of head."""

import math

import numpy as np
import pytest
import torch

from mlkd_ros.distillation.supervised import (
    IGNORE,
    Head,
    anchor_targets,
    cell_points,
    class_logits,
    classification_loss,
    foreground_map,
    point_targets,
)
from mlkd_ros.tracking.geometry import PointCoder, iou
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
