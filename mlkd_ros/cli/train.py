# SPDX-License-Identifier: Apache-2.0
"""``mlkd train {enhancer,teacher,student,room}``: run an experiment file on training material.

``torchrun --nproc-per-node N -m -- mlkd_ros.cli train ...`` runs it on N GPUs of a machine.
(Without the ``--``, torchrun takes ``--run`` and ``--start`` for options of its own.)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from ..data.cache import PairCache
    from ..distillation.config import TrainingConfig
    from ..distillation.teacher import Teacher
    from ..distillation.trainer import Objective, Trainer

FIRST_FLIGHT_SEED = 100
CRL_KINDS = ("l2", "spatial", "threshold", "none")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``train`` to the ``mlkd`` command."""
    parser = subparsers.add_parser("train", help="train a student (needs mlkd_ros[train])")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_enhancer(kinds)
    teacher = kinds.add_parser("teacher", help="a daytime tracker that will teach")
    _add_common(teacher)
    _add_start(teacher, several=False)
    teacher.add_argument(
        "--enhancer", help="train behind this enhancer: identity, gamma, or a file"
    )
    teacher.set_defaults(run_command=run_teacher)
    student = kinds.add_parser("student", help="one student: supervised, or with a teacher")
    _add_common(student)
    _add_start(student, several=False)
    _add_teacher(student, required=False)
    student.add_argument(
        "--crl", choices=CRL_KINDS, default=None, help="correlation-map loss (needs --teacher)"
    )
    student.set_defaults(run_command=run_student)
    room = kinds.add_parser("room", help="three students that learn from each other")
    _add_common(room)
    _add_start(room, several=True)
    _add_teacher(room, required=True)
    room.set_defaults(run_command=run_room)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="experiment, config/training/")
    parser.add_argument(
        "--data", action="append", required=True, metavar="[LAYOUT=]PATH",
        help="training material, repeatable: a folder with videos/, annotations.jsonl and images/, "
        "or one in a published layout: otb, pairs, got10k, lasot, coco, NAT2021-train, "
        "DarkTrack2021, UAVDark135, UAV123",
    )  # fmt: skip
    parser.add_argument(
        "--run", type=Path, required=True, help="folder of this run: last.pt, log.csv, students"
    )
    parser.add_argument(
        "--cache", type=Path, help="folder of the pre-cut training windows (default: RUN/cache)"
    )
    parser.add_argument(
        "--flights", type=int, default=0,
        help="rendered night flights to add (group `flights`); cut once, into CACHE/flights",
    )  # fmt: skip
    parser.add_argument(
        "--per-still", type=int, default=0, metavar="N",
        help="largest number of objects cut out of one still image (default: all)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    _add_set(parser)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="change a setting of the experiment, such as steps=100 or sampler.dark=0",
    )  # fmt: skip


def _add_start(parser: argparse.ArgumentParser, several: bool) -> None:
    parser.add_argument(
        "--start", type=Path, nargs="+" if several else 1, default=[],
        help="published nanotrackv3.pth or LightFC graphs, or a student checkpoint"
        + (": one for all, or one for each" if several else ""),
    )  # fmt: skip


def _add_teacher(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument(
        "--teacher", type=Path, nargs="+", required=required, default=[],
        help="the teacher's tracker: checkpoint, nanotrackv3.pth or LightFC's graphs; several of "
        "one architecture are an ensemble, of several architectures each teaches",
    )  # fmt: skip
    parser.add_argument(
        "--enhancer", default="gamma",
        help="in front of the teacher: identity, gamma[:VALUE], or a file",
    )  # fmt: skip


def _add_enhancer(kinds: Any) -> None:
    parser = kinds.add_parser("enhancer", help="the low-light enhancer, without labels")
    parser.add_argument("--config", type=Path, help="experiment (default: built-in settings)")
    parser.add_argument(
        "--data", type=Path, required=True,
        help="folder with lowlight/, and annotations.jsonl with night images",
    )  # fmt: skip
    parser.add_argument("--run", type=Path, required=True, help="folder of this run")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    _add_set(parser)
    parser.set_defaults(run_command=run_enhancer)


def open_or_build_cache(data: Sequence[str], folder: Path, per_still: int = 0) -> PairCache:
    """The pair cache of the real material ``[LAYOUT=]PATH``, cut on the first call.

    ValueError when ``folder`` holds the cache of other material.
    """
    from ..data.cache import CacheSettings, PairCache, build_pair_cache
    from ..data.training_sets import load_material

    note = folder / "sources.txt"
    named = "".join(f"{source}\n" for source in data)
    if not (folder / "cache.json").exists():
        material = load_material(data)
        build_pair_cache(
            folder, material.sequences, material.stills, CacheSettings(per_still=per_still),
            progress=sys.stderr.isatty(),
        )  # fmt: skip
        note.write_text(named, encoding="utf-8")
    elif note.exists() and (cut := note.read_text(encoding="utf-8")) != named:
        raise ValueError(
            f"--cache {folder}: was cut from {', '.join(cut.split())}, "
            f"not from {', '.join(data)}: give another folder"
        )
    return PairCache.open(folder)


def open_or_build_flights(count: int, folder: Path) -> PairCache:
    """The pair cache of ``count`` rendered night flights, scenario after scenario.

    Their seeds begin where those of the benchmark ``night-flights-v1`` and of the demo are long
    over, so that nothing that is measured has been trained on.
    """
    from ..data.cache import PairCache
    from ..data.flights import build_flight_cache
    from ..data.night_flight import SCENARIOS, NightFlight

    if not (folder / "cache.json").exists():
        names = list(SCENARIOS)
        flights = (NightFlight(names[i % len(names)], FIRST_FLIGHT_SEED + i) for i in range(count))
        build_flight_cache(folder, flights, frames=32, every=12, objects=4)
    return PairCache.open(folder)


def run_enhancer(arguments: argparse.Namespace) -> int:
    """Train the enhancer and write ``RUN/enhancer.safetensors``."""
    from ..distillation.config import EnhancerConfig, load_config
    from ..distillation.enhancer_training import train_enhancer
    from ..tracking.engine import resolve_device

    config = load_config(arguments.config, arguments.overrides, EnhancerConfig)
    path = train_enhancer(
        config, arguments.data, arguments.run, resolve_device(arguments.device),
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    print(f"wrote {path}")
    return 0


def run_teacher(arguments: argparse.Namespace) -> int:
    """Train a daytime tracker and write ``RUN/student.safetensors``."""
    from ..distillation.enhancer import load_enhancer
    from ..distillation.objectives import Supervised

    config = _config(arguments)
    enhancer = load_enhancer(arguments.enhancer) if arguments.enhancer else None
    (student,), starts = _students(config, arguments.start, 1)
    objective = Supervised(student, config.regression_weight, enhancer, config.losses)
    return _train(arguments, config, objective, starts)


def run_student(arguments: argparse.Namespace) -> int:
    """Train one student and write ``RUN/student.safetensors``."""
    from ..distillation.objectives import Supervised, single_student

    config = _config(arguments)
    if arguments.crl and not arguments.teacher:
        raise ValueError(f"--crl {arguments.crl} compares with a teacher: give --teacher as well")
    (student,), starts = _students(config, arguments.start, 1)
    if not arguments.teacher:
        objective = Supervised(student, config.regression_weight, rules=config.losses)
        return _train(arguments, config, objective, starts)
    settings = replace(config.distillation, crl=(arguments.crl or "none",), election="none")
    config = replace(config, distillation=settings)
    teacher = _teacher(arguments, config)
    room = single_student(student, teacher, settings, config.regression_weight, config.losses)
    return _train(arguments, config, room, starts)


def run_room(arguments: argparse.Namespace) -> int:
    """Train a room of students and write ``RUN/student_<kind>.safetensors`` of each."""
    from ..distillation.objectives import Room

    config = _config(arguments)
    settings = config.distillation
    students, starts = _students(config, arguments.start, len(settings.crl))
    teachers = _teacher(arguments, config)
    objective = Room(students, teachers, settings, config.regression_weight, config.losses)
    return _train(arguments, config, objective, starts)


def _config(arguments: argparse.Namespace) -> TrainingConfig:
    import torch

    from ..distillation.config import load_config

    config: TrainingConfig = load_config(arguments.config, arguments.overrides)
    torch.manual_seed(config.seed)
    return config


def _students(
    config: TrainingConfig, starts: Sequence[Path], count: int
) -> tuple[list[nn.Module], list[str]]:
    """Students and where each comes from; the same random weights for none of them."""
    from ..distillation.student import start_student

    if len(starts) not in (0, 1, count):
        raise ValueError(f"--start needs one file, or one for each of {count} students")
    paths: list[Path | None] = list(starts) or [None]
    pairs = [start_student(config.architecture, paths[i % len(paths)]) for i in range(count)]
    return [student for student, _ in pairs], [start for _, start in pairs]


def _teacher(arguments: argparse.Namespace, config: TrainingConfig) -> list[Teacher]:
    from ..distillation.teacher import load_teachers

    return load_teachers(arguments.teacher, arguments.enhancer, config.distillation.teacher_input)


def _sampler(arguments: argparse.Namespace, config: TrainingConfig) -> tuple[Any, dict[str, int]]:
    """The pair sampler, and the number of windows of each cache."""
    from ..data.sampler import PairSampler

    clean = bool(getattr(arguments, "teacher", None))
    clean = clean and config.distillation.teacher_input == "clean"
    folder = arguments.cache or arguments.run / "cache"
    caches = {"real": open_or_build_cache(arguments.data, folder, arguments.per_still)}
    if arguments.flights:
        caches["flights"] = open_or_build_flights(arguments.flights, folder / "flights")
    if config.sampler.coded:
        from ..data.coded import add_coded_windows

        show = sys.stderr.isatty()
        caches = {name: add_coded_windows(c, progress=show) for name, c in caches.items()}
    settings = replace(config.sampler, keep_clean=clean or config.sampler.keep_clean)
    sampler = PairSampler(list(caches.values()), settings, config.seed)
    return sampler, {name: len(cache) for name, cache in caches.items()}


def _train(
    arguments: argparse.Namespace, config: TrainingConfig, objective: Objective,
    starts: Sequence[str],
) -> int:  # fmt: skip
    """Run the trainer, then write every student's averaged weights."""
    import torch

    from ..distillation.distributed import (
        end_processes,
        local_device,
        rank,
        start_processes,
        wait_for_all,
    )
    from ..distillation.export import check_exporter
    from ..distillation.trainer import Trainer
    from ..tracking.engine import resolve_device

    check_exporter()
    device = local_device(resolve_device(arguments.device))
    start_processes(torch.device(device))
    if rank() == 0:
        _sampler(arguments, config)  # cuts what is not cut yet
    wait_for_all()
    sampler, windows = _sampler(arguments, config)
    trainer = Trainer(config, objective, sampler, arguments.run, device, arguments.workers)
    write = partial(_write_students, arguments, trainer, starts, windows)
    trainer.run(progress=sys.stderr.isatty(), on_snapshot=write)
    if rank() == 0:
        write()
    end_processes()
    return 0


def _write_students(
    arguments: argparse.Namespace, trainer: Trainer, starts: Sequence[str], windows: dict[str, int],
    step: int | None = None,
) -> None:  # fmt: skip
    """Write the averaged weights of every student; of a step on the way with its number."""
    import torch

    from ..distillation.student import write_student

    config = trainer.config
    for number, name in enumerate(trainer.objective.names):
        provenance = {
            "kind": arguments.kind,
            "name": name,
            "start": starts[number],
            "config": config.to_dict(),
            "pairs": trainer.step * config.batch,
            "windows": windows,
            "torch": torch.__version__,
        }
        if getattr(arguments, "teacher", None):
            provenance["teacher"] = [path.name for path in arguments.teacher]
            provenance["enhancer"] = Path(str(arguments.enhancer)).name
        kind = "student" if name == "student" else f"student_{name}"
        path = arguments.run / f"{kind}{'' if step is None else f'-{step:06d}'}.safetensors"
        write_student(trainer.averaged[number], config.architecture, path, provenance)
        print(f"wrote {path}")
