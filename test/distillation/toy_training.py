# SPDX-License-Identifier: Apache-2.0
"""Toy trainings; run as a script in processes of their own: KIND CACHE FOLDER STEPS."""

import sys
from pathlib import Path

import torch
from training_support import ToyStudent

from mlkd_ros.data.cache import PairCache
from mlkd_ros.data.sampler import PairSampler, SamplerSettings
from mlkd_ros.distillation.config import DistillationSettings, TrainingConfig
from mlkd_ros.distillation.distributed import end_processes, start_processes
from mlkd_ros.distillation.enhancer import GammaEnhancer
from mlkd_ros.distillation.objectives import Room, Supervised
from mlkd_ros.distillation.teacher import Teacher
from mlkd_ros.distillation.trainer import Trainer

# In single precision on every CPU: sums of half the batch must be those of the whole.
SMALL = {
    "mixed_precision": False,
    "batch": 4,
    "warm_up": 2,
    "log_every": 1,
    "save_every": 2,
    "epoch": 4,
}


def toy_trainer(cache, folder, **settings):
    """One toy student, supervised."""
    torch.manual_seed(0)
    config = TrainingConfig(**{"steps": 6, **SMALL, **settings})
    sampler = PairSampler(PairCache.open(cache), config.sampler, config.seed)
    return Trainer(config, Supervised(ToyStudent(), 1.2), sampler, folder, workers=0)


def toy_room(cache, folder, **settings):
    """Three toy students that elect one for the batch of all processes."""
    torch.manual_seed(0)
    distillation = DistillationSettings(election="batch", gate=False, teacher_input="clean")
    config = TrainingConfig(
        **{"optimizer": "sgd", "learning_rate": 1e-3, "warm_up": 0, **SMALL, **settings},
        sampler=SamplerSettings(negative=0.4, keep_clean=True),
        distillation=distillation,
    )
    teacher = Teacher([ToyStudent()], GammaEnhancer(), "clean")
    room = Room([ToyStudent() for _ in range(3)], teacher, distillation, 1.2)
    sampler = PairSampler(PairCache.open(cache), config.sampler, config.seed)
    return Trainer(config, room, sampler, folder, workers=0)


if __name__ == "__main__":
    kind, cache, folder, steps = sys.argv[1:]
    torch.set_num_threads(1)
    start_processes(torch.device("cpu"))
    make = toy_room if kind == "room" else toy_trainer
    make(Path(cache), Path(folder), steps=int(steps)).run(progress=False)
    end_processes()
