# SPDX-License-Identifier: Apache-2.0
"""Several starts and draws of the noise: figures by hand, and the command."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from mlkd_ros.cli import main
from mlkd_ros.data.sequences import DatasetError, Sequence
from mlkd_ros.evaluation.robust import (
    Figures,
    Run,
    expected_calibration_error,
    fly_starts,
    starts_of,
    summarise,
    table,
)

COUNT = 40


def sequence(hidden=()):
    boxes = np.array([[10.0 + 2 * i, 20.0, 30.0, 20.0] for i in range(COUNT)])
    boxes[list(hidden)] = np.nan
    return Sequence("toy", [np.full((60, 160, 3), i, np.uint8) for i in range(COUNT)], boxes)


class Oracle:
    """Knows the frame's number by its grey value; says nothing in frames ``blind``, and stands
    still from ``stuck`` on.
    """

    confidence = math.nan

    def __init__(self, boxes, blind=(), stuck=COUNT, confidence=0.9):
        self._boxes, self._blind, self._stuck, self._sure = boxes, blind, stuck, confidence

    def init(self, image, box, stamp=None):
        assert tuple(self._boxes[int(image[0, 0, 0])]) == box

    def update(self, image, stamp=None):
        number = int(image[0, 0, 0])
        self.confidence = self._sure
        row = self._boxes[min(number, self._stuck)]
        if number in self._blind or not np.isfinite(row).all():
            return None
        return tuple(row)


def test_starts_are_spread_evenly_and_begin_where_there_is_a_box():
    assert starts_of(sequence(), 4) == [0, 10, 20, 30]
    assert starts_of(sequence(hidden=range(18, 25)), 2) == [0, 25]
    assert starts_of(sequence(hidden=range(COUNT)), 3) == []


def test_a_tracker_flies_from_every_start_to_the_end():
    flown = sequence()
    made = []

    def create(name):
        made.append(name)
        return Oracle(flown.boxes, stuck=15 if name == "stuck" else COUNT)

    runs = fly_starts(create, ["right", "stuck"], flown, starts=2)
    assert made == ["right", "right", "stuck", "stuck"]
    assert [(run.tracker, run.start, run.figures.frames) for run in runs] == [
        ("right", 0, 40), ("right", 20, 20), ("stuck", 0, 40), ("stuck", 20, 20),
    ]  # fmt: skip
    assert [run.figures.success_auc for run in runs[:2]] == pytest.approx([20 / 21] * 2)
    assert [run.figures.lost for run in runs] == [False, False, True, True]
    assert [len(run.right) for run in runs] == [39, 19, 39, 19]
    assert runs[2].right.tolist() == [i < 19 for i in range(39)]


def test_missed_false_and_found_again():
    flown = sequence(hidden=range(10, 16))
    truth = sequence()
    says = Oracle(truth.boxes, blind=(4, 5, 16, 17, 18))
    (run,) = fly_starts(lambda _: says, ["one"], replace(flown, rate=10.0))
    assert (run.figures.missed, run.figures.frames) == (5, 34)
    assert (run.figures.false, run.figures.absent) == (6, 6)
    assert run.figures.reacquired == (0.3,)
    (run,) = fly_starts(lambda _: Oracle(truth.boxes, blind=range(9, COUNT)), ["one"], flown)
    assert run.figures.reacquired == (math.inf,)
    with pytest.raises(DatasetError, match="toy: no frame is annotated"):
        fly_starts(lambda _: says, ["one"], sequence(hidden=range(COUNT)))


def run_of(name, auc, confidence, right, lost=False):
    figures = Figures(auc, lost, 1, 10, 2, 4, (0.5,))
    return Run("ours", name, "day", 0, 0, figures, np.array(confidence), np.array(right))


def test_means_are_over_sequences_and_errors_are_those_of_the_mean():
    runs = [
        run_of("a", 0.4, [0.9, 0.2], [True, False]),
        run_of("a", 0.6, [0.7, 0.7], [True, False], lost=True),
        run_of("b", 0.9, [0.9, 0.9], [True, True]),
    ]
    summary = summarise(runs, above=0.5)
    assert summary.success_auc == pytest.approx(0.7)
    assert summary.error == pytest.approx(0.2)  # of 0.5 and 0.9
    assert (summary.lost, summary.runs) == (1, 3)
    assert (summary.missed, summary.false) == pytest.approx((0.1, 0.5))
    assert summary.wrong_above == pytest.approx(0.5)
    assert summary.reacquired == 0.5 and summary.returns == 3
    assert any("0.700 +- 0.200" in line for line in table({"ours": summary}))
    with pytest.raises(ValueError, match="no runs"):
        summarise([], 0.5)


def test_the_calibration_error_is_the_gap_in_each_bin():
    confidence = np.array([0.95] * 10 + [0.25] * 10)
    right = np.array([True] * 9 + [False] + [True] * 5 + [False] * 5)
    assert expected_calibration_error(confidence, right) == pytest.approx(0.5 * 0.05 + 0.5 * 0.25)
    assert math.isnan(expected_calibration_error(np.array([]), np.array([], bool)))


def test_the_command_prints_it_and_keeps_the_figures(tmp_path, capsys):
    import cv2

    folder = tmp_path / "otb" / "toy" / "img"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    scene = rng.integers(40, 200, (120, 200, 3), np.uint8)
    for i in range(12):
        cv2.imwrite(str(folder / f"{i + 1:04d}.jpg"), np.roll(scene, 2 * i, axis=1))
    rows = "".join(f"{40 + 2 * i},40,40,30\n" for i in range(12))
    (folder.parent / "groundtruth_rect.txt").write_text(rows)
    arguments = ["evaluate", "--dataset", "otb", "--root", str(tmp_path / "otb"), "--starts", "2",
                 "--noise-seeds", "0", "1", "--condition", "day", "--condition", "dusk",
                 "--results", str(tmp_path / "results")]  # fmt: skip
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "otb, day: 1 sequences, 2 starts" in printed and "otb, dusk" in printed
    kept = json.loads((tmp_path / "results" / "otb-starts2.json").read_text())
    assert kept["day"]["ours"]["runs"] == 2 and kept["dusk"]["ours"]["runs"] == 4
    assert kept["day"]["ours"]["success_auc"] > 0.5
    assert main([*arguments, "--condition", "street"]) == 2
    assert "otb-starts2.json exists already: --overwrite" in capsys.readouterr().err
    assert set(json.loads((tmp_path / "results" / "otb-starts2.json").read_text())) == set(kept)
    assert main([*arguments[:5], "--starts", "0"]) == 2
    assert "--starts must be 1 or more" in capsys.readouterr().err
