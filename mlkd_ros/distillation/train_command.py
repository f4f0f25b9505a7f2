# SPDX-License-Identifier: Apache-2.0
"""``mlkd train``: run an experiment file on a folder of training material."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data.cache import PairCache


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``train`` to the ``mlkd`` command."""
    parser = subparsers.add_parser("train", help="train a student (needs mlkd_ros[train])")
    kinds = parser.add_subparsers(dest="kind", required=True)
    student = kinds.add_parser("student", help="one student, supervised")
    student.add_argument("--config", type=Path, required=True, help="experiment, see config/training/")
    student.add_argument("--data", type=Path, required=True, help="folder with videos/, annotations.jsonl and images/")
    student.add_argument("--start", type=Path, help="published nanotrackv3.pth, or a student checkpoint, to start from")
    student.add_argument("--run", type=Path, required=True, help="folder of this run: last.pt, log.csv, student")
    student.add_argument("--cache", type=Path, help="folder of the pre-cut training windows (default: RUN/cache)")
    student.add_argument("--flights", type=int, default=0, help="rendered night flights to add, of 150 frames each")
    student.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    student.add_argument("--workers", type=int, default=1, help="loader processes")
    student.set_defaults(run_command=run_student)


def open_or_build_cache(data: Path, folder: Path) -> PairCache:
    """The pair cache of the real material, cut on the first call."""
    from ..data.cache import PairCache, build_pair_cache
    from ..data.sequences import load_otb_folders
    from ..data.stills import load_jsonl_stills

    if not (folder / "cache.json").exists():
        sequences = load_otb_folders(data / "videos")
        stills = load_jsonl_stills(data / "annotations.jsonl")
        build_pair_cache(folder, sequences, stills, progress=True)
    return PairCache.open(folder)


def run_student(arguments: argparse.Namespace) -> int:
    """Train one student and write ``RUN/student.safetensors``."""
    import torch

    from ..data.sampler import PairSampler
    from ..tracking.engine import resolve_device
    from .config import load_config
    from .objectives import Supervised
    from .student import start_student, write_student
    from .trainer import Trainer

    config = load_config(arguments.config)
    cache_folder = arguments.cache or arguments.run / "cache"
    caches = [open_or_build_cache(arguments.data, cache_folder)]
    torch.manual_seed(config.seed)
    student, start = start_student(config.architecture, arguments.start)
    sampler = PairSampler(caches, config.sampler, config.seed)
    objective = Supervised(student, config.regression_weight)
    trainer = Trainer(
        config, objective, sampler, arguments.run, resolve_device(arguments.device), arguments.workers
    )
    trainer.run(progress=sys.stderr.isatty())
    provenance = {
        "start": start,
        "config": config.to_dict(),
        "pairs": config.steps * config.batch,
        "windows": {str(cache.folder.name): len(cache) for cache in caches},
        "torch": torch.__version__,
    }
    write_student(trainer.averaged[0], config.architecture, arguments.run / "student.safetensors", provenance)
    print(f"wrote {arguments.run / 'student.safetensors'}")
    return 0
