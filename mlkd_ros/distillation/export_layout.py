# SPDX-License-Identifier: Apache-2.0
"""The form of a fused student that CPU runtimes keep in their blocked channel layout.

ONNX Runtime stores maps in blocks of 8 or 16 channels, the width of a vector register, between
convolutions, poolings and sums. Every other operator costs a conversion there and back, which for a
student this small is a tenth of its time. So the graphs are exported without them; the function
stays the same.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch's own docs use

from ..tracking.network import MobileTrunk, SqueezeExcite

#: Channels of a block on CPUs with the widest registers.
BLOCK = 16


class InterleavedStem(nn.Module):
    """A 3 x 3 convolution with stride 2 on pixels as cameras store them, without taking their
    colours apart: the same weights as a 3 x 9 convolution with stride (2, 6) on one channel of
    ``H x 3 W`` values.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        out, channels, height, width = conv.weight.shape
        self.conv = nn.Conv2d(1, out, (height, width * channels), (2, 2 * channels), (1, channels))
        with torch.no_grad():
            rows = conv.weight.permute(0, 2, 3, 1).reshape(self.conv.weight.shape)
            self.conv.weight.copy_(rows)
            self.conv.bias.copy_(conv.bias)  # type: ignore[union-attr, arg-type]

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps ``(N, C, H / 2, W / 2)``, rounded up, of pixels ``(N, H, W, 3)``."""
        maps: Tensor = self.conv(pixels.flatten(2).unsqueeze(1))
        return maps


class SpreadSqueezeExcite(nn.Module):
    """A ``SqueezeExcite`` whose weights are spread to the size of the map, because only operands of
    one shape are multiplied in the blocked layout.
    """

    def __init__(self, squeeze: SqueezeExcite) -> None:
        super().__init__()
        self.reduce, self.expand = squeeze.reduce, squeeze.expand

    def forward(self, x: Tensor) -> Tensor:
        """Same size."""
        scale = F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))
        scale = F.hardsigmoid(self.expand(scale))
        with warnings.catch_warnings():
            # A constant of the graph: its sizes are fixed.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            side = float(x.shape[2])
        return x * F.interpolate(scale, scale_factor=side, mode="nearest")


def _widened(conv: nn.Conv2d, inp: int, out: int) -> nn.Conv2d:
    """A convolution with more channels, all weights of the new ones 0; depth-wise ones stay so."""
    depthwise = conv.groups > 1
    wide = nn.Conv2d(
        inp, out, conv.kernel_size, conv.stride, conv.padding,  # type: ignore[arg-type]
        groups=out if depthwise else 1,
    )  # fmt: skip
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[: conv.out_channels, : conv.weight.shape[1]] = conv.weight
        assert wide.bias is not None and conv.bias is not None
        wide.bias.zero_()
        wide.bias[: conv.out_channels] = conv.bias
    return wide


def _in_whole_blocks(block: Any) -> None:
    """Fill the hidden channels of an ``InvertedResidual`` with squeeze-excite up to whole blocks,
    in place.
    """
    expand, depthwise, project = block.expand[0], block.depthwise[0], block.project[0]
    hidden = -(-expand.out_channels // BLOCK) * BLOCK
    if hidden == expand.out_channels:
        return
    block.expand[0] = _widened(expand, expand.in_channels, hidden)
    block.depthwise[0] = _widened(depthwise, hidden, hidden)
    block.project[0] = _widened(project, hidden, project.out_channels)
    squeeze = block.squeeze
    squeeze.reduce = _widened(squeeze.reduce, hidden, squeeze.reduce.out_channels)
    squeeze.expand = _widened(squeeze.expand, squeeze.expand.in_channels, hidden)


def for_blocked_layout(network: nn.Module) -> bool:
    """Rearrange a fused student in place. True when it takes pixels ``(N, H, W, 3)`` now, False
    when it is of a kind that stays as it is.
    """
    trunk: Any = getattr(network, "trunk", None)
    if not isinstance(trunk, MobileTrunk):
        return False
    stem: Any = trunk.stem[0]
    trunk.stem[0] = InterleavedStem(stem)
    block: Any
    for block in trunk.blocks:
        if block.squeeze is None:
            continue
        if block.expand is not None:
            _in_whole_blocks(block)
        block.squeeze = SpreadSqueezeExcite(block.squeeze)
    return True
