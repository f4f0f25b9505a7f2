# SPDX-License-Identifier: Apache-2.0
"""A published MobileNetV2 classifier starts the larger teacher."""

import math

import pytest
import torch
from torch.nn import functional

from mlkd_ros.distillation.student import start_student
from mlkd_ros.tracking.checkpoint import CheckpointError

#: Expansion, width, repetitions and stride of its stages (arXiv 1801.04381, table 2).
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))


def published():
    """A state dict with the names and shapes of torchvision's, batch norms folded."""
    torch.manual_seed(3)
    state = {}

    def layer(name, *shape):
        state[f"{name}.weight"] = torch.randn(shape).mul((2 / math.prod(shape[1:])) ** 0.5).half()
        state[f"{name}.bias"] = torch.randn(shape[0]).half() * 0.1

    layer("features.0.0", 32, 3, 3, 3)
    inp, number = 32, 1
    for expansion, out, repetitions, _ in STAGES:
        for _ in range(repetitions):
            block, hidden, part = f"features.{number}.conv", inp * expansion, 0
            if expansion > 1:
                layer(f"{block}.0.0", hidden, inp, 1, 1)
                part = 1
            layer(f"{block}.{part}.0", hidden, 1, 3, 3)
            layer(f"{block}.{part + 1}", out, hidden, 1, 1)
            inp, number = out, number + 1
    layer("features.14.conv.0.0", 576, 96, 1, 1)  # what follows is not needed
    return state


def as_published(state, patch):
    """The classifier's own way to its 13th block, stride 16, on BGR pixels 0..255."""
    x = patch.flip(1) / 127.5 - 1.0

    def conv(name, x, **options):
        return functional.conv2d(
            x, state[f"{name}.weight"].float(), state[f"{name}.bias"].float(), **options
        )

    x, number = functional.relu6(conv("features.0.0", x, stride=2, padding=1)), 1
    for expansion, out, repetitions, stride in STAGES:
        for repetition in range(repetitions):
            block, y, part = f"features.{number}.conv", x, 0
            if expansion > 1:
                y, part = functional.relu6(conv(f"{block}.0.0", y)), 1
            step = stride if repetition == 0 else 1
            y = conv(f"{block}.{part}.0", y, stride=step, padding=1, groups=y.shape[1])
            y = conv(f"{block}.{part + 1}", functional.relu6(y))
            x, number = (x + y if step == 1 and x.shape[1] == out else y), number + 1
    return x


def test_every_other_cell_is_what_the_classifier_computes(tmp_path):
    """Dilation for a stride: the same values, and new ones in between."""
    path, state = tmp_path / "backbone.pth", published()
    torch.save(state, path)
    tracker, start = start_student("mobilenetv2_s8", path)
    assert "backbone.pth" in start
    patch = torch.rand(2, 3, 127, 127) * 255
    with torch.no_grad():
        ours, reference = tracker.trunk(patch), as_published(state, patch)
    assert ours.shape == (2, 96, 16, 16) and reference.shape == (2, 96, 8, 8)
    torch.testing.assert_close(ours[:, :, ::2, ::2], reference, rtol=1e-3, atol=1e-3)


def test_other_files_are_named(tmp_path):
    path, state = tmp_path / "other.pth", published()
    del state["features.5.conv.1.0.bias"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"other\.pth: features\.5\.conv\.1\.0\.bias"):
        start_student("mobilenetv2_s8", path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match=r"other\.pth: not a state dict but list"):
        start_student("mobilenetv2_s8", path)
    path.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"other\.pth: not a PyTorch state dict"):
        start_student("mobilenetv2_s8", path)
    with pytest.raises(CheckpointError, match="no such file"):
        start_student("mobilenetv2_s8", tmp_path / "nowhere.pth")
