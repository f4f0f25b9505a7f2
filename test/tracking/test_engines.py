# SPDX-License-Identifier: Apache-2.0
"""Every engine gives the same boxes: one definition of the ranking, several runtimes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlkd_ros.imaging.frame import BgrFrame
from mlkd_ros.tracking.candidates import NO_PEAK, PEAKS, STUDENT_SHAPES, PeakFinder
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
from mlkd_ros.tracking.settings import BeliefSettings


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
    return [Region(window, template, 40.0, 30.0, 25.0) for window in windows]


#: Belief whose ranks can be worked out by hand.
BELIEF = BeliefSettings(association=(1.0, 1.0, -2.0), freedom=4.0, score_most=12.0)


@pytest.mark.parametrize("architecture", sorted(STUDENT_SHAPES))
def test_peaks_are_the_same_in_numpy_and_torch(architecture):
    shape = STUDENT_SHAPES[architecture]
    anchors = max(1, len(shape.anchor_ratios))
    rng = np.random.default_rng(2)
    maps = [
        rng.normal(0, 3, (5, n * anchors, shape.cells, shape.cells)).astype(np.float32)
        for n in (2, 4)
    ]
    maps[1] = np.abs(maps[1]) * (20 if shape.head == "point" else 0.1)
    prior = np.array([[40, 30, 30.0]] * 4 + [[90, 10, 1e4]], np.float32)
    ours = PeakFinder(shape, BELIEF).find(*maps, prior)
    theirs = PeakFinder(shape, BELIEF, torch, torch.from_numpy).find(
        *map(torch.from_numpy, (*maps, prior))
    )
    assert ours.shape == (5, PEAKS, 6)
    assert (np.diff(ours[..., 5]) <= 0).all()  # the best first
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4)


def flat_maps(shape, size, background=10.0, side=20.0):
    """Maps of the same square box and of background everywhere."""
    cells = shape.cells_of(size)
    logits = np.zeros((1, 2, cells, cells), np.float32)
    logits[0, 0] = background
    return logits, np.full((1, 4, cells, cells), side, np.float32)


def test_the_peaks_are_the_local_maxima_and_no_others():
    """Against a search through all cells with their eight neighbours."""
    shape = STUDENT_SHAPES["mobile_s16"]
    logits, regression = flat_maps(shape, 255)
    logits[0, 1] = np.random.default_rng(4).normal(0, 3, (15, 15))
    wide = np.array([[40.0, 40.0, 1e6]], np.float32)  # all places are alike
    found = PeakFinder(shape, BELIEF).find(logits, regression, wide)[0]
    scores = logits[0, 1]
    padded = np.pad(scores, 1, constant_values=-np.inf)
    around = [padded[1 + i : 16 + i, 1 + j : 16 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    rows, columns = np.nonzero(scores >= np.max(around, axis=0))
    order = np.argsort(-scores[rows, columns])[:PEAKS]
    expected = [(127.5 + 16 * (columns[i] - 7), 127.5 + 16 * (rows[i] - 7)) for i in order]
    assert [tuple(row[:2]) for row in found] == pytest.approx(expected)
    assert found[:, 4] == pytest.approx(scores[rows, columns][order] - 10.0, abs=1e-4)


def test_what_is_no_peak_is_told_apart():
    shape = STUDENT_SHAPES["mobile_s16"]
    logits, regression = flat_maps(shape, 255)
    logits[0, 1] = -np.hypot(*np.mgrid[-3:12, -3:12])  # a single summit in row 3, column 3
    wide = np.array([[40.0, 40.0, 1e6]], np.float32)
    found = PeakFinder(shape, BELIEF).find(logits, regression, wide)[0]
    assert found[0, :5] == pytest.approx((127.5 - 64, 127.5 - 64, 40, 40, -10.0))
    assert (found[1:, 5] <= NO_PEAK).all()


def test_of_the_candidates_of_one_cell_one_is_a_peak():
    """Anchors of one cell show one thing."""
    shape = STUDENT_SHAPES["alexnet_rpn"]
    logits = np.zeros((1, 10, 21, 21), np.float32)
    logits[0, :5] = 10.0
    logits[0, 5:, 6, 9] = 11.0, 12.0, 15.0, 13.0, 12.5
    regression = np.zeros((1, 20, 21, 21), np.float32)
    prior = np.array([[64.0, 64.0, 1e6]], np.float32)
    best, second = PeakFinder(shape, BELIEF).find(logits, regression, prior)[0, :2]
    assert best[:5] == pytest.approx((287 / 2 - 8, 287 / 2 - 4 * 8, 64, 64, 5.0))
    assert abs(second[0] - best[0]) > 8 or abs(second[1] - best[1]) > 8


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
    prior = np.array([[60, 60, 60.0]] * 4, np.float32)
    whole = PeakFinder(shape, BELIEF).find(logits, regression, prior)[:, 0]
    middle = [np.ascontiguousarray(maps[:, :, 3:12, 3:12]) for maps in (logits, regression)]
    near = PeakFinder(shape, BELIEF, size=159).find(*middle, prior)[:, 0]
    whole[:, :2] -= 255 / 2
    near[:, :2] -= 159 / 2
    np.testing.assert_allclose(near, whole, rtol=1e-5, atol=1e-4)
    assert np.abs(whole[0, :2]).min() > 40


def test_ranking_by_hand():
    """Score, Student's t density of the place and change of size: one candidate is as likely but
    of the wrong size, one is as likely but far away.
    """
    shape = STUDENT_SHAPES["mobile_s16"]
    logits, regression = flat_maps(shape, 255)
    logits[0, 1, 7, 7] = logits[0, 1, 7, 9] = logits[0, 1, 0, 7] = 12.0
    regression[0, :, 7, 7] = 40.0  # 80 x 80
    prior = np.array([[40.0, 40.0, 16.0]], np.float32)
    found = PeakFinder(shape, BELIEF).find(logits, regression, prior)[0, :3]
    near = 2.0 - 0.5 * 6.0 * np.log(1.0 + 2.0**2 / 4.0)
    large = 2.0 - 2.0 * 2 * np.log(2.0)
    far = 2.0 - 0.5 * 6.0 * np.log(1.0 + 7.0**2 / 4.0)
    assert found == pytest.approx(
        np.array([
            [127.5 + 32, 127.5, 40, 40, 2.0, near],
            [127.5, 127.5, 80, 80, 2.0, large],
            [127.5, 127.5 - 7 * 16, 40, 40, 2.0, far],
        ]), rel=1e-5,
    )  # fmt: skip


def test_a_score_beyond_the_most_says_no_more():
    shape = STUDENT_SHAPES["mobile_s16"]
    logits, regression = flat_maps(shape, 255, background=0.0)
    logits[0, 1, 7, 7], logits[0, 1, 7, 11] = 12.5, 30.0
    prior = np.array([[40.0, 40.0, 30.0]], np.float32)
    found = PeakFinder(shape, BELIEF).find(logits, regression, prior)[0]
    assert found[:2, 0] == pytest.approx([127.5, 127.5 + 64])
    assert found[:2, 4] == pytest.approx([12.5, 30.0])  # told all the same


def test_peaks_of_a_centre_head_by_hand():
    """LightFC: a cell says where in it the centre is, and how large the target is."""
    shape = STUDENT_SHAPES["lightfc_s16"]
    logits = np.full((1, 2, 16, 16), 0.0, np.float32)
    logits[0, 1] = -9.0
    logits[0, 1, 8, 8], logits[0, 1, 0, 3] = -1.0, 2.0  # row, column
    regression = np.zeros((1, 4, 16, 16), np.float32)
    regression[0, :2] = 0.25
    regression[0, :, 8, 8] = 0.5, 0.125, 0.25, 0.75
    regression[0, :, 0, 3] = 0.1, 0.2, 1.5, -0.5
    middle, corner = (8.25 * 16, 8.75 * 16, 128, 32, -1.0), (4.5 * 16, -8, 25.6, 51.2, 2.0)
    finder = PeakFinder(shape, replace(BELIEF, association=(1.0, 1.0, 0.0)))
    for deviation, expected in ((20.0, (middle, corner)), (1e5, (corner, middle))):
        prior = np.array([[60.0, 60.0, deviation]], np.float32)
        assert finder.find(logits, regression, prior)[0, :2, :5] == pytest.approx(
            np.array(expected), rel=1e-5
        )


def test_the_centre_head_means_the_same_in_the_near_window():
    """Sizes are parts of the whole search region in both."""
    shape = STUDENT_SHAPES["lightfc_s16"]
    regression = np.full((1, 4, 10, 10), 0.25, np.float32)
    x, y, w, h = shape.coder(160).decode(regression)
    assert (x[0, 0], y[0, 10], w[0, 0], h[0, 0]) == (4.0, 20.0, 64.0, 64.0)


def test_extreme_maps_give_finite_peaks():
    shape = STUDENT_SHAPES["mobile_s16"]
    logits = np.full((1, 2, 15, 15), -1e4, np.float32)
    logits[0, 0] = 1e4
    regression = np.full((1, 4, 15, 15), 1e30, np.float32)
    regression[0, :, 3, 3] = 20
    for belief in (BELIEF, BeliefSettings()):
        found = PeakFinder(shape, belief).find(
            logits, regression, np.array([[40, 40, 30.0]], np.float32)
        )
        assert np.isfinite(found[0]).all()


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
    assert found.shape == (MAX_BATCH + 3, PEAKS, 6)
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
