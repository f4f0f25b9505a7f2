# SPDX-License-Identifier: Apache-2.0
"""Start of the accurate student: published LightFC weights, read from its ONNX graphs.

LightFC (Li et al., arXiv 2310.05392; LiYunfengLYF/LightFC, MIT) is a daytime tracker. The graphs
are ``lightfc_template.onnx`` and ``lightfc_search.onnx``, in one folder: RGB / 255 with ImageNet's
mean and deviation in, maps ``score_map``, ``size_map`` and ``offset_map`` out. No value is changed,
but the three parallel branches of the mixing block are added up, and the first convolution takes
blue first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..tracking.checkpoint import CheckpointError
from ..tracking.network import CentreTracker, CoarseMobileNetV2Trunk

#: Operator set of the published graphs; another one may mean other operators.
OPSET = 20
TEMPLATE, SEARCH = "lightfc_template.onnx", "lightfc_search.onnx"
_OUTPUTS = {TEMPLATE: ("features",), SEARCH: ("score_map", "size_map", "offset_map")}


def read_graph(path: Path) -> dict[str, np.ndarray]:
    """The initialisers of a published graph.

    CheckpointError names a file that is missing, is no ONNX graph, is of another operator set or
    has other outputs. ImportError without the package ``onnx`` (``mlkd_ros[train]``).
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        model = onnx.load(path)
    except DecodeError as error:
        raise CheckpointError(f"{path}: not an ONNX graph") from error
    opsets = {item.domain or "ai.onnx": item.version for item in model.opset_import}
    if opsets != {"ai.onnx": OPSET}:
        found = ", ".join(f"{domain} {version}" for domain, version in opsets.items()) or "none"
        raise CheckpointError(f"{path}: operator set is {found}; LightFC's graphs have {OPSET}")
    outputs = tuple(item.name for item in model.graph.output)
    expected = _OUTPUTS[SEARCH if "search" in path.stem else TEMPLATE]
    if outputs != expected:
        raise CheckpointError(
            f"{path}: outputs are {', '.join(outputs)}; LightFC's graph has {', '.join(expected)}"
        )
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def _names() -> dict[str, str]:
    """Our layer to the published one."""
    table = {"trunk.stem": "backbone.convclip_0"}
    activated, plain = 0, 1
    for block, (_, expansion, *_) in enumerate(CoarseMobileNetV2Trunk.BLOCKS):
        ours = f"trunk.blocks.{block}"
        if expansion > 1:
            activated += 1
            table[f"{ours}.expand"] = f"backbone.convclip_{activated}"
        table[f"{ours}.depthwise"] = f"backbone.convdwclip_{activated}"
        table[f"{ours}.project"] = f"backbone.conv_{plain}"
        plain += 2
    table |= {
        "correlation.attention.reduce": "fusion.convrelu_0",
        "correlation.attention.expand": "fusion.convsigmoid_1",
        "correlation.mix": "fusion.convdw_16",
        "correlation.widen": "fusion.conv_2",
        "correlation.narrow": "fusion.conv_3",
        "correlation.project": "fusion.conv_4",
    }
    for tower, last in (("score", "convsigmoid"), ("size", "convsigmoid"), ("offset", "conv")):
        table |= {
            f"{tower}.layers.{layer}": f"{tower}.convrelu_{published}"
            for layer, published in enumerate((0, 2, 3, 4))
        }
        table[f"{tower}.reduce"] = f"{tower}.convrelu_1"
        table[f"{tower}.expand"] = f"{tower}.convsigmoid_5"
        table[f"{tower}.out"] = f"{tower}.{last}_6"
    return table


def _taken(
    published: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], file: str
) -> Tensor:
    """An initialiser. CheckpointError when it is missing or of another shape."""
    value = published.get(name)
    if value is None or value.shape != shape:
        found = "missing" if value is None else f"of shape {value.shape}"
        raise CheckpointError(f"{file}: {name} is {found}; LightFC's graph has one of {shape}")
    return torch.from_numpy(np.array(value, np.float32))


def rename_lightfc(published: Mapping[str, np.ndarray], file: str = "LightFC") -> dict[str, Tensor]:
    """State dict for ``CentreTracker`` from the initialisers of LightFC's search graph.

    CheckpointError names ``file`` and the first initialiser that is missing or of another shape.
    """
    table = _names()
    renamed: dict[str, Tensor] = {}
    for name, ours in CentreTracker().state_dict().items():
        layer, kind = name.rsplit(".", 1)
        key = f"{table[layer]}.{kind}"
        renamed[name] = _taken(published, key, tuple(ours.shape), file)
    renamed["trunk.stem.weight"] = renamed["trunk.stem.weight"].flip(1)  # of RGB; patches are BGR
    # maps + 1 x 1 + 3 x 3 convolution of each map: one 3 x 3 convolution.
    mix = renamed["correlation.mix.weight"]
    mix[:, :, 1:2, 1:2] += 1.0 + _taken(
        published, "fusion.convdw_15.weight", (len(mix), 1, 1, 1), file
    )
    renamed["correlation.mix.bias"] += _taken(published, "fusion.convdw_15.bias", (len(mix),), file)
    return renamed


def load_lightfc(folder: str | Path) -> CentreTracker:
    """A ``CentreTracker`` in eval mode with the weights of the published graphs in ``folder``, or
    beside the file ``folder``, one of them.

    CheckpointError names the file that is missing or something else, or a trunk that differs
    between the two.
    """
    folder = Path(folder)
    if not folder.is_dir():
        folder = folder.parent
    search = read_graph(folder / SEARCH)
    for name, value in read_graph(folder / TEMPLATE).items():
        if not np.array_equal(search.get(name, ()), value):
            raise CheckpointError(
                f"{folder / TEMPLATE}: {name} is not that of {SEARCH}; one trunk sees both patches"
            )
    student = CentreTracker()
    student.load_state_dict(rename_lightfc(search, str(folder / SEARCH)))
    return student.eval()
