# SPDX-License-Identifier: Apache-2.0
"""The camera's motion from pictures whose shift is known, and velocities over ground by hand."""

import cv2
import numpy as np
import pytest

from mlkd_ros.imaging.frame import BgrFrame
from mlkd_ros.tracking.motion import CameraMotion, GroundTrack, Observation

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
    assert observed.images == 1


def test_in_the_dark_the_motion_goes_on_about_as_before():
    """Little more than noise: what matches best by chance is not taken for the motion."""
    camera, worst, seen = CameraMotion(), 0.0, 0
    for i in range(60):
        picture = seen_from(300 + 5 * i, 200).window(0, 0, 640, 360).astype(np.float32)
        grain = np.random.default_rng(i).normal(0, 4, picture.shape)
        dark = BgrFrame(np.clip(4 + 0.04 * picture + grain, 0, 255).astype(np.uint8))
        observed = camera.look(dark, needed=True)
        if i > 5 and observed.shift is not None:
            seen += 1
            worst = max(worst, abs(observed.shift[0] + 5), abs(observed.shift[1]))
    assert seen > 45
    assert worst < 25


def test_a_slow_motion_does_not_drown_in_noise_that_stands_still():
    """A sensor's fixed pattern; each image is compared with one that lies far enough back."""
    pattern = np.random.default_rng(1).normal(0, 10, (360, 640, 3))
    camera, x = CameraMotion(), 0.0
    for i in range(41):
        image = seen_from(400 + 2 * i, 200, noise=4.0).window(0, 0, 640, 360) + pattern
        observed = camera.look(BgrFrame(np.clip(image, 0, 255).astype(np.uint8)), needed=True)
        x += observed.shift[0] if i else 0.0
    assert x == pytest.approx(-80.0, abs=6.0)


def test_where_two_shifts_match_the_one_that_a_camera_can_do_is_taken():
    """Lamps at even distances: the picture matches itself at every lamp."""
    lamps = np.zeros((360, 640, 3), np.uint8)
    for x in range(20, 640, 80):
        cv2.circle(lamps, (x, 180), 12, (200, 200, 200), -1)
    camera = CameraMotion()
    shifts = [camera.look(BgrFrame(np.roll(lamps, 16 * i, axis=1)), needed=True) for i in range(8)]
    assert [one.shift[0] for one in shifts[1:]] == pytest.approx([16.0] * 7, abs=3.0)


def test_another_scene_another_size_and_the_dark_give_no_shift():
    camera = CameraMotion()
    camera.look(seen_from(0, 0), needed=True)
    assert camera.look(seen_from(900, 500), needed=True).shift is None
    assert camera.look(seen_from(900, 500, size=(320, 240)), needed=True).shift is None
    for seed in range(3):
        grain = np.random.default_rng(seed).integers(0, 4, (360, 640, 3), np.uint8)
        assert camera.look(BgrFrame(grain), needed=True).shift is None


def looked_at(camera, pictures):
    looks = [camera.look(picture, needed=False) for picture in pictures]
    return [i for i, look in enumerate(looks) if look is not None], looks


def test_looks_at_few_images_until_it_is_needed():
    camera = CameraMotion(seen_from(297, 200))
    images, looks = looked_at(camera, [seen_from(300 + 3 * i, 200) for i in range(12)])
    assert images == [5, 11]
    assert looks[11].shift == pytest.approx((-18.0, 0.0), abs=3.0)
    assert looks[11].images == 6
    assert camera.look(seen_from(336, 200), needed=True).images == 1


def test_looks_more_often_while_the_camera_turns_and_in_vain_not_for_ever():
    camera = CameraMotion(seen_from(0, 200))
    images, looks = looked_at(camera, [seen_from(28 * (i + 1), 200) for i in range(20)])
    # 28 px an image: after six images it has gone too far to be recognised, so that the next one
    # is looked at; from then on no more than a tenth of the 640 px passes between two looks.
    assert images[:4] == [5, 6, 8, 10]
    assert looks[5].shift is None
    assert looks[8].shift == pytest.approx((-56.0, 0.0), abs=4.0)
    dark = BgrFrame(np.zeros((360, 640, 3), np.uint8))
    images, _ = looked_at(camera, [dark] * 60)
    assert len(images) < 25
    assert images[-1] - images[-2] == 6


def test_a_black_image_in_between_is_no_motion_of_the_next():
    """The picture moved by 40 px unseen: what is told after it is from look to look."""
    camera = CameraMotion()
    for i in range(4):
        camera.look(seen_from(300 + 2 * i, 200), needed=True)
    assert camera.look(BgrFrame(np.zeros((360, 640, 3), np.uint8)), needed=True).shift is None
    assert camera.look(seen_from(346, 200), needed=True).shift is None
    observed = camera.look(seen_from(348, 200), needed=True)
    assert observed.shift == pytest.approx((-2.0, 0.0), abs=2.0)


def flown(ground, places, shift, elapsed=0.1, size=40.0):
    """One image after another, each looked at, with the target beyond doubt at ``places``."""
    for place in places:
        ground.advance(elapsed, Observation(shift, 1))
        ground.fix(place, size)


def test_dead_reckoning_goes_on_over_ground_and_follows_the_picture():
    ground = GroundTrack((100.0, 50.0), 40.0)
    # 5 px an image in the picture, while that moves by -5 px: 10 px over ground in 0.1 s.
    flown(ground, [(105.0, 50.0), (110.0, 50.0), (115.0, 50.0), (120.0, 50.0)], (-5.0, 0.0))
    assert ground.place is None  # nothing to be reckoned while it is there
    ground.doubt()
    assert ground.velocity == pytest.approx((100.0, 0.0), rel=0.1)
    ground.advance(0.1, Observation((30.0, 7.0), 1))
    # Not from the last fix, in which it may have been half covered, but from the one before.
    assert ground.age == pytest.approx(0.2)
    assert ground.place == pytest.approx((115.0 - 5.0 + 30.0 + 20.0, 57.0), abs=2.5)
    ground.advance(0.1, None)  # an image not looked at: known again with the next one that is
    ground.advance(0.1, Observation((0.0, 0.0), 2))
    assert ground.place == pytest.approx((180.0, 57.0), abs=5.0)


def test_the_last_fixes_before_doubt_do_not_count():
    """A wall covers the target: what is left of it stands still before the wall."""
    ground = GroundTrack((0.0, 0.0), 40.0)
    flown(ground, [(10.0 * i, 0.0) for i in range(1, 10)], (0.0, 0.0), elapsed=0.04)
    flown(ground, [(92.0, 0.0), (93.0, 0.0)], (0.0, 0.0), elapsed=0.04)
    ground.doubt()
    ground.advance(0.04, Observation((0.0, 0.0), 1))
    assert ground.place[0] == pytest.approx(120.0, abs=4.0)


def test_a_pan_says_little_about_the_velocity():
    """Its parts do not move alike: the target 5% less than the mean."""
    ground = GroundTrack((600.0, 300.0), 40.0)
    flown(ground, [(600.0, 300.0)] * 20, (0.0, 0.0))
    flown(ground, [(600.0 - 57.0 * i, 300.0) for i in range(1, 8)], (-60.0, 0.0))
    ground.doubt()
    assert ground.velocity[0] == pytest.approx(0.0, abs=8.0)  # taken at its word: 30 px a second


def test_no_shift_no_reckoning_and_the_highest_velocity_that_is_believed():
    ground = GroundTrack((0.0, 0.0), 40.0)
    flown(ground, [(1000.0 * i, 0.0) for i in range(1, 6)], (0.0, 0.0))
    ground.doubt()
    assert ground.velocity == pytest.approx((15.0 * 40.0, 0.0))
    ground.advance(0.1, Observation(None, 1))
    assert ground.place is None
    ground.reckon_from((20.0, 10.0))
    assert ground.place == pytest.approx((20.0, 10.0))
    ground.scaled(2.0, 1.0)
    assert ground.place is None
    assert ground.velocity == pytest.approx((1200.0, 0.0))
