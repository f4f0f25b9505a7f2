# SPDX-License-Identifier: Apache-2.0
"""What a camera makes of a stream: denoising, sharpening and H.264."""

import numpy as np
import pytest

from mlkd_ros.data.codec import CameraProcessing, degraded, develop, processed
from mlkd_ros.data.lowlight import NAMED_CONDITIONS, capture


def noisy(count=8, size=(64, 96), deviation=20.0):
    rng = np.random.default_rng(3)
    for _ in range(count):
        picture = 100 + deviation * rng.standard_normal((*size, 3))
        yield np.clip(picture, 0, 255).astype(np.uint8)


def test_a_camera_that_does_nothing_changes_nothing():
    frames = list(noisy())
    for before, after in zip(frames, processed(frames, CameraProcessing()), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_still_scene_gets_calmer_by_the_recursive_mean():
    frames = list(noisy(40, deviation=4.0))
    last = list(processed(frames, CameraProcessing(temporal=0.8, edge=1e4)))[-1]
    # The variance of a recursive mean of weight a is (1 - a) / (1 + a) of one frame's.
    assert last.std() == pytest.approx(4.0 * np.sqrt(0.2 / 1.8), rel=0.15)


def test_what_moves_is_not_smeared_by_the_temporal_filter():
    frames = [np.full((40, 40, 3), 40, np.uint8), np.full((40, 40, 3), 200, np.uint8)]
    after = list(processed(frames, CameraProcessing(temporal=0.9, edge=12.0)))[-1]
    np.testing.assert_array_equal(after, frames[-1])


def test_spatial_denoising_smooths_the_flat_and_keeps_the_edge():
    picture = next(noisy(1, deviation=5.0)).astype(np.float32)
    picture[:, 48:] += 100
    after = develop(picture, CameraProcessing(spatial=1.5, edge=12.0)).astype(float)
    assert after[:, :40].std() < 0.5 * picture[:, :40].std()
    assert after[:, 50:54].mean() - after[:, 42:46].mean() > 80


def test_sharpening_lifts_the_contrast_of_detail():
    picture = np.full((40, 40, 3), 100, np.float32)
    picture[20, 20] = 150
    after = develop(picture, CameraProcessing(sharpen=1.0))
    assert after[20, 20, 0] > 150 and after[20, 22, 0] < 100


@pytest.mark.parametrize("size", [(96, 128), (97, 131)])
def test_h264_gives_a_frame_for_each_that_comes_in_and_loses_detail(size):
    pytest.importorskip("av")
    frames = list(noisy(6, size))
    coded = list(processed(iter(frames), CameraProcessing(bit_rate=1.5e6)))
    assert len(coded) == len(frames) and all(f.shape == (*size, 3) for f in coded)
    assert coded[-1].std() < 0.8 * frames[-1].std()
    assert abs(coded[-1].mean() - frames[-1].mean()) < 3


def test_a_higher_bit_rate_is_closer_to_the_picture():
    pytest.importorskip("av")
    # Grey: the format halves the chrominance at any rate.
    frames = [frame[..., :1].repeat(3, axis=2) for frame in noisy(6, (180, 320))]
    errors = []
    for rate in (5e5, 2e8):
        last = list(processed(iter(frames), CameraProcessing(bit_rate=rate)))[-1]
        errors.append(np.abs(last.astype(float) - frames[-1]).mean())
    assert errors[1] < 0.6 * errors[0]


def test_a_named_condition_is_the_same_in_every_run_and_others_are_named():
    frames = list(noisy(2))
    first, again = (list(degraded(frames, "high_gain", (5,))) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    rng = np.random.default_rng((5, 1))
    np.testing.assert_array_equal(first[1], capture(frames[1], NAMED_CONDITIONS["high_gain"], rng))
    with pytest.raises(ValueError, match="high_gain, codec, not 'fog'"):
        degraded(frames, "fog")


def test_the_codec_condition_is_dark_smooth_and_repeatable():
    pytest.importorskip("av")
    frames = list(noisy(4))
    first, again = (list(degraded(frames, "codec", (5,))) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first[-1].mean() < 70 and first[-1].std() < 15


@pytest.mark.parametrize(
    ("field", "value"), [("temporal", 1.0), ("spatial", -1.0), ("edge", 0.0), ("key_every", 0)]
)
def test_settings_without_a_meaning_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        CameraProcessing(**{field: value})


def test_frames_of_another_size_are_named():
    frames = [np.zeros((40, 40, 3), np.uint8), np.zeros((40, 50, 3), np.uint8)]
    with pytest.raises(ValueError, match="frame 1"):
        list(processed(frames, CameraProcessing(temporal=0.5)))
