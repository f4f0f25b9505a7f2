# SPDX-License-Identifier: Apache-2.0
"""A toy student that trains in milliseconds, batches and training material for the tests."""

import cv2
import torch
from torch import nn

from mlkd_ros.data.night_flight import NightFlight
from mlkd_ros.tracking import TrackerSettings
from mlkd_ros.tracking.checkpoint import Checkpoint, save_checkpoint
from mlkd_ros.tracking.network import StudentOutput, build_student


class ToyStudent(nn.Module):
    """Anchor-free, on the flying student's grid: 15 x 15 cells of stride 16."""

    coder, stride, cells, search_size = "point", 16, 15, 255

    def __init__(self, channels=6, stride=16):
        super().__init__()
        self.stride = stride
        self.trunk = nn.Conv2d(3, channels, 31, stride, padding=0)
        self.cls_head = nn.Conv2d(channels, 2, 1)
        self.reg_head = nn.Conv2d(channels, 4, 1)

    def template(self, patch):
        return (self.trunk(patch / 255).mean((2, 3), keepdim=True),)

    def search(self, patch, kernel):
        maps = self.trunk(patch / 255) * kernel
        regression = torch.exp(self.reg_head(maps) + 3.0)
        return StudentOutput(self.cls_head(maps), regression, (maps, 2 * maps))

    def forward(self, template, search):
        return self.search(search, *self.template(template))


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
        "loose": torch.zeros(count, dtype=torch.bool),
    }
    return batch


def write_flights(folder, scenarios=("crossing", "scale_change"), frames=6, size=(480, 270)):
    """Rendered night flights as image sequences with annotations (OTB layout)."""
    for number, scenario in enumerate(scenarios):
        flight = NightFlight(scenario, seed=number, size=size)
        images = folder / scenario / "img"
        images.mkdir(parents=True)
        lines = []
        for index in range(frames):
            picture = flight.render(5 * index)
            cv2.imwrite(str(images / f"{index + 1:04d}.png"), picture.image)
            lines.append(",".join(f"{value:.2f}" for value in picture.targets[0][1]))
        (images.parent / "groundtruth_rect.txt").write_text("\n".join(lines) + "\n")


def write_checkpoint(path, architecture="mobile_s16", seed=0):
    """A student with random weights as a checkpoint without exported graphs: fast to write."""
    torch.manual_seed(seed)
    student = build_student(architecture)
    weights = {
        name: value.numpy()
        for name, value in student.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_checkpoint(Checkpoint(architecture, TrackerSettings(), weights), path)
    return path


def command(*words, **settings):
    """Arguments of `mlkd`: words, then each setting as --set key=value."""
    given = [f"--set={key.replace('__', '.')}={value}" for key, value in settings.items()]
    return [str(word) for word in words] + given
