# SPDX-License-Identifier: Apache-2.0
"""Runtimes of a student behind one small interface: uint8 patches in, the student's maps out.

============== ============================= =====================================================
engine         where                         what it runs
============== ============================= =====================================================
onnxruntime    CPU                           the graphs exported into the checkpoint
torch          CPU, CUDA                     the network itself, batch norms folded, traced
============== ============================= =====================================================

``create_engine`` picks; PyTorch is imported only when its engine is chosen, so that a CPU drone
starts fast and small.
"""

from __future__ import annotations

import abc
import ctypes
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch

#: What an engine remembers of one or more targets: arrays (or device tensors) with a leading batch
#: axis.
Template = tuple[Any, ...]

ENGINES = ("auto", "onnxruntime", "torch")


class EngineError(RuntimeError):
    """An engine or device that cannot be had; the message says which and what to install or set."""


class Engine(abc.ABC):
    """Runs one student. ``name`` says what and where, for logs and diagnostics."""

    name: str

    @abc.abstractmethod
    def template(self, patches: np.ndarray) -> Template:
        """Template features of ``(N, T, T, 3)`` uint8 BGR patches."""

    @abc.abstractmethod
    def search(self, template: Template, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps of ``(N, S, S, 3)`` uint8 BGR patches: classification logits ``(N, 2K, s, s)`` and
        regression ``(N, 4K, s, s)``, float32. ``template`` has ``N`` targets, or one that serves
        all patches.
        """

    @abc.abstractmethod
    def join(self, templates: Sequence[Template], counts: Sequence[int]) -> Template:
        """One template for a batch: ``counts[i]`` patches of target ``templates[i]`` after
        another.
        """

    def warm_up(self, template_size: int, search_size: int) -> None:
        """Run every path once, so that the first real frame is not the slowest."""
        template = self.template(np.zeros((1, template_size, template_size, 3), np.uint8))
        for _ in range(3):
            self.search(template, np.zeros((1, search_size, search_size, 3), np.uint8))


def _sources(templates: Sequence[Template], counts: Sequence[int]) -> list[Template]:
    """The template of each patch of a batch."""
    return [
        template for template, count in zip(templates, counts, strict=True) for _ in range(count)
    ]


class OnnxRuntimeEngine(Engine):
    """The exported graphs on ONNX Runtime's CPU provider."""

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning workers would burn the core that the camera and DDS need between two frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._template, self._search = (
            onnxruntime.InferenceSession(
                checkpoint.graphs[name], options, providers=["CPUExecutionProvider"]
            )
            for name in ("template", "search")
        )
        self._inputs = [item.name for item in self._search.get_inputs()]
        self.name = (
            f"onnxruntime {onnxruntime.__version__} cpu, {threads} thread{'s' * (threads > 1)}"
        )

    def template(self, patches: np.ndarray) -> Template:
        """See ``Engine.template``."""
        return tuple(self._template.run(None, {"patch": patches}))

    def search(self, template: Template, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``Engine.search``."""
        parts = (
            part if len(part) == len(patches) else part.repeat(len(patches), 0) for part in template
        )
        classification, regression = self._search.run(
            None, dict(zip(self._inputs, (patches, *parts), strict=True))
        )
        return classification, regression

    def join(self, templates: Sequence[Template], counts: Sequence[int]) -> Template:
        """See ``Engine.join``."""
        if len(templates) == 1:
            return templates[0]
        return tuple(
            np.concatenate(parts) for parts in zip(*_sources(templates, counts), strict=True)
        )


class TorchEngine(Engine):
    """The network itself in PyTorch: the reference on the CPU, half precision on CUDA."""

    def __init__(self, checkpoint: Checkpoint, device: str, threads: int) -> None:
        import torch

        from .network import build_student, fuse_batch_norm

        self._torch = torch
        self._device = torch.device(device)
        self._dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        if self._device.type == "cpu":
            torch.set_num_threads(threads)
        student = build_student(checkpoint.architecture)
        weights = {
            name: torch.from_numpy(np.array(value)) for name, value in checkpoint.weights.items()
        }
        student.load_state_dict(weights)
        student = fuse_batch_norm(student.eval()).to(self._device, self._dtype)
        self._student = student.to(memory_format=torch.channels_last)
        where = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"
        self.name = f"torch {torch.__version__} {where}"

    def _input(self, patches: np.ndarray) -> torch.Tensor:
        # A permuted NHWC tensor already is channels-last: no copy.
        tensor = self._torch.from_numpy(patches).to(self._device, non_blocking=True)
        return tensor.permute(0, 3, 1, 2).to(self._dtype)

    def template(self, patches: np.ndarray) -> Template:
        """See ``Engine.template``."""
        with self._torch.inference_mode():
            return tuple(self._student.template(self._input(patches)))

    def search(self, template: Template, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``Engine.search``."""
        count = len(patches)
        with self._torch.inference_mode():
            parts = (
                part.expand(count, *part.shape[1:]) if len(part) == 1 else part for part in template
            )
            output = self._student.search(self._input(patches), *parts)
            return (
                output.classification.float().cpu().numpy(),
                output.regression.float().cpu().numpy(),
            )

    def join(self, templates: Sequence[Template], counts: Sequence[int]) -> Template:
        """See ``Engine.join``."""
        if len(templates) == 1:
            return templates[0]
        return tuple(
            self._torch.cat(parts) for parts in zip(*_sources(templates, counts), strict=True)
        )


def _cuda_driver_present() -> bool:
    """Whether a CUDA driver is installed: a cheap look that avoids importing PyTorch where there is
    none.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def resolve_device(device: str) -> str:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` to ``cpu`` or ``cuda:N``. EngineError when it
    cannot be had.
    """
    if device == "cpu" or (device == "auto" and not _cuda_driver_present()):
        return "cpu"
    name, _, index = device.partition(":")
    if device != "auto" and (name != "cuda" or not (index.isdigit() or index == "")):
        raise EngineError(f"device {device!r} is unknown: use auto, cpu, cuda or cuda:N")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = int(index or 0)
    if wanted < count:
        return f"cuda:{wanted}"
    if device == "auto":
        return "cpu"
    raise EngineError(
        f"device {device!r}: PyTorch {torch.__version__} sees {count} CUDA devices; use cpu or auto"
    )


def create_engine(
    checkpoint: Checkpoint, device: str = "auto", engine: str = "auto", threads: int = 1
) -> Engine:
    """The engine for ``device`` (auto, cpu, cuda, cuda:N) and ``engine`` (one of ``ENGINES``).

    EngineError names what is missing. ``auto`` never fails where PyTorch or ONNX Runtime is
    installed.
    """
    if engine not in ENGINES:
        raise EngineError(f"engine {engine!r} is unknown: use one of {', '.join(ENGINES)}")
    where = resolve_device(device)
    has_graphs = {"template", "search"} <= set(checkpoint.graphs)
    has_runtime = importlib.util.find_spec("onnxruntime") is not None
    if engine == "onnxruntime":
        if where != "cpu":
            raise EngineError(
                f"engine onnxruntime runs on the CPU, not on {where}: set device to cpu"
            )
        if not has_graphs:
            raise EngineError(
                f"{checkpoint.path}: holds no exported graphs; write them with `mlkd export`"
            )
        if not has_runtime:
            raise EngineError("engine onnxruntime is not installed: pip install onnxruntime")
    if where == "cpu" and engine != "torch" and has_graphs and has_runtime:
        return OnnxRuntimeEngine(checkpoint, threads)
    if "torch" not in sys.modules:
        os.environ.setdefault(
            "OMP_WAIT_POLICY", "PASSIVE"
        )  # OpenMP workers that sleep, not spin, between frames
    return TorchEngine(checkpoint, where, threads)
