# SPDX-License-Identifier: Apache-2.0
"""Networks, checkpoints and engines: what ships is what was trained, whatever runs it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from mlkd_ros.distillation.export import export_onnx
from mlkd_ros.distillation.student import start_student, write_student
from mlkd_ros.tracking import CheckpointError, EngineError, TrackerSettings, load_tracker
from mlkd_ros.tracking import engine as engine_module
from mlkd_ros.tracking.candidates import STUDENT_SHAPES
from mlkd_ros.tracking.checkpoint import (
    Checkpoint,
    default_checkpoint,
    load_checkpoint,
    save_checkpoint,
    shipped_student,
)
from mlkd_ros.tracking.engine import choose_student, create_engine, resolve_device
from mlkd_ros.tracking.network import (
    ARCHITECTURES,
    build_student,
    depthwise_correlation,
    fuse_batch_norm,
)


def randomised(architecture):
    """A student whose batch norms are not the identity, so that folding them matters."""
    torch.manual_seed(0)
    student = build_student(architecture)
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    return student.eval()


def test_depthwise_correlation_equals_a_grouped_convolution():
    search, kernel = torch.randn(3, 5, 16, 16), torch.randn(3, 5, 4, 4)
    for padding, size in ((0, 13), (1, 15)):
        expected = torch.nn.functional.conv2d(
            search.reshape(1, 15, 16, 16), kernel.reshape(15, 1, 4, 4), groups=15, padding=padding
        ).reshape(3, 5, size, size)
        assert torch.allclose(depthwise_correlation(search, kernel, padding), expected, atol=1e-4)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_shapes_known_to_the_tracker_are_those_of_the_network(architecture):
    student, shape = randomised(architecture), STUDENT_SHAPES[architecture]
    assert (student.template_size, student.search_size) == (shape.template_size, shape.search_size)
    assert (student.cells, student.stride) == (shape.cells, shape.stride)
    assert student.near_size == shape.near_size
    anchors = max(1, len(shape.anchor_ratios))
    for size in shape.search_sizes:
        cells = shape.cells_of(size)
        assert (shape.cells - cells) % 2 == 0  # the smaller window's are the middle ones
        with torch.no_grad():
            output = student(*(torch.rand(2, 3, s, s) * 255 for s in (shape.template_size, size)))
        assert output.classification.shape == (2, 2 * anchors, cells, cells)
        assert output.regression.shape == (2, 4 * anchors, cells, cells)
        for part in shape.coder(size).decode(output.regression.numpy()):
            assert part.shape == (2, anchors * cells**2)


@pytest.mark.parametrize("architecture", ["mobile_s16", "lightfc_s16"])
def test_a_cell_of_the_near_window_sees_what_that_of_the_whole_region_sees(architecture):
    """Cell for cell, away from the border and but for the means over the window."""
    shape = STUDENT_SHAPES[architecture]
    near, whole = (shape.coder(size) for size in (shape.near_size, shape.search_size))
    corner = (shape.search_size - shape.near_size) / 2
    places = set(zip(whole.x.tolist(), whole.y.tolist(), strict=True))
    assert {(x + corner, y + corner) for x, y in zip(near.x, near.y, strict=True)} < places
    # The patch's corner falls on a pixel that the trunk's strides take.
    assert corner % shape.stride == 0


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_folding_batch_norms_changes_nothing(architecture):
    student = randomised(architecture)
    sides = student.template_size, student.search_size
    patches = [torch.rand(1, 3, side, side) * 255 for side in sides]
    with torch.no_grad():
        before = student(*patches)
        after = fuse_batch_norm(student)(*patches)
    assert torch.allclose(before.classification, after.classification, rtol=1e-3, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in student.modules())


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_engines_agree(architecture, tmp_path):
    path = tmp_path / "student.safetensors"
    write_student(randomised(architecture), architecture, path, {"start": "test"})
    checkpoint = load_checkpoint(path)
    shape = STUDENT_SHAPES[architecture]
    rng = np.random.default_rng(1)
    template = rng.integers(0, 255, (1, *[shape.template_size] * 2, 3), np.uint8)
    searches = [rng.integers(0, 255, (3, s, s, 3), np.uint8) for s in shape.search_sizes]
    outputs = []
    for name in ("onnxruntime", "torch"):
        engine = create_engine(checkpoint, "cpu", name)
        features = engine.template(template)
        outputs.append([part for search in searches for part in engine.search(features, search)])
    for ours, reference in zip(*outputs, strict=True):
        assert ours.shape == reference.shape
        assert np.abs(ours - reference).max() < 1e-3 * max(1.0, np.abs(reference).max())


def test_graphs_hold_no_operator_outside_the_default_domain():
    onnx = pytest.importorskip("onnx")
    graphs = [export_onnx(randomised(name)) for name in ("mobile_s16", "lightfc_s16")]
    for graph in (graph for each in graphs for graph in each.values()):
        model = onnx.load_from_string(graph)
        assert {item.domain for item in model.opset_import} == {""}
        assert not {"If", "Loop", "NonZero"} & {node.op_type for node in model.graph.node}


def test_the_shipped_student_is_whole_and_small():
    checkpoint = load_checkpoint()
    assert checkpoint.architecture in ARCHITECTURES
    assert set(checkpoint.graphs) == {"template", "search", "search_near"}
    assert checkpoint.provenance["start"]
    assert default_checkpoint().stat().st_size < 15e6


def test_a_student_is_chosen_by_name_path_or_device(tmp_path, monkeypatch):
    fast, accurate = (shipped_student(name) for name in ("fast", "accurate"))
    assert fast.is_file() and accurate.is_file() and default_checkpoint() == fast
    for nothing in ("auto", "", None):
        assert choose_student(nothing, "cpu") == fast
        assert choose_student(nothing, "auto", "onnxruntime") == fast
    assert choose_student("accurate", "cpu") == accurate
    assert choose_student(tmp_path / "my.safetensors") == tmp_path / "my.safetensors"
    with pytest.raises(CheckpointError, match="'acurate' is unknown: use auto, fast, accurate"):
        choose_student("acurate")
    monkeypatch.setattr(engine_module, "resolve_device", lambda device: "cuda:0")
    assert choose_student("auto", "auto") == choose_student("auto", "auto", "tensorrt") == accurate
    assert choose_student("auto", "auto", "openvino") == choose_student("fast", "cuda") == fast


@pytest.mark.parametrize("name", ["fast", "accurate"])
def test_both_students_that_ship_track_a_target(name):
    assert shipped_student(name).stat().st_size < 15e6
    tracker = load_tracker(name, device="cpu")
    image = np.random.default_rng(3).integers(60, 90, (240, 320, 3), np.uint8)
    for step in range(4):
        frame = image.copy()
        frame[100:140, 120 + 4 * step : 170 + 4 * step] = (30, 160, 220)
        frame[112:128, 135 + 4 * step : 155 + 4 * step] = (200, 40, 40)
        if step == 0:
            tracker.init(frame, (120, 100, 50, 40))
        else:
            box = tracker.update(frame).box
    assert box == pytest.approx((132, 100, 50, 40), abs=8)


def test_a_cpu_drone_does_not_import_torch():
    code = (
        "import sys; from mlkd_ros.tracking import load_tracker; load_tracker(device='cpu');"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format is 'other'"),
        ({"settings": "{"}, "unusable header"),
        ({"settings": json.dumps({"wrong": 1})}, "unknown TrackerSettings 'wrong'"),
    ],
)
def test_unusable_headers_are_named(tmp_path, change, message):
    from safetensors.numpy import save_file

    path = tmp_path / "bad.safetensors"
    header = {"format": "mlkd-student/1", "architecture": "mobile_s16", "settings": "{}"} | change
    save_file({"student.x": np.zeros(1, np.float32)}, str(path), metadata=header)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_checkpoint_are_named(tmp_path):
    missing, pickle = tmp_path / "missing.safetensors", tmp_path / "student.pth"
    torch.save({"a": 1}, pickle)
    for path in (missing, pickle):
        with pytest.raises(CheckpointError, match=path.name):
            load_checkpoint(path)


def test_another_architecture_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_checkpoint(
        Checkpoint("mobile_s99", TrackerSettings(), {"x": np.zeros(1, np.float32)}), path
    )
    with pytest.raises(CheckpointError, match=r"other.safetensors.*mobile_s99"):
        load_tracker(path)
    with pytest.raises(CheckpointError, match="mobile_s99.*alexnet_rpn"):
        start_student("alexnet_rpn", path)


def test_engines_and_devices_that_cannot_be_had_are_named():
    checkpoint = Checkpoint("mobile_s16", TrackerSettings(), {}, path="some.safetensors")
    with pytest.raises(EngineError, match="engine 'tpu'"):
        create_engine(checkpoint, "cpu", "tpu")
    with pytest.raises(EngineError, match=r"some.safetensors: holds no exported graphs"):
        create_engine(checkpoint, "cpu", "onnxruntime")
    with pytest.raises(EngineError, match="device 'npu'"):
        resolve_device("npu")
    with pytest.raises(EngineError, match="device 'cuda:99'"):
        resolve_device("cuda:99")
