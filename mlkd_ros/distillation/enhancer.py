# SPDX-License-Identifier: Apache-2.0
"""Low-light enhancers: light-curve networks with zero-reference losses, and plain baselines.

An enhancer takes BGR patches, float 0..255, ``(N, 3, H, W)``, and gives the same. The networks work
in RGB 0..1 inside, as published ones do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch's own docs use

from ..tracking.checkpoint import CheckpointError
from .published import read_state_dict

FORMAT = "mlkd-enhancer/1"
#: Published weights below this are denormal leftovers of weight decay, 30 times slower on a CPU.
NEGLIGIBLE = 1e-20
BASELINES = ("identity", "gamma")


class Enhancer(nn.Module):
    """Base of all enhancers; subclasses implement ``enhance`` in RGB 0..1."""

    def enhance(self, rgb: Tensor) -> Tensor:
        """Enhanced image ``(N, 3, H, W)``, about 0..1."""
        raise NotImplementedError

    def forward(self, patches: Tensor) -> Tensor:
        """BGR 0..255 float ``(N, 3, H, W)`` to the same, clamped."""
        enhanced = self.enhance(patches.flip(1) / 255.0)
        return enhanced.clamp(0.0, 1.0).flip(1) * 255.0


class IdentityEnhancer(Enhancer):
    """No enhancement: the baseline of all comparisons."""

    def enhance(self, rgb: Tensor) -> Tensor:
        """The image as it is."""
        return rgb


class GammaEnhancer(Enhancer):
    """One power curve for all pixels: ``x ** gamma``, a look-up table in flight."""

    def __init__(self, gamma: float = 0.45) -> None:
        super().__init__()
        self.gamma = gamma

    def enhance(self, rgb: Tensor) -> Tensor:
        """Brightened by the power curve."""
        return rgb.clamp(min=0.0).pow(self.gamma)


def _conv(inp: int, out: int, separable: bool, padding: str = "zeros") -> nn.Module:
    if not separable:
        return nn.Conv2d(inp, out, 3, padding=1, padding_mode=padding)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(inp, inp, 3, padding=1, groups=inp), nn.Conv2d(inp, out, 1))


class CurveNetwork(Enhancer):
    """Light curves of every pixel: ``x <- x + a x (x - 1)``, applied ``iterations`` times.

    Seven convolutions of ``channels`` maps with symmetric skips estimate the curve maps ``a`` in
    -1..1, three a time (arXiv 2001.06826, section 3). ``curves`` maps in all; fewer than three an
    iteration are used over and over (arXiv 2103.00860). Curves vary slowly over the image, so they
    are estimated on one that is ``downscale`` times smaller. ``padding`` is that of the
    convolutions: ``zeros`` as published, or ``replicate``, which leaves no dark frame.
    """

    def __init__(
        self, channels: int = 32, iterations: int = 8, downscale: int = 1,
        separable: bool = False, shared: bool = False, padding: str = "zeros",
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings = {
            "channels": channels, "iterations": iterations, "downscale": downscale,
            "separable": separable, "shared": shared, "padding": padding,
        }  # fmt: skip
        self.iterations, self.downscale = iterations, downscale
        curves = 3 if shared else 3 * iterations
        inputs = (3, channels, channels, channels, 2 * channels, 2 * channels, 2 * channels)
        outputs = (*[channels] * 6, curves)
        self.layers = nn.ModuleList(
            _conv(i, o, separable, padding) for i, o in zip(inputs, outputs, strict=True)
        )

    def estimate(self, rgb: Tensor) -> Tensor:
        """Curve maps at the size at which they are estimated, ``(N, 3 iterations, h, w)``."""
        small = F.avg_pool2d(rgb, self.downscale, ceil_mode=True) if self.downscale > 1 else rgb
        return self._layers(small)

    def curves(self, rgb: Tensor) -> Tensor:
        """Curve maps ``(N, 3 iterations, H, W)`` (or 3, shared) of an RGB image 0..1."""
        return self.enlarge(self.estimate(rgb), rgb)

    @staticmethod
    def enlarge(maps: Tensor, rgb: Tensor) -> Tensor:
        """Estimated maps at the size of the image."""
        if maps.shape[2:] == rgb.shape[2:]:
            return maps
        return F.interpolate(maps, rgb.shape[2:], mode="bilinear", align_corners=False)

    def _layers(self, x: Tensor) -> Tensor:
        one, two, three, four, five, six, seven = self.layers
        x1 = F.relu(one(x))
        x2 = F.relu(two(x1))
        x3 = F.relu(three(x2))
        x4 = F.relu(four(x3))
        x5 = F.relu(five(torch.cat((x3, x4), 1)))
        x6 = F.relu(six(torch.cat((x2, x5), 1)))
        return torch.tanh(seven(torch.cat((x1, x6), 1)))

    def apply_curves(self, rgb: Tensor, curves: Tensor) -> Tensor:
        """The image after all iterations."""
        for iteration in range(self.iterations):
            first = 3 * iteration % curves.shape[1]
            rgb = rgb + curves[:, first : first + 3] * (rgb * rgb - rgb)
        return rgb

    def enhance(self, rgb: Tensor) -> Tensor:
        """The image through its own curves."""
        return self.apply_curves(rgb, self.curves(rgb))


class DarkLighterNetwork(Enhancer):
    """Published DarkLighter (Ye et al., IROS 2021): ``x <- (x - noise) (gain + 1)``, 8 times.

    Kept for comparison with published weights; we train ``CurveNetwork``.
    """

    def __init__(self, channels: int = 32, iterations: int = 8) -> None:
        super().__init__()
        inputs = (3, channels, 2 * channels, 2 * channels, 2 * channels)
        self.layers = nn.ModuleList(_conv(i, channels, False) for i in inputs)
        self.gain = _conv(2 * channels, iterations, False)
        self.noise = _conv(2 * channels, iterations, False)

    def enhance(self, rgb: Tensor) -> Tensor:
        """The image, noise removed and light raised step by step."""
        one, two, three, four, five = self.layers
        x1 = F.relu(one(rgb))
        x2 = F.relu(two(x1))
        x3 = F.relu(three(torch.cat((x1, x2), 1)))
        x4 = F.relu(four(torch.cat((x2, x3), 1)))
        both = torch.cat((x4, F.relu(five(torch.cat((x3, x4), 1)))), 1)
        gains, noises = torch.tanh(self.gain(both)), torch.tanh(self.noise(both))
        for gain, noise in zip(gains.split(1, 1), noises.split(1, 1), strict=True):
            rgb = (rgb - noise) * (gain + 1.0)
        return rgb


# ------------------------------------------ zero-reference losses, equations of arXiv 2001.06826


def exposure_loss(enhanced: Tensor, level: float) -> Tensor:
    """Squared difference of 16 x 16 regions' mean brightness from ``level`` (eq. 6)."""
    regions = F.avg_pool2d(enhanced.mean(1, keepdim=True), 16)
    return (regions - level).square().mean()


def colour_loss(enhanced: Tensor) -> Tensor:
    """Colour constancy: root of the summed fourth powers of differences of the channel means.

    Grey-world: red, green and blue of an image should average alike (eq. 7).
    """
    red, green, blue = enhanced.mean((2, 3)).unbind(1)
    differences = torch.stack((red - green, red - blue, green - blue))
    return differences.square().square().sum(0).add(1e-12).sqrt().mean()


def spatial_consistency_loss(enhanced: Tensor, image: Tensor) -> Tensor:
    """Squared change of the differences between neighbouring 4 x 4 regions (eq. 5)."""
    after = F.avg_pool2d(enhanced.mean(1, keepdim=True), 4)
    before = F.avg_pool2d(image.mean(1, keepdim=True), 4)
    change = after - before
    across, down = change.diff(dim=3).square(), change.diff(dim=2).square()
    return 2.0 * (across.mean() + down.mean())  # each edge belongs to two regions


def smoothness_loss(curves: Tensor) -> Tensor:
    """Total variation of the curve maps, as they were estimated: neighbours get similar curves
    (eq. 8).
    """
    return 2.0 * (curves.diff(dim=3).square().mean() + curves.diff(dim=2).square().mean())


def zero_reference_losses(network: CurveNetwork, rgb: Tensor, level: float) -> dict[str, Tensor]:
    """The four losses of a batch of RGB images 0..1; no reference image is needed."""
    maps = network.estimate(rgb)
    enhanced = network.apply_curves(rgb, network.enlarge(maps, rgb))
    return {
        "exposure": exposure_loss(enhanced, level),
        "colour": colour_loss(enhanced),
        "spatial": spatial_consistency_loss(enhanced, rgb),
        "smoothness": smoothness_loss(maps),
    }


# ------------------------------------------------------------------------------- load and save


def save_enhancer(network: CurveNetwork, path: Path, provenance: Mapping[str, Any]) -> None:
    """Write a trained curve network as safetensors, its settings in the header."""
    from safetensors.torch import save_file

    header = {
        "format": FORMAT, "settings": json.dumps(network.settings),
        "provenance": json.dumps(dict(provenance)),
    }  # fmt: skip
    partial = path.with_name(path.name + ".part")
    weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    save_file(weights, str(partial), metadata=header)
    partial.replace(path)


def _load_ours(path: Path) -> Enhancer:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format is {header.get('format')!r}, not {FORMAT!r}")
    network = CurveNetwork(**json.loads(header["settings"]))
    return _with_weights(network, weights, path)


def _published_names(weights: Mapping[str, Tensor]) -> tuple[Enhancer, dict[str, str]]:
    """The network that a published state dict fits, and our names of its modules."""
    names = {f"e_conv{i}": f"layers.{i - 1}" for i in range(1, 8)}
    if "e_conv8.weight" in weights:
        names |= {"e_conv7": "gain", "e_conv8": "noise"}
        return DarkLighterNetwork(), names
    if "e_conv1.point_conv.weight" in weights:
        parts = {"depth_conv": "0", "point_conv": "1"}
        names = {f"{k}.{p}": f"{v}.{i}" for k, v in names.items() for p, i in parts.items()}
        return CurveNetwork(separable=True, shared=True), names
    return CurveNetwork(), names


def _load_published(path: Path) -> Enhancer:
    content = read_state_dict(path)
    network, names = _published_names(content)
    weights = {}
    for key, value in content.items():
        module, _, kind = key.removeprefix("module.").rpartition(".")
        if module not in names:
            raise CheckpointError(f"{path}: {key} is of no enhancer known here")
        weights[f"{names[module]}.{kind}"] = value.masked_fill(value.abs() < NEGLIGIBLE, 0.0)
    return _with_weights(network, weights, path)


def _with_weights(network: Enhancer, weights: Mapping[str, Tensor], path: Path) -> Enhancer:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not the weights of this enhancer: {error}") from error
    return network.eval().requires_grad_(False)


def load_enhancer(specification: str | Path, downscale: int | None = None) -> Enhancer:
    """An enhancer in eval mode: ``identity``, ``gamma``, ``gamma:0.4``, a file, ``FILE:12``.

    A file is our ``.safetensors``, or a published state dict of Zero-DCE, Zero-DCE++ or
    DarkLighter. ``downscale``, or the number behind the file, replaces a curve network's own
    (state dicts do not hold one and get 1, which costs a CPU 0.3 s a patch; Zero-DCE++ is meant
    for 12, arXiv 2103.00860). CheckpointError or ValueError names what cannot be used.
    """
    name, _, argument = str(specification).partition(":")
    if name == "identity":
        return IdentityEnhancer().eval()
    if name == "gamma":
        gamma = float(argument or 0.45)
        if not math.isfinite(gamma) or gamma <= 0:
            raise ValueError(f"{specification}: gamma must be a positive number")
        return GammaEnhancer(gamma).eval()
    path, given = enhancer_file(specification)
    downscale = given if downscale is None else downscale
    if not path.is_file():
        raise CheckpointError(f"{path}: no such enhancer file (or one of {', '.join(BASELINES)})")
    network = _load_ours(path) if path.suffix == ".safetensors" else _load_published(path)
    if downscale is not None:
        if not isinstance(network, CurveNetwork):
            raise ValueError(f"{path}: only curve networks can work on a smaller image")
        network.downscale = downscale
        network.settings["downscale"] = downscale
    return network


def enhancer_file(specification: str | Path) -> tuple[Path, int | None]:
    """The file of ``FILE`` or ``FILE:DOWNSCALE``, and the number."""
    name, colon, number = str(specification).rpartition(":")
    if colon and number.isdigit() and int(number) > 0:
        return Path(name), int(number)
    return Path(specification), None


def enhance_image(enhancer: Enhancer, image: np.ndarray) -> np.ndarray:
    """One ``(H, W, 3)`` uint8 BGR image through an enhancer, to the same."""
    device = next((p.device for p in enhancer.parameters()), torch.device("cpu"))
    patch = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None]
    with torch.inference_mode():
        enhanced = enhancer(patch.float())
    result: np.ndarray = enhanced[0].permute(1, 2, 0).round().byte().cpu().numpy()
    return np.ascontiguousarray(result)
