# SPDX-License-Identifier: Apache-2.0
"""The one-pass runner and ``mlkd evaluate``, with stand-in trackers on a tiny video."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from mlkd_ros.cli import evaluate as command
from mlkd_ros.data.sequences import DatasetError, Sequence, load_video_pairs
from mlkd_ros.evaluation import datasets, night_flights, running, trackers
from mlkd_ros.evaluation.one_pass import (
    OnePass,
    darkened_frames,
    read_result,
    result_file,
    run_one_pass,
    write_result,
)
from mlkd_ros.tracking.checkpoint import default_checkpoint

Box = tuple[float, float, float, float]


class Recorder:
    """Reports the box of initialisation for ever, and remembers the frames it saw."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self.stamps: list[float | None] = []
        self.box: Box = (0.0, 0.0, 0.0, 0.0)

    def init(self, image: np.ndarray, box: Box, stamp: float | None = None) -> None:
        self.frames, self.box, self.stamps = [image.copy()], box, [stamp]

    def update(self, image: np.ndarray, stamp: float | None = None) -> Box | None:
        self.frames.append(image.copy())
        self.stamps.append(stamp)
        return None if len(self.frames) == 4 else self.box


def _sequence(absent: int = 0, frames: int = 6) -> Sequence:
    rng = np.random.default_rng(0)
    images = [rng.integers(60, 200, (48, 64, 3), dtype=np.uint8) for _ in range(frames)]
    boxes = np.tile([10.0, 12.0, 20.0, 16.0], (frames, 1))
    boxes[:absent] = np.nan
    return Sequence("tiny", images, boxes)


def test_trackers_start_on_the_first_annotated_frame_and_see_the_same_frames() -> None:
    sequence = _sequence(absent=1)
    one, two = Recorder(), Recorder()
    seen: list[int] = []
    passes = run_one_pass({"one": one, "two": two}, sequence, on_frame=seen.append)
    assert seen == list(range(6))
    assert len(one.frames) == 5
    assert one.stamps == pytest.approx(np.arange(1, 6) / 30.0)
    for a, b, frame in zip(one.frames, two.frames, list(sequence.frames)[1:], strict=True):
        np.testing.assert_array_equal(a, frame)
        np.testing.assert_array_equal(a, b)
    boxes = passes["one"].boxes
    assert np.isnan(boxes[[0, 4]]).all() and boxes[1].tolist() == [10, 12, 20, 16]
    assert np.isfinite(passes["one"].seconds).tolist() == [False] + [True] * 5


def test_darkening_is_the_same_in_every_run_and_differs_between_frames() -> None:
    image = np.full((48, 64, 3), 128, np.uint8)
    sequence = Sequence("still", [image] * 3, np.ones((3, 4)))
    first, again = (list(darkened_frames(sequence, "dark")) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], first[1])
    assert first[0].mean() < 40
    reseeded = next(darkened_frames(sequence, "dark", noise_seed=1))
    assert not np.array_equal(reseeded, first[0])
    renamed = Sequence("other", [image] * 3, np.ones((3, 4)))
    assert not np.array_equal(next(darkened_frames(renamed, "dark")), first[0])
    assert next(darkened_frames(sequence, "day")) is image
    with pytest.raises(
        ValueError, match="day, dusk, street, dark, very_dark, high_gain, codec, not 'night'"
    ):
        darkened_frames(sequence, "night")


def test_a_sequence_without_annotation_is_named() -> None:
    with pytest.raises(DatasetError, match="sequence tiny: no frame is annotated"):
        run_one_pass({"one": Recorder()}, _sequence(absent=6))


def test_results_are_written_and_read_back(tmp_path: Path) -> None:
    boxes = np.array([[1, 2, 3, 4], [np.nan] * 4, [1.5, 2.25, 3, 4]])
    path = result_file(tmp_path, "pairs", "dark", "ours", "tiny")
    assert path == tmp_path / "pairs-dark" / "ours" / "tiny.txt"
    write_result(path, OnePass(boxes, np.array([0.1, 0.02, 0.03])))
    result = read_result(path, 3)
    np.testing.assert_array_equal(result.boxes, boxes)
    np.testing.assert_allclose(result.seconds, [0.1, 0.02, 0.03])
    with pytest.raises(DatasetError, match=r"tiny\.txt: 3 lines for a sequence of 4 frames"):
        read_result(path, 4)
    path.write_text("1 2 3 4\n1 2 3\n")
    with pytest.raises(DatasetError, match=r"tiny\.txt, line 2: 4 numbers expected"):
        read_result(path, 2)


@pytest.mark.parametrize(
    "data",
    [b"\xef\xbb\xbf1,2,3,4\r\n5,6,7,8\r\n\x1a", "1 2 3 4\n5 6 7 8\n".encode("utf-16")],
)
def test_results_as_other_programs_write_them(tmp_path, data):
    (tmp_path / "a.txt").write_bytes(data)
    assert read_result(tmp_path / "a.txt", 2).boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_results_of_another_tracker_need_no_times(tmp_path: Path) -> None:
    path = tmp_path / "other.txt"
    path.write_text("1\t2\t3\t4\n5 6 7 8\n")
    result = read_result(path, 2)
    assert result.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert np.isnan(result.seconds).all()


def test_tracker_names_and_their_errors(tmp_path: Path) -> None:
    label = trackers.tracker_label
    assert label("ours") == "ours" and label("ours=runs/best.safetensors") == "ours-best"
    assert label("nanotrack=w/v3_backbone.onnx,w/v3_head.onnx") == "nanotrack-v3"
    assert label("lightfc=w/light_template.onnx,w/light_search.onnx") == "lightfc-light"
    with pytest.raises(ValueError, match="must be one of ours, .*, not 'siam'"):
        trackers.create_tracker("siam")
    with pytest.raises(ValueError, match=r"nanotrack=BACKBONE\.onnx,HEAD\.onnx"):
        trackers.create_tracker("nanotrack")
    with pytest.raises(ValueError, match=r"one network: vittrack=NETWORK\.onnx"):
        trackers.create_tracker("vittrack=a.onnx,b.onnx")
    with pytest.raises(ValueError, match="no such network file"):
        trackers.create_tracker(f"opencv-nano={tmp_path}/a.onnx,{tmp_path}/b.onnx")


def test_identity_is_that_of_the_files(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"1")
    first = trackers.tracker_identity(f"nanotrack={path}")
    assert first == trackers.tracker_identity(f"nanotrack={path}")
    assert first != trackers.tracker_identity(f"opencv-nano={path}")
    path.write_bytes(b"2")
    assert first != trackers.tracker_identity(f"nanotrack={path}")
    with pytest.raises(ValueError, match=r"b\.onnx: no such file"):
        trackers.tracker_identity(f"nanotrack={path},{tmp_path}/b.onnx")


def test_the_teacher_sees_enhanced_patches_and_always_has_a_box() -> None:
    """Through a gamma curve a dark square is where it is; a dark image alone has a box as well."""
    path = default_checkpoint()
    teacher = trackers.create_tracker(f"teacher={path}@gamma")
    image = np.random.default_rng(1).integers(0, 8, (240, 320, 3), dtype=np.uint8)
    image[100:140, 140:180] = (12, 40, 60)
    teacher.init(image, (140.0, 100.0, 40.0, 40.0))
    box = teacher.update(image)
    assert box is not None and box == pytest.approx((140, 100, 40, 40), abs=6)
    assert teacher.update(np.zeros_like(image)) is not None
    assert trackers.tracker_label(f"teacher={path}@gamma") == "teacher-student@gamma"
    assert trackers.tracker_label(f"teacher={path},b.pth@x/e.pth:12") == "teacher-student+b@e-12"


def test_lightfc_runs_in_its_plain_loop_and_refuses_other_networks(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from lightfc_graphs import published_graphs

    for name, graph in published_graphs(np.random.default_rng(0)).items():
        onnx.save(graph, tmp_path / name)
    paths = [f"{tmp_path}/lightfc_{kind}.onnx" for kind in ("template", "search")]
    tracker = trackers.create_tracker("lightfc=" + ",".join(paths))
    image = np.random.default_rng(1).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    # At the corner, where the search region is padded.
    tracker.init(image, (0.0, 0.0, 40.0, 30.0))
    box = tracker.update(image)
    assert box is not None and min(box[2:]) >= 10
    assert 0 <= box[0] <= box[0] + box[2] <= 320 and 0 <= box[1] <= box[1] + box[3] <= 240
    with pytest.raises(ValueError, match=r"search\.onnx: outputs are .*; LightFC's template graph"):
        trackers.create_tracker("lightfc=" + ",".join(reversed(paths)))


def test_opencv_trackers_follow_a_bright_square() -> None:
    tracker = trackers.create_tracker("mil")
    frames = []
    for number in range(4):
        image = np.random.default_rng(1).integers(0, 60, (120, 160, 3), dtype=np.uint8)
        image[50:80, 60 + 2 * number : 90 + 2 * number] = (40, 200, 250)
        frames.append(image)
    tracker.init(frames[0], (60.0, 50.0, 30.0, 30.0))
    for image in frames[1:]:
        box = tracker.update(image)
    assert box is not None
    assert abs(box[0] - 66) < 6 and abs(box[1] - 50) < 6


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "set"
    root.mkdir()
    for name in ("a", "b"):
        writer = cv2.VideoWriter(
            str(root / f"{name}.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 30.0, (64, 48)
        )
        for image in _sequence(frames=5).frames:
            writer.write(image)
        writer.release()
        (root / f"{name}.txt").write_text("10,12,20,16\n" * 5)
    yield root


def _run(*line: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["evaluate", *line])
    return int(arguments.run_command(arguments))


def _evaluate(dataset: Path, *more: str) -> int:
    results = str(dataset.parent / "results")
    return _run("--dataset", "pairs", "--root", str(dataset), "--results", results, *more)


def test_the_command_prints_a_table_and_resumes(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []

    def create(name: str) -> Recorder:
        made.append(name)
        return Recorder()

    running.forget_trackers()
    monkeypatch.setattr(trackers, "create_tracker", create)
    assert _evaluate(dataset, "--condition", "day", "--condition", "dark", "--per-sequence") == 0
    assert made == ["ours"], "one tracker serves all sequences and conditions"
    printed = capsys.readouterr().out
    assert "pairs, day: 2 sequences, 10 frames" in printed and "pairs, dark" in printed
    # One of five frames is missed, the others are perfect.
    row = next(line for line in printed.splitlines() if line.startswith("ours"))
    assert row.split()[1:6] == ["0.762", "0.800", "0.800", "0.800", "20.0%"]
    assert (dataset.parent / "results" / "pairs-dark" / "ours" / "b.txt").is_file()
    assert _evaluate(dataset) == 0
    assert made == ["ours"], "results that are there are not computed again"
    running.forget_trackers()
    monkeypatch.setattr(trackers, "tracker_identity", lambda name: "other weights")
    assert _evaluate(dataset) == 0
    assert made == ["ours"] * 2, "results of other weights are"
    running.forget_trackers()
    assert _evaluate(dataset, "--overwrite", "--sequence", "b") == 0
    assert made == ["ours"] * 3
    assert _evaluate(dataset, "--condition", "dark", "--noise-seed", "2") == 0
    assert (dataset.parent / "results" / "pairs-dark-noise2" / "ours" / "a.txt").is_file()


def test_the_command_names_what_is_wrong(dataset: Path) -> None:
    with pytest.raises(ValueError, match="--condition must be one of"):
        _evaluate(dataset, "--condition", "dawn")
    with pytest.raises(ValueError, match="no sequence 'c'.*a, b"):
        _evaluate(dataset, "--sequence", "c")
    with pytest.raises(DatasetError, match="no such folder"):
        _evaluate(dataset / "nowhere")


def test_the_choices_are_the_data_sets_that_can_be_loaded() -> None:
    assert command.DATASETS == datasets.DATASETS


def test_several_sequences_at_a_time(dataset: Path) -> None:
    assert _evaluate(dataset, "--tracker", "mil", "--jobs", "2") == 0
    for name in ("a", "b"):
        path = dataset.parent / "results" / "pairs" / "mil" / f"{name}.txt"
        result = read_result(path, 5)
        assert result.boxes[0].tolist() == [10, 12, 20, 16]
        assert np.isfinite(result.seconds).all() and np.isfinite(result.boxes).all()


def test_what_is_wrong_is_named_and_the_rest_is_scored(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running.forget_trackers()
    monkeypatch.setattr(trackers, "create_tracker", lambda name: Recorder())
    (dataset / "c.mp4").write_bytes(b"no video")
    (dataset / "c.txt").write_text("1,2,3,4\n")
    (dataset / "d.mp4").write_bytes((dataset / "a.mp4").read_bytes())
    (dataset / "d.txt").write_text("10,12,20,16\n" * 4)
    (dataset / "b.txt").write_text("NaN,NaN,NaN,NaN\n" * 5)
    assert _evaluate(dataset) == 1
    said = capsys.readouterr()
    assert "c.mp4: cannot be opened as a video" in said.err
    assert "d.txt: 4 lines, but" in said.err
    assert "sequence b was not finished: sequence b: no frame is annotated" in said.err
    assert "1 of 2 sequences without result" in said.out and "0.762" in said.out
    with pytest.raises(ValueError, match="--root DIR is needed: the folder of UAV123"):
        _run("--dataset", "UAV123", "--results", str(dataset.parent / "results"))
    with pytest.raises(ValueError, match="--jobs must be 1 or more"):
        _evaluate(dataset, "--jobs", "0")


def test_other_trackers_results_are_scored_beside(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running.forget_trackers()
    monkeypatch.setattr(trackers, "create_tracker", lambda name: Recorder())
    published = dataset.parent / "published" / "SiamX"
    published.mkdir(parents=True)
    for name in ("a", "b"):
        (published / f"{name}.txt").write_text("10\t12\t20\t16\n" * 5)
    assert _evaluate(dataset, "--others", str(published.parent)) == 0
    row = next(r for r in capsys.readouterr().out.splitlines() if r.startswith("SiamX"))
    assert row.split()[1:] == ["0.952", "1.000", "1.000", "1.000", "0.0%", "-", "-", "-"]
    with pytest.raises(ValueError, match="named by --others"):
        _evaluate(dataset, "--others", str(dataset / "nowhere"))


def test_rendered_flights_need_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running.forget_trackers()
    monkeypatch.setattr(trackers, "create_tracker", lambda name: Recorder())
    entry = night_flights.FlightEntry("crossing", 1, 0, 2, ("illumination",), "")
    monkeypatch.setattr(night_flights, "ENTRIES", (entry,))
    line = ["--dataset", "night-flights", "--results", str(tmp_path)]
    assert _run(*line) == 0
    printed = capsys.readouterr().out
    assert "night-flights-v1, day: 1 sequences, 2 frames" in printed
    assert "success AUC by attribute" in printed and "illumination" in printed
    assert (tmp_path / "night-flights-v1" / "annotations" / "crossing_1.txt").is_file()
    with pytest.raises(ValueError, match="dark already"):
        _run(*line, "--condition", "dark")
    with pytest.raises(ValueError, match="--root has no meaning"):
        _run(*line, "--root", str(tmp_path))


def test_an_enhancer_in_front_of_a_tracker(tmp_path: Path) -> None:
    label, identity = trackers.tracker_label, trackers.tracker_identity
    assert label("mil@gamma") == "mil@gamma" and label("kcf@w/dce.pth") == "kcf@dce"
    assert label("ours@gamma:0.4") == "ours@gamma-0.4"
    assert identity("mil@gamma") != identity("mil")
    recorder = Recorder()
    tracker = trackers.EnhancedTracker(recorder, lambda image: image + np.uint8(7))
    tracker.init(np.zeros((4, 4, 3), np.uint8), (0.0, 0.0, 2.0, 2.0))
    tracker.update(np.ones((4, 4, 3), np.uint8))
    assert [frame.max() for frame in recorder.frames] == [7, 8]


def test_the_first_frames_only(dataset: Path) -> None:
    (sequence, _) = load_video_pairs(dataset)
    short = datasets.shortened(sequence, 3)
    assert len(short) == len(short.frames) == len(list(short.frames)) == 3
    with pytest.raises(TypeError, match="list cannot be shortened"):
        datasets.shortened(_sequence(), 3)
