# SPDX-License-Identifier: Apache-2.0
"""The training loop: one objective, one optimiser, checkpoints that resume exactly."""

from __future__ import annotations

import contextlib
import copy
import csv
import math
import os
import time
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ..data.sampler import NEAR_SIDES, PairDataset, PairSampler, collate_pairs, narrowed
from .config import ConfigError, TrainingConfig
from .distributed import (
    average_gradients,
    mean_over_processes,
    rank,
    wait_for_all,
    world,
)
from .teacher import Teacher, TeacherView

Batch = dict[str, Tensor]
#: Settings that may differ between a run and its resumption.
_FREE_SETTINGS = ("save_every", "log_every", "snapshot_every", "mixed_precision")


class Objective(Protocol):
    """What is trained and how: modules with gradients, frozen ones, and a loss over a batch."""

    students: nn.ModuleList
    frozen: nn.ModuleList

    @property
    def names(self) -> Sequence[str]:
        """Of the students, as files and figures are named."""

    def views(self, batch: Batch) -> list[TeacherView]:
        """What the teachers say of a batch: of the batch alone, so it may be asked ahead."""

    def loss(
        self, batch: Batch, views: Sequence[TeacherView] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of a batch and the figures to log, without gradient. Without ``views`` the
        teachers are asked now.
        """


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Images to float BGR 0..255 ``(N, 3, H, W)``, converted on the device; the rest as it is."""
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    return {k: v.float() if v.dtype == torch.uint8 else v for k, v in moved.items()}


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _has_flag("avx512_bf16")


def _has_flag(name: str) -> bool:
    try:
        return f" {name}" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def freeze_batch_norm(module: nn.Module) -> None:
    """Keep running statistics; scale and offset go on learning.

    Every convolution with its batch norm then runs as one convolution with scaled weights: the
    same function and the same gradients, for a fifth less time on a CPU.
    """
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eval()
        elif isinstance(child, nn.Sequential):
            child.forward = types.MethodType(_folded_forward, child)  # type: ignore[method-assign]


def _folded_forward(sequence: nn.Sequential, x: Tensor) -> Tensor:
    """``nn.Sequential.forward`` with frozen batch norms inside the convolutions before them."""
    previous: Any = None
    for layer in sequence:
        if isinstance(previous, nn.Conv2d):
            if isinstance(layer, nn.BatchNorm2d) and not layer.training:
                x, previous = _folded(previous, layer, x), None
                continue
            x = previous(x)
        previous = layer
        if not isinstance(layer, nn.Conv2d):
            x = layer(x)
    return previous(x) if isinstance(previous, nn.Conv2d) else x


def _folded(convolution: nn.Conv2d, norm: Any, x: Tensor) -> Tensor:
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    offset = norm.bias - norm.running_mean * scale
    if convolution.bias is not None:
        offset = offset + convolution.bias * scale
    weight = convolution.weight * scale[:, None, None, None]
    folded: Tensor = convolution._conv_forward(x, weight, offset)
    return folded


def near_side(config: TrainingConfig, step: int) -> int | None:
    """Side of the smaller search regions of a step, or None for whole ones: a pure function of seed
    and step, so that every process of a run, and a resumed one, draws the same.
    """
    rng = np.random.default_rng((config.seed, step))
    return int(rng.choice(NEAR_SIDES)) if rng.random() < config.near else None


class _Means:
    """Running means of figures, kept on the device so that no step waits for them."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, figures: dict[str, Tensor]) -> None:
        """Take one step's figures."""
        for name, value in figures.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.count += 1

    def take(self) -> dict[str, float]:
        """Means since the last call, over all processes."""
        stacked = torch.stack([value.float() for value in self.sums.values()]) / self.count
        values = mean_over_processes(stacked).tolist()
        means = dict(zip(self.sums, values, strict=True))
        self.sums, self.count = {}, 0
        return means


class _Waits:
    """How much of the time goes by before the next batch is there."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._waited = 0.0

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, with the time that each is waited for."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def share(self) -> float:
        """Share of the time since the last call, 0 to 1."""
        now = time.monotonic()
        share = self._waited / max(now - self._since, 1e-9)
        self._since, self._waited = now, 0.0
        return share


class Trainer:
    """Runs an objective over the pairs of a sampler, in ``folder``.

    ``folder`` gets ``last.pt`` (everything a resume needs), ``log.csv`` and ``epochs.csv``
    (``wait`` in the first: the share of the time in which the step waited for its pairs); what
    ships is written by ``student.write_student``. Pair ``i`` of the run is a pure function of seed
    and ``i``, so a resumed run sees what an uninterrupted one would have seen, and several
    processes see together what one would.
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
        if config.batch % world():
            raise ConfigError(f"batch {config.batch} cannot be shared by {world()} processes")
        folder.mkdir(parents=True, exist_ok=True)
        half = torch.bfloat16 if config.mixed_precision and has_fast_bfloat16() else None
        for module in objective.frozen:
            if isinstance(module, Teacher):
                module.precision = half
        for modules in (objective.students, objective.frozen):
            modules.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(objective.students).eval().requires_grad_(False)
        self.optimizer = self._optimizer()
        self.step = 0
        half, scaled = self._half_precision()
        self._half = half
        self._scaler = torch.amp.GradScaler("cuda", enabled=scaled)
        self._interval, self._epoch = _Means(), _Means()

    def _half_precision(self) -> tuple[torch.dtype | None, bool]:
        """The half type of the device, if wanted, and whether it needs scaled gradients."""
        if not self.config.mixed_precision:
            return None, False
        if self.device.type == "cpu":
            half = self.config.half_on_cpu and has_fast_bfloat16()
            return (torch.bfloat16 if half else None), False
        if torch.cuda.is_bf16_supported():
            return torch.bfloat16, False
        return torch.float16, True

    def _optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        trunk: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in self.objective.students.named_parameters():
            (trunk if ".trunk." in f".{name}" else rest).append(parameter)
        for parameter in trunk:  # Kept as it is, it needs no way back.
            parameter.requires_grad_(config.trunk_factor > 0)
        rate = config.learning_rate
        groups = [
            {"params": rest, "factor": 1.0, "lr": rate},
            {"params": trunk, "factor": config.trunk_factor, "lr": rate * config.trunk_factor},
        ]
        if config.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=0.9, weight_decay=config.weight_decay)
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine, or a straight line of the logarithm, to ``final_rate``."""
        config = self.config
        if step < config.warm_up:
            done = (step + 1) / config.warm_up
            share = config.warm_up_start + (1 - config.warm_up_start) * done
            return config.learning_rate * share
        progress = (step - config.warm_up) / max(1, config.steps - config.warm_up)
        if config.schedule == "log":
            return float(config.learning_rate * config.final_rate**progress)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return config.learning_rate * (config.final_rate + (1 - config.final_rate) * cosine)

    def batches(self) -> Iterator[Batch]:
        """This process's share of the batches from the current step to the end."""
        config = self.config
        dataset = PairDataset(
            self.sampler,
            count=(config.steps - self.step) * config.batch // world(),
            start=self.step * config.batch + rank(),
            stride=world(),
        )
        yield from torch.utils.data.DataLoader(
            dataset, batch_size=config.batch // world(), num_workers=self.workers,  # type: ignore[arg-type]
            collate_fn=collate_pairs, pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if self.workers else None, worker_init_fn=_start_worker,
        )  # fmt: skip

    def run(
        self, progress: bool = True, on_snapshot: Callable[[int], object] | None = None
    ) -> None:
        """Train to the end, resuming from ``last.pt`` where there is one.

        ``on_snapshot`` is called with the step every ``config.snapshot_every`` steps, by one
        process.
        """
        from tqdm import tqdm

        self.resume()
        bar = tqdm(
            total=self.config.steps, initial=self.step, unit="step",
            disable=not progress or rank() > 0,
        )  # fmt: skip
        log, epochs = (_Table(self.folder / n, self.step) for n in ("log.csv", "epochs.csv"))
        began, waits = time.monotonic(), _Waits()
        for batch, views in self._judged(waits.watch(self.batches())):
            figures = self._update(batch, views)
            self._interval.add(figures)
            self._epoch.add(figures)
            bar.update()
            # Epochs before the checkpoint: means up to here must not come back after a resume.
            if self.step % self.config.epoch == 0 or self.step == self.config.steps:
                epochs.add(self.step, self._epoch.take())
            if self.step % self.config.log_every == 0:
                means = self._interval.take()
                elapsed = time.monotonic() - began
                log.add(self.step, {"seconds": elapsed, "wait": waits.share(), **means})
                bar.set_postfix({k: f"{v:.3f}" for k, v in list(means.items())[:4]})
            if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                self.save()
            snapshot = self.config.snapshot_every
            if on_snapshot and snapshot and self.step % snapshot == 0 and rank() == 0:
                on_snapshot(self.step)
        bar.close()

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step; returns the figures of the batch."""
        return self._update(*self._judge(batch, self.step))

    def _judge(self, batch: Batch, step: int) -> tuple[Batch, list[TeacherView]]:
        """A batch as this step takes it, and what the teachers say of it."""
        side = near_side(self.config, step)
        batch = to_device(batch, self.device)
        batch = narrowed(batch, side) if side else batch
        with self._precision():
            return batch, self.objective.views(batch)

    def _judged(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[TeacherView]]]:
        """The batches, judged by a thread while the step before runs: the teachers learn nothing,
        so what they say does not depend on when, and a second core has something to do.
        """
        waiting: deque[Future[tuple[Batch, list[TeacherView]]]] = deque()
        with ThreadPoolExecutor(1, "teachers") as thread:
            for step, batch in enumerate(batches, self.step):
                waiting.append(thread.submit(self._judge, batch, step))
                if len(waiting) > 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _update(self, batch: Batch, views: Sequence[TeacherView]) -> dict[str, Tensor]:
        students = self.objective.students
        students.train()
        if self.config.freeze_batch_norm:
            freeze_batch_norm(students)
        rate = self.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        with self._precision():
            loss, figures = self.objective.loss(batch, views)
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        average_gradients(students.parameters())  # scaled ones: an overflow is every process's
        self._scaler.unscale_(self.optimizer)
        self._clip(figures)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.step += 1
        self._average()
        return {"loss": loss.detach(), **figures, "lr": torch.tensor(rate, device=self.device)}

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self._half is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._half)

    def _clip(self, figures: dict[str, Tensor]) -> None:
        """Clip every student's gradient by itself: the room must not tie their step sizes."""
        for name, student in zip(self.objective.names, self.objective.students, strict=True):
            limit = self.config.gradient_clip
            norm = nn.utils.clip_grad_norm_(student.parameters(), limit)
            # Scaled float16 gradients overflow now and then; the scaler leaves such a step out.
            if not self._scaler.is_enabled() and not torch.isfinite(norm):
                shown = {key: round(float(value), 4) for key, value in figures.items()}
                raise FloatingPointError(
                    f"step {self.step}: the gradient of {name} is not finite ({shown}); "
                    "lower learning_rate"
                )

    @torch.no_grad()
    def _average(self) -> None:
        # A short run must not be dominated by its start: the decay grows with the steps made.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        live = self.objective.students.state_dict()
        pairs = [(value, live[name]) for name, value in self.averaged.state_dict().items()]
        floats = [pair for pair in pairs if pair[0].dtype.is_floating_point]
        torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - decay)
        for value, source in pairs:
            if not value.dtype.is_floating_point:
                value.copy_(source)

    def save(self) -> None:
        """Write ``last.pt`` and rename it into place, so that a kill leaves a whole one."""
        if rank() == 0:
            state = {
                "step": self.step,
                "config": self.config.to_dict(),
                "names": list(self.objective.names),
                "students": self.objective.students.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self._scaler.state_dict(),
                "rng": torch.get_rng_state(),
                "means": [(m.sums, m.count) for m in (self._interval, self._epoch)],
            }
            temporary = self.folder / "last.pt.part"
            torch.save(state, temporary)
            os.replace(temporary, self.folder / "last.pt")
        wait_for_all()

    def resume(self) -> None:
        """Continue from ``last.pt`` if it exists. ConfigError when it is of another experiment."""
        path = self.folder / "last.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        _check_same_experiment(path, state, self.config, self.objective.names)
        self.objective.students.load_state_dict(state["students"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        for means, (sums, count) in zip((self._interval, self._epoch), state["means"], strict=True):
            means.sums = {name: value.to(self.device) for name, value in sums.items()}
            means.count = count
        self.step = state["step"]


def _check_same_experiment(
    path: Path, state: dict[str, Any], config: TrainingConfig, names: Sequence[str]
) -> None:
    old, new = state["config"], config.to_dict()
    for key in new:
        if key not in _FREE_SETTINGS and old.get(key) != new[key]:
            raise ConfigError(
                f"{path}: was made with {key} = {old.get(key)!r}, now it is {new[key]!r}: "
                "use another run folder"
            )
    if state["names"] != list(names):
        raise ConfigError(f"{path}: holds students {', '.join(state['names'])}, not {names}")


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)


class _Table:
    """A CSV file of figures by step. Lines after ``step`` are of a run that was killed: dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if rank() == 0 and path.exists():
            head, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
            kept = [line for line in lines if int(line.split(",", 1)[0]) <= step]
            path.write_text("".join(f"{line}\n" for line in [head, *kept] if line), "utf-8")

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Append one line, and the head where the file is new."""
        if rank():
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(["step", *figures])
            writer.writerow([step, *(f"{value:.6g}" for value in figures.values())])
