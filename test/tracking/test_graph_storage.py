# SPDX-License-Identifier: Apache-2.0
"""Weights of graphs stored once, and the graphs back byte for byte."""

from dataclasses import replace

import numpy as np
import pytest

from mlkd_ros.tracking.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from mlkd_ros.tracking.graph_storage import GraphError, join, split


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint()


def test_a_graph_is_the_same_file_again(checkpoint):
    onnx = pytest.importorskip("onnx")
    for graph in checkpoint.graphs.values():
        skeleton, tensors = split(graph)
        model = onnx.load_from_string(graph)
        large = {
            item.name: onnx.numpy_helper.to_array(item)
            for item in model.graph.initializer
            if len(item.raw_data) >= 256 and item.data_type == onnx.TensorProto.FLOAT
        }
        assert tensors.keys() == large.keys() and len(large) > 20
        assert all(np.array_equal(tensors[name], large[name].ravel()) for name in large)
        assert len(skeleton) < 0.1 * len(graph)
        assert join(skeleton, tensors) == graph


def test_a_checkpoint_stores_shared_weights_once(checkpoint, tmp_path):
    path = tmp_path / "student.safetensors"
    save_checkpoint(checkpoint, path)
    again = load_checkpoint(path)
    assert again.graphs == checkpoint.graphs
    assert all(np.array_equal(again.weights[k], v) for k, v in checkpoint.weights.items())
    sizes = sum(len(graph) for graph in checkpoint.graphs.values())
    assert path.stat().st_size < 4 * sum(v.size for v in checkpoint.weights.values()) + 0.5 * sizes


def test_only_what_loses_nothing_is_stored_in_half_precision(checkpoint, tmp_path):
    from safetensors.numpy import load_file

    path = tmp_path / "student.safetensors"
    weights = {
        "exact": np.float32([[1.5, -0.25], [0.0, 1024.0]]),
        "fine": np.float32([1.0 + 2**-20]),
        "huge": np.float32([1e6]),
    }
    save_checkpoint(replace(checkpoint, weights=weights, graphs={}), path)
    stored = {name: value.dtype for name, value in load_file(path).items()}
    assert stored == {
        "student.exact": np.float16,
        "student.fine": np.float32,
        "student.huge": np.float32,
    }
    loaded = load_checkpoint(path).weights
    assert all(
        loaded[name].dtype == np.float32 and np.array_equal(loaded[name], value)
        for name, value in weights.items()
    )


def test_missing_initialisers_are_named(checkpoint, tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    skeleton, tensors = split(checkpoint.graphs["template"])
    with pytest.raises(GraphError, match="no initialiser other"):
        join(skeleton, {"other": np.zeros(1, np.float32)})
    path = tmp_path / "student.safetensors"
    save_checkpoint(checkpoint, path)
    with safe_open(path, "numpy") as file:
        header = file.metadata()
    stored = load_file(path)
    name = next(key for key in stored if key.startswith("shared."))
    del stored[name]
    save_file(stored, path, header)
    with pytest.raises(CheckpointError, match=f"its graphs are incomplete: '{name}'"):
        load_checkpoint(path)


@pytest.mark.parametrize("data", [b"\x3a\x05abc", b"\x3a\x80", b"\x3b"])
def test_bytes_that_are_no_graph(data):
    with pytest.raises(GraphError):
        split(data)
