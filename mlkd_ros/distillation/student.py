# SPDX-License-Identifier: Apache-2.0
"""Where a student comes from, and how it becomes a checkpoint that flies."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..tracking.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from ..tracking.network import build_student
from ..tracking.settings import TrackerSettings
from .export import export_onnx
from .imagenet import load_mobilenet_v2
from .nanotrack import load_nanotrack_v3


def student_from_checkpoint(checkpoint: Checkpoint) -> nn.Module:
    """The network of a checkpoint in eval mode, batch norms not folded, ready for more training."""
    student = build_student(checkpoint.architecture)
    weights = {name: torch.from_numpy(value.copy()) for name, value in checkpoint.weights.items()}
    try:
        student.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint.path}: not the weights of a {checkpoint.architecture}: {error}"
        ) from error
    return student.eval()


def start_student(architecture: str, start: Path | None) -> tuple[nn.Module, str]:
    """A student to train, and a sentence on where its weights come from.

    ``start`` is a published ``nanotrackv3.pth`` or, for a mobilenetv2_s8, a MobileNetV2 classifier,
    a student checkpoint (``.safetensors``), or None for random weights.
    CheckpointError or ValueError names a file of another architecture.
    """
    if start is None:
        return build_student(architecture), "random weights"
    if start.suffix == ".safetensors":
        checkpoint = load_checkpoint(start)
        if checkpoint.architecture != architecture:
            raise CheckpointError(
                f"{start}: is a {checkpoint.architecture}, the experiment trains a {architecture}"
            )
        return student_from_checkpoint(checkpoint), checkpoint.provenance.get("start", start.name)
    if architecture == "mobilenetv2_s8":
        return load_mobilenet_v2(start), f"ImageNet backbone ({start.name}), its head random"
    if architecture != "mobile_s16":
        raise ValueError(
            f"{start}: published NanoTrackV3 weights start a mobile_s16, not a {architecture}"
        )
    return load_nanotrack_v3(start), "NanoTrackV3 (HonglinChu/SiamTrackers, Apache-2.0)"


def write_student(
    student: nn.Module, architecture: str, path: Path, provenance: dict[str, Any],
    settings: TrackerSettings | None = None,
) -> None:  # fmt: skip
    """Export a trained student and write it with its settings as one checkpoint."""
    student = copy.deepcopy(student).cpu().float().eval()
    weights = {
        name: value.numpy().copy() for name, value in student.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }  # fmt: skip
    graphs = export_onnx(student)
    save_checkpoint(
        Checkpoint(architecture, settings or TrackerSettings(), weights, graphs, provenance), path
    )
