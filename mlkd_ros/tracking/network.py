# SPDX-License-Identifier: Apache-2.0
"""Student networks: Siamese, raw dark image in, no enhancer.

Every student takes BGR patches as float tensors with values 0..255, shape ``(N, 3, H, W)``, and
offers three calls:

``template(patch) -> tuple of tensors`` what the search branch must remember of the target; computed
    once per designation. ``search(patch, *template) -> StudentOutput`` classification and
    regression maps of the search region, and the correlation maps before the head.
    ``forward(template_patch, search_patch) -> StudentOutput`` both, for training.

``ARCHITECTURES`` maps the name stored in a checkpoint to its class. Normalisation constants are
part of the network, so that a patch goes to every student in the same form.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch's own docs use


class StudentOutput(NamedTuple):
    """Maps of one search region, ``K`` candidates a cell and ``S x S`` cells.

    classification: ``(N, 2K, S, S)`` logits, background channels first, then foreground.
    regression: ``(N, 4K, S, S)``; its meaning is the box coder's (``geometry.PointCoder``,
        ``AnchorCoder``, ``CentreCoder``).
    correlation: the maps after correlation and before the head, one ``(N, C, S, S)`` tensor a
        branch (classification, regression, or one for both): what the correlation-map losses of
        MLKD compare.
    """

    classification: Tensor
    regression: Tensor
    correlation: tuple[Tensor, ...]


def _conv_bn(
    inp: int,
    out: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    padding: int | None = None,
) -> nn.Sequential:
    pad = kernel // 2 if padding is None else padding
    return nn.Sequential(
        nn.Conv2d(inp, out, kernel, stride, pad, groups=groups, bias=bias), nn.BatchNorm2d(out)
    )


class SqueezeExcite(nn.Module):
    """Channel attention of MobileNetV3 (Howard et al. 2019, arXiv 1905.02244, section 5.3)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Same size, except where the stride says otherwise."""
        scale = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(scale))))


class InvertedResidual(nn.Module):
    """Expand, depth-wise convolution, squeeze-excite, project (arXiv 1905.02244, figure 4)."""

    def __init__(
        self,
        inp: int,
        hidden: int,
        out: int,
        kernel: int,
        stride: int,
        squeeze: int,
        hard_swish: bool,
    ) -> None:
        super().__init__()
        self.act = nn.Hardswish() if hard_swish else nn.ReLU()
        self.expand = _conv_bn(inp, hidden, 1) if hidden != inp else None
        self.depthwise = _conv_bn(hidden, hidden, kernel, stride, groups=hidden)
        self.squeeze = SqueezeExcite(hidden, squeeze) if squeeze else None
        self.project = _conv_bn(hidden, out, 1)
        self.residual = stride == 1 and inp == out

    def forward(self, x: Tensor) -> Tensor:
        """Same size, except where the stride says otherwise."""
        y: Tensor = x if self.expand is None else self.act(self.expand(x))
        y = self.depthwise(y)
        # The first block of MobileNetV3-small has no expansion and activates before the squeeze.
        if self.expand is None:
            y = self.act(y)
        if self.squeeze is not None:
            y = self.squeeze(y)
        if self.expand is not None:
            y = self.act(y)
        y = self.project(y)
        return x + y if self.residual else y


class MobileTrunk(nn.Module):
    """MobileNetV3-small cut at stride 16: ``(N, 3, H, W)`` to ``(N, 96, ceil(H/16),
    ceil(W/16))``.
    """

    #        input, hidden, output, kernel, stride, squeeze width, hard swish
    BLOCKS = (
        (16, 16, 16, 3, 2, 8, False),
        (16, 72, 24, 3, 2, 0, False),
        (24, 88, 24, 3, 1, 0, False),
        (24, 96, 40, 5, 2, 24, True),
        (40, 240, 40, 5, 1, 64, True),
        (40, 240, 40, 5, 1, 64, True),
        (40, 120, 48, 5, 1, 32, True),
        (48, 144, 48, 5, 1, 40, True),
        (48, 288, 96, 5, 1, 72, True),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_bn(3, 16, 3, 2)
        self.blocks = nn.Sequential(*(InvertedResidual(*spec) for spec in self.BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        """Same size, except where the stride says otherwise."""
        features: Tensor = self.blocks(F.hardswish(self.stem(x)))
        return features


class ChannelAttention(nn.Module):
    """Weighs the 64 template positions of a pixel-wise correlation (Alpha-Refine, arXiv
    2012.06815).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels, 1)
        self.expand = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Same size, except where the stride says otherwise."""
        scale = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(F.relu(self.reduce(scale))))


def depthwise_correlation(search: Tensor, kernel: Tensor, padding: int = 0) -> Tensor:
    """Channel-by-channel cross-correlation of each sample with its own kernel (SiamRPN++, arXiv
    1812.11703).

    search ``(N, C, H, W)``, kernel ``(N, C, h, w)``; returns ``(N, C, H + 2 padding - h + 1,
    ...)``. Written as h * w shifted products: a convolution whose weights are the template would
    need grouped weights known only at run time, which TensorRT and a batch of several targets do
    not take.
    """
    height = search.shape[2] + 2 * padding - kernel.shape[2] + 1
    width = search.shape[3] + 2 * padding - kernel.shape[3] + 1
    padded = F.pad(search, (padding,) * 4) if padding else search
    total = padded[:, :, :height, :width] * kernel[:, :, :1, :1]
    for i in range(kernel.shape[2]):
        for j in range(kernel.shape[3]):
            if i or j:
                shifted = padded[:, :, i : i + height, j : j + width]
                total = total + shifted * kernel[:, :, i : i + 1, j : j + 1]
    return total


class CorrelationBranch(nn.Module):
    """Pixel-wise and depth-wise correlation of template and search features, merged to ``channels``
    maps.

    Pixel-wise: every one of the 8 x 8 template positions is a 1 x 1 kernel (64 maps). Depth-wise:
    the template's central 4 x 4 positions are one kernel a channel. Both end on the same 15 x 15
    grid for 16 x 16 search features.
    """

    CENTRE = slice(2, 6)

    def __init__(self, channels: int = 96, positions: int = 64) -> None:
        super().__init__()
        self.pixel_template = _conv_bn(channels, channels, 1, bias=True)
        self.pixel_search = _conv_bn(channels, channels, 1, bias=True)
        self.attention = ChannelAttention(positions)
        self.pixel_depthwise = _conv_bn(positions, positions, 2, groups=positions, padding=0)
        self.pixel_project = _conv_bn(positions, positions, 1, bias=True)
        self.depthwise_template = _conv_bn(channels, channels, 1, bias=True)
        self.depthwise_search = _conv_bn(channels, channels, 1, bias=True)
        self.merge = nn.Conv2d(channels + positions, channels, 1)

    def template(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Kernels of a template: ``(N, 64, C)`` pixel-wise and ``(N, C, 4, 4)`` depth-wise."""
        pixel = self.pixel_template(features).flatten(2).transpose(1, 2)
        depthwise = self.depthwise_template(features[:, :, self.CENTRE, self.CENTRE])
        return pixel, depthwise

    def forward(self, features: Tensor, pixel: Tensor, depthwise: Tensor) -> Tensor:
        """Correlation maps ``(N, C, 15, 15)`` of search features and the two kernels."""
        query = self.pixel_search(features)
        n, _, height, width = query.shape
        maps = torch.bmm(pixel, query.flatten(2)).reshape(n, -1, height, width)
        maps = F.relu6(self.pixel_depthwise(self.attention(maps)))
        maps = self.pixel_project(maps)
        correlated = depthwise_correlation(self.depthwise_search(features), depthwise, padding=1)
        merged: Tensor = self.merge(torch.cat((maps, correlated), 1))
        return merged


class SeparableTower(nn.Sequential):
    """``depth`` depth-wise separable 3 x 3 convolutions, activated (ReLU6) between depth-wise and
    point-wise.
    """

    def __init__(self, channels: int, depth: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [
                _conv_bn(channels, channels, 3, groups=channels),
                nn.ReLU6(),
                _conv_bn(channels, channels, 1),
            ]
        super().__init__(*layers)


class PointTracker(nn.Module):
    """Trunk of 96 channels, two correlations, anchor-free head.

    Regression is the distance (left, top, right, bottom) from the cell's point to the box sides in
    search-patch pixels, always positive.
    """

    template_size = 127
    search_size = 255
    near_size: int
    cells: int
    stride: int
    coder = "point"
    template_outputs = ("pixel_cls", "depthwise_cls", "pixel_reg", "depthwise_reg")

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.cls_correlation = CorrelationBranch()
        self.reg_correlation = CorrelationBranch()
        self.cls_tower = SeparableTower(96, 6)
        self.reg_tower = SeparableTower(96, 6)
        self.cls_head = nn.Conv2d(96, 2, 1)
        self.reg_head = nn.Conv2d(96, 4, 1)

    def template_features(self, patch: Tensor) -> Tensor:
        """The 8 x 8 positions that are correlated with, ``(N, 96, 8, 8)``."""
        features: Tensor = self.trunk(patch)
        return features

    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        """Features of ``(N, 3, T, T)`` target patches, in the order of ``template_outputs``."""
        features = self.template_features(patch)
        return (*self.cls_correlation.template(features), *self.reg_correlation.template(features))

    def search(self, patch: Tensor, *template: Tensor) -> StudentOutput:
        """Maps of ``(N, 3, S, S)`` search regions for as many templates."""
        features = self.trunk(patch)
        cls_map = self.cls_correlation(features, template[0], template[1])
        reg_map = self.reg_correlation(features, template[2], template[3])
        classification = self.cls_head(self.cls_tower(cls_map))
        regression = torch.exp(self.reg_head(self.reg_tower(reg_map)))
        return StudentOutput(classification, regression, (cls_map, reg_map))

    def forward(self, template_patch: Tensor, search_patch: Tensor) -> StudentOutput:
        """Both branches at once, for training."""
        return self.search(search_patch, *self.template(template_patch))


class MobileStudent(PointTracker):
    """The flying student: MobileNetV3-small trunk at stride 16.

    Template 127 x 127, search 255 x 255, 15 x 15 cells, or 159 x 159 and 9 x 9 cells near the place
    where the target is expected. Shaped so that the published NanoTrackV3
    weights (HonglinChu/SiamTrackers, Apache-2.0) can start it, see ``distillation.nanotrack``.
    """

    near_size = 159
    cells = 15
    stride = 16

    def __init__(self) -> None:
        super().__init__(MobileTrunk())


class Bottleneck(nn.Module):
    """Expand, depth-wise convolution, project linearly (MobileNetV2, arXiv 1801.04381), with batch
    norms already folded.
    """

    def __init__(self, inp: int, expansion: int, out: int, stride: int, dilation: int) -> None:
        super().__init__()
        hidden = inp * expansion
        self.expand = nn.Conv2d(inp, hidden, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, dilation, dilation, groups=hidden)
        self.project = nn.Conv2d(hidden, out, 1)
        self.residual = stride == 1 and inp == out

    def forward(self, x: Tensor) -> Tensor:
        """Same size, except where the stride says otherwise."""
        y: Tensor = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class MobileNetV2Trunk(nn.Module):
    """MobileNetV2 up to its 13th block, dilated from stride 16 to 8: ``(N, 3, H, W)`` to
    ``(N, 96, ceil(H/8), ceil(W/8))``.
    """

    #        input, expansion, output, stride, dilation
    BLOCKS = (
        (32, 1, 16, 1, 1),
        (16, 6, 24, 2, 1),
        (24, 6, 24, 1, 1),
        (24, 6, 32, 2, 1),
        (32, 6, 32, 1, 1),
        (32, 6, 32, 1, 1),
        (32, 6, 64, 1, 1),  # a stride of 2 in a classifier
        *((64, 6, 64, 1, 2),) * 3,
        (64, 6, 96, 1, 2),
        *((96, 6, 96, 1, 2),) * 2,
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        self.blocks = nn.Sequential(*(Bottleneck(*spec) for spec in self.BLOCKS))

    def normalised(self, x: Tensor) -> Tensor:
        """Values 0..255 as the weights expect them."""
        return x / 127.5 - 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Same size, except where the stride says otherwise."""
        features: Tensor = self.blocks(F.relu6(self.stem(self.normalised(x))))
        return features


class MobileNetV2Tracker(PointTracker):
    """A larger tracker on a finer grid, to teach: MobileNetV2 trunk at stride 8, ten times the
    student's multiplications.

    Template 127 x 127 (its middle 64 x 64 pixels are correlated with), search 255 x 255, 31 x 31
    cells. An ImageNet backbone can start it, see ``distillation.imagenet``.
    """

    near_size = 0
    cells = 31
    stride = 8

    def __init__(self) -> None:
        super().__init__(MobileNetV2Trunk())
        # Boxes of 64 x 64 pixels to begin with: from 2 x 2 the IoU loss hardly has a gradient.
        nn.init.constant_(self.reg_head.bias, math.log(32.0))  # type: ignore[arg-type]

    def template_features(self, patch: Tensor) -> Tensor:
        """The middle 8 x 8 of 16 x 16 positions."""
        features: Tensor = self.trunk(patch)
        return features[:, :, 4:12, 4:12]


class CoarseMobileNetV2Trunk(MobileNetV2Trunk):
    """MobileNetV2 up to its 13th block with the strides of a classifier, ``(N, 3, H, W)`` to
    ``(N, 96, ceil(H/16), ceil(W/16))``; ImageNet's mean and deviation are part of it.
    """

    BLOCKS = (
        (32, 1, 16, 1, 1),
        (16, 6, 24, 2, 1),
        (24, 6, 24, 1, 1),
        (24, 6, 32, 2, 1),
        *((32, 6, 32, 1, 1),) * 2,
        (32, 6, 64, 2, 1),
        *((64, 6, 64, 1, 1),) * 3,
        (64, 6, 96, 1, 1),
        *((96, 6, 96, 1, 1),) * 2,
    )
    mean: Tensor
    deviation: Tensor
    #: Of blue, green and red, 0..1.
    MEAN = (0.406, 0.456, 0.485)
    DEVIATION = (0.225, 0.224, 0.229)

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", self.MEAN), ("deviation", self.DEVIATION)):
            constant = torch.tensor(values)[:, None, None] * 255.0
            self.register_buffer(name, constant, persistent=False)

    def normalised(self, x: Tensor) -> Tensor:
        """Values 0..255 as the weights expect them. Not folded into the first convolution, whose
        zero padding is the mean colour.
        """
        return (x - self.mean) / self.deviation


class PixelCorrelation(nn.Module):
    """Pixel-wise correlation mixed to ``channels`` maps, with the search features beside them
    (LightFC, arXiv 2310.05392, section 3.2, its parallel branches in one convolution).

    Every one of the 8 x 8 template positions is a 1 x 1 kernel, on features as they are.
    """

    def __init__(self, channels: int = 96, positions: int = 64) -> None:
        super().__init__()
        self.attention = ChannelAttention(positions)
        self.mix = nn.Conv2d(positions, positions, 3, padding=1, groups=positions)
        self.widen = nn.Conv2d(positions, 2 * positions, 1)
        self.narrow = nn.Conv2d(2 * positions, positions, 1)
        self.project = nn.Conv2d(positions, channels, 1)

    def forward(self, features: Tensor, template: Tensor) -> Tensor:
        """Maps ``(N, 96, S, S)`` of search features ``(N, 96, S, S)`` and those of a template,
        ``(N, 96, 8, 8)``.
        """
        height, width = features.shape[2:]
        maps = torch.bmm(template.flatten(2).transpose(1, 2), features.flatten(2))
        return self.mixed(maps.reshape(len(features), -1, height, width))

    def mixed(self, maps: Tensor) -> Tensor:
        """From correlations ``(N, 64, S, S)`` to maps ``(N, 96, S, S)``."""
        maps = self.mix(self.attention(maps))
        maps = maps + self.narrow(F.gelu(self.widen(maps)))
        projected: Tensor = self.project(maps)
        return projected


class CentreTower(nn.Module):
    """Four 3 x 3 convolutions, squeeze-excite after the first, and a 1 x 1 convolution to
    ``outputs`` maps.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        widths = (channels, 256, 128, 64, 32)
        self.layers = nn.ModuleList(
            nn.Conv2d(inp, out, 3, padding=1)
            for inp, out in zip(widths[:-1], widths[1:], strict=True)
        )
        self.reduce = nn.Conv2d(widths[1], widths[1] // 4, 1)
        self.expand = nn.Conv2d(widths[1] // 4, widths[1], 1)
        self.out = nn.Conv2d(widths[-1], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, outputs, S, S)`` before their activation."""
        return self.rest(F.relu(self.layers[0](x)))

    def rest(self, x: Tensor) -> Tensor:
        """What follows the first convolution, ``(N, 256, S, S)``."""
        scale = F.adaptive_avg_pool2d(x, 1)
        x = x * torch.sigmoid(self.expand(F.relu(self.reduce(scale))))
        for layer in self.layers[1:]:
            x = F.relu(layer(x))
        out: Tensor = self.out(x)
        return out


class CentreTracker(nn.Module):
    """The accurate student: MobileNetV2 trunk at stride 16, pixel-wise correlation, centre head.

    Template 128 x 128 at twice the target's side, search 256 x 256 at four times, 16 x 16 cells, or
    160 x 160 and 10 x 10 cells near the place where the target is expected. Every cell says whether
    the target's centre is in it, where in it, and how large the target is (CenterNet, arXiv
    1904.07850): regression is ``(w, h)`` as parts of 256 pixels and ``(dx, dy)``, the centre's
    distance from the cell's left and upper side in cells. Background logits are 0.

    The structure is LightFC's (arXiv 2310.05392), so that its published weights can start it, see
    ``distillation.lightfc``; there are no batch norms, for they are folded in what is published.
    Its weights ship in half precision, which changes scores by less than 1e-3.
    """

    half_weights = True

    template_size = 128
    search_size = 256
    near_size = 160
    cells = 16
    stride = 16
    coder = "centre"
    template_outputs = ("features",)

    def __init__(self) -> None:
        super().__init__()
        self.trunk = CoarseMobileNetV2Trunk()
        self.correlation = PixelCorrelation()
        self.score = CentreTower(192, 1)
        self.size = CentreTower(192, 2)
        self.offset = CentreTower(192, 2)

    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        """Features ``(N, 96, 8, 8)`` of ``(N, 3, T, T)`` target patches."""
        return (self.trunk(patch),)

    def search(self, patch: Tensor, *template: Tensor) -> StudentOutput:
        """Maps of ``(N, 3, S, S)`` search regions for as many templates."""
        features = self.trunk(patch)
        maps = self.correlation(features, template[0])
        both = torch.cat((maps, features), 1)
        score = self.score(both)
        regression = torch.cat((torch.sigmoid(self.size(both)), self.offset(both)), 1)
        return StudentOutput(torch.cat((score * 0.0, score), 1), regression, (maps,))

    def forward(self, template_patch: Tensor, search_patch: Tensor) -> StudentOutput:
        """Both branches at once, for training."""
        return self.search(search_patch, *self.template(template_patch))


class AlexNetTrunk(nn.Sequential):
    """The padding-free AlexNet of SiamRPN++ (arXiv 1812.11703): stride 8, 256 channels; 127 to 6,
    287 to 26 cells.
    """

    def __init__(self) -> None:
        super().__init__(
            *_conv_bn(3, 96, 11, 2, bias=True, padding=0),
            nn.MaxPool2d(3, 2),
            nn.ReLU(),
            *_conv_bn(96, 256, 5, bias=True, padding=0),
            nn.MaxPool2d(3, 2),
            nn.ReLU(),
            *_conv_bn(256, 384, 3, bias=True, padding=0),
            nn.ReLU(),
            *_conv_bn(384, 384, 3, bias=True, padding=0),
            nn.ReLU(),
            *_conv_bn(384, 256, 3, bias=True, padding=0),
        )


class RpnBranch(nn.Module):
    """One branch of the depth-wise RPN head (arXiv 1812.11703, section 3.3)."""

    def __init__(self, outputs: int, channels: int = 256) -> None:
        super().__init__()
        self.kernel = nn.Sequential(*_conv_bn(channels, channels, 3, padding=0), nn.ReLU())
        self.query = nn.Sequential(*_conv_bn(channels, channels, 3, padding=0), nn.ReLU())
        self.head = nn.Sequential(
            *_conv_bn(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, outputs, 1)
        )

    def forward(self, features: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """The branch's map and the correlation behind it."""
        correlation = depthwise_correlation(self.query(features), kernel)
        return self.head(correlation), correlation


class AlexNetStudent(nn.Module):
    """The paper's reference student: AlexNet, depth-wise correlation, RPN with 5 anchors (arXiv
    2312.07884).

    Template 127 x 127, search 287 x 287 in flight (21 x 21 cells of stride 8), 255 x 255 in
    training (17 x 17). Regression is (dx, dy, dw, dh) of each anchor in the usual log encoding
    (Faster R-CNN, arXiv 1506.01497).
    """

    template_size = 127
    search_size = 287
    near_size = 0
    cells = 21
    stride = 8
    coder = "anchor"
    anchor_ratios = (0.33, 0.5, 1.0, 2.0, 3.0)
    anchor_scale = 8
    template_outputs = ("kernel_cls", "kernel_reg")

    def __init__(self) -> None:
        super().__init__()
        anchors = len(self.anchor_ratios)
        self.trunk = AlexNetTrunk()
        self.cls_branch = RpnBranch(2 * anchors)
        self.reg_branch = RpnBranch(4 * anchors)

    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        """Features of ``(N, 3, T, T)`` target patches, in the order of ``template_outputs``."""
        features = self.trunk(patch)
        return self.cls_branch.kernel(features), self.reg_branch.kernel(features)

    def search(self, patch: Tensor, *template: Tensor) -> StudentOutput:
        """Maps of ``(N, 3, S, S)`` search regions for as many templates."""
        features = self.trunk(patch)
        classification, cls_map = self.cls_branch(features, template[0])
        regression, reg_map = self.reg_branch(features, template[1])
        return StudentOutput(classification, regression, (cls_map, reg_map))

    def forward(self, template_patch: Tensor, search_patch: Tensor) -> StudentOutput:
        """Both branches at once, for training."""
        return self.search(search_patch, *self.template(template_patch))


ARCHITECTURES: dict[str, type[nn.Module]] = {
    "mobile_s16": MobileStudent,
    "alexnet_rpn": AlexNetStudent,
    "mobilenetv2_s8": MobileNetV2Tracker,
    "lightfc_s16": CentreTracker,
}


def build_student(architecture: str) -> nn.Module:
    """A student with random weights. ValueError when the name is not one of ``ARCHITECTURES``."""
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {architecture!r}: known are {', '.join(sorted(ARCHITECTURES))}"
        )
    return ARCHITECTURES[architecture]()


def fuse_batch_norm(module: nn.Module) -> nn.Module:
    """Fold every conv + batch-norm pair of an eval-mode network into the convolution, in place;
    returns it.
    """
    for child in module.children():
        fuse_batch_norm(child)
    if isinstance(module, nn.Sequential):
        names = list(module._modules)
        for first, second in zip(names, names[1:], strict=False):
            conv, norm = module._modules[first], module._modules[second]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module._modules[first] = nn.utils.fuse_conv_bn_eval(conv, norm)
                module._modules[second] = nn.Identity()
    return module
