# SPDX-License-Identifier: Apache-2.0
"""The camera's motion from pictures whose shift is known, and velocities over ground by hand."""

import cv2
import numpy as np
import pytest

from mlkd_ros.tracking.frame import BgrFrame
from mlkd_ros.tracking.motion import CameraMotion, GroundVelocity

WORLD = cv2.GaussianBlur(
    np.random.default_rng(5).integers(0, 120, (900, 1600, 3), np.uint8), (0, 0), 6
)
WORLD = cv2.normalize(WORLD, None, 0, 120, cv2.NORM_MINMAX)


def seen_from(x, y, noise=8.0, size=(640, 360)):
    """The world as a camera sees it that looks at (x, y), dark and noisy."""
    part = WORLD[y : y + size[1], x : x + size[0]].astype(np.float32)
    grain = np.random.default_rng(x * 7 + y).normal(0, noise, part.shape)
    return BgrFrame(np.clip(part + grain, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("move", [(0, 0), (6, -4), (-35, 10), (80, 0)])
def test_sees_how_the_picture_moved(move):
    camera = CameraMotion()
    assert camera.look(seen_from(400, 200), needed=True).shift is None
    observed = camera.look(seen_from(400 + move[0], 200 + move[1]), needed=True)
    # The camera goes one way, the picture the other.
    assert observed.shift == pytest.approx((-move[0], -move[1]), abs=3.0)
    assert observed.single


def test_another_scene_another_size_and_the_dark_give_no_shift():
    camera = CameraMotion()
    camera.look(seen_from(0, 0), needed=True)
    assert camera.look(seen_from(900, 500), needed=True).shift is None
    assert camera.look(seen_from(900, 500, size=(320, 240)), needed=True).shift is None
    for seed in range(3):
        grain = np.random.default_rng(seed).integers(0, 4, (360, 640, 3), np.uint8)
        assert camera.look(BgrFrame(grain), needed=True).shift is None


def test_looks_at_few_images_until_it_is_needed():
    camera = CameraMotion()
    looks = [camera.look(seen_from(300 + 3 * i, 200), needed=False) for i in range(12)]
    assert [i for i, look in enumerate(looks) if look is not None] == [5, 11]
    assert looks[11].shift == pytest.approx((-18.0, 0.0), abs=3.0)
    assert not looks[11].single
    assert camera.look(seen_from(336, 200), needed=True).single


def test_velocity_over_ground_is_the_way_less_the_shift():
    ground = GroundVelocity()
    ground.measure((100.0, 50.0), None, 40.0)
    ground.wait(0.1)
    ground.measure((110.0, 50.0), (-10.0, 0.0), 40.0)  # too soon: is added to what follows
    assert ground.value == (0.0, 0.0)
    ground.wait(0.1)
    # 30 px in the picture while it moved by -20 px: 50 px over ground in 0.2 s.
    ground.measure((130.0, 50.0), (-10.0, 0.0), 40.0)
    assert ground.value == pytest.approx((250.0, 0.0))
    ground.wait(0.2)
    # Standing still: weights 1 / (1 + 0) against 0.7 / (1 + 20^2 / 40^2) = 0.56.
    ground.measure((130.0, 50.0), (0.0, 0.0), 40.0)
    assert ground.value == pytest.approx((250.0 * 0.56 / 1.56, 0.0))
    ground.fade(0.5)
    ground.scaled(2.0, 1.0)
    assert ground.value == pytest.approx((250.0 * 0.56 / 1.56, 0.0))


def test_a_place_in_doubt_gives_no_velocity():
    ground = GroundVelocity()
    ground.measure((0.0, 0.0), None, 40.0)
    ground.wait(0.2)
    ground.measure(None, (0.0, 0.0), 40.0)
    ground.wait(0.2)
    ground.measure((90.0, 0.0), (0.0, 0.0), 40.0)
    assert ground.value == (0.0, 0.0)
    ground.wait(0.2)
    ground.measure((90.0 + 4000.0, 0.0), (0.0, 0.0), 40.0)
    assert ground.value == pytest.approx((15.0 * 40.0, 0.0))  # the highest that is believed
