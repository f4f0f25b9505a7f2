# SPDX-License-Identifier: Apache-2.0
"""Published LightFC weights become the same network: against graphs of its layout made here."""

import numpy as np
import onnxruntime
import pytest
import torch

from mlkd_ros.distillation.lightfc import SEARCH, TEMPLATE, load_lightfc
from mlkd_ros.tracking.checkpoint import CheckpointError

onnx = pytest.importorskip("onnx")
from lightfc_graphs import published_graphs  # noqa: E402, it needs onnx


@pytest.fixture(scope="module")
def graphs():
    return published_graphs(np.random.default_rng(0))


@pytest.fixture
def folder(graphs, tmp_path):
    for name, graph in graphs.items():
        onnx.save(graph, tmp_path / name)
    return tmp_path


def published_input(patch):
    """RGB / 255 with ImageNet's mean and deviation, as SOURCES.md of LightFC's graphs has it."""
    rgb = patch[..., ::-1].astype(np.float32) / 255.0
    normal = (rgb - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    return normal.transpose(0, 3, 1, 2).astype(np.float32)


def test_the_maps_are_those_of_the_published_graphs(folder):
    student = load_lightfc(folder)
    rng = np.random.default_rng(1)
    template, search = (rng.integers(0, 256, (1, side, side, 3), np.uint8) for side in (128, 256))
    sessions = [onnxruntime.InferenceSession(str(folder / name)) for name in (TEMPLATE, SEARCH)]
    (features,) = sessions[0].run(None, {"image": published_input(template)})
    expected = sessions[1].run(None, {"template": features, "image": published_input(search)})
    patches = [torch.from_numpy(p).permute(0, 3, 1, 2).float() for p in (template, search)]
    with torch.no_grad():
        output = student(*patches)
    score = torch.sigmoid(output.classification[:, 1:] - output.classification[:, :1])
    found = score.clip(1e-4, 0.9999), *output.regression.split(2, 1)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.ptp(theirs) > 1e-2  # not a map that is constant anyway
        assert np.allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)


def change(graph, how):
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    how(changed)
    return changed


def without(name):
    def how(graph):
        kept = [item for item in graph.graph.initializer if item.name != name]
        del graph.graph.initializer[:]
        graph.graph.initializer.extend(kept)

    return how


def older(graph):
    graph.opset_import[0].version = 11


def renamed_output(graph):
    graph.graph.output[0].name = "scores"


def other_trunk(graph):
    graph.graph.initializer[0].raw_data = bytes(len(graph.graph.initializer[0].raw_data))


@pytest.mark.parametrize(
    ("file", "how", "message"),
    [
        (SEARCH, older, "operator set is ai.onnx 11; LightFC's graphs have 20"),
        (SEARCH, renamed_output, "outputs are scores, size_map, offset_map; .* score_map"),
        (TEMPLATE, renamed_output, "outputs are scores; .* has features"),
        (SEARCH, without("score.convrelu_3.bias"), "score.convrelu_3.bias is missing"),
        (TEMPLATE, other_trunk, "is not that of lightfc_search.onnx"),
    ],
)
def test_another_graph_is_named_and_refused(graphs, folder, file, how, message):
    onnx.save(change(graphs[file], how), folder / file)
    with pytest.raises(CheckpointError, match=f"{file}: .*{message}"):
        load_lightfc(folder)


def test_a_file_that_is_no_graph_or_missing_is_named(folder):
    (folder / SEARCH).write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=f"{SEARCH}: not an ONNX graph"):
        load_lightfc(folder)
    (folder / SEARCH).unlink()
    with pytest.raises(CheckpointError, match=f"{SEARCH}: no such file"):
        load_lightfc(folder / TEMPLATE)
