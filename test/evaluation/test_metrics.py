# SPDX-License-Identifier: Apache-2.0
"""Scores against hand-made cases and an implementation in plain loops."""

import math

import numpy as np
import pytest

from mlkd_ros.evaluation.metrics import average, score

PERFECT_AUC = 20 / 21


def _track(frames: int) -> np.ndarray:
    return np.array([[10.0 + 3 * n, 20.0 + 2 * n, 40.0, 30.0] for n in range(frames)])


def _brute_iou(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def _brute_scores(boxes: list[list[float]], truth: list[list[float]]) -> tuple[float, float, float]:
    """Success AUC, precision at 20 px, normalised precision, one frame and threshold at a time."""
    frames = [(b, t) for b, t in zip(boxes, truth, strict=True) if not math.isnan(t[0])]
    success = precise = normalised = 0.0
    for step in range(21):
        hits = [not math.isnan(b[0]) and _brute_iou(b, t) > step / 20 for b, t in frames]
        success += sum(hits) / len(frames) / 21
    for step in range(51):
        hits = []
        for b, t in frames:
            dx, dy = (b[i] + b[i + 2] / 2 - t[i] - t[i + 2] / 2 for i in (0, 1))
            hits.append(math.hypot(dx / t[2], dy / t[3]) <= step / 100)
            if step == 0:
                precise += (math.hypot(dx, dy) <= 20) / len(frames)
        normalised += sum(hits) / len(frames) / 51
    return success, precise, normalised


def test_a_perfect_tracker() -> None:
    scores = score(_track(30), _track(30))
    assert scores.success_auc == pytest.approx(PERFECT_AUC)
    assert (scores.precision, scores.normalised_precision, scores.mean_iou) == (1, 1, 1)
    assert (scores.frames, scores.missed, scores.absent, scores.false_positives) == (30, 0, 0, 0)


def test_a_shift_of_20_pixels_is_precise_and_one_more_is_not() -> None:
    truth = _track(10)
    at_20 = score(truth + [20, 0, 0, 0], truth)
    # 40x30 boxes shifted by half their width: IoU 600 / 1800.
    assert at_20.mean_iou == pytest.approx(1 / 3)
    assert at_20.success_auc == pytest.approx(7 / 21)  # above 0, 0.05, ... 0.30
    assert at_20.precision == 1.0
    assert at_20.normalised_curve[49] == 0 and at_20.normalised_curve[50] == 1
    assert score(truth + [20.5, 0, 0, 0], truth).precision == 0.0


def test_half_lost_is_half_as_good() -> None:
    truth = _track(20)
    boxes = truth.copy()
    boxes[10:] = np.nan
    scores = score(boxes, truth)
    assert scores.success_auc == pytest.approx(PERFECT_AUC / 2)
    assert scores.precision == scores.normalised_precision == scores.mean_iou == 0.5
    assert scores.missed == 10
    far = truth.copy()
    far[10:, 0] += 500
    assert score(far, truth).success_auc == scores.success_auc


def test_frames_without_a_target_do_not_count() -> None:
    truth, boxes = _track(20), _track(20)
    truth[5:10] = np.nan
    boxes[7:10] = np.nan
    scores = score(boxes, truth)
    assert scores.success_auc == pytest.approx(PERFECT_AUC)
    assert (scores.frames, scores.absent, scores.false_positives, scores.missed) == (15, 5, 2, 0)


def test_no_target_at_all_gives_nan() -> None:
    scores = score(_track(3), np.full((3, 4), np.nan))
    assert math.isnan(scores.success_auc) and scores.frames == 0 and scores.false_positives == 3


def test_against_plain_loops() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        truth = np.column_stack([rng.uniform(0, 300, (40, 2)), rng.uniform(5, 80, (40, 2))])
        boxes = truth + rng.normal(0, rng.uniform(1, 25), (40, 4))
        boxes[:, 2:] = np.abs(boxes[:, 2:]) + 1
        boxes[rng.random(40) < 0.1] = np.nan
        truth[rng.random(40) < 0.1] = np.nan
        scores = score(boxes, truth)
        expected = _brute_scores(boxes.tolist(), truth.tolist())
        found = scores.success_auc, scores.precision, scores.normalised_precision
        assert found == pytest.approx(expected, abs=1e-12)


def test_sequences_count_alike_whatever_their_length() -> None:
    long, short = _track(90), _track(10)
    lost = np.full((90, 4), np.nan)
    both = average([score(lost, long), score(short, short)])
    assert both.success_auc == pytest.approx(PERFECT_AUC / 2)
    assert (both.frames, both.missed) == (100, 90)
    empty = score(_track(3), np.full((3, 4), np.nan))
    assert average([score(short, short), empty]).success_auc == pytest.approx(PERFECT_AUC)
    with pytest.raises(ValueError, match="no scores"):
        average([])


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(4, 4\)"):
        score(_track(3), _track(4))


def test_against_the_got10k_toolkit() -> None:
    experiments = pytest.importorskip("got10k.experiments", exc_type=ImportError)
    toolkit = experiments.ExperimentOTB.__new__(experiments.ExperimentOTB)
    toolkit.nbins_iou, toolkit.nbins_ce = 21, 51
    rng = np.random.default_rng(9)
    for _ in range(10):
        truth = np.column_stack([rng.uniform(0, 300, (80, 2)), rng.uniform(5, 80, (80, 2))])
        boxes = truth + rng.normal(0, rng.uniform(1, 25), (80, 4))
        boxes[:, 2:] = np.abs(boxes[:, 2:]) + 1
        ious, errors = toolkit._calc_metrics(boxes, truth)
        success, precision = toolkit._calc_curves(ious, errors)
        ours = score(boxes, truth)
        np.testing.assert_allclose(ours.success_curve, np.ravel(success), atol=1e-12)
        np.testing.assert_allclose(ours.precision_curve, np.ravel(precision), atol=1e-12)
