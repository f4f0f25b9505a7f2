# SPDX-License-Identifier: Apache-2.0
"""The camera's motion from pictures whose motion is known."""

import math

import cv2
import numpy as np
import pytest

from mlkd_ros.imaging.frame import BgrFrame
from mlkd_ros.tracking.global_motion import STILL, GlobalMotion, Motion

WORLD = cv2.GaussianBlur(
    np.random.default_rng(5).integers(0, 120, (900, 1600, 3), np.uint8), (0, 0), 6
)
WORLD = cv2.normalize(WORLD, None, 0, 120, cv2.NORM_MINMAX)
PERIOD = 1 / 30


def noisy(part, key, noise=8.0):
    grain = np.random.default_rng(key).normal(0, noise, part.shape)
    return BgrFrame(np.clip(part.astype(np.float32) + grain, 0, 255).astype(np.uint8))


def seen_from(x, y, noise=8.0, size=(640, 360)):
    """The world as a camera sees it that looks at (x, y), dark and noisy."""
    return noisy(WORLD[y : y + size[1], x : x + size[0]], x * 7 + y, noise)


def turned(angle, zoom, noise=4.0):
    """The world about (800, 450), turned by ``angle`` (radians) and ``zoom`` times as large."""
    c, s = math.cos(angle) * zoom, math.sin(angle) * zoom
    matrix = np.array([[c, -s, 320 - c * 800 + s * 450], [s, c, 180 - s * 800 - c * 450]])
    return noisy(cv2.warpAffine(WORLD, matrix, (640, 360)), int(angle * 1e4 + zoom * 1e4), noise)


def test_a_motion_applies_to_places_and_to_displacements():
    motion = Motion(tx=10.0, ty=-5.0, a=0.0, b=2.0)
    assert motion.applied(1.0, 2.0) == (6.0, -3.0)
    assert motion.turned(1.0, 2.0) == (-4.0, 2.0)
    assert motion.scale == 2.0
    assert STILL.applied(3.0, 4.0) == (3.0, 4.0) and STILL.variance == 0.0


@pytest.mark.parametrize("move", [(0, 0), (6, -4), (-35, 10), (60, 0)])
def test_sees_how_the_picture_moved(move):
    camera = GlobalMotion()
    assert not camera.look(seen_from(400, 200), PERIOD, needed=True).seen
    motion = camera.look(seen_from(400 + move[0], 200 + move[1]), PERIOD, needed=True)
    # The camera goes one way, the picture the other.
    assert motion.seen
    assert (motion.tx, motion.ty) == pytest.approx((-move[0], -move[1]), abs=3.0)
    assert 0.1 < math.sqrt(motion.variance) < 20.0


def test_a_shift_that_no_camera_makes_is_refused():
    """The same scene, but a third of the picture away from one image to the next."""
    camera = GlobalMotion()
    for i in range(5):
        camera.look(seen_from(300 + 2 * i, 200), PERIOD, needed=True)
    motion = camera.look(seen_from(520, 200), PERIOD, needed=True)
    assert not motion.seen
    assert abs(motion.tx) < 10.0 and math.sqrt(motion.variance) >= 5.0


def test_in_the_dark_the_motion_goes_on_about_as_before():
    """Little more than noise: what matches best by chance is not taken for the motion."""
    camera, worst, seen = GlobalMotion(), 0.0, 0
    for i in range(60):
        picture = seen_from(300 + 5 * i, 200).window(0, 0, 640, 360).astype(np.float32)
        dark = noisy(4 + 0.04 * picture, i, 4)
        motion = camera.look(dark, PERIOD, needed=True)
        if i > 5 and motion.seen:
            seen += 1
            worst = max(worst, abs(motion.tx + 5), abs(motion.ty))
    assert seen > 45
    assert worst < 25


def test_a_slow_motion_does_not_drown_in_noise_that_stands_still():
    """A sensor's fixed pattern; each image is compared with one that lies far enough back."""
    pattern = np.random.default_rng(1).normal(0, 10, (360, 640, 3))
    camera, x = GlobalMotion(), 0.0
    for i in range(41):
        image = seen_from(400 + 2 * i, 200, noise=4.0).window(0, 0, 640, 360) + pattern
        frame = BgrFrame(np.clip(image, 0, 255).astype(np.uint8))
        x += camera.look(frame, PERIOD, needed=True).tx if i else 0.0
    assert x == pytest.approx(-80.0, abs=6.0)


def test_where_two_shifts_match_the_one_that_a_camera_can_do_is_taken():
    """Lamps at even distances: the picture matches itself at every lamp."""
    lamps = np.zeros((360, 640, 3), np.uint8)
    for x in range(20, 640, 80):
        cv2.circle(lamps, (x, 180), 12, (200, 200, 200), -1)
    camera = GlobalMotion()
    frames = [BgrFrame(np.roll(lamps, 16 * i, axis=1)) for i in range(8)]
    shifts = [camera.look(frame, PERIOD, needed=True).tx for frame in frames]
    assert shifts[1:] == pytest.approx([16.0] * 7, abs=3.0)


def test_another_scene_another_size_and_the_dark_are_not_seen():
    camera = GlobalMotion()
    camera.look(seen_from(0, 0), PERIOD, needed=True)
    assert not camera.look(seen_from(900, 500), PERIOD, needed=True).seen
    assert not camera.look(seen_from(900, 500, size=(320, 240)), PERIOD, needed=True).seen
    for seed in range(3):
        grain = np.random.default_rng(seed).integers(0, 4, (360, 640, 3), np.uint8)
        motion = camera.look(BgrFrame(grain), PERIOD, needed=True)
        assert not motion.seen and math.sqrt(motion.variance) > 5.0


@pytest.mark.parametrize(("angle", "zoom"), [(0.04, 1.0), (-0.06, 1.0), (0.0, 1.03), (0.03, 0.97)])
def test_rotation_and_zoom_are_seen_where_they_are_asked_for(angle, zoom):
    camera = GlobalMotion()
    camera.look(turned(0.0, 1.0), PERIOD, needed=True, turning=True)
    motion = camera.look(turned(angle, zoom), PERIOD, needed=True, turning=True)
    assert motion.seen
    assert math.atan2(motion.b, motion.a) == pytest.approx(angle, abs=0.012)
    assert motion.scale == pytest.approx(zoom, abs=0.012)
    c, s = math.cos(angle) * zoom, math.sin(angle) * zoom
    for x, y in ((60, 40), (600, 330)):
        dx, dy = x - 320, y - 180
        expected = (320 + c * dx - s * dy, 180 + s * dx + c * dy)
        assert motion.applied(x, y) == pytest.approx(expected, abs=5.0)


def looked_at(camera, pictures, rate):
    """Images in which the camera's motion was really looked at, and all motions."""
    motions = [camera.look(picture, 1 / rate, needed=False) for picture in pictures]
    return [i for i, motion in enumerate(motions) if motion.seen], motions


@pytest.mark.parametrize("rate", [15, 30, 120])
def test_looks_at_few_images_until_it_is_needed(rate):
    camera = GlobalMotion(seen_from(297, 200))
    count = round(0.4 * rate)
    images, motions = looked_at(
        camera, [seen_from(300 + 90 * i // rate, 200) for i in range(count)], rate
    )
    assert len(images) == 2
    assert camera.look(seen_from(340, 200), 1 / rate, needed=True).seen
    # What an image is said to have moved that was not looked at is as before.
    later = motions[images[0] + 1] if images[1] > images[0] + 1 else motions[images[1]]
    assert later.tx * rate == pytest.approx(-90.0, abs=20.0)


def test_it_says_when_the_picture_was_faster_than_it_had_said():
    camera = GlobalMotion(seen_from(300, 200))
    motions = [camera.look(seen_from(300 + 4 * i, 200), PERIOD, needed=False) for i in range(1, 8)]
    seen = next(motion for motion in motions if motion.seen)
    assert seen.revision[0] == pytest.approx(-4.0 * 30, abs=15.0)
    assert seen.tx == pytest.approx(-4.0, abs=0.6)


def test_in_vain_not_for_ever():
    camera = GlobalMotion(seen_from(0, 200))
    dark = BgrFrame(np.zeros((360, 640, 3), np.uint8))
    for _ in range(60):
        assert not camera.look(dark, PERIOD, needed=False).seen
    assert not camera._due or camera._since == 0.0


def test_a_black_image_in_between_is_no_motion_of_the_next():
    """The picture moved by 40 px unseen: what is told after it is from look to look."""
    camera = GlobalMotion()
    for i in range(4):
        camera.look(seen_from(300 + 2 * i, 200), PERIOD, needed=True)
    dark = BgrFrame(np.zeros((360, 640, 3), np.uint8))
    assert not camera.look(dark, PERIOD, needed=True).seen
    assert not camera.look(seen_from(346, 200), PERIOD, needed=True).seen
    motion = camera.look(seen_from(348, 200), PERIOD, needed=True)
    assert motion.tx == pytest.approx(-2.0, abs=2.0)
