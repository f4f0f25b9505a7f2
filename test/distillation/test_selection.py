# SPDX-License-Identifier: Apache-2.0
"""Calibration of the confidence, and `mlkd select` from runs to a checkpoint with its card."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from training_support import write_checkpoint, write_flights

from mlkd_ros.cli import main
from mlkd_ros.cli.select import _refused
from mlkd_ros.data.sequences import Sequence, load_otb_folders
from mlkd_ros.distillation import selection
from mlkd_ros.distillation.calibration import (
    apply_platt,
    cross_validated,
    draw_reliability,
    fit_platt,
    reliability,
    reliability_table,
)
from mlkd_ros.distillation.selection import (
    CandidateResult,
    Samples,
    _Probe,
    calibrate,
    falls_behind,
    find_candidates,
    make_trials,
    overlap_on_target,
    refusal,
)
from mlkd_ros.distillation.student import average_files, average_states, write_student
from mlkd_ros.imaging.frame import as_frame
from mlkd_ros.tracking import CheckpointError, TrackResult, TrackState, load_tracker
from mlkd_ros.tracking.candidates import STUDENT_SHAPES
from mlkd_ros.tracking.checkpoint import load_checkpoint
from mlkd_ros.tracking.geometry import CropWindow, context_side, crop
from mlkd_ros.tracking.network import build_student
from mlkd_ros.tracking.peaks import peaks_of
from mlkd_ros.tracking.settings import TrackerSettings


def overconfident(count=4000, slope=0.6, offset=-1.5, seed=0):
    """Scores, and frames that are right as often as sigmoid(slope logit + offset) says."""
    rng = np.random.default_rng(seed)
    z = rng.normal(2, 3, count)
    correct = rng.random(count) < 1 / (1 + np.exp(-(slope * z + offset)))
    return 1 / (1 + np.exp(-z)), correct


def test_the_calibration_that_made_the_data_is_found():
    scores, correct = overconfident()
    slope, offset = fit_platt(scores, correct)
    assert slope == pytest.approx(0.6, abs=0.05) and offset == pytest.approx(-1.5, abs=0.1)
    confidence = cross_validated(scores, correct, np.arange(len(scores)) % 5)
    assert reliability(confidence, correct).expected_error < 0.03
    assert reliability(scores, correct).expected_error > 0.2


def test_calibration_is_applied_as_the_tracker_applies_it():
    scores = np.array([0.01, 0.3, 0.9, 0.99])
    rows = [(60.0 + 60 * i, 90.0, 30.0, 30.0, np.log(s / (1 - s)), 0.0)
            for i, s in enumerate(scores)]  # fmt: skip
    settings = TrackerSettings(calibration=(0.7, -0.4))
    (peaks,) = peaks_of([CropWindow(0, 0, 255, 255)], np.array([rows]), settings)
    assert apply_platt(scores, 0.7, -0.4) == pytest.approx([peak.quality for peak in peaks])


@pytest.mark.parametrize("correct", [[True] * 5, [False] * 5, []])
def test_calibration_needs_right_and_wrong_frames(correct):
    with pytest.raises(ValueError, match="right and wrong"):
        fit_platt(np.linspace(0.1, 0.9, len(correct)), np.array(correct, bool))


def test_separable_and_upside_down_samples_stay_sensible():
    scores = np.linspace(0.05, 0.95, 40)
    slope, _ = fit_platt(scores, scores > 0.5)
    assert np.isfinite(slope) and 1 < slope < 100
    assert fit_platt(scores, scores < 0.5)[0] > 0  # never falling


def test_reliability_by_hand():
    confidence = np.array([0.05, 0.15, 0.15, 0.95, 1.0])
    table = reliability(confidence, np.array([0, 0, 1, 1, 1], bool))
    assert table.count.tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert table.accuracy[1] == 0.5 and np.isnan(table.accuracy[5])
    expected = (1 * 0.05 + 2 * 0.35 + 2 * 0.025) / 5
    assert table.expected_error == pytest.approx(expected)
    assert "| 0.1 to 0.2 | 2 | 0.15 | 0.50 |" in reliability_table(table)


def test_reliability_diagram(tmp_path):
    pytest.importorskip("matplotlib")
    draw_reliability(reliability(*overconfident(500)), tmp_path / "r.png", "test")
    assert cv2.imread(str(tmp_path / "r.png")) is not None


def test_a_sequence_s_calibration_has_not_seen_it():
    samples = Samples()
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        for score, correct in zip(*overconfident(400, seed=seed), strict=True):
            samples.add(float(score), bool(correct), name)
    result = calibrate(samples)
    assert result.frames == 1200 and result.table.expected_error < result.raw_error
    scores, correct, groups = samples.arrays()
    others = groups != "b"
    alone = apply_platt(scores[~others], *fit_platt(scores[others], correct[others]))
    assert cross_validated(scores, correct, groups)[~others] == pytest.approx(alone)


class Recorder:
    """Stands in for a tracker: remembers where it was and what its search region showed."""

    shape, settings = STUDENT_SHAPES["mobile_s16"], TrackerSettings()

    def __init__(self):
        self.seen = []

    def sibling(self):
        return Recorder()

    def init(self, image, box, stamp=None):
        self.box = box

    def update(self, image, stamp=None):
        x, y, w, h = self.box
        side = context_side(w, h, self.settings.context_amount) * 255 / 127
        window = CropWindow.around(x + w / 2, y + h / 2, side, 255)
        self.seen.append(crop(as_frame(image), window).max())
        return TrackResult(self.box, 0.9, TrackState.TRACKING)


def test_calibration_also_looks_where_the_target_is_not():
    """The target is the only bright thing: no look elsewhere may see it."""
    frames, boxes = [], []
    for index in range(41):
        image = np.zeros((240, 320, 3), np.uint8)
        x = 100 + 3 * index
        image[90:110, x : x + 20] = 255
        frames.append(image)
        boxes.append([x, 90, 20, 20])
    boxes[30] = [np.nan] * 4
    sequence = Sequence("moving", frames, np.array(boxes, float))
    samples, tracker = Samples(), Recorder()
    probe = _Probe(tracker, sequence, samples)
    probe.init(frames[0], tuple(boxes[0]))
    for image in frames[1:]:
        probe.update(image)
    elsewhere = probe._other.seen
    assert len(tracker.seen) == 40 and len(elsewhere) == 10 and max(elsewhere) == 0
    scores, correct, _ = samples.arrays()
    assert len(scores) == 50 and 1 <= correct.sum() < 10  # it stood still: right at first only


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A room of two students and a run of one, with random weights."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, path in enumerate(("room/student_l2", "room/student_spatial", "one/student")):
        (folder / path).parent.mkdir(exist_ok=True)
        torch.manual_seed(seed)
        provenance = {"start": "random weights", "name": path, "pairs": 8, "config": {"seed": seed}}
        write_student(
            build_student("mobile_s16"), "mobile_s16", folder / f"{path}.safetensors", provenance
        )
    return folder


def test_select_writes_the_best_with_calibration_and_card(runs, tmp_path, capsys):
    validation = tmp_path / "validation"
    write_flights(validation, frames=9)
    output = tmp_path / "best" / "student.safetensors"
    words = ["select", runs / "room", runs / "one", "--validation", validation, "--dataset", "otb"]
    words += ["--condition", "day", "--condition", "dark", "--device", "cpu", "--output", output]
    words += ["--noise-seeds", 0, 1]
    assert main([str(word) for word in words]) == 0
    assert "room/student_l2" in capsys.readouterr().out
    checkpoint = load_checkpoint(output)
    selection = checkpoint.provenance["selection"]
    assert set(selection["success_auc"]) == {
        "room/student_l2", "room/student_spatial", "one/student"
    }  # fmt: skip
    best = max(selection["success_auc"], key=selection["success_auc"].get)
    assert selection["success_auc"][selection["chosen"]] == selection["success_auc"][best]
    assert checkpoint.settings.calibration != (1.0, 0.0)
    card = output.with_suffix(".md").read_text()
    for words in ("SHA-256", "random weights", "| confidence | frames |", "crossing, scale_change"):
        assert words in card
    assert str(tmp_path) not in card
    sequence = load_otb_folders(validation)[0]
    tracker = load_tracker(output, device="cpu")
    tracker.init(sequence.frames[0], sequence.boxes[0])
    assert 0 <= tracker.update(sequence.frames[1]).confidence <= 1


def test_overlap_on_target_leaves_out_what_is_told_missed_or_lost():
    truth = np.array([[0, 0, 10, 10]] * 4 + [[np.nan] * 4], float)
    boxes = truth.copy()
    boxes[1] = [0, 0, 10, 8]  # 0.8
    boxes[2] = [0, 0, 10, 6]  # 0.6
    boxes[3] = [9, 9, 10, 10]  # lost
    boxes[4] = [0, 0, 10, 10]  # absent
    assert overlap_on_target(boxes, truth) == pytest.approx(0.7)
    assert np.isnan(overlap_on_target(boxes[:1], truth[:1]))


def test_falling_behind_is_judged_by_a_standard_error():
    start = [0.5, 0.6, 0.7, 0.8]
    behind, mean, error = falls_behind([0.4, 0.6, 0.6, 0.8], start)
    assert behind and mean == pytest.approx(-0.05) and error == pytest.approx(0.1 / np.sqrt(12))
    assert not falls_behind([0.2, 0.8, 0.7, 0.8], start)[0]  # one flight lost, one gained
    assert falls_behind([0.5, np.nan], [0.5, 0.9])[:2] == (False, 0.0)
    assert not falls_behind([np.nan], [0.5])[0]


def flown(name, day, boxes):
    result = CandidateResult(Path(f"run/{name}.safetensors"))
    result.successes, result.boxes = {"day": day}, {"day": boxes, "dark": boxes}
    return result


def test_students_that_forgot_the_day_or_let_go_of_boxes_are_refused():
    start = flown("start", [0.7, 0.6, 0.8], [0.8, 0.75, 0.85])
    good = flown("good", [0.71, 0.61, 0.8], [0.81, 0.75, 0.86])
    forgot = flown("forgot", [0.6, 0.5, 0.7], [0.8, 0.75, 0.85])
    loose = flown("loose", [0.75, 0.65, 0.85], [0.7, 0.66, 0.75])
    assert refusal(good, start) == ""
    assert "success AUC by day -0.1000" in refusal(forgot, start)
    assert "IoU on the target, dark" in refusal(loose, start)
    assert set(_refused([good, forgot, loose, start], True)) == {"run/forgot", "run/loose"}
    assert _refused([forgot, start], False) == {}
    with pytest.raises(ValueError, match="every student is below its start: run/forgot: success"):
        _refused([forgot, start], True)


def test_averages_of_weights_by_hand():
    one = {"w": torch.tensor([1.0, 3.0]), "n": torch.tensor(5)}
    two = {"w": torch.tensor([3.0, 5.0]), "n": torch.tensor(9)}
    mean = average_states([one, two])
    assert mean["w"].tolist() == [2.0, 4.0] and mean["n"] == 5
    assert average_states([one, two], [3, 1])["w"].tolist() == [1.5, 3.5]
    with pytest.raises(ValueError, match="1 given for 2"):
        average_states([one, two], [1])
    with pytest.raises(ValueError, match="zero or more"):
        average_states([one, two], [1, -1])
    with pytest.raises(ValueError, match="w: not in every student, or of another shape"):
        average_states([one, {"w": torch.zeros(3), "n": torch.tensor(1)}])


def test_a_student_and_its_start_are_averaged_into_a_checkpoint(runs, tmp_path):
    pair = [runs / "room/student_l2.safetensors", runs / "room/student_spatial.safetensors"]
    output = tmp_path / "mean.safetensors"
    words = ["average", *pair, "--weights", 0.25, 0.75, "-o", output]
    assert main([str(word) for word in words]) == 0
    mean = load_checkpoint(output)
    first, second = (load_checkpoint(path).weights["cls_head.weight"] for path in pair)
    assert mean.weights["cls_head.weight"] == pytest.approx(0.25 * first + 0.75 * second, abs=1e-6)
    assert mean.provenance["averaged"] == {
        "student_l2.safetensors": 0.25, "student_spatial.safetensors": 0.75
    }  # fmt: skip
    assert {"template", "search", "search_near"} <= set(mean.graphs)
    other = write_checkpoint(tmp_path / "large.safetensors", "mobilenetv2_s8")
    with pytest.raises(ValueError, match="large.safetensors: is a mobilenetv2_s8"):
        average_files([pair[0], other], output)


def test_select_flies_the_start_and_blends_beside(runs, tmp_path, capsys):
    validation = tmp_path / "validation"
    write_flights(validation, ("crossing",), frames=6)
    student, output = runs / "one/student.safetensors", tmp_path / "best.safetensors"
    words = ["select", student, "--validation", validation, "--dataset", "otb", "--device", "cpu"]
    words += ["--condition", "day", "--start", student, "--blend", 0.5, "--output", output]
    assert main([str(word) for word in words]) == 0
    selection = load_checkpoint(output).provenance["selection"]
    assert set(selection["success_auc"]) == {"one/student", "one/student_0.5", "start/start"}
    assert selection["refused"] == {} and selection["chosen"].startswith("one/student")
    place = words.index("--start")
    assert main([str(word) for word in [*words[:place], *words[place + 2 :], "--force"]]) == 2
    assert "give --start as well" in capsys.readouterr().err


def test_trials_darken_with_every_seed_and_fly_unseen_flights(monkeypatch):
    monkeypatch.setattr(selection, "FLIGHT_FRAMES", 2)
    sequence = Sequence("still", [np.zeros((90, 160, 3), np.uint8)] * 2, np.full((2, 4), 30.0))
    trials = make_trials([sequence], ["day", "dark"], [0, 5], flights=2)
    assert [(t.column, t.condition, t.noise_seed) for t in trials] == [
        ("day", "day", 0), ("dark", "dark", 0), ("dark", "dark", 5),
        ("flights", "day", 0), ("flights", "day", 0),
    ]  # fmt: skip
    names = [trial.sequence.name for trial in trials[3:]]
    seeds = [int(name.rsplit("_", 1)[1]) for name in names]
    assert seeds == [200, 201] and all(len(trial.sequence) == 2 for trial in trials)


def test_a_sequence_is_flown_from_several_frames():
    frames = [np.full((90, 160, 3), number, np.uint8) for number in range(8)]
    boxes = np.full((8, 4), 30.0)
    boxes[4] = np.nan
    trials = make_trials([Sequence("counting", frames, boxes)], ["day"], starts=4)
    seen = [[int(frame[0, 0, 0]) for frame in trial.sequence.frames] for trial in trials]
    assert seen == [[*range(8)], [*range(2, 8)], [5, 6, 7], [6, 7]]
    assert [len(trial.sequence.boxes) for trial in trials] == [8, 6, 3, 2]
    assert trials[2].sequence.frames[1][0, 0, 0] == 6 and trials[2].sequence.name == "counting"


def test_runs_without_a_student_are_named(runs, tmp_path):
    assert [p.stem for p in find_candidates([runs / "room"])] == ["student_l2", "student_spatial"]
    with pytest.raises(CheckpointError, match=r"empty: no student.*not a finished run"):
        (tmp_path / "empty").mkdir()
        find_candidates([tmp_path / "empty"])
    (tmp_path / "student.safetensors").write_text("no")
    with pytest.raises(CheckpointError, match=r"student\.safetensors"):
        find_candidates([tmp_path / "student.safetensors"])
