# SPDX-License-Identifier: Apache-2.0
"""The low-light camera against its own physics."""

import dataclasses
import zlib

import numpy as np
import pytest

from mlkd_ros.data.lowlight import (
    NAMED_CONDITIONS,
    NightConditions,
    capture,
    sample_conditions,
    sample_high_gain,
)

MID_GREY = 188  # sRGB code of half the white's linear light
QUIET = NightConditions(full_well=1e9, read_noise=0.0)


def flat(code=MID_GREY, size=(200, 240)):
    return np.full((*size, 3), code, np.uint8)


def to_linear(picture):
    code = picture.astype(np.float64) / 255.0
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def test_a_perfect_camera_by_day_changes_nothing():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    seen = capture(picture, QUIET, rng)
    assert np.abs(seen.astype(int) - picture).max() <= 1


@pytest.mark.parametrize(("exposure", "gain"), [(0.5, 1.0), (0.05, 4.0), (0.01, 10.0)])
def test_brightness_is_exposure_times_gain_in_linear_light(exposure, gain):
    seen = capture(
        flat(), dataclasses.replace(QUIET, exposure=exposure, gain=gain), np.random.default_rng(0)
    )
    expected = to_linear(flat()).mean() * exposure * gain
    assert to_linear(seen).mean() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("grain", [0.0, 0.8, 1.5])
@pytest.mark.parametrize("chroma", [0.0, 0.5, 1.0])
def test_noise_variance_is_photon_plus_read(grain, chroma):
    night = NightConditions(
        exposure=0.1,
        gain=4.0,
        full_well=4000.0,
        read_noise=6.0,
        noise_grain=grain,
        chroma_grain=grain,
        chroma_noise=chroma,
    )
    seen = to_linear(capture(flat(size=(400, 400)), night, np.random.default_rng(1)))
    electrons = to_linear(flat()).mean() * 0.1 * 4000.0
    expected = np.sqrt(electrons + 6.0**2) * 4.0 / 4000.0
    assert seen.std(axis=(0, 1)) == pytest.approx([expected] * 3, rel=0.07)


def test_photon_noise_grows_with_the_light_but_slower():
    night = NightConditions(exposure=0.1, gain=4.0, full_well=4000.0, read_noise=0.1)
    rng = np.random.default_rng(2)
    dim, bright = (to_linear(capture(flat(code), night, rng)) for code in (120, 220))
    assert dim.std() < bright.std()
    assert bright.std() / dim.std() == pytest.approx(np.sqrt(bright.mean() / dim.mean()), rel=0.1)


def test_grain_correlates_neighbours_and_chroma_noise_decorrelates_colours():
    night = NightConditions(exposure=0.1, gain=4.0, full_well=2000.0)

    def correlations(**changes):
        picture = capture(
            flat(), dataclasses.replace(night, **changes), np.random.default_rng(3)
        ).astype(float)
        blue, red = picture[..., 0], picture[..., 2]
        neighbours = np.corrcoef(blue[:, :-1].ravel(), blue[:, 1:].ravel())[0, 1]
        return neighbours, np.corrcoef(blue.ravel(), red.ravel())[0, 1]

    white, colourful = correlations(chroma_noise=1.0)
    assert abs(white) < 0.05 and abs(colourful) < 0.05
    grainy, grey = correlations(chroma_noise=0.1, noise_grain=1.0, chroma_grain=1.0)
    assert grainy > 0.4 and grey > 0.8


def test_lamp_colour_vignette_and_pools_shape_the_light():
    rng = np.random.default_rng(4)
    sodium = capture(
        flat(), dataclasses.replace(QUIET, exposure=0.3, lamp_colour=(0.4, 0.9, 1.4)), rng
    )
    assert sodium[..., 2].mean() > sodium[..., 1].mean() > sodium[..., 0].mean()
    dim_corners = capture(flat(), dataclasses.replace(QUIET, exposure=0.3, vignette=0.6), rng)
    assert dim_corners[0, 0].mean() < 0.8 * dim_corners[100, 120].mean()
    pool = capture(
        flat(), dataclasses.replace(QUIET, exposure=0.1, pools=((0.2, 0.5, 0.2, 4.0),)), rng
    )
    assert pool[100, 48].mean() > 1.5 * pool[100, 220].mean()
    lamp = capture(
        flat(), dataclasses.replace(QUIET, exposure=0.02, glares=((0.5, 0.5, 0.02, 2.0),)), rng
    )
    assert lamp[100, 120].min() == 255 and lamp[10, 10].max() < 60


def test_motion_blur_smears_along_its_direction_and_keeps_the_light():
    scene = flat(0)
    scene[100, 120] = 255
    seen = to_linear(
        capture(scene, dataclasses.replace(QUIET, motion_blur=(9.0, 0.0)), np.random.default_rng(5))
    )
    lit_rows, lit_columns = np.nonzero(seen[..., 1] > 0.02)
    assert np.ptp(lit_rows) == 0 and 7 <= np.ptp(lit_columns) <= 10
    assert seen[..., 1].sum() == pytest.approx(1.0, abs=0.05)


def test_same_generator_state_gives_the_same_picture_and_a_new_capture_new_noise():
    night = NAMED_CONDITIONS["dark"]
    rng = np.random.default_rng(6)
    first, second = capture(flat(), night, rng), capture(flat(), night, rng)
    assert np.array_equal(first, capture(flat(), night, np.random.default_rng(6)))
    assert not np.array_equal(first, second)


def test_named_conditions_get_darker_and_noisier():
    rng = np.random.default_rng(7)
    day = rng.integers(40, 200, (240, 320, 1), dtype=np.uint8).repeat(3, axis=2)
    means = [
        capture(day, NAMED_CONDITIONS[name], rng).mean()
        for name in ("dusk", "street", "dark", "very_dark")
    ]
    assert means == sorted(means, reverse=True)
    assert 10 < means[2] < 30 and means[3] < 14


def test_column_pattern_stays_and_row_noise_changes():
    night = NightConditions(
        exposure=0.1, gain=4.0, full_well=4000.0, column_pattern=10.0, pattern_seed=3
    )
    rng = np.random.default_rng(8)
    first, second = (capture(flat(), night, rng).mean(axis=(0, 2)) for _ in range(2))
    assert np.corrcoef(first, second)[0, 1] > 0.9
    rows = dataclasses.replace(night, column_pattern=0.0, row_noise=10.0)
    first, second = (capture(flat(), rows, rng).mean(axis=(1, 2)) for _ in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.4 and first.std() > 1.0


def test_sampled_conditions_work_and_are_broad():
    rng = np.random.default_rng(9)
    means = []
    for _ in range(120):
        seen = capture(flat(size=(60, 70)), sample_conditions(rng), rng)
        assert seen.shape == (60, 70, 3) and seen.dtype == np.uint8
        means.append(seen.mean())
    assert np.percentile(means, 10) < 30 and np.percentile(means, 90) > 90


def test_severity_orders_darkness():
    def mean_brightness(severity):
        rng = np.random.default_rng(10)
        return np.mean(
            [
                np.log(c.exposure * c.gain)
                for c in (sample_conditions(rng, severity) for _ in range(200))
            ]
        )

    assert mean_brightness(0.0) > mean_brightness(1.0) > mean_brightness(2.0)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (255, 255), (720, 1280)])
def test_any_size_and_views_with_strides(size):
    scene = np.full((size[0], size[1] * 2, 3), 90, np.uint8)[:, ::2]
    night = dataclasses.replace(
        NAMED_CONDITIONS["street"], jpeg_quality=60, pools=((0.5, 0.5, 0.3, 1.0),)
    )
    seen = capture(scene, night, np.random.default_rng(11))
    assert seen.shape == (*size, 3) and seen.dtype == np.uint8
    assert (scene == 90).all()


def test_unusable_pictures_are_named():
    rng = np.random.default_rng(12)
    with pytest.raises(TypeError, match="float32"):
        capture(flat().astype(np.float32), QUIET, rng)
    with pytest.raises(TypeError, match="list"):
        capture([[0]], QUIET, rng)
    with pytest.raises(ValueError, match=r"\(200, 240\)"):
        capture(flat()[..., 0], QUIET, rng)
    with pytest.raises(ValueError, match="shape"):
        capture(np.zeros((0, 4, 3), np.uint8), QUIET, rng)


@pytest.mark.parametrize(
    "field",
    [
        {"exposure": 0.0},
        {"gain": -1.0},
        {"full_well": float("nan")},
        {"read_noise": -1.0},
        {"vignette": 1.5},
        {"chroma_noise": 2.0},
        {"lamp_colour": (1.0, 0.0, 1.0)},
        {"motion_blur": (-1.0, 0.0)},
        {"jpeg_quality": 0},
        {"contrast": 0.0},
        {"saturation": -0.1},
    ],
)
def test_meaningless_conditions_are_refused_by_name(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        NightConditions(**field)


def test_severity_outside_the_range_is_refused():
    with pytest.raises(ValueError, match="severity"):
        sample_conditions(np.random.default_rng(0), 3.0)


def test_cameras_at_high_gain_are_in_their_published_range():
    """80 to 1,000 electrons fill the range; the read noise is up to 4% of white."""
    rng = np.random.default_rng(0)
    drawn = [sample_high_gain(rng) for _ in range(400)]
    electrons = np.array([c.full_well / c.gain for c in drawn])
    read = np.array([c.read_noise for c in drawn]) / electrons
    assert electrons.min() > 79 and electrons.max() < 1001
    assert 0.003 < np.median(read) < 0.02 and read.max() < 0.05
    brightness = np.array([c.exposure * c.gain for c in drawn])
    assert brightness.min() > 0.09 and brightness.max() < 0.8
    # The noise of a flat grey is that of its electrons: sqrt(signal + read^2) in those of white.
    grey = np.full((120, 160, 3), 188, np.uint8)  # half of white, linear
    camera = NightConditions(exposure=0.05, gain=10.0, full_well=3000.0, read_noise=6.0)
    seen = capture(grey, camera, rng).astype(float) / 255
    linear = np.where(seen <= 0.04045, seen / 12.92, ((seen + 0.055) / 1.055) ** 2.4)
    signal = 0.05 * 3000 * 0.5
    assert linear.std() * 300 == pytest.approx(np.sqrt(signal + 36), rel=0.1)


def test_conditions_of_published_figures_stay_as_they_are():
    """A change of any value would make old and new figures incomparable."""
    published = [NAMED_CONDITIONS[name] for name in ("dusk", "street", "dark", "very_dark")]
    assert zlib.crc32(repr(published).encode()) == 3886825449
