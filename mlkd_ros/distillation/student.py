# SPDX-License-Identifier: Apache-2.0
"""Where a student comes from, and how it becomes a checkpoint that flies."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..tracking.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from ..tracking.network import build_student
from ..tracking.settings import BeliefSettings, TrackerSettings
from .export import export_onnx
from .imagenet import load_mobilenet_v2
from .lightfc import load_lightfc
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


def load_tracker_network(path: Path) -> tuple[nn.Module, str]:
    """A tracker's network in eval mode and its architecture, of a student checkpoint, of a
    published ``nanotrackv3.pth``, or of the folder of LightFC's published graphs, or one of them.
    """
    if path.suffix == ".safetensors":
        checkpoint = load_checkpoint(path)
        return student_from_checkpoint(checkpoint), checkpoint.architecture
    if path.is_dir() or path.suffix == ".onnx":
        return load_lightfc(path), "lightfc_s16"
    return load_nanotrack_v3(path), "mobile_s16"


def start_student(architecture: str, start: Path | None) -> tuple[nn.Module, str]:
    """A student to train, and a sentence on where its weights come from.

    ``start`` is a published ``nanotrackv3.pth``, or for a lightfc_s16 LightFC's published graphs,
    or for a mobilenetv2_s8 a MobileNetV2 classifier, a student checkpoint (``.safetensors``), or
    None for random weights.
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
    if architecture == "lightfc_s16":
        if not start.is_dir() and start.suffix != ".onnx":
            raise ValueError(f"{start}: LightFC's published graphs (.onnx) start a lightfc_s16")
        return load_lightfc(start), "LightFC (LiYunfengLYF/LightFC, MIT)"
    if architecture != "mobile_s16":
        raise ValueError(
            f"{start}: published NanoTrackV3 weights start a mobile_s16, not a {architecture}"
        )
    return load_nanotrack_v3(start), "NanoTrackV3 (HonglinChu/SiamTrackers, Apache-2.0)"


def _for_logits(slope: float, offset: float) -> BeliefSettings:
    """The default densities, those of a mobile_s16, for a student of other logits: where both are
    as likely to be right, those of a mobile_s16 are ``slope logit + offset``.
    """
    usual = BeliefSettings()
    one, logit, place, size, late = usual.evidence
    *rest, mean = usual.confidence
    return replace(
        usual,
        score_slope=usual.score_slope * slope,
        score_offset=usual.score_offset + usual.score_slope * offset,
        score_most=(usual.score_most - offset) / slope,
        association=(usual.association[0] * slope, *usual.association[1:]),
        evidence=(one + (logit + late) * offset, logit * slope, place, size, late * slope),
        confidence=(rest[0] + mean * offset, rest[1], rest[2], mean * slope),
    )


def first_settings(architecture: str) -> TrackerSettings:
    """Post-processing of a student that has not been tuned: as its architecture was published."""
    if architecture == "lightfc_s16":
        return TrackerSettings(
            penalty_k=0.0, size_lr=1.0, calibration=(2.55, 0.43), belief=_for_logits(3.9, 7.6)
        )
    return TrackerSettings()


def write_student(
    student: nn.Module, architecture: str, path: Path, provenance: dict[str, Any],
    settings: TrackerSettings | None = None,
) -> None:  # fmt: skip
    """Export a trained student and write it with its settings as one checkpoint. A student with
    ``half_weights`` is rounded to half precision.
    """
    student = copy.deepcopy(student).cpu().float().eval()
    if getattr(student, "half_weights", False):
        # Rounded before all else, so that network and graphs are one student.
        student = student.half().float()
    weights = {
        name: value.numpy().copy() for name, value in student.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }  # fmt: skip
    graphs = export_onnx(student)
    save_checkpoint(
        Checkpoint(
            architecture, settings or first_settings(architecture), weights, graphs, provenance
        ),
        path,
    )


def average_states(
    states: Sequence[dict[str, Tensor]], weights: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """Weighted mean of state dicts of one architecture: weights and running statistics alike.

    Counters (integers) are the first one's. ``weights`` are normalised; all alike by default.
    Robust fine-tuning by averaging with the start: Wortsman et al., arXiv 2109.01903.

    Raises:
        ValueError: The weights do not fit the number of states, or are negative, or all zero; or a
            tensor is missing in a state, or of another shape.
    """
    shares = list(weights) if weights is not None else [1.0] * len(states)
    if len(shares) != len(states) or not states:
        raise ValueError(f"weights: {len(shares)} given for {len(states)} students")
    if min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"weights must be zero or more, and one of them positive, not {shares}")
    mean: dict[str, Tensor] = {}
    for name, first in states[0].items():
        tensors = [state.get(name) for state in states]
        if any(t is None or t.shape != first.shape for t in tensors):
            raise ValueError(f"{name}: not in every student, or of another shape")
        if first.dtype.is_floating_point:
            parts = (t.double() * s for t, s in zip(tensors, shares, strict=True) if t is not None)
            mean[name] = (sum(parts, torch.zeros(())) / sum(shares)).to(first.dtype)
        else:
            mean[name] = first.clone()
    return mean


def average_files(
    paths: Sequence[Path], output: Path, weights: Sequence[float] | None = None
) -> None:
    """Average students, or published NanoTrackV3 weights, and write the mean as a checkpoint.

    Settings are those of the first checkpoint; its provenance tells what was averaged. ValueError
    or CheckpointError names a file that is none, or is of another architecture than the first.
    """
    loaded = [load_tracker_network(path) for path in paths]
    for path, (_, architecture) in zip(paths, loaded, strict=True):
        if architecture != loaded[0][1]:
            raise ValueError(
                f"{path}: is a {architecture}, the first student is a {loaded[0][1]}: only weights "
                "of one architecture can be averaged"
            )
    mean = average_states([network.state_dict() for network, _ in loaded], weights)
    student = build_student(loaded[0][1])
    student.load_state_dict(mean)
    checkpoints = [load_checkpoint(path) for path in paths if path.suffix == ".safetensors"]
    shares = weights or [1.0] * len(paths)
    provenance = {
        **(checkpoints[0].provenance if checkpoints else {"start": paths[0].name}),
        "averaged": {p.name: round(s / sum(shares), 6) for p, s in zip(paths, shares, strict=True)},
    }
    settings = checkpoints[0].settings if checkpoints else None
    output.parent.mkdir(parents=True, exist_ok=True)
    write_student(student, loaded[0][1], output, provenance, settings)
