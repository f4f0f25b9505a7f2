# SPDX-License-Identifier: Apache-2.0
"""What is said about images whose light, noise and blur are known."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from mlkd_ros.data.lowlight import NAMED_CONDITIONS, NightConditions, capture
from mlkd_ros.data.night_flight import SCENARIOS, NightFlight
from mlkd_ros.imaging.frame import BgrFrame, Frame
from mlkd_ros.session.image_health import advice, measure


def advice_on(image: np.ndarray) -> str:
    return "; ".join(advice(measure(BgrFrame(image))))


@pytest.fixture(scope="module")
def night() -> np.ndarray:
    return NightFlight("crossing", seed=2).render(60).image


@pytest.fixture(scope="module")
def day() -> np.ndarray:
    """A well-lit scene with edges everywhere, in the proportions of an aerial picture."""
    rng = np.random.default_rng(4)
    image = np.full((720, 1280, 3), 110, np.uint8)
    for _ in range(900):
        x, y = int(rng.integers(1280)), int(rng.integers(720))
        w, h = (int(v) for v in rng.integers(12, 70, 2))
        colour = tuple(int(v) for v in rng.integers(25, 235, 3))
        cv2.rectangle(image, (x, y), (x + w, y + h), colour, -1)
    return cv2.GaussianBlur(image, (0, 0), 0.7)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_night_flights_are_fit_to_fly(scenario: str) -> None:
    image = NightFlight(scenario, seed=1).render(45).image
    assert advice_on(image) == ""


@pytest.mark.parametrize("name", ["dusk", "street"])
def test_ordinary_night_conditions_are_fit_to_fly(day: np.ndarray, name: str) -> None:
    assert advice_on(day) == ""
    assert advice_on(capture(day, NAMED_CONDITIONS[name], np.random.default_rng(1))) == ""


def test_very_dark_asks_for_light(day: np.ndarray) -> None:
    text = advice_on(capture(day, NAMED_CONDITIONS["very_dark"], np.random.default_rng(1)))
    assert "too dark" in text
    assert "raise exposure or gain" in text


def test_a_gain_that_only_amplifies_noise(day: np.ndarray) -> None:
    conditions = NightConditions(exposure=0.0008, gain=150.0, full_well=5000.0, read_noise=6.0)
    text = advice_on(capture(day, conditions, np.random.default_rng(1)))
    assert "lengthen the exposure" in text
    assert "too dark" not in text


def test_black() -> None:
    assert "take the lens cap off" in advice_on(np.zeros((480, 640, 3), np.uint8))


def test_lamps_that_blind_the_camera(night: np.ndarray) -> None:
    image = night.copy()
    cv2.circle(image, (640, 360), 220, (255, 255, 255), -1)
    health = measure(BgrFrame(image))
    assert 0.08 < health.saturated < 0.4
    assert "% of the image is saturated: lower gain or exposure" in advice_on(image)


def test_motion_and_focus_are_told_apart(night: np.ndarray, day: np.ndarray) -> None:
    assert "blurred by motion sideways" in advice_on(cv2.blur(night, (25, 1)))
    assert "blurred by motion up and down" in advice_on(cv2.blur(day, (1, 25)))
    defocused = advice_on(cv2.GaussianBlur(night, (0, 0), 5))
    assert "focus or clean the lens" in defocused


@pytest.mark.parametrize("sigma", [2.0, 5.0, 9.0])
def test_the_noise_is_measured(sigma: float) -> None:
    slope = np.linspace(60, 160, 1280)[None, :, None] + np.zeros((720, 1, 1))
    noise = np.random.default_rng(2).normal(0, sigma, (720, 1280, 1))
    image = np.clip(slope + noise, 0, 255).round().astype(np.uint8).repeat(3, 2)
    assert measure(BgrFrame(image)).noise == pytest.approx(sigma, rel=0.15)


def test_a_picture_without_edges_says_nothing_about_sharpness() -> None:
    health = measure(BgrFrame(np.full((480, 640, 3), 90, np.uint8)))
    assert math.isnan(health.edge_x)
    assert "blurred" not in "; ".join(advice(health))
    assert all(isinstance(value, str) for value in health.values().values())


@pytest.mark.parametrize("size", [(32, 24), (41, 41), (8, 8), (3, 2)])
def test_small_images(size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    if min(size) < 8:
        with pytest.raises(ValueError, match="at least"):
            measure(BgrFrame(image))
    else:
        assert measure(BgrFrame(image)).mean > 0


def test_little_of_the_frame_is_looked_at() -> None:
    looked = 0

    class Counting(Frame):
        def _convert(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
            nonlocal looked
            looked += (x1 - x0) * (y1 - y0)
            return np.zeros((y1 - y0, x1 - x0, 3), np.uint8)

    measure(Counting(3840, 2160))
    assert 0 < looked < 30_000
