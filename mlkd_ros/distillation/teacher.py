# SPDX-License-Identifier: Apache-2.0
"""The teacher: a frozen enhancer in front of a frozen tracker, and what it says about a batch."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch's own docs use

from ..tracking.candidates import STUDENT_SHAPES, StudentShape
from ..tracking.checkpoint import load_checkpoint
from ..tracking.engine import MapEngine, Template, resolve_device
from ..tracking.network import StudentOutput, fuse_batch_norm
from ..tracking.settings import TrackerSettings
from ..tracking.tracker import Tracker
from .enhancer import Enhancer, load_enhancer
from .student import load_tracker_network
from .supervised import Head

Batch = dict[str, Tensor]


class TeacherView(NamedTuple):
    """What the teacher says about a batch; no tensor has a gradient.

    classification: ``(N, 2K, S, S)`` logits. sides: ``(N, K, 4, S, S)`` boxes in search pixels.
    correlation: maps of the branches. features: of its trunk, of the search patch. The losses are
    its own supervised ones, ``(N,)``.
    """

    classification: Tensor
    sides: Tensor
    correlation: tuple[Tensor, ...]
    features: Tensor
    classification_loss: Tensor
    regression_loss: Tensor


class TrunkFeatures:
    """Keeps what the trunk of a network gives while this is entered: ``maps``, one a call."""

    def __init__(self, network: Any) -> None:
        self._trunk: nn.Module = network.trunk
        self.maps: list[Tensor] = []

    def __enter__(self) -> TrunkFeatures:
        """Start to listen."""
        self._handle = self._trunk.register_forward_hook(
            lambda _module, _inputs, output: self.maps.append(output)
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._handle.remove()


def fitted(network: Any, patch: Tensor) -> Tensor:
    """A patch ``(N, 3, S, S)`` of odd side as a network of even sides takes it: its last line
    twice. What is where stays as it is.
    """
    if patch.shape[-1] % 2 == network.search_size % 2:
        return patch
    return F.pad(patch, (0, 1, 0, 1), mode="replicate")


class Ensemble(nn.Module):
    """Trackers of one architecture as one network in eval mode, batch norms folded: the mean of
    their logits and of their regression maps, and the first one's correlation maps.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(fuse_batch_norm(copy.deepcopy(n).eval()) for n in networks)

    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        """The networks' template features, one after the other."""
        return tuple(part for network in self.networks for part in network.template(patch))  # type: ignore[operator]

    def search(self, patch: Tensor, *template: Tensor) -> StudentOutput:
        """Maps of ``(N, 3, S, S)`` search regions for as many templates."""
        count = len(self.networks)
        parts = len(template) // count
        outputs: list[StudentOutput] = [
            network.search(patch, *template[i * parts : (i + 1) * parts])  # type: ignore[operator]
            for i, network in enumerate(self.networks)
        ]
        classification, regression = (
            torch.stack([output[part].float() for output in outputs]).sum(0) / count  # type: ignore[union-attr]
            for part in (0, 1)
        )
        return StudentOutput(classification, regression, outputs[0].correlation)

    def forward(self, template_patch: Tensor, search_patch: Tensor) -> StudentOutput:
        """Both branches at once."""
        return self.search(search_patch, *self.template(template_patch))


class Teacher(nn.Module):
    """Enhancer and tracker, or an ``Ensemble`` of several, frozen.

    ``teacher_input`` is ``enhanced`` (the patches that the students see, enhanced where they are
    dark) or ``clean`` (patches before they were darkened; real night patches are enhanced).
    """

    def __init__(
        self, networks: Sequence[nn.Module], enhancer: Enhancer, teacher_input: str = "enhanced"
    ) -> None:
        super().__init__()
        if teacher_input not in ("enhanced", "clean"):
            raise ValueError(f"teacher_input must be enhanced or clean, not {teacher_input!r}")
        self.network = Ensemble(networks)
        self.enhancer = enhancer
        self.teacher_input = teacher_input
        self.head = Head.of(networks[0])
        self.search_size = networks[0].search_size
        self.precision: torch.dtype | None = None
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Teacher:
        """Stay frozen whatever is asked."""
        return super().train(False)

    def patches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Template and search patches as the teacher gets them."""
        if self.teacher_input == "clean":
            names, dark = ("clean_template", "clean_search"), batch["night"]
        else:
            names, dark = ("template", "search"), batch["night"] | batch["darkened"]
        template, search = (enhance_where(self.enhancer, batch[n], dark) for n in names)
        return template, search

    @torch.no_grad()
    def forward(self, batch: Batch) -> TeacherView:
        """Everything distillation needs of a batch."""
        template, search = (fitted(self, patch) for patch in self.patches(batch))
        with TrunkFeatures(self.network.networks[0]) as trunk, self._precision(search.device):
            output = self.network(template, search)
        losses = self.head.losses(output, batch)
        return TeacherView(
            output.classification.float(),
            self.head.sides(output, search.shape[-1]),
            tuple(m.float() for m in output.correlation),
            trunk.maps[-1].float(),
            losses.classification,
            losses.regression,
        )

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 on a CPU that multiplies it in hardware: half the time of a large teacher."""
        if self.precision is None or device.type != "cpu":
            return contextlib.nullcontext()
        return torch.autocast("cpu", self.precision)


def enhance_where(enhancer: Enhancer, patches: Tensor, dark: Tensor) -> Tensor:
    """Patches ``(N, 3, H, W)``, those marked in ``dark`` ``(N,)`` enhanced."""
    if not bool(dark.any()):
        return patches
    enhanced = patches.clone()
    enhanced[dark] = enhancer(patches[dark]).to(patches.dtype)
    return enhanced


def load_teachers(
    trackers: Sequence[Path], enhancer: str | Path, teacher_input: str = "enhanced"
) -> list[Teacher]:
    """Teachers of files: one for each architecture, an ensemble where there are several of it.

    CheckpointError or ValueError names a file that does not fit.
    """
    groups: dict[str, list[nn.Module]] = {}
    for path in trackers:
        network, architecture = load_tracker_network(path)
        groups.setdefault(architecture, []).append(network)
    front = load_enhancer(enhancer)
    return [Teacher(networks, front, teacher_input) for networks in groups.values()]


def _load_networks(trackers: Sequence[Path]) -> tuple[list[nn.Module], str]:
    """The networks of an ensemble, and their architecture."""
    loaded = [load_tracker_network(path) for path in trackers]
    for path, (_, architecture) in zip(trackers, loaded, strict=True):
        if architecture != loaded[0][1]:
            raise ValueError(
                f"{path}: is a {architecture}, an ensemble needs trackers of one architecture "
                f"(the first is a {loaded[0][1]})"
            )
    return [network for network, _ in loaded], loaded[0][1]


def check_fits(teacher: Teacher, student: nn.Module) -> None:
    """ValueError when the student's head cannot learn from the teacher's: both have the same
    anchors, or one box a cell.
    """
    ours, theirs = Head.of(student), teacher.head
    if not ours.same_language(theirs) and "anchor" in (ours.coder, theirs.coder):
        raise ValueError(
            f"a teacher with a {theirs.coder} head cannot teach a {type(student).__name__} "
            f"({ours.coder} head): heads must be of one kind, with the same anchors"
        )


class EnhancedEngine(MapEngine):
    """A tracker's network behind an enhancer that sees the patches only: the teacher, in flight.

    For evaluation; slow on a CPU.
    """

    _concatenate: Any = staticmethod(torch.cat)

    def __init__(
        self, network: nn.Module, enhancer: Enhancer, shape: StudentShape,
        settings: TrackerSettings, device: str = "cpu", threads: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(shape, settings)
        self._device = torch.device(device)
        if self._device.type == "cpu":
            torch.set_num_threads(threads)
        network = network.to(self._device)
        self._network: Any = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._enhancer = enhancer.to(self._device)
        self.name = f"torch {torch.__version__} {device}, behind {type(enhancer).__name__}"

    def _patch(self, patches: np.ndarray) -> Tensor:
        images = torch.from_numpy(patches).to(self._device).permute(0, 3, 1, 2).float()
        enhanced: Tensor = self._enhancer(images)
        return enhanced

    def template(self, patches: np.ndarray) -> Template:
        """Template features of uint8 patches, see ``Engine``."""
        with torch.inference_mode():
            return tuple(self._network.template(self._patch(patches)))

    def search(self, template: Template, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps of uint8 patches, see ``Engine``."""
        count = len(patches)
        with torch.inference_mode():
            parts = (p.expand(count, *p.shape[1:]) if len(p) == 1 else p for p in template)
            output = self._network.search(self._patch(patches), *parts)
        return output.classification.cpu().numpy(), output.regression.cpu().numpy()


def teacher_tracker(
    trackers: Sequence[Path], enhancer: str | Path, device: str = "cpu", threads: int = 1,
    settings: TrackerSettings | None = None, downscale: int | None = None,
) -> Tracker:  # fmt: skip
    """A ``Tracker`` that enhances every patch: what the paper's students are measured against.

    Several ``trackers`` fly as an ``Ensemble``. Settings default to those of the first one.
    """
    networks, architecture = _load_networks(trackers)
    if settings is None and trackers[0].suffix == ".safetensors":
        settings = load_checkpoint(trackers[0]).settings
    settings = settings or TrackerSettings()
    shape = STUDENT_SHAPES[architecture]
    engine = EnhancedEngine(
        Ensemble(networks), load_enhancer(enhancer, downscale), shape, settings,
        resolve_device(device), threads,
    )  # fmt: skip
    return Tracker(engine, settings)
