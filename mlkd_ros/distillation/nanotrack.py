# SPDX-License-Identifier: Apache-2.0
"""Start of the students: published NanoTrackV3 weights, renamed for ``MobileStudent``.

NanoTrackV3 (HonglinChu/SiamTrackers, Apache-2.0) is a daytime tracker. The paper's students start
from their own daytime tracker as well (arXiv 2312.07884, section IV); only names differ here, no
value is changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..tracking.network import MobileStudent
from .published import read_state_dict

_BLOCK_PARTS_EXPANDED = {
    "0": "expand.0",
    "1": "expand.1",
    "3": "depthwise.0",
    "4": "depthwise.1",
    "7": "project.0",
    "8": "project.1",
    "5.fc.0": "squeeze.reduce",
    "5.fc.2": "squeeze.expand",
}
_BLOCK_PARTS_PLAIN = {
    "0": "depthwise.0",
    "1": "depthwise.1",
    "3.fc.0": "squeeze.reduce",
    "3.fc.2": "squeeze.expand",
    "4": "project.0",
    "5": "project.1",
}
_CORRELATION_PARTS = {
    "corr_pw_{b}.conv_kernel": "pixel_template",
    "corr_pw_{b}.conv_search": "pixel_search",
    "corr_pw_{b}.CA_layer.fc1": "attention.reduce",
    "corr_pw_{b}.CA_layer.fc2": "attention.expand",
    "corr_pw_{b}.conv.0": "pixel_depthwise.0",
    "corr_pw_{b}.conv.1": "pixel_depthwise.1",
    "corr_pw_{b}.conv.3": "pixel_project.0",
    "corr_pw_{b}.conv.4": "pixel_project.1",
    "corr_dw_{b}.conv_kernel": "depthwise_template",
    "corr_dw_{b}.conv_search": "depthwise_search",
    "down_{b}.0": "merge",
}


def _prefixes() -> dict[str, str]:
    """Published module prefix -> our module prefix."""
    table = {
        "backbone.features.0.0": "trunk.stem.0",
        "backbone.features.0.1": "trunk.stem.1",
        "ban_head.cls_logits.0": "cls_head",
        "ban_head.bbox_pred.0": "reg_head",
    }
    for block in range(9):
        parts = _BLOCK_PARTS_PLAIN if block == 0 else _BLOCK_PARTS_EXPANDED
        for theirs, ours in parts.items():
            table[f"backbone.features.{block + 1}.conv.{theirs}"] = f"trunk.blocks.{block}.{ours}"
    for branch in ("cls", "reg"):
        for theirs, ours in _CORRELATION_PARTS.items():
            table["ban_head." + theirs.format(b=branch)] = f"{branch}_correlation.{ours}"
        tower = "cls_tower" if branch == "cls" else "bbox_tower"
        for layer in range(6):
            for number, index, part in ((0, 0, 0), (1, 0, 1), (3, 2, 0), (4, 2, 1)):
                ours = f"{branch}_tower.{3 * layer + index}.{part}"
                table[f"ban_head.{tower}.{5 * layer + number}"] = ours
    return table


def rename_nanotrack_v3(
    published: dict[str, Tensor], file: str = "state dict"
) -> dict[str, Tensor]:
    """State dict for ``MobileStudent`` from a NanoTrackV3 one.

    ValueError names the first key that does not fit.
    """
    wanted = MobileStudent().state_dict()
    # Longest first: "...conv_kernel" must not swallow a longer published prefix.
    prefixes = sorted(_prefixes().items(), key=lambda item: -len(item[0]))
    renamed: dict[str, Tensor] = {}
    for key, value in published.items():
        match = next((pair for pair in prefixes if key.startswith(pair[0] + ".")), None)
        if match is None:
            continue  # the daytime training's neck and optimiser leftovers
        name = match[1] + key[len(match[0]) :]
        if name not in wanted or wanted[name].numel() != value.numel():
            shape = tuple(value.shape)
            raise ValueError(f"{file}: {key} {shape} does not fit NanoTrackV3's layout")
        renamed[name] = value.reshape(wanted[name].shape)
    missing = sorted(set(wanted) - set(renamed))
    if missing:
        raise ValueError(
            f"{file}: no NanoTrackV3 weights for {missing[0]} (and {len(missing) - 1} more)"
        )
    return renamed


def load_nanotrack_v3(path: str | Path) -> MobileStudent:
    """A ``MobileStudent`` in eval mode with the weights of a published ``nanotrackv3.pth``.

    CheckpointError or ValueError names a file that is something else.
    """
    # The file also holds a NumPy scalar of its optimiser; nothing else may be unpickled from it.
    scalar = np.dtype(np.float64).type(0).__reduce__()[0]
    types = [type(np.dtype(kind)) for kind in (np.float64, np.float32)]
    harmless: list[Any] = [(scalar, "numpy.core.multiarray.scalar"), np.dtype, *types]
    content = read_state_dict(Path(path), harmless)
    student = MobileStudent()
    student.load_state_dict(rename_nanotrack_v3(content.get("state_dict", content), str(path)))
    return student.eval()
