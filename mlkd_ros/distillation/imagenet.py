# SPDX-License-Identifier: Apache-2.0
"""Start of the larger teacher: a MobileNetV2 classifier's weights, renamed for its trunk.

Taken are state dicts in torchvision's order of blocks, batch norms folded, whose input is RGB from
-1 to 1 (as of google-coral/test_data, Apache-2.0, converted).
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..tracking.checkpoint import CheckpointError
from ..tracking.network import MobileNetV2Tracker, MobileNetV2Trunk
from .published import read_state_dict


def _names() -> dict[str, str]:
    """Our layer's name to the published one."""
    table = {"stem": "features.0.0"}
    for block, (_, expansion, *_) in enumerate(MobileNetV2Trunk.BLOCKS):
        published = f"features.{block + 1}.conv"
        layers = ["expand", "depthwise"] if expansion > 1 else ["depthwise"]
        for number, layer in enumerate(layers):
            table[f"blocks.{block}.{layer}"] = f"{published}.{number}.0"
        table[f"blocks.{block}.project"] = f"{published}.{len(layers)}"
    return table


def load_mobilenet_v2(path: Path) -> MobileNetV2Tracker:
    """A ``MobileNetV2Tracker`` with a published trunk and random correlation and head.

    CheckpointError names a file that is something else.
    """
    published = read_state_dict(path)
    tracker = MobileNetV2Tracker()
    trunk: dict[str, Tensor] = {}
    for name, value in tracker.trunk.state_dict().items():
        layer, kind = name.rsplit(".", 1)
        key = f"{_names()[layer]}.{kind}"
        if key not in published or published[key].shape != value.shape:
            raise CheckpointError(
                f"{path}: {key} of shape {tuple(value.shape)} is not in it: a MobileNetV2 with "
                "folded batch norms has it"
            )
        trunk[name] = published[key].float()
    trunk["stem.weight"] = trunk["stem.weight"].flip(1)  # of RGB, and patches are BGR
    tracker.trunk.load_state_dict(trunk)
    return tracker
