# SPDX-License-Identifier: Apache-2.0
"""The training loop: one objective, one optimiser, checkpoints that resume exactly. Read it top to bottom."""

from __future__ import annotations

import copy
import csv
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..data.sampler import PairDataset, PairSampler, TrainingPair
from .config import TrainingConfig

Batch = dict[str, Tensor]


class Objective(Protocol):
    """What is trained and how: modules with gradients, and a loss over a batch."""

    students: nn.ModuleList

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Scalar loss of a batch and the figures to log."""


def collate(pairs: list[TrainingPair]) -> Batch:
    """Pairs to uint8 tensors ``(N, H, W, 3)``; they become float and channels-first on the device."""

    def images(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(pair, name) for pair in pairs]))

    batch = {
        "template": images("template"),
        "search": images("search"),
        "box": torch.from_numpy(np.stack([pair.box for pair in pairs])),
        "positive": torch.tensor([pair.positive for pair in pairs]),
    }
    if pairs[0].clean_template is not None:
        batch |= {"clean_template": images("clean_template"), "clean_search": images("clean_search")}
    return batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Images to float BGR 0..255, ``(N, 3, H, W)`` channels-last; the rest as it is."""
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    return {
        name: value.permute(0, 3, 1, 2).float() if value.dtype == torch.uint8 else value
        for name, value in moved.items()
    }


def freeze_batch_norm(module: nn.Module) -> None:
    """Keep running statistics; scale and offset go on learning."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eval()


class Trainer:
    """Runs an objective over the pairs of a sampler, in ``folder``.

    ``folder`` gets ``last.pt`` (everything a resume needs), ``log.csv`` and, at the end, nothing else: what ships is
    written by ``student.write_student``. Pair ``i`` of the run is a pure function of seed and ``i``, so a resumed run
    sees what an uninterrupted one would have seen.
    """

    def __init__(
        self, config: TrainingConfig, objective: Objective, sampler: PairSampler, folder: Path,
        device: str = "cpu", workers: int = 1,
    ) -> None:  # fmt: skip
        self.config = config
        self.objective = objective
        self.sampler = sampler
        self.folder = folder
        self.device = torch.device(device)
        self.workers = workers
        folder.mkdir(parents=True, exist_ok=True)
        objective.students.to(self.device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(objective.students).eval().requires_grad_(False)
        self.optimizer = self._optimizer()
        self.step = 0

    def _optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        trunk, rest = [], []
        for name, parameter in self.objective.students.named_parameters():
            (trunk if ".trunk." in f".{name}" else rest).append(parameter)
        groups = [
            {"params": rest, "factor": 1.0, "lr": config.learning_rate},
            {"params": trunk, "factor": config.trunk_factor, "lr": config.learning_rate * config.trunk_factor},
        ]
        if config.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=0.9, weight_decay=config.weight_decay)
        if config.optimizer == "adamw":
            return torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        raise ValueError(f"optimizer {config.optimizer!r} is unknown: use adamw or sgd")

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine from the peak to ``final_rate`` of it."""
        config = self.config
        if step < config.warm_up:
            return config.learning_rate * (step + 1) / config.warm_up
        progress = (step - config.warm_up) / max(1, config.steps - config.warm_up)
        share = config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))
        return config.learning_rate * share

    def batches(self) -> Iterator[Batch]:
        """The batches from the current step to the end."""
        config = self.config
        dataset = PairDataset(
            self.sampler, count=(config.steps - self.step) * config.batch, start=self.step * config.batch
        )
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=config.batch, num_workers=self.workers, collate_fn=collate,
            pin_memory=self.device.type == "cuda", prefetch_factor=4 if self.workers else None,
        )  # fmt: skip
        yield from loader

    def run(self, progress: bool = True) -> None:
        """Train to the end, resuming from ``last.pt`` where there is one."""
        from tqdm import tqdm

        self.resume()
        bar = tqdm(total=self.config.steps, initial=self.step, unit="step", disable=not progress)
        with (self.folder / "log.csv").open("a", newline="", encoding="utf-8") as file:
            started, figures = time.monotonic(), {}
            for batch in self.batches():
                figures = self.train_step(to_device(batch, self.device))
                bar.update()
                if self.step % self.config.log_every == 0:
                    self._log(file, figures, time.monotonic() - started)
                    bar.set_postfix({k: f"{v:.3f}" for k, v in figures.items()})
                if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                    self.save()
        bar.close()

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the figures of the batch."""
        students = self.objective.students
        students.train()
        if self.config.freeze_batch_norm:
            freeze_batch_norm(students)
        rate = self.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        loss, figures = self.objective.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(students.parameters(), self.config.gradient_clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"step {self.step}: gradient is not finite ({figures}); lower learning_rate")
        self.optimizer.step()
        self.step += 1
        self._average()
        return {"loss": float(loss.detach()), **figures, "lr": rate}

    @torch.no_grad()
    def _average(self) -> None:
        # A short run must not be dominated by its start: the decay grows with the steps made.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        live = self.objective.students.state_dict()
        for name, value in self.averaged.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(live[name], 1 - decay)
            else:
                value.copy_(live[name])

    def _log(self, file: Any, figures: dict[str, float], seconds: float) -> None:
        writer = csv.writer(file)
        if file.tell() == 0:
            writer.writerow(["step", "seconds", *figures])
        writer.writerow([self.step, f"{seconds:.1f}", *(f"{value:.6g}" for value in figures.values())])
        file.flush()

    def save(self) -> None:
        """Write ``last.pt``: to a temporary file first, then renamed, so that a kill leaves a whole one."""
        state = {
            "step": self.step,
            "students": self.objective.students.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        temporary = self.folder / "last.pt.part"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / "last.pt")

    def resume(self) -> None:
        """Continue from ``last.pt`` if it exists."""
        path = self.folder / "last.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.objective.students.load_state_dict(state["students"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.step = state["step"]
