# SPDX-License-Identifier: Apache-2.0
"""The fit of the belief: samples drawn from known densities, and the command with real pictures."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mlkd_ros.cli import main
from mlkd_ros.data.sequences import Sequence
from mlkd_ros.distillation import fit
from mlkd_ros.distillation.selection import Trial
from mlkd_ros.tracking.checkpoint import default_checkpoint, load_checkpoint, save_checkpoint
from mlkd_ros.tracking.settings import PresenceSettings


def trial(boxes, name="toy"):
    return Trial("day", Sequence(name, [np.zeros((9, 9, 3), np.uint8)] * len(boxes), boxes))


def test_a_logistic_regression_finds_the_log_ratio_of_two_gaussians():
    rng = np.random.default_rng(0)
    # Means 8 and 2, deviation 2: the log ratio is 1.5 x - 7.5, whatever the shares are.
    rows = np.r_[rng.normal(8, 2, 4000), rng.normal(2, 2, 1000)][:, None]
    labels = np.r_[np.ones(4000), np.zeros(1000)]
    constant, slope = fit._logistic(rows, labels)
    assert (constant, slope) == pytest.approx((-7.5, 1.5), rel=0.1)
    constant, slope = fit._logistic(rows, labels, np.ones(5000))
    assert constant == pytest.approx(-7.5 + math.log(4), rel=0.1)


def test_the_weight_of_a_change_of_size_is_that_of_two_exponential_densities():
    rng = np.random.default_rng(1)
    choices = []
    for _ in range(4000):
        changes = np.r_[rng.exponential(0.25), rng.exponential(0.8, 3)]
        best = int(rng.integers(4))
        changes[[0, best]] = changes[[best, 0]]
        choices.append((np.c_[np.zeros(4), np.zeros(4), changes], best))
    assert fit._size_weight(choices) == pytest.approx(1 / 0.8 - 1 / 0.25, rel=0.05)
    assert fit._size_weight([(rows[[best]], 0) for rows, best in choices]) == 0.0  # no others


def test_times_in_sight_and_out_of_sight_are_counted():
    boxes = np.tile([10.0, 10.0, 5.0, 5.0], (120, 1))
    boxes[30:45] = boxes[90:105] = np.nan
    times = fit._presence_times([trial(boxes), trial(boxes)])  # the same in another light
    # Two disappearances beside four of 5 s before and after.
    assert times["visible_for"] == pytest.approx((4 * 5 + 90 / 30) / (4 + 2))
    assert times["hidden_for"] == pytest.approx((4 * 5 + 30 / 30) / (4 + 2))
    times = fit._presence_times([trial(boxes[:30])])
    assert times["visible_for"] == pytest.approx(21 / 4)
    assert times["hidden_for"] == pytest.approx(5.0)


@pytest.fixture
def sequences(tmp_path):
    """A folder with one sequence, of a car that is hidden for a while."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(20, 90, (18, 32, 3), np.uint8), (320, 180))
    car = cv2.resize(rng.integers(0, 255, (4, 6, 3), np.uint8), (36, 24))
    folder = tmp_path / "seqs" / "car" / "img"
    folder.mkdir(parents=True)
    rows = []
    for i in range(40):
        x, y, hidden = 40 + 4 * i, 70, 24 <= i < 32
        image = ground.copy()
        if not hidden:
            image[y : y + 24, x : x + 36] = car
        noise = rng.integers(0, 12, image.shape, np.uint8)
        cv2.imwrite(str(folder / f"{i + 1:04d}.jpg"), cv2.add(image, noise))
        rows.append("NaN,NaN,NaN,NaN" if hidden else f"{x},{y},36,24")
    (folder.parent / "groundtruth_rect.txt").write_text("\n".join(rows) + "\n")
    return tmp_path / "seqs"


def fit_arguments(student, sequences, output):
    return ["fit", str(student), "--dataset", "otb", "--root", str(sequences), "--condition", "day",
            "--condition", "street", "--flights", "0", "-o", str(output)]  # fmt: skip


def test_the_command_fits_a_student_and_says_on_what(tmp_path, sequences, capsys):
    output = tmp_path / "fitted.safetensors"
    arguments = fit_arguments(default_checkpoint(), sequences, output)
    assert main(arguments) == 0
    before, after = load_checkpoint(), load_checkpoint(output)
    assert after.settings.belief != before.settings.belief
    assert after.settings.belief.evidence[1] > 0  # a higher score speaks for the target
    assert after.settings.belief.hidden_for == pytest.approx((4 * 5 + 8 / 30) / (4 + 1))
    assert after.provenance["fit"]["sequences"] == ["car"]
    assert after.provenance["fit"]["conditions"] == ["day", "street"]
    assert all(np.array_equal(after.weights[k], v) for k, v in before.weights.items())
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err


def test_the_confidence_can_be_fitted_alone(tmp_path, sequences):
    """The densities are kept; thresholds that are not fitted are the package's own."""
    before = load_checkpoint()
    presence = replace(before.settings.presence, tracking_above=0.9, lost_below=0.3)
    student, output = tmp_path / "student.safetensors", tmp_path / "fitted.safetensors"
    settings = replace(before.settings, presence=presence)
    save_checkpoint(replace(before, settings=settings), student)
    assert main([*fit_arguments(student, sequences, output), "--confidence-only"]) == 0
    after = load_checkpoint(output)
    assert after.settings.belief.confidence != before.settings.belief.confidence
    kept = replace(after.settings.belief, confidence=before.settings.belief.confidence)
    assert kept == before.settings.belief
    assert after.settings.calibration == before.settings.calibration
    fitted = after.settings.presence
    assert fitted.tracking_above <= 0.8 and fitted.lost_below == PresenceSettings().lost_below
    assert after.provenance["fit"] == before.provenance["fit"]
    assert after.provenance["confidence_fit"]["boxes"] > 0
