# SPDX-License-Identifier: Apache-2.0
"""Whether training waits for its pairs: what loader processes supply, and what a device takes.

    python benchmarks/training.py                           # CPU or GPU, two rendered flights
    python benchmarks/training.py --cache CACHE --config config/training/ablation.yaml

Supply: augmented pairs a second of the loader alone, for each number of worker processes. Demand:
pairs a second of optimiser steps on one batch that is on the device already, of one student without
a teacher, with one, and of a room of three. Workers needed: demand by the supply of one worker.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mlkd_ros.cli.train import open_or_build_flights
from mlkd_ros.data.cache import PairCache
from mlkd_ros.data.sampler import PairSampler, collate_pairs, pair_loader
from mlkd_ros.distillation.config import TrainingConfig, load_config
from mlkd_ros.distillation.objectives import Room, Supervised, single_student
from mlkd_ros.distillation.student import start_student
from mlkd_ros.distillation.teacher import load_teachers
from mlkd_ros.distillation.trainer import Trainer, to_device
from mlkd_ros.tracking.checkpoint import default_checkpoint
from mlkd_ros.tracking.engine import resolve_device


def main() -> int:
    """Measure; 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="pair cache (default: two rendered flights)")
    parser.add_argument("--config", type=Path, help="experiment (default: built-in settings)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    config: TrainingConfig = load_config(options.config, [])
    device = resolve_device(options.device)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    print(f"{name}, {os.cpu_count()} cores, torch {torch.__version__}, batch {config.batch}\n")
    with tempfile.TemporaryDirectory() as folder:
        if options.cache:
            flights = options.cache / "flights"
            paths = [options.cache, *([flights] if flights.exists() else [])]
            caches = [PairCache.open(path) for path in paths]
        else:
            caches = [open_or_build_flights(2, Path(folder) / "flights")]
        weights = config.sampler.group_weights if options.cache else {}
        rules = replace(config.sampler, keep_clean=True, group_weights=weights)
        sampler = PairSampler(caches, rules, config.seed)
        supply = {n: supplied(sampler, config.batch, n, options.seconds) for n in options.workers}
        print("| workers | pairs/s |\n| --- | --- |")
        for workers, rate in supply.items():
            print(f"| {workers} | {rate:.0f} |")
        one = supply[min(supply)] / max(1, min(supply))
        print("\n| step | pairs/s | workers needed |\n| --- | --- | --- |")
        for step, trainer in trainers(config, sampler, device, Path(folder)).items():
            rate = taken(trainer, sampler, options.seconds)
            print(f"| {step} | {rate:.0f} | {rate / one:.2f} |", flush=True)
    return 0


def supplied(sampler: PairSampler, batch: int, workers: int, seconds: float) -> float:
    """Pairs a second of the loader alone, its start not counted."""
    loader = iter(pair_loader(sampler, batch, 10**7, workers=workers))
    for _ in range(max(1, 2 * workers)):
        next(loader)
    began, count = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        next(loader)
        count += batch
    return count / (time.perf_counter() - began)


def trainers(
    config: TrainingConfig, sampler: PairSampler, device: str, folder: Path
) -> dict[str, Trainer]:
    """One of each kind of training, from random weights; the shipped student teaches."""
    settings, weight = config.distillation, config.regression_weight

    def student() -> torch.nn.Module:
        return start_student(config.architecture, None)[0]

    shipped = default_checkpoint()
    enhancer = shipped.with_name("enhancer.safetensors")
    alone = replace(settings, crl=("spatial",), election="none")
    objectives: dict[str, Any] = {
        "one student, no teacher": Supervised(student(), weight),
        "one student, one teacher": single_student(
            student(), load_teachers([shipped], enhancer, "clean"), alone, weight
        ),
        "room of three, two teachers": Room(
            [student() for _ in settings.crl], load_teachers([shipped] * 2, enhancer, "clean"),
            settings, weight,
        ),
    }  # fmt: skip
    return {
        name: Trainer(config, objective, sampler, folder / name, device, workers=0)
        for name, objective in objectives.items()
    }


def taken(trainer: Trainer, sampler: PairSampler, seconds: float) -> float:
    """Pairs a second of optimiser steps on one batch, the median step."""
    batch = to_device(
        collate_pairs([sampler.sample(i) for i in range(trainer.config.batch)]), trainer.device
    )
    durations, end = [], None
    while end is None or time.perf_counter() < end or len(durations) < 5:
        began = time.perf_counter()
        trainer.train_step(batch)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        if end is None:  # the first one sets up
            end = time.perf_counter() + seconds
        else:
            durations.append(time.perf_counter() - began)
    return trainer.config.batch / statistics.median(durations)


if __name__ == "__main__":
    raise SystemExit(main())
