# SPDX-License-Identifier: Apache-2.0
"""Students rearranged for flight: the same function in fewer and larger operators.

Between two activations everything is linear, so neighbouring linear maps become one, and what
depends on the target alone moves from the search branch, run on every image, to the template
branch, run once a target. The classification and the regression branch run side by side, as groups
of the same operators. Batch norms are folded too. Weights are those of the trained student; nothing
is retrained, and a test compares the outputs.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch's own docs use

from .network import (
    CentreTracker,
    CorrelationBranch,
    MobileStudent,
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


def _beside(first: nn.Module, second: nn.Module) -> nn.Conv2d:
    """Two convolutions of one shape, each on its own channels, as one with as many more groups."""
    assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
    assert first.bias is not None and second.bias is not None
    conv = nn.Conv2d(
        first.in_channels + second.in_channels,
        first.out_channels + second.out_channels,
        first.kernel_size,  # type: ignore[arg-type]  # a pair, always
        padding=first.padding,  # type: ignore[arg-type]
        groups=first.groups + second.groups,
    )
    with torch.no_grad():
        conv.weight.copy_(torch.cat((first.weight, second.weight)))
        conv.bias.copy_(torch.cat((first.bias, second.bias)))  # type: ignore[union-attr]
    return conv


def _split_merge(branch: CorrelationBranch) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The merging convolution's two summands: one for the pixel-wise maps before their projection,
    which it takes in, and one for the depth-wise maps.
    """
    project, project_bias = _matrix(branch.pixel_project[0])
    merge, merge_bias = _matrix(branch.merge)
    pixel, depthwise = merge.split([len(project), merge.shape[1] - len(project)], 1)
    return (
        _pointwise(pixel @ project, pixel @ project_bias + merge_bias),
        _pointwise(depthwise, torch.zeros(len(depthwise))),
    )


def _seen(side: int) -> Tensor:
    """What each tap of a depth-wise kernel sees of a map of ones, ``(1, 16, (S - 1) * (S + 2))``:
    rows of ``S - 1``, and 3 that do not count.
    """
    seen = F.unfold(F.pad(torch.ones(1, 1, side, side), (1, 1, 1, 1)), 4)
    return F.pad(seen.reshape(1, 16, side - 1, side - 1), (0, 3)).flatten(2)


class FusedCorrelation(nn.Module):
    """The ``CorrelationBranch`` of classification and of regression, side by side, without their
    linear layers on the search side.

    Pixel-wise: the search features' 1 x 1 convolution is multiplied into the template's kernels.
    Depth-wise: its bias, zero outside the map, correlates with the template alone. Projection and
    merging are one convolution.
    """

    positions = 64
    #: Sides of the search features, of the whole search region and of the near one.
    side, near_side = 16, 10
    seen: Tensor
    seen_near: Tensor
    bias: Tensor

    def __init__(self, cls: CorrelationBranch, reg: CorrelationBranch) -> None:
        super().__init__()
        branches = cls, reg
        self.pixel_template = nn.ModuleList(branch.pixel_template[0] for branch in branches)
        self.depthwise_template = nn.ModuleList(branch.depthwise_template[0] for branch in branches)
        self.queries = nn.ModuleList(branch.pixel_search[0] for branch in branches)
        self.attention_reduce = _beside(cls.attention.reduce, reg.attention.reduce)
        self.attention_expand = _beside(cls.attention.expand, reg.attention.expand)
        self.pixel_depthwise = _beside(cls.pixel_depthwise[0], reg.pixel_depthwise[0])
        self.merge_pixel, self.merge_depthwise = (
            _beside(*pair) for pair in zip(_split_merge(cls), _split_merge(reg), strict=True)
        )
        searches = [_matrix(branch.depthwise_search[0]) for branch in branches]
        weight, bias = (torch.cat(parts) for parts in zip(*searches, strict=True))
        # Padding after a convolution without bias is padding before it: at no cost.
        out, inp = weight.shape
        self.depthwise_search = nn.Conv2d(inp, out, 1, padding=1, bias=False)
        with torch.no_grad():
            self.depthwise_search.weight.copy_(weight[:, :, None, None])
        self.register_buffer("seen", _seen(self.side))
        self.register_buffer("seen_near", _seen(self.near_side))
        self.register_buffer("bias", bias[None, :, None])

    def template(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Kernels of a target and what they add to every search region: pixel-wise ``(N, 128, C)``
        and ``(N, 128, 1)``, depth-wise ``(N, 2 C, 4, 4)`` and ``(N, 2 C, 15 * 18)``.
        """
        kernels, offsets = [], []
        for make, query in zip(self.pixel_template, self.queries, strict=True):
            weight, bias = _matrix(query)
            pixel = make(features).reshape(-1, len(weight), self.positions).transpose(1, 2)
            kernels.append(pixel @ weight)
            offsets.append(pixel @ bias[:, None])
        centre = features[:, :, CorrelationBranch.CENTRE, CorrelationBranch.CENTRE]
        depthwise = torch.cat([make(centre) for make in self.depthwise_template], 1)
        return (
            torch.cat(kernels, 1),
            torch.cat(offsets, 1),
            depthwise,
            self._offset(depthwise, self.seen),
        )

    def _offset(self, depthwise: Tensor, seen: Tensor) -> Tensor:
        """What the bias of the search features adds to the depth-wise correlation."""
        return (depthwise.flatten(2) * self.bias) @ seen

    def forward(
        self,
        features: Tensor,
        pixel: Tensor,
        pixel_offset: Tensor,
        depthwise: Tensor,
        depthwise_offset: Tensor,
    ) -> Tensor:
        """Maps ``(N, 2 C, S - 1, S - 1)``, those of classification first, of features
        ``(N, C, S, S)``, where ``S`` is ``side`` or ``near_side``.
        """
        side = int(features.shape[2])  # a constant of an exported graph
        flat = features.reshape(-1, features.shape[1], side * side)
        maps = (pixel @ flat + pixel_offset).reshape(-1, 2 * self.positions, side, side)
        scale = F.relu(self.attention_reduce(F.adaptive_avg_pool2d(maps, 1)))
        maps = maps * torch.sigmoid(self.attention_expand(scale))
        maps = F.relu6(self.pixel_depthwise(maps))
        query = self.depthwise_search(features)
        if side != self.side:
            # Of the template's outputs this one alone fits one size only.
            depthwise_offset = self._offset(depthwise, self.seen_near)
        correlated = correlate_depthwise(query, depthwise, depthwise_offset)
        merged: Tensor = self.merge_pixel(maps) + self.merge_depthwise(correlated)
        return merged


def correlate_depthwise(search: Tensor, kernel: Tensor, offset: Tensor) -> Tensor:
    """``network.depthwise_correlation`` of ``(N, C, W, W)`` and ``(N, C, 4, 4)``, plus an offset
    ``(N, C, (W - 3) * W)`` (rows of ``W - 3``, and 3 that do not count); ``(N, C, W - 3, W - 3)``.

    With the rows of the map laid one behind the other, a shift in x or y is one contiguous piece a
    channel: copies shifted in x, one small matrix product for all rows of the kernel, then shifts
    in y. Copies of length ``n`` one after another, cut anew into pieces of length ``n + 1``, are
    the copies shifted by 0, 1, 2, 3; what wraps around falls into columns that are dropped.
    """
    channels, size, taps = kernel.shape[1], int(search.shape[2]), 4
    out = size - taps + 1
    flat = search.reshape(-1, channels, size * size)
    length = size * size + 1
    copies = torch.cat((flat, flat, flat, flat, flat[:, :, :taps]), 2)
    rows = torch.matmul(kernel, copies.reshape(-1, channels, taps, length))
    rows = rows.reshape(-1, channels, taps * length)
    total = offset
    for start in range(0, taps * (length + size), length + size):
        total = total + rows[:, :, start : start + out * size]
    return total.reshape(-1, channels, out, size)[:, :, :, :out]


def _side_by_side(cls: nn.Module, reg: nn.Module) -> nn.Sequential:
    """Both towers as one, without their last convolutions, which are one with the heads."""
    layers = [
        [layer for layer in tower.modules() if isinstance(layer, (nn.Conv2d, nn.ReLU6))][:-1]
        for tower in (cls, reg)
    ]
    return nn.Sequential(
        *(
            _beside(*pair) if isinstance(pair[0], nn.Conv2d) else pair[0]
            for pair in zip(*layers, strict=True)
        )
    )


class FusedMobileStudent(nn.Module):
    """A ``MobileStudent`` for flight; same calls, same outputs, another form of template."""

    template_size = MobileStudent.template_size
    search_size = MobileStudent.search_size
    near_size = MobileStudent.near_size
    template_outputs = ("pixel", "pixel_offset", "depthwise", "depthwise_offset")

    def __init__(self, student: MobileStudent) -> None:
        """From a student in eval mode, which is left as it is."""
        super().__init__()
        student = fuse_batch_norm(copy.deepcopy(student))  # type: ignore[assignment]
        self.trunk = student.trunk
        self.correlation = FusedCorrelation(student.cls_correlation, student.reg_correlation)
        self.tower = _side_by_side(student.cls_tower, student.reg_tower)
        heads = [
            _after(head, [layer for layer in tower.modules() if isinstance(layer, nn.Conv2d)][-1])
            for head, tower in (
                (student.cls_head, student.cls_tower),
                (student.reg_head, student.reg_tower),
            )
        ]
        weights, biases = zip(*map(_matrix, heads), strict=True)
        self.heads = _pointwise(torch.block_diag(*weights), torch.cat(biases))
        self._classes = len(weights[0])

    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        """Features of ``(N, 3, T, T)`` target patches, in the order of ``template_outputs``."""
        return self.correlation.template(self.trunk(patch))

    def search(self, patch: Tensor, *template: Tensor) -> StudentOutput:
        """Maps of ``(N, 3, S, S)`` search regions for as many templates."""
        maps = self.correlation(self.trunk(patch), *template)
        found = self.heads(self.tower(maps))
        cls_map, reg_map = maps.chunk(2, 1)
        classes = self._classes
        return StudentOutput(found[:, :classes], torch.exp(found[:, classes:]), (cls_map, reg_map))


#: About the deviation of pixels: what is left of it keeps weights in the range of half precision.
_PIXEL_SCALE = 64.0


class FusedCentreTracker(nn.Module):
    """A ``CentreTracker`` for flight; same calls, same outputs. The colours' own deviations are in
    the first convolution, the template is the kernels ``(N, 64, 96)`` of the correlation, and the
    three towers' first convolutions, which see the same maps, are one.
    """

    template_size = CentreTracker.template_size
    search_size = CentreTracker.search_size
    near_size = CentreTracker.near_size
    template_outputs = ("kernels",)

    def __init__(self, student: CentreTracker) -> None:
        """From a student in eval mode, which is left as it is."""
        super().__init__()
        student = copy.deepcopy(student)
        self.trunk = student.trunk
        stem = self.trunk.stem
        with torch.no_grad():
            stem.weight.mul_(_PIXEL_SCALE / self.trunk.deviation)
        self.correlation = student.correlation
        towers = student.score, student.size, student.offset
        self.first = _stacked([tower.layers[0] for tower in towers])
        # Background logits of 0, from the same convolution.
        background = nn.Conv2d(32, 1, 1)
        for constant in background.parameters():
            nn.init.zeros_(constant)
        student.score.out = _stacked([background, student.score.out])
        self.towers = nn.ModuleList(towers)

    def features(self, patch: Tensor) -> Tensor:
        """The trunk's, of values 0..255."""
        trunk = self.trunk
        pixels = (patch - trunk.mean) * (1.0 / _PIXEL_SCALE)
        features: Tensor = trunk.blocks(F.relu6(trunk.stem(pixels)))
        return features

    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        """Kernels of ``(N, 3, T, T)`` target patches."""
        return (self.features(patch).flatten(2).transpose(1, 2).contiguous(),)

    def search(self, patch: Tensor, *template: Tensor) -> StudentOutput:
        """Maps of ``(N, 3, S, S)`` search regions for as many templates."""
        features = self.features(patch)
        side = int(features.shape[2])  # a constant of an exported graph
        flat = features.reshape(-1, features.shape[1], side * side)
        maps = (template[0] @ flat).reshape(-1, template[0].shape[1], side, side)
        maps = self.correlation.mixed(maps)
        first = F.relu(self.first(torch.cat((maps, features), 1)))
        parts = first.split(first.shape[1] // 3, 1)
        score, size, offset = (
            tower.rest(part)  # type: ignore[operator]  # a CentreTower
            for tower, part in zip(self.towers, parts, strict=True)
        )
        return StudentOutput(score, torch.cat((torch.sigmoid(size), offset), 1), (maps,))


def _stacked(convs: list[Any]) -> nn.Conv2d:
    """Convolutions of one input as one, their outputs behind one another."""
    like = convs[0]
    conv = nn.Conv2d(
        like.in_channels,
        sum(part.out_channels for part in convs),
        like.kernel_size,
        padding=like.padding,
    )
    with torch.no_grad():
        conv.weight.copy_(torch.cat([part.weight for part in convs]))
        conv.bias.copy_(torch.cat([part.bias for part in convs]))  # type: ignore[union-attr]
    return conv


def fuse(student: nn.Module) -> nn.Module:
    """The student for flight, batch norms folded; ``student`` (in eval mode) is left as it is."""
    if isinstance(student, MobileStudent):
        return FusedMobileStudent(student)
    if isinstance(student, CentreTracker):
        return FusedCentreTracker(student)
    return fuse_batch_norm(copy.deepcopy(student))
