# SPDX-License-Identifier: Apache-2.0
"""Every engine gives the same boxes: one definition of the ranking, several runtimes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlkd_ros.imaging.frame import BgrFrame
from mlkd_ros.tracking.candidates import STUDENT_SHAPES, Ranking
from mlkd_ros.tracking.checkpoint import load_checkpoint, shipped_student
from mlkd_ros.tracking.engine import (
    EngineError,
    Region,
    _tensorrt_engine,
    _tensorrt_providers,
    create_engine,
)
from mlkd_ros.tracking.engine_cuda import _FIELDS, _HEADER, MAX_BATCH, CudaEngine, pack
from mlkd_ros.tracking.fused import fuse
from mlkd_ros.tracking.geometry import CropWindow, crop
from mlkd_ros.tracking.network import build_student


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint()


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(5)
    return BgrFrame(rng.integers(0, 255, (300, 400, 3), np.uint8))


WINDOWS = [
    CropWindow(50, 40, 200, 255),  # enlarged
    CropWindow(60, 10, 255, 255),  # as it is
    CropWindow(-40, 100, 270, 255),  # over the border
    CropWindow(300, 250, 180, 255),  # over a corner
    CropWindow(-500, -500, 100, 255),  # outside
    CropWindow(-600, -600, 1500, 255),  # larger than the image
]


NEAR = [
    CropWindow(98, 88, 125, 159),  # enlarged
    CropWindow(60, 10, 159, 159),  # as it is
    CropWindow(-40, 100, 168, 159),  # over the border
    CropWindow(-500, -500, 100, 159),  # outside
]


def regions(template, windows=WINDOWS):
    return [Region(window, template, 40.0, 30.0, 0.3) for window in windows]


@pytest.mark.parametrize("architecture", sorted(STUDENT_SHAPES))
def test_ranking_is_the_same_in_numpy_and_torch(architecture):
    shape = STUDENT_SHAPES[architecture]
    anchors = max(1, len(shape.anchor_ratios))
    rng = np.random.default_rng(2)
    maps = [
        rng.normal(0, 3, (5, n * anchors, shape.cells, shape.cells)).astype(np.float32)
        for n in (2, 4)
    ]
    maps[1] = np.abs(maps[1]) * (20 if shape.head == "point" else 0.1)
    prior = np.array([[40, 30, 0.4]] * 4 + [[90, 10, 0.0]], np.float32)
    ours = Ranking(shape, 0.138).best(*maps, prior)
    theirs = Ranking(shape, 0.138, torch, torch.from_numpy).best(
        *map(torch.from_numpy, (*maps, prior))
    )
    assert ours.shape == (5, 6)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4)


def test_the_near_window_ranks_as_the_middle_of_the_whole_one():
    """Maps of 9 x 9 cells cut out of 15 x 15: the same box, as far from the window's middle."""
    shape = STUDENT_SHAPES["mobile_s16"]
    assert (shape.near_size, shape.cells_of(shape.near_size)) == (159, 9)
    rng = np.random.default_rng(8)
    logits = rng.normal(0, 2, (4, 2, 15, 15)).astype(np.float32)
    logits[:, 0] += 12.0  # background
    regression = rng.uniform(20, 40, (4, 4, 15, 15)).astype(np.float32)
    for i, (row, column) in enumerate([(3, 3), (7, 7), (11, 4), (6, 11)]):
        logits[i, 1, row, column] = 22.0
    prior = np.array([[60, 60, 0.455]] * 4, np.float32)
    whole = Ranking(shape, 0.138).best(logits, regression, prior)
    middle = [np.ascontiguousarray(maps[:, :, 3:12, 3:12]) for maps in (logits, regression)]
    near = Ranking(shape, 0.138, size=159).best(*middle, prior)
    whole[:, :2] -= 255 / 2
    near[:, :2] -= 159 / 2
    np.testing.assert_allclose(near, whole, rtol=1e-5, atol=1e-4)
    assert np.abs(whole[0, :2]).min() > 40


def test_ranking_by_hand():
    """SiamRPN's equations, for one candidate that stands out and one that has the wrong size."""
    shape = STUDENT_SHAPES["mobile_s16"]
    logits = np.zeros((1, 2, 15, 15), np.float32)
    logits[0, 0] = 10.0  # background
    logits[0, 1, 7, 7] = logits[0, 1, 7, 8] = 12.0
    regression = np.full((1, 4, 15, 15), 20.0, np.float32)  # 40 x 40
    regression[0, :, 7, 7] = 40.0  # 80 x 80
    prior = np.array([[40.0, 40.0, 0.0]], np.float32)
    x, y, w, h, score, penalty = Ranking(shape, 0.5).best(logits, regression, prior)[0]
    assert (x, y, w, h) == pytest.approx((127.5 + 16, 127.5, 40, 40))
    assert score == pytest.approx(1 / (1 + np.exp(-2)), rel=1e-5)
    assert penalty == pytest.approx(1.0)
    logits[0, 1, 7, 8] = 0.0
    assert Ranking(shape, 0.5).best(logits, regression, prior)[0, 5] == pytest.approx(np.exp(-0.5))


def test_ranking_of_a_centre_head_by_hand():
    """LightFC: scores weighed by a Hann window that does not end with zeros."""
    shape = STUDENT_SHAPES["lightfc_s16"]
    logits = np.full((1, 2, 16, 16), 0.0, np.float32)
    logits[0, 1] = -9.0
    logits[0, 1, 8, 8], logits[0, 1, 0, 3] = -1.0, 2.0  # row, column
    regression = np.zeros((1, 4, 16, 16), np.float32)
    regression[0, :2] = 0.25
    regression[0, :, 8, 8] = 0.5, 0.125, 0.25, 0.75
    regression[0, :, 0, 3] = 0.1, 0.2, 1.5, -0.5
    for influence, expected in (
        (1.0, (8.25 * 16, 8.75 * 16, 128, 32)),
        (0.0, (4.5 * 16, -8, 25.6, 51.2)),
    ):
        prior = np.array([[60.0, 60.0, influence]], np.float32)
        *box, score, penalty = Ranking(shape, 0.0).best(logits, regression, prior)[0]
        assert box == pytest.approx(expected)
        logit = -1.0 if influence else 2.0
        assert (score, penalty) == pytest.approx((1 / (1 + np.exp(-logit)), 1.0), rel=1e-5)
    assert shape.cosine(256)[0, 0] == pytest.approx(np.hanning(18)[1] ** 2)


def test_the_centre_head_means_the_same_in_the_near_window():
    """Sizes are parts of the whole search region in both."""
    shape = STUDENT_SHAPES["lightfc_s16"]
    regression = np.full((1, 4, 10, 10), 0.25, np.float32)
    x, y, w, h = shape.coder(160).decode(regression)
    assert (x[0, 0], y[0, 10], w[0, 0], h[0, 0]) == (4.0, 20.0, 64.0, 64.0)


def test_extreme_maps_give_finite_candidates():
    shape = STUDENT_SHAPES["mobile_s16"]
    logits = np.full((1, 2, 15, 15), -1e4, np.float32)
    logits[0, 0] = 1e4
    regression = np.full((1, 4, 15, 15), 1e30, np.float32)
    regression[0, :, 3, 3] = 20
    found = Ranking(shape, 0.138).best(logits, regression, np.array([[40, 40, 0.4]], np.float32))
    assert np.isfinite(found[0, 2:]).all()


@pytest.mark.parametrize("architecture", sorted(STUDENT_SHAPES))
def test_the_fused_student_is_the_same_function(architecture):
    torch.manual_seed(0)
    student = build_student(architecture)
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    student.eval()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    fused = fuse(student)
    for size in STUDENT_SHAPES[architecture].search_sizes:
        with torch.no_grad():
            sides = student.template_size, size
            patches = [torch.rand(2, 3, side, side) * 255 for side in sides]
            ours = fused.search(patches[1], *fused.template(patches[0]))
            reference = student(*patches)
        for a, b in zip((*ours[:2], *ours[2]), (*reference[:2], *reference[2]), strict=True):
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-3)
    after = student.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_crops_on_the_device_are_those_of_the_cpu(checkpoint, frame):
    engine = CudaEngine(checkpoint, "cpu")
    buffer = np.zeros(_HEADER + MAX_BATCH * 512 * 512 * 3, np.uint8)
    pack(frame, regions(()), 255, buffer)
    packed = torch.from_numpy(buffer)
    header = packed[:_HEADER].view(torch.float64).reshape(MAX_BATCH, _FIELDS)[: len(WINDOWS)]
    patches = engine._step.patches(packed[_HEADER:], header).numpy()
    for patch, window in zip(patches, WINDOWS, strict=True):
        expected = crop(frame, window).astype(np.float32)
        assert np.abs(patch - expected).max() <= 1.0, window


def test_a_window_too_large_to_upload_is_resized_first(checkpoint):
    image = BgrFrame(np.random.default_rng(6).integers(0, 255, (900, 1200, 3), np.uint8))
    window = CropWindow(20, 10, 800, 255)
    buffer = np.zeros(_HEADER + MAX_BATCH * 512 * 512 * 3, np.uint8)
    used = pack(image, regions((), [window]), 255, buffer)
    assert used == _HEADER + 255 * 255 * 3
    packed = torch.from_numpy(buffer)
    header = packed[:_HEADER].view(torch.float64).reshape(MAX_BATCH, _FIELDS)[:1]
    patch = CudaEngine(checkpoint, "cpu")._step.patches(packed[_HEADER:], header)[0]
    np.testing.assert_array_equal(patch.numpy(), crop(image, window))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "device step"])
def test_engines_find_the_same_candidates_as_the_reference(checkpoint, frame, name):
    reference = create_engine(checkpoint, "cpu", "torch")
    if name == "openvino":
        pytest.importorskip("openvino")
    if name == "device step":
        engine = CudaEngine(checkpoint, "cpu")
    else:
        engine = create_engine(checkpoint, "cpu", name)
    found = []
    for each in (engine, reference):
        first, second = (
            each.template(crop(frame, CropWindow(x, 80, 127, 127))[None]) for x in (90, 30)
        )
        several = regions(first) + regions(second, WINDOWS[:2])
        found.append((each.locate(frame, several), each.locate(frame, several[:1])))
    for ours, expected in zip(*found, strict=True):
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, rtol=0.02, atol=0.5)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_near_window_gives_the_candidates_of_the_reference(checkpoint, frame, name):
    """In any order and mixture of sizes."""
    if name == "openvino":
        pytest.importorskip("openvino")
    found = []
    for each in (create_engine(checkpoint, "cpu", kind) for kind in (name, "torch")):
        assert each.search_sizes == (255, 159)
        first, second = (
            each.template(crop(frame, CropWindow(x, 80, 127, 127))[None]) for x in (90, 30)
        )
        near, whole = regions(first, NEAR), regions(second)
        mixed = [whole[0], near[0], near[2], whole[1], near[1]]
        found.append([each.locate(frame, some) for some in (near, mixed, near[:1])])
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0.02, atol=0.5)
    near, mixed, single = found[0]
    np.testing.assert_array_equal(mixed[[1, 4, 2]], near[:3])
    np.testing.assert_array_equal(single, near[:1])


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_a_checkpoint_of_before_the_near_window_searches_the_whole_region(checkpoint, frame, name):
    if name == "openvino":
        pytest.importorskip("openvino")
    graphs = {key: checkpoint.graphs[key] for key in ("template", "search")}
    engine = create_engine(replace(checkpoint, graphs=graphs), "cpu", name)
    assert engine.search_sizes == (255,)
    engine.warm_up()
    template = engine.template(crop(frame, CropWindow(90, 80, 127, 127))[None])
    expected = create_engine(checkpoint, "cpu", name).locate(frame, regions(template))
    np.testing.assert_allclose(engine.locate(frame, regions(template)), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "device step"])
def test_engines_of_the_accurate_student_agree(frame, name):
    """In both sizes of window where the engine has two, and for two targets."""
    if name == "openvino":
        pytest.importorskip("openvino")
    accurate = load_checkpoint(shipped_student("accurate"))
    reference = create_engine(accurate, "cpu", "torch")
    on_gpu = name == "device step"
    engine = CudaEngine(accurate, "cpu") if on_gpu else create_engine(accurate, "cpu", name)
    assert reference.search_sizes == (256, 160)
    assert engine.search_sizes == ((256,) if on_gpu else (256, 160))
    windows = [replace(window, size=256) for window in WINDOWS[:3]]
    windows += [] if on_gpu else [replace(window, size=160) for window in NEAR[:3]]
    found = []
    for each in (engine, reference):
        first, second = (
            each.template(crop(frame, CropWindow(x, 80, 100, 128))[None]) for x in (90, 30)
        )
        found.append(each.locate(frame, regions(first, windows) + regions(second, windows[:1])))
    np.testing.assert_allclose(*found, rtol=0.02, atol=0.5)


def test_one_size_of_window_on_a_gpu(checkpoint):
    assert CudaEngine(checkpoint, "cpu").search_sizes == (255,)


def test_more_windows_than_one_batch(checkpoint, frame):
    engine = CudaEngine(checkpoint, "cpu")
    template = engine.template(np.zeros((1, 127, 127, 3), np.uint8))
    many = regions(template, WINDOWS[:1] * (MAX_BATCH + 3))
    found = engine.locate(frame, many)
    assert found.shape == (MAX_BATCH + 3, 6)
    np.testing.assert_allclose(found, found[:1].repeat(len(found), 0), atol=1e-2)


def test_templates_of_a_batch_are_replaced_one_by_one(checkpoint, frame):
    engine = CudaEngine(checkpoint, "cpu")
    templates = [
        engine.template(crop(frame, CropWindow(x, 60, 127, 127))[None]) for x in (0, 90, 200)
    ]
    for chosen in ([0, 1], [0, 2], [2, 2]):
        together = engine.locate(frame, [regions(templates[i], WINDOWS[:1])[0] for i in chosen])
        for i, row in zip(chosen, together, strict=True):
            alone = engine.locate(frame, regions(templates[i], WINDOWS[:1]))[0]
            np.testing.assert_allclose(row, alone, rtol=1e-3, atol=1e-2)


def test_a_batch_shape_profile_for_tensorrt(monkeypatch, tmp_path, checkpoint):
    """Written against ONNX Runtime's documentation: every input needs its range of shapes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    session = create_engine(checkpoint, "cpu", "onnxruntime")._searches[255]._session
    inputs = session.get_inputs()
    (name, settings), (fallback, _) = _tensorrt_providers("cuda:1", inputs)
    assert (name, fallback) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert settings["device_id"] == 1
    assert "patch:16x255x255x3" in settings["trt_profile_max_shapes"]
    assert settings["trt_profile_min_shapes"].count(":1x") == len(inputs)


def test_tensorrt_without_it_says_what_to_install(checkpoint):
    with pytest.raises(EngineError, match="tensorrt needs a CUDA device"):
        create_engine(checkpoint, "cpu", "tensorrt")
    with pytest.raises(EngineError, match="without TensorRT: pip install onnxruntime-gpu"):
        _tensorrt_engine(checkpoint, "cuda:0")
