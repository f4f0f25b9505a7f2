# SPDX-License-Identifier: Apache-2.0
"""The rendered flights: reproducible, and with a ground truth that can be believed."""

import cv2
import numpy as np
import pytest

from mlkd_ros.data.lowlight import NightConditions
from mlkd_ros.data.night_flight import SCENARIOS, NightFlight, actors, sensor, town
from mlkd_ros.tracking.geometry import iou

SMALL = (480, 270)


@pytest.fixture(scope="module")
def crossing():
    return NightFlight("crossing", size=SMALL)


def visible(scenario, seconds, step):
    """Visible fraction of the target every `step` frames."""
    flight = NightFlight(scenario, size=(320, 180), duration=seconds)
    return np.array([flight.render(i).targets[0][2] for i in range(0, flight.frame_count, step)])


def longest_run(condition):
    best = run = 0
    for value in condition:
        run = run + 1 if value else 0
        best = max(best, run)
    return best


def test_a_frame_depends_on_scenario_seed_and_number_only(crossing):
    late = crossing.render(90)
    early = crossing.render(10)
    again = NightFlight("crossing", size=SMALL)
    for frame, number in ((early, 10), (late, 90)):
        other = again.render(number)
        assert np.array_equal(frame.image, other.image)
        assert frame.targets == other.targets and frame.stamp == other.stamp


def test_another_seed_is_another_flight(crossing):
    other = NightFlight("crossing", seed=1, size=SMALL).render(30)
    assert not np.array_equal(crossing.render(30).image, other.image)


def test_frames_by_number_and_by_time_are_the_same(crossing):
    assert np.array_equal(crossing.render(45).image, crossing.render(1.5).image)
    assert crossing.render(45).stamp == pytest.approx(1.5)


def test_two_frames_differ_in_noise_where_nothing_moves(crossing):
    first, second = (crossing.render(i).image.astype(int) for i in (30, 31))
    assert 0.5 < np.abs(first - second).mean() < 20


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_is_night_and_has_a_target(scenario):
    flight = NightFlight(scenario, size=SMALL, duration=30.0)
    for number in (0, 200, 500, 899):
        frame = flight.render(number)
        assert frame.image.shape == (270, 480, 3) and frame.image.dtype == np.uint8
        assert 3 < frame.image.mean() < 70
        assert frame.targets[0][0] == "target"
        assert len({identity for identity, *_ in frame.targets}) == len(frame.targets)
        for _, (x, y, w, h), fraction, kind in frame.targets:
            assert 0 <= x <= x + w <= 480 and 0 <= y <= y + h <= 270
            assert 0.0 <= fraction <= 1.0
            assert kind in ("car", "van", "bus", "person")


def test_low_light_is_darker_and_noisier_than_the_crossing(crossing):
    dark = NightFlight("low_light", size=SMALL).render(30).image
    assert dark.mean() < 0.8 * crossing.render(30).image.mean()


def test_the_target_of_the_default_flight_moves_and_is_of_a_fair_size():
    flight = NightFlight("crossing", duration=25.0)
    boxes = np.array([flight.render(i).targets[0][1] for i in range(0, 750, 50)])
    assert 30 < np.median(boxes[:, 2]) < 100 and 40 < np.median(boxes[:, 3]) < 100
    assert np.ptp(boxes[:, 0]) > 60


def test_boxes_move_smoothly(crossing):
    boxes = np.array([crossing.render(i).targets[0][1] for i in range(20)])
    assert min(iou(a, b) for a, b in zip(boxes, boxes[1:], strict=False)) > 0.7


def test_occlusion_hides_the_target_for_one_to_two_seconds():
    hidden = visible("occlusion", 20.0, 3) == 0.0
    assert 1.0 <= longest_run(hidden) / 10 <= 2.5
    assert (visible("crossing", 20.0, 30) > 0.5).all()


def test_out_of_view_leaves_the_picture_and_comes_back():
    seen = visible("out_of_view", 22.0, 6)
    assert seen[0] > 0.9 and seen[-1] > 0.9
    assert 1.5 <= longest_run(seen == 0.0) / 5 <= 4.0


def test_small_target_is_small_and_scale_change_changes_the_scale():
    person = NightFlight("small_target").render(60).targets[0]
    assert person[3] == "person" and 12 <= person[1][3] <= 35
    flight = NightFlight("scale_change", duration=20.0)
    heights = [flight.render(i).targets[0][1][3] for i in range(0, 600, 40)]
    assert max(heights) > 2.0 * min(heights)


def test_a_box_fits_the_painted_body_to_the_pixel():
    camera = looking_down()
    for model in actors.MODELS:
        for yaw in (0.0, 0.7, 2.1, 4.0):
            canvas = np.zeros((400, 600, 3), np.uint8)
            painter = actors.Painter(canvas)
            pose = (1.0, -2.0, yaw)
            points = actors.see_vehicle(camera, model, pose)
            light = np.full(3, 3.0)
            actors.paint_vehicle(painter, camera, model, "white", points, pose, light, False)
            painter.annotate("a", "car", actors.outline(points))
            x, y, w, h = painter.traces[0].box
            left, top, width, height = cv2.boundingRect((canvas.max(axis=2) > 25).astype(np.uint8))
            assert [x, y, x + w, y + h] == pytest.approx(
                [left, top, left + width, top + height], abs=2.0
            )


def test_a_persons_box_fits_the_painted_body():
    camera = looking_down()
    look = actors.PersonLook(1.8, (0.7, 0.7, 0.7), (0.7, 0.7, 0.7))
    canvas = np.zeros((400, 600, 3), np.uint8)
    painter = actors.Painter(canvas)
    actors.paint_person(painter, camera, look, (0.0, 0.0, 0.4), 0.5, np.full(3, 3.0))
    painter.annotate("a", "person", actors.person_outline(camera, look, 0.0, 0.0, 0.4, 0.5))
    x, y, w, h = painter.traces[0].box
    painted = cv2.boundingRect((canvas.max(axis=2) > 60).astype(np.uint8))
    assert iou(np.array([x, y, w, h]), np.array(painted, float)) > 0.75


def looking_down():
    rotation = np.array([[1.0, 0, 0], [0, -0.6, -0.8], [0, 0.8, -0.6]])
    return actors.Camera(np.array([0.0, -20.0, 16.0]), rotation, 500.0, 600, 400)


def test_what_is_painted_later_takes_from_the_visible_fraction():
    painter = actors.Painter(np.zeros((100, 100, 3), np.uint8))
    painter.annotate("a", "car", np.array([(10.0, 10), (50, 10), (50, 30), (10, 30)]))
    painter.cover(np.array([(30.0, 0), (90, 0), (90, 90), (30, 90)]))
    painter.annotate("b", "car", np.array([(80.0, 80), (119, 80), (119, 119), (80, 119)]))
    half, quarter = (np.count_nonzero(t.mask) / t.whole for t in painter.traces)
    assert half == pytest.approx(0.5, abs=0.03)
    assert quarter == pytest.approx(0.25, abs=0.03)


def test_ground_and_objects_share_one_camera(crossing):
    camera = crossing._camera(30)
    spot = np.array([[30.0, 60.0, 0.0], [42.0, 68.0, 0.0]])
    seen, _ = camera.project(spot)
    column = camera.ground_homography() @ np.column_stack((spot[:, :2], np.ones(2))).T
    assert pytest.approx(seen, abs=1e-6) == (column[:2] / column[2]).T
    assert crossing.focal_px == pytest.approx(0.8 * 480)


def test_the_town_repeats_without_a_seam():
    ground = town.build_town(0, town.TownLight()).ground
    side = int(town.PERIOD_M * town.TEXELS_PER_M)
    assert np.array_equal(ground[:100, side:], ground[:100, : len(ground) - side])
    assert np.array_equal(ground[side:, :100], ground[: len(ground) - side, :100])


def test_lamps_light_the_ground_below_them():
    lit = town.build_town(0, town.TownLight())
    below = np.array([lit.light_at(a.x + a.arm[0], a.y + a.arm[1]).max() for a in lit.lamps])
    assert np.median(below) > 10 * np.percentile(lit.light.max(axis=2), 10)
    assert np.array_equal(lit.light_at(3.0, 5.0), lit.light_at(3.0 + 256.0, 5.0 - 512.0))


def test_nobody_drives_through_another():
    flight = NightFlight("distractors", size=SMALL, duration=20.0)
    vehicles = [m for m in flight._movers if m.look is None]
    places = np.array([m.pose[::15, :2] for m in vehicles])
    gap = places[:, None] - places[None]
    gap = (gap + town.PERIOD_M / 2) % town.PERIOD_M - town.PERIOD_M / 2
    distance = np.hypot(gap[..., 0], gap[..., 1])
    distance[np.eye(len(vehicles), dtype=bool)] = np.inf
    assert distance.min() > 2.5
    assert len(vehicles) > 20


@pytest.mark.parametrize("wide", [True, False])
def test_the_fast_sensor_follows_the_cameras_noise(wide, monkeypatch):
    if wide and not sensor._has_wide_lookup():
        pytest.skip("this OpenCV looks up 8-bit values only")
    monkeypatch.setattr(sensor, "_has_wide_lookup", lambda: wide)
    night = NightConditions(gain=4.0, full_well=4000.0, read_noise=6.0, noise_grain=0.5)
    camera = sensor.NightSensor(night, (300, 200), seed=0)
    root = np.full((200, 300, 3), 128, np.uint8)
    picture = camera.develop(root, np.random.default_rng(0)).astype(float) / 255
    linear = np.where(picture <= 0.04045, picture / 12.92, ((picture + 0.055) / 1.055) ** 2.4)
    signal = (128 / 255) ** 2
    expected = np.sqrt(signal * 1000.0 + 36.0) / 1000.0
    assert linear.mean() == pytest.approx(signal, rel=0.02)
    assert linear.std() == pytest.approx(expected, rel=0.08)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown scenario 'sunny'.*crossing"):
        NightFlight("sunny")
    with pytest.raises(ValueError, match="size"):
        NightFlight(size=(8, 8))
    with pytest.raises(ValueError, match="rate"):
        NightFlight(rate=0.0)
    with pytest.raises(IndexError, match="frame 30 .* 30 frames"):
        NightFlight(size=SMALL, duration=1.0).render(30)


def test_odd_sizes_and_rates_work():
    frame = NightFlight("crossing", size=(333, 207), rate=12.5, duration=2.0).render(20)
    assert frame.image.shape == (207, 333, 3)
    assert frame.stamp == pytest.approx(1.6)
