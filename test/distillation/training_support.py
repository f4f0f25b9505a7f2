# SPDX-License-Identifier: Apache-2.0
"""A toy student that trains in milliseconds, batches and training material for the tests."""

import cv2
import numpy as np
import torch
from torch import nn

from mlkd_ros.tracking.network import StudentOutput


class ToyStudent(nn.Module):
    """Anchor-free, on the flying student's grid: 15 x 15 cells of stride 16."""

    coder, stride, cells, search_size = "point", 16, 15, 255

    def __init__(self, channels=6, stride=16):
        super().__init__()
        self.stride = stride
        self.trunk = nn.Conv2d(3, channels, 31, stride, padding=0)
        self.cls_head = nn.Conv2d(channels, 2, 1)
        self.reg_head = nn.Conv2d(channels, 4, 1)

    def forward(self, template, search):
        kernel = self.trunk(template / 255).mean((2, 3), keepdim=True)
        maps = self.trunk(search / 255) * kernel
        regression = torch.exp(self.reg_head(maps) + 3.0)
        return StudentOutput(self.cls_head(maps), regression, (maps, 2 * maps))


def toy_batch(count=6, seed=0):
    """What ``to_device`` gives: float images, boxes, flags. The last pair is negative."""
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=rng) * 100 + 30
    batch = {
        "template": torch.rand(count, 3, 127, 127, generator=rng) * 60,
        "search": torch.rand(count, 3, 255, 255, generator=rng) * 60,
        "clean_template": torch.rand(count, 3, 127, 127, generator=rng) * 255,
        "clean_search": torch.rand(count, 3, 255, 255, generator=rng) * 255,
        "box": torch.cat((corner, corner + 60), 1),
        "positive": torch.arange(count) < count - 1,
        "night": torch.arange(count) % 3 == 0,
        "darkened": torch.arange(count) % 3 == 1,
    }
    return batch


def write_sequences(folder, count=2, frames=6, size=(200, 160)):
    """Annotated image sequences of a bright patch that moves over a texture, OTB layout."""
    rng = np.random.default_rng(3)
    for number in range(count):
        images = folder / f"toy{number}" / "img"
        images.mkdir(parents=True)
        ground = cv2.resize(rng.integers(20, 90, (12, 16, 3), np.uint8), size)
        lines = []
        for index in range(frames):
            picture = ground.copy()
            x, y, w, h = 40 + 9 * index, 50 + 4 * index + 8 * number, 34, 26
            cv2.rectangle(picture, (x, y), (x + w, y + h), (60, 90 * (number + 1), 220), -1)
            cv2.circle(picture, (x + 10, y + 10), 6, (230, 230, 40), -1)
            cv2.imwrite(str(images / f"{index + 1:04d}.png"), picture)
            lines.append(f"{x},{y},{w},{h}")
        (images.parent / "groundtruth_rect.txt").write_text("\n".join(lines) + "\n")
    return folder
