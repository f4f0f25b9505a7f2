# SPDX-License-Identifier: Apache-2.0
"""Students rearranged for flight: the same function in fewer and larger operators.

Between two activations everything is linear, so neighbouring linear maps become one, and what
depends on the target alone moves from the search branch, run on every image, to the template
branch, run once a target. Batch norms are folded too. Weights are those of the trained student;
nothing is retrained, and a test compares the outputs.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch's own docs use

from .network import (
    ChannelAttention,
    CorrelationBranch,
    MobileStudent,
    SeparableTower,
    StudentOutput,
    fuse_batch_norm,
)


def _pointwise(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A 1 x 1 convolution from an ``(out, in)`` matrix."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    with torch.no_grad():
        conv.weight.copy_(weight[:, :, None, None])
        conv.bias.copy_(bias)  # type: ignore[union-attr]  # made with one
    return conv


def _matrix(conv: nn.Module) -> tuple[Tensor, Tensor]:
    """The ``(out, in)`` matrix and the bias of a 1 x 1 convolution."""
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    return conv.weight.detach()[:, :, 0, 0], conv.bias.detach()


def _after(second: nn.Module, first: nn.Module) -> nn.Conv2d:
    """One 1 x 1 convolution for ``second(first(x))``."""
    outer, outer_bias = _matrix(second)
    inner, inner_bias = _matrix(first)
    return _pointwise(outer @ inner, outer @ inner_bias + outer_bias)


def _tower(tower: SeparableTower, head: nn.Conv2d) -> nn.Sequential:
    """A tower whose last point-wise convolution is one with the head."""
    layers = [layer for layer in tower.modules() if isinstance(layer, (nn.Conv2d, nn.ReLU6))]
    return nn.Sequential(*layers[:-1], _after(head, layers[-1]))


class FusedCorrelation(nn.Module):
    """A ``CorrelationBranch`` without its linear layers on the search side.

    Pixel-wise: the search features' 1 x 1 convolution is multiplied into the template's kernels.
    Projection and merging are one convolution.
    """

    query: Tensor
    query_bias: Tensor

    def __init__(self, branch: CorrelationBranch) -> None:
        super().__init__()
        self.pixel_template = branch.pixel_template[0]
        self.depthwise_template = branch.depthwise_template[0]
        self.attention: ChannelAttention = branch.attention
        self.pixel_depthwise = branch.pixel_depthwise[0]
        query, query_bias = _matrix(branch.pixel_search[0])
        self.register_buffer("query", query.clone())
        self.register_buffer("query_bias", query_bias.clone())
        project, project_bias = _matrix(branch.pixel_project[0])
        merge, merge_bias = _matrix(branch.merge)
        pixel, correlated = merge.split([len(project), merge.shape[1] - len(project)], 1)
        self.merge = _pointwise(
            torch.cat((pixel @ project, correlated), 1), pixel @ project_bias + merge_bias
        )

    def template(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Kernels of a target: pixel-wise ``(N, 64, C)`` and its offset ``(N, 64, 1)``, depth-wise
        ``(N, C, 4, 4)``.
        """
        pixel = self.pixel_template(features).reshape(-1, len(self.query), 64).transpose(1, 2)
        centre = features[:, :, CorrelationBranch.CENTRE, CorrelationBranch.CENTRE]
        return (
            pixel @ self.query,
            pixel @ self.query_bias[:, None],
            self.depthwise_template(centre),
        )

    def forward(
        self, features: Tensor, pixel: Tensor, offset: Tensor, correlated: Tensor
    ) -> Tensor:
        """Maps ``(N, C, 15, 15)`` of features ``(N, C, 256)`` and the depth-wise correlation."""
        maps = (pixel @ features + offset).reshape(-1, 64, 16, 16)
        maps = F.relu6(self.pixel_depthwise(self.attention(maps)))
        return self.merge(torch.cat((maps, correlated), 1))


def correlate_depthwise(search: Tensor, kernel: Tensor) -> Tensor:
    """``network.depthwise_correlation`` with padding 1 for 16 x 16 features and a 4 x 4 kernel.

    With the rows of the padded map laid one behind the other, a shift in x or y is one contiguous
    piece a channel: copies shifted in x, one small matrix product for all rows of the kernel, then
    shifts in y. Copies of length ``n`` one after another, cut anew into pieces of length ``n + 1``,
    are the copies shifted by 0, 1, 2, 3; what wraps around falls into columns that are dropped.
    """
    channels, size, taps, out = kernel.shape[1], 18, 4, 15
    flat = F.pad(search, (1, 1, 1, 1)).reshape(-1, channels, size * size)
    length = size * size + 1
    copies = torch.cat((flat, flat, flat, flat, flat[:, :, :taps]), 2)
    rows = torch.matmul(kernel, copies.reshape(-1, channels, taps, length))
    rows = rows.reshape(-1, channels, taps * length)
    starts = [i * (length + size) for i in range(taps)]
    total = rows[:, :, starts[0] : starts[0] + out * size]
    for start in starts[1:]:
        total = total + rows[:, :, start : start + out * size]
    return total.reshape(-1, channels, out, size)[:, :, :, :out]


class FusedMobileStudent(nn.Module):
    """A ``MobileStudent`` for flight; same calls, same outputs, another form of template."""

    template_size = MobileStudent.template_size
    search_size = MobileStudent.search_size
    template_outputs = ("pixel_cls", "offset_cls", "pixel_reg", "offset_reg", "depthwise")

    def __init__(self, student: MobileStudent) -> None:
        """From a student in eval mode, which is left as it is."""
        super().__init__()
        student = fuse_batch_norm(copy.deepcopy(student))  # type: ignore[assignment]
        self.trunk = student.trunk
        branches = student.cls_correlation, student.reg_correlation
        self.cls_correlation, self.reg_correlation = map(FusedCorrelation, branches)
        queries = [_matrix(branch.depthwise_search[0]) for branch in branches]
        self.depthwise_search = _pointwise(
            torch.cat([weight for weight, _ in queries]), torch.cat([bias for _, bias in queries])
        )
        self.cls_tower = _tower(student.cls_tower, student.cls_head)
        self.reg_tower = _tower(student.reg_tower, student.reg_head)

    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        """Features of ``(N, 3, T, T)`` target patches, in the order of ``template_outputs``."""
        features = self.trunk(patch)
        *cls, cls_depthwise = self.cls_correlation.template(features)
        *reg, reg_depthwise = self.reg_correlation.template(features)
        return (*cls, *reg, torch.cat((cls_depthwise, reg_depthwise), 1))

    def search(self, patch: Tensor, *template: Tensor) -> StudentOutput:
        """Maps of ``(N, 3, S, S)`` search regions for as many templates."""
        features = self.trunk(patch)
        pixel_cls, offset_cls, pixel_reg, offset_reg, depthwise = template
        correlated = correlate_depthwise(self.depthwise_search(features), depthwise)
        cls_correlated, reg_correlated = correlated.split(correlated.shape[1] // 2, 1)
        flat = features.reshape(-1, features.shape[1], 256)
        cls_map = self.cls_correlation(flat, pixel_cls, offset_cls, cls_correlated)
        reg_map = self.reg_correlation(flat, pixel_reg, offset_reg, reg_correlated)
        regression = torch.exp(self.reg_tower(reg_map))
        return StudentOutput(self.cls_tower(cls_map), regression, (cls_map, reg_map))


def fuse(student: nn.Module) -> nn.Module:
    """The student for flight, batch norms folded; ``student`` (in eval mode) is left as it is."""
    if isinstance(student, MobileStudent):
        return FusedMobileStudent(student)
    return fuse_batch_norm(copy.deepcopy(student))
