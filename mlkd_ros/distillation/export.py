# SPDX-License-Identifier: Apache-2.0
"""Export of a student to ONNX: static graphs, template and search, with uint8 images in.

Correlation takes the template as an ordinary input, so no graph has template-dependent weights, and
only the batch axis is dynamic (several targets, or several windows while a target is lost).
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..tracking.fused import fuse
from .export_layout import for_blocked_layout

OPSET = 17


class _Graph(nn.Module):
    """A student that takes uint8 patches ``(N, S, S, 3)``."""

    student: Any

    def __init__(self, student: nn.Module, interleaved: bool) -> None:
        super().__init__()
        self.student = student
        self._interleaved = interleaved

    def pixels(self, patch: Tensor) -> Tensor:
        """What the student takes."""
        return (patch if self._interleaved else patch.permute(0, 3, 1, 2)).float()


class _TemplateGraph(_Graph):
    def forward(self, patch: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = self.student.template(self.pixels(patch))
        return parts


class _SearchGraph(_Graph):
    def forward(self, patch: Tensor, *template: Tensor) -> tuple[Tensor, Tensor]:
        output = self.student.search(self.pixels(patch), *template)
        return output.classification, output.regression


def _export(
    graph: nn.Module, inputs: tuple[Tensor, ...], names: list[str], outputs: list[str]
) -> bytes:
    buffer = io.BytesIO()
    target: Any = buffer  # taken since PyTorch 1, though not annotated
    axes = {name: {0: "batch"} for name in (*names, *outputs)}
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated, but the only one that PyTorch 2.4 to 2.13 share.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph, inputs, target, dynamo=False, opset_version=OPSET,
            input_names=names, output_names=outputs, dynamic_axes=axes,
        )  # fmt: skip
    return buffer.getvalue()


def check_exporter() -> None:
    """ImportError when students can be trained but not exported: better before than after hours."""
    if importlib.util.find_spec("onnx") is None:
        raise ImportError("the exporter of PyTorch needs onnx: pip install mlkd_ros[train]")


def export_onnx(student: nn.Module) -> dict[str, bytes]:
    """Graphs ``template`` and ``search`` of a student, rearranged for flight, and ``search_near``
    where it has a smaller search region; it is put into eval mode and otherwise left as it is.

    ``template``: ``patch`` ``(N, T, T, 3)`` uint8 BGR to ``template_outputs`` of the fused student.
    ``search``: ``patch`` ``(N, S, S, 3)`` uint8 BGR and those outputs to ``classification`` and
    ``regression``. ``search_near``: the same for a patch of ``near_size``, without those of the
    template's outputs that it has no use for.
    """
    network: Any = fuse(student.eval())
    interleaved = for_blocked_layout(network)
    names = ["patch", *network.template_outputs]
    sizes = {"search": network.search_size, "search_near": network.near_size}
    make_template, search = (
        kind(network, interleaved).eval() for kind in (_TemplateGraph, _SearchGraph)
    )
    with torch.no_grad():
        patch = _patch(network.template_size)
        template = tuple(make_template(patch))
        graphs = {"template": _export(make_template, (patch,), ["patch"], names[1:])}
        outputs = ["classification", "regression"]
        for name, size in sizes.items():
            if size:
                graphs[name] = _export(search, (_patch(size), *template), names, outputs)
    return graphs


def _patch(side: int) -> Tensor:
    return torch.zeros(1, side, side, 3, dtype=torch.uint8)
