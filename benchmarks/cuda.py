# SPDX-License-Identifier: Apache-2.0
"""What a CUDA device makes of the students, on a machine with PyTorch, NumPy and OpenCV only.

    python benchmarks/cuda.py                          # the shipped students on cuda
    python benchmarks/cuda.py fast.safetensors accurate.safetensors --training
    python benchmarks/cuda.py --device cpu --quick     # a rehearsal without a GPU

From the root of a checkout; nothing is installed. Three tables: parity (mean IoU of the boxes that
the device finds with those of PyTorch on the CPU in single precision; below 0.99 is a failure, exit
code 1), the whole update of 1 and 16 targets (p50 and p99, ms), and with ``--training`` the pairs a
second of optimiser steps (see ``training.py``).
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WEIGHTS = Path(__file__).resolve().parents[1] / "mlkd_ros" / "weights"
LEAST_PARITY = 0.99
TARGETS = (1, 16)
_TYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I64": np.int64, "I32": np.int32}


class _SafeFile:
    """What the tracker asks of ``safetensors.safe_open``, where that package is not installed: the
    length of the header as 8 bytes, the header as JSON, the tensors' bytes.
    """

    def __init__(self, path: str, framework: str) -> None:
        data = Path(path).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        self._header = json.loads(data[8 : 8 + length])
        self._metadata = self._header.pop("__metadata__", {})
        self._data = data[8 + length :]
        self._framework = framework

    def __enter__(self) -> _SafeFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._data = b""

    def metadata(self) -> dict[str, str]:
        return dict(self._metadata)

    def keys(self) -> list[str]:
        return list(self._header)

    def get_tensor(self, name: str) -> Any:
        entry = self._header[name]
        begin, end = entry["data_offsets"]
        values = np.frombuffer(self._data[begin:end], _TYPES[entry["dtype"]])
        values = values.reshape(entry["shape"]).copy()
        return torch.from_numpy(values) if self._framework == "pt" else values


def without_safetensors() -> None:
    """Let checkpoints be read on a bare machine."""
    try:
        import safetensors  # noqa: F401
    except ImportError:
        module: Any = types.ModuleType("safetensors")
        module.safe_open, module.SafetensorError = _SafeFile, ValueError
        sys.modules["safetensors"] = module


def main() -> int:
    """Measure; 0, or 1 where the device finds other boxes than the CPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("students", type=Path, nargs="*", help="default: those that ship")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (a rehearsal)")
    parser.add_argument("--pairs", type=int, default=200, help="of windows, for the parity")
    parser.add_argument("--count", type=int, default=2000, help="updates a case")
    parser.add_argument("--training", action="store_true", help="training pairs a second as well")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each training")
    parser.add_argument("--quick", action="store_true", help="few of everything")
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.count, options.seconds = 4, 10, 0.5
    without_safetensors()
    from mlkd_ros.tracking.engine import resolve_device

    device = resolve_device(options.device)
    on_cuda = device.startswith("cuda")
    name = torch.cuda.get_device_name(device) if on_cuda else "CPU: a rehearsal"
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, NumPy {np.__version__}, "
          f"OpenCV {cv2.__version__}\n")  # fmt: skip
    students = options.students or sorted(WEIGHTS.glob("*student*.safetensors"))
    alike = parity(students, device, options.pairs)
    updates(students, device, options.count)
    if options.training:
        training(students, device, options.seconds)
    return 0 if alike else 1


def parity(students: list[Path], device: str, count: int) -> bool:
    """Print the agreement of each student's boxes; whether all are high enough."""
    from mlkd_ros.distillation.parity import mean_agreement
    from mlkd_ros.tracking.checkpoint import load_checkpoint
    from mlkd_ros.tracking.engine import TorchEngine
    from mlkd_ros.tracking.engine_cuda import CudaEngine

    print("| student | window | mean IoU with the CPU |\n| --- | --- | --- |")
    lowest = 1.0
    for path in students:
        checkpoint = load_checkpoint(path)
        engines = CudaEngine(checkpoint, device), TorchEngine(checkpoint)
        for size, value in mean_agreement(*engines, None, count).items():
            print(f"| {path.stem} | {size} | {value:.4f} |", flush=True)
            lowest = min(lowest, value)
    print(f"\nlowest {lowest:.4f}: {'as wanted' if lowest >= LEAST_PARITY else 'TOO LOW'}\n")
    return lowest >= LEAST_PARITY


def updates(students: list[Path], device: str, count: int) -> None:
    """Print the time of the whole update, image in memory to boxes."""
    from scene import Scene, started, update

    from mlkd_ros.tracking import Tracker
    from mlkd_ros.tracking.checkpoint import load_checkpoint
    from mlkd_ros.tracking.engine_cuda import CudaEngine

    print("| student | targets | p50, ms | p99, ms |\n| --- | --- | --- | --- |")
    for path in students:
        checkpoint = load_checkpoint(path)
        tracker = Tracker(CudaEngine(checkpoint, device), checkpoint.settings)
        for targets in TARGETS:
            scene = Scene((1920, 1080), targets)
            trackers = started(tracker, scene)
            times = []
            for step in range(count + count // 10):
                begin = time.perf_counter()
                update(trackers, scene.image, step)
                times.append((time.perf_counter() - begin) * 1e3)
            p50, p99 = np.percentile(times[count // 10 :], [50, 99])
            print(f"| {path.stem} | {targets} | {p50:.2f} | {p99:.2f} |", flush=True)
    print()


def training(students: list[Path], device: str, seconds: float) -> None:
    """Print the pairs a second of training each student's architecture."""
    print("| architecture, step | pairs/s |\n| --- | --- |")
    for label, rate in _rates(students, device, seconds):
        print(f"| {label} | {rate:.0f} |", flush=True)


def _rates(students: list[Path], device: str, seconds: float) -> Iterator[tuple[str, float]]:
    import tempfile

    from training import taken, trainers

    from mlkd_ros.cli.train import open_or_build_flights
    from mlkd_ros.data.sampler import PairSampler, SamplerSettings
    from mlkd_ros.distillation.config import TrainingConfig
    from mlkd_ros.tracking.checkpoint import load_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        cache = open_or_build_flights(2, Path(folder) / "flights")
        sampler = PairSampler(cache, SamplerSettings(keep_clean=True))
        for architecture in sorted({load_checkpoint(path).architecture for path in students}):
            config = TrainingConfig(architecture=architecture)
            for step, trainer in trainers(config, sampler, device, Path(folder)).items():
                yield f"{architecture}, {step}", taken(trainer, sampler, seconds)


if __name__ == "__main__":
    raise SystemExit(main())
