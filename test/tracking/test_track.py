# SPDX-License-Identifier: Apache-2.0
"""What a track believes, in scenes whose peaks are given, at several rates of the camera.

The engine stands still in time and sees what it is told; the pictures are real, so that the
camera's motion is.
"""

import functools
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mlkd_ros.tracking import (
    BeliefSettings,
    PresenceSettings,
    Tracker,
    TrackerSettings,
    TrackState,
)
from mlkd_ros.tracking.association import log_student
from mlkd_ros.tracking.candidates import NO_PEAK, PEAKS, STUDENT_SHAPES
from mlkd_ros.tracking.engine import Engine
from mlkd_ros.tracking.existence import probability_of
from mlkd_ros.tracking.geometry import iou

RATES = [15, 30, 120]
IMAGE = (640, 360)
#: Sides of the target and of what looks like it, pixels, and the logit that a plain one has.
SIDE, PLAIN = 30.0, 11.0
#: Written out, so that another fit of what ships changes nothing here.
SETTINGS = TrackerSettings(
    calibration=(0.66, -4.6),
    presence=PresenceSettings(0.5, 0.3, 0.1, 0.05, 0.7, 3.0, 3),
    belief=BeliefSettings(
        score_slope=0.674, score_offset=-3.7, score_most=12.0, detection=0.95, displacement=0.12,
        speed=10.0, freedom=4.0, association=(0.674, 1.0, -2.0), wander=2.0, wander_time=2.0,
        jitter=0.12, visible_for=5.0, hidden_for=5.0, independent_after=0.1,
        evidence=(2.65, 0.94, 1.9, -3.6, -0.55), confidence=(-4.0, 0.2, 0.2, 0.5), score_time=0.8,
    ),
)  # fmt: skip


class Told(Engine):
    """An engine that finds the ``things`` it is told of, and clutter that looks like nothing.

    things: centre x, y and logit of what is in the picture, all of ``SIDE``.
    """

    name = "told"

    def __init__(self):
        super().__init__(STUDENT_SHAPES["mobile_s16"], SETTINGS)
        self.search_sizes = self.shape.search_sizes
        self.things, self.windows = (), []

    def template(self, patches):
        return (np.zeros((len(patches), 1), np.float32),)

    def locate(self, frame, regions):
        self.windows = [region.window for region in regions]
        return np.stack([self._peaks(region) for region in regions])

    def _peaks(self, region):
        window, rows = region.window, []
        middle, half = window.to_image(window.size / 2, window.size / 2), window.side / 2
        clutter = (middle[0] + 0.3 * half, middle[1] - 0.2 * half, -7.0)
        for x, y, logit in (*self.things, clutter):
            if max(abs(x - middle[0]), abs(y - middle[1])) < half:
                squared = math.dist((x, y), middle) ** 2 / region.deviation**2
                rank = 0.674 * min(logit, 12.0) + log_student(squared, 4.0)
                px, py = (x - window.x) / window.scale, (y - window.y) / window.scale
                side = SIDE / window.scale
                rows.append((px, py, side, side, logit, rank))
        found = np.full((PEAKS, 6), NO_PEAK, np.float32)
        rows = sorted(rows, key=lambda row: -row[5])[:PEAKS]
        found[: len(rows)] = rows
        return found


@functools.cache
def ground():
    coarse = np.random.default_rng(3).integers(20, 120, (90, 150, 3), np.uint8)
    return cv2.resize(coarse, (1800, 1080), interpolation=cv2.INTER_CUBIC)


def picture(camera):
    """What a camera sees whose upper left corner is there, in pixels of the ground."""
    x, y = round(camera[0]) + 500, round(camera[1]) + 300
    return ground()[y : y + IMAGE[1], x : x + IMAGE[0]]


def box_at(x, y):
    return (x - SIDE / 2, y - SIDE / 2, SIDE, SIDE)


class Flight:
    """A target that was designated at ``start``, in images at ``rate``."""

    def __init__(self, rate, start=(300.0, 180.0), settings=SETTINGS):
        self.rate, self.stamp = rate, 0.0
        self.engine = Told()
        self.tracker = Tracker(self.engine, settings)
        self.tracker.init(picture((0, 0)), box_at(*start), stamp=0.0)

    def see(self, *things, camera=(0, 0)):
        """The next image; things: centre x, y, and the logit where it is not a plain one."""
        self.stamp += 1 / self.rate
        self.engine.things = [(*thing, PLAIN)[:3] for thing in things]
        return self.tracker.update(picture(camera), self.stamp)

    def sees(self, seconds, *things, camera=(0, 0)):
        """The same for a while; the results."""
        images = max(1, round(seconds * self.rate))
        return [self.see(*things, camera=camera) for _ in range(images)]

    @property
    def track(self):
        return self.tracker._track


def off(result, place):
    """How far from ``place`` its box is, in pixels."""
    x, y, w, h = result.box
    return math.dist((x + w / 2, y + h / 2), place)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dim", [(), (340.0, 150.0, -3.0)])
def test_one_dim_image_moves_nothing(rate, dim):
    """Neither where there is nothing to be seen, nor where something else looks a little like it:
    the target stays on its way, in sight, and is looked for where it is.
    """
    flight = Flight(rate)
    for i in range(1, rate):
        flight.see((300.0 + 40.0 * i / rate, 180.0))
    before = 300.0 + 40.0 * (rate - 1) / rate, 180.0
    dark = flight.see(*([dim] if dim else []))
    assert dark.box is None
    assert dark.state in (TrackState.TRACKING, TrackState.UNCERTAIN)
    assert math.dist(dark.expected, before) < 0.2 * SIDE
    (window,) = flight.engine.windows
    assert math.dist(window.to_image(window.size / 2, window.size / 2), before) < 0.2 * SIDE
    after = flight.see((300.0 + 40.0 * (rate + 1) / rate, 180.0))
    assert after.state == TrackState.TRACKING and after.reacquisitions == 0
    assert off(after, (300.0 + 40.0 * (rate + 1) / rate, 180.0)) < 1.0


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("pan", [0.0, -45.0])
def test_missed_detections_move_the_target_with_the_picture_only(rate, pan):
    """However fast it was: it may have jerked. Where it drove to, the gate has to reach."""
    flight, dim = Flight(rate), round(0.1 * rate)

    def camera(i):
        return pan * i / rate, 0.0

    for i in range(1, rate):
        flight.see((300.0 + 90.0 * i / rate, 180.0), camera=camera(i))
    last = 300.0 + 90.0 * (rate - 1) / rate
    for i in range(rate, rate + dim):
        dark = flight.see(camera=camera(i))
    assert dark.box is None and dark.state != TrackState.LOST
    # The camera's motion is looked at from the second one on.
    near = 2.0 + abs(pan) / rate
    assert math.dist(dark.expected, (last - pan * dim / rate, 180.0)) < near
    there = 300.0 + 90.0 * (rate + dim) / rate, 180.0
    assert off(flight.see(there, camera=camera(rate + dim)), there) < 1.0


@pytest.mark.parametrize("rate", RATES)
def test_what_is_rather_no_target_keeps_no_box(rate):
    """One dim peak in its place is the target, seen badly; where one stays, it has gone, and what
    is published says so.
    """
    flight, place = Flight(rate), (300.0, 180.0)
    sure = flight.sees(1.0, place)[-1]
    dim = flight.sees(0.35, (*place, 1.0))
    assert dim[0].box is not None and dim[0].confidence < sure.confidence
    assert dim[-1].box is None and dim[-1].confidence < 0.5
    boxes = [result.box is not None for result in dim]
    assert boxes == sorted(boxes, reverse=True)
    assert dim[boxes.index(False)].state != TrackState.LOST  # before it is searched for


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("jump", [(300, 0), (-180, 90)])
def test_a_shift_of_hundreds_of_pixels_in_one_image_is_refused(rate, jump):
    """One wrong picture while the target is in doubt: it is expected where it was."""
    flight = Flight(rate)
    flight.sees(0.5, (300.0, 180.0))
    flight.see()  # the camera's motion is looked at image by image from now on
    flight.see()
    assert math.dist(flight.see(camera=jump).expected, (300.0, 180.0)) < SIDE
    assert math.dist(flight.see().expected, (300.0, 180.0)) < SIDE
    found = flight.sees(0.2, (302.0, 181.0))[-1]
    assert off(found, (302.0, 181.0)) < 1.0


@pytest.mark.parametrize("rate", RATES)
def test_a_hidden_target_is_expected_over_ground(rate):
    """It drives on while the camera pans the other way."""
    flight = Flight(rate)

    def camera(i):
        return -60.0 * i / rate, 0.0

    def place(i):  # 60 pixels a second over ground, twice as fast in the picture
        return 300.0 + 120.0 * i / rate, 180.0

    images = round(1.2 * rate)
    for i in range(1, images):
        flight.see(place(i), camera=camera(i))
    variances = []
    for i in range(images, images + round(0.6 * rate)):
        result = flight.see(camera=camera(i))
        assert result.box is None
        assert math.dist(result.expected, place(i)) < 0.75 * SIDE
        variances.append(result.variance)
    assert variances == sorted(variances)
    found = [flight.see(place(j), camera=camera(j)) for j in range(i + 1, i + 1 + rate // 3)]
    assert found[-1].state == TrackState.TRACKING
    assert off(found[-1], place(i + rate // 3)) < 1.0


@pytest.mark.parametrize("rate", RATES)
def test_a_lookalike_that_crosses_is_not_taken(rate):
    """It looks a little more like the target than that, and passes at 1.1 sizes."""
    flight = Flight(rate)
    flight.sees(0.3, (300.0, 180.0))
    for i in range(2 * rate):
        lookalike = 420.0 - 120.0 * i / rate, 180.0 - 1.1 * SIDE
        result = flight.see((300.0, 180.0, PLAIN - 1.0), (*lookalike, PLAIN + 0.5))
        assert off(result, (300.0, 180.0)) < 1.0, i
        assert result.state == TrackState.TRACKING
    assert len(flight.track.lookalikes.tracks) == 1


@pytest.mark.parametrize("rate", RATES)
def test_a_lookalike_that_covers_the_target_is_not_taken(rate):
    """It drives over the target, which is not to be seen for .4 seconds, and drives on."""
    flight = Flight(rate)
    flight.sees(0.3, (300.0, 180.0))
    wrong = 0
    for i in range(round(2.4 * rate)):
        lookalike = 420.0 - 100.0 * i / rate, 185.0
        hidden = abs(lookalike[0] - 300.0) < 20.0
        result = flight.see(lookalike, *([] if hidden else [(300.0, 180.0)]))
        wrong += not hidden and result.box is not None and off(result, (300.0, 180.0)) > SIDE / 2
    assert result.box is not None and off(result, (300.0, 180.0)) < 1.0
    assert wrong <= 0.1 * rate


@pytest.mark.parametrize(
    ("sizes", "rate"), [(1.3, 30), (1.3, 120), *((1.7, rate) for rate in RATES)]
)
def test_what_is_beside_a_target_that_hides_is_not_taken_for_it(rate, sizes):
    """It was seen beside the target, in one image with it, and looks just like it: it is something
    else, also where the near window no longer shows it.
    """
    flight, other = Flight(rate), (300.0 + sizes * SIDE, 180.0)
    flight.sees(1.5, (300.0, 180.0), other)
    results = flight.sees(2.5, other)
    assert {result.state for result in results} >= {TrackState.LOST}
    taken = [i for i, r in enumerate(results) if r.box is not None and off(r, other) < SIDE / 2]
    assert taken == []
    found = flight.sees(0.5, (300.0, 180.0), other)[-1]
    assert off(found, (300.0, 180.0)) < 1.0 and found.reacquisitions == 1


@pytest.mark.parametrize("rate", RATES)
def test_evidence_adds_up(rate):
    """Two of three images show it badly: it is held all the same. Where none shows it better than
    that it is not.
    """
    mixed, bad = Flight(rate), Flight(rate)
    for flight in (mixed, bad):
        flight.sees(0.5, (300.0, 180.0))
    for i in range(2 * rate):
        result = mixed.see((300.0, 180.0, -2.0 if i % 3 else PLAIN))
        assert result.state != TrackState.LOST
        bad.see((300.0, 180.0, -2.0))
    assert mixed.sees(0.2, (300.0, 180.0))[-1].state == TrackState.TRACKING
    assert bad.track.state == TrackState.LOST


def test_a_target_that_is_gone_is_lost_after_as_long_at_any_rate():
    times = {}
    for rate in RATES:
        flight = Flight(rate)
        flight.sees(1.0, (300.0, 180.0))
        results = flight.sees(1.5)
        assert all(result.box is None for result in results)
        states = [result.state for result in results]
        times[rate] = states.index(TrackState.LOST) / rate
        assert set(states[round(times[rate] * rate) :]) == {TrackState.LOST}
    assert max(times.values()) - min(times.values()) < 0.1, times
    assert 0.15 < min(times.values()) <= max(times.values()) < 0.8, times


def test_it_is_found_again_after_as_long_at_any_rate():
    times = {}
    for rate in RATES:
        flight, images = Flight(rate), 1
        flight.sees(1.0, (300.0, 180.0))
        flight.sees(1.0)
        while (result := flight.see((310.0, 190.0))).box is None:
            images += 1
            assert images < rate, "not found"
        assert off(result, (310.0, 190.0)) < 1.0
        assert (result.state, result.reacquisitions) == (TrackState.TRACKING, 1)
        assert (result.lost_for, result.give_up_in) == (0.0, math.inf)
        times[rate] = images / rate
    assert max(times.values()) - min(times.values()) < 0.1, times


@pytest.mark.parametrize("rate", RATES)
def test_a_lost_target_says_where_it_is_expected_and_for_how_long(rate):
    flight = Flight(rate)
    seen = flight.sees(0.5, (300.0, 180.0))[-1]
    assert math.dist(seen.expected, (300.0, 180.0)) < 1.0
    assert (seen.lost_for, seen.give_up_in) == (0.0, math.inf)
    assert 0.0 < seen.variance < (0.3 * SIDE) ** 2
    results = flight.sees(5.0)
    lost = [result for result in results if result.state == TrackState.LOST]
    for one, other in zip(lost, lost[1:], strict=False):
        assert other.lost_for - one.lost_for == pytest.approx(1 / rate)
        assert one.give_up_in - other.give_up_in == pytest.approx(1 / rate)
        assert other.variance > one.variance
    assert lost[0].lost_for == 0.0
    assert all(one.lost_for + one.give_up_in == pytest.approx(3.0) for one in lost)
    assert all(one.box is None and math.dist(one.expected, (300.0, 180.0)) < SIDE for one in lost)
    assert lost[-1].variance > (2 * SIDE) ** 2
    gone = results[-1]
    assert (gone.state, gone.box, gone.give_up_in) == (TrackState.GIVEN_UP, None, math.inf)
    flight.engine.windows = []
    assert flight.see((300.0, 180.0)).state == TrackState.GIVEN_UP  # for good
    assert flight.engine.windows == []


@pytest.mark.parametrize("rate", RATES)
def test_one_that_left_the_picture_is_expected_outside_and_looked_for_at_the_border(rate):
    flight = Flight(rate, start=(560.0, 180.0))
    for i in range(1, round(1.1 * rate)):
        x = 560.0 + 80.0 * i / rate
        flight.see(*([(x, 180.0)] if x < 640.0 else []))
    results = flight.sees(1.0)
    assert results[-1].state == TrackState.LOST
    assert 640.0 < results[-1].expected[0] < 800.0
    assert all(result.box is None for result in results)
    window = flight.engine.windows[0]
    assert window.to_image(window.size / 2, window.size / 2)[0] == pytest.approx(640.0, abs=1.0)
    found = flight.sees(0.5, (630.0, 185.0))[-1]
    assert off(found, (630.0, 185.0)) < 6.0  # a part of it lies outside


@pytest.mark.parametrize("rate", RATES)
def test_two_strange_images_in_a_row_are_no_target(rate):
    """Lost; something far away looks just like it, for no longer than two images."""
    flight = Flight(rate)
    flight.sees(0.5, (300.0, 180.0))
    flight.sees(1.0)
    for result in (flight.see((520.0, 60.0)), flight.see((520.0, 60.0)), *flight.sees(0.3)):
        assert result.box is None and result.state == TrackState.LOST


def test_another_resolution_in_sight_and_lost():
    flight = Flight(30)
    flight.sees(0.5, (300.0, 180.0))
    flight.sees(1.0)
    before = flight.see()
    half = cv2.resize(picture((0, 0)), (320, 180), interpolation=cv2.INTER_AREA)
    after = flight.tracker.update(half, flight.stamp + 1 / 30)
    assert after.state == TrackState.LOST
    assert after.expected == pytest.approx([0.5 * value for value in before.expected], abs=4.0)
    assert after.variance == pytest.approx(0.25 * before.variance, rel=0.5)


def test_the_size_follows_what_is_seen_and_not_what_is_seen_badly():
    flight = Flight(30)
    flight.sees(0.5, (300.0, 180.0))
    track = flight.track
    track.w, track.h = 24.0, 24.0
    flight.see((300.0, 180.0))
    assert 24.5 < track.w == track.h < SIDE
    flight.sees(0.5, (300.0, 180.0))
    assert track.w == pytest.approx(SIDE, abs=0.5)


def test_the_score_and_the_confidence_of_a_result():
    flight = Flight(30)
    plain = flight.sees(1.0, (300.0, 180.0))[-1]
    assert plain.score == pytest.approx(probability_of(PLAIN), rel=1e-3)
    dim = flight.see((300.0, 180.0, 1.0))
    assert dim.score == pytest.approx(probability_of(1.0), rel=1e-3)
    assert dim.confidence < plain.confidence
    faint = flight.sees(0.5, (300.0, 180.0, 1.0))
    assert [r.confidence for r in faint] == sorted((r.confidence for r in faint), reverse=True)


def test_thresholds_are_those_of_the_settings():
    never = replace(SETTINGS, presence=replace(SETTINGS.presence, lost_below=0.0))
    flight = Flight(30, settings=never)
    flight.sees(0.5, (300.0, 180.0))
    results = flight.sees(2.0)
    assert results[-1].state == TrackState.UNCERTAIN and results[-1].box is None
    strict = replace(SETTINGS, presence=replace(SETTINGS.presence, give_up_after=0.0))
    flight = Flight(30, settings=strict)
    flight.sees(0.5, (300.0, 180.0))
    assert flight.sees(2.0)[-1].state == TrackState.GIVEN_UP


def test_what_is_near_the_target_costs_no_more_windows():
    """One window an image while the target is in sight, however many lookalikes there are."""
    flight = Flight(30)
    crowd = [(300.0 + 33.0 * math.cos(a), 180.0 + 33.0 * math.sin(a)) for a in (0.5, 2.0, 3.5, 5.0)]
    for result in flight.sees(1.0, (300.0, 180.0), *crowd):
        assert iou(result.box, box_at(300.0, 180.0)) > 0.9
        assert len(flight.engine.windows) == 1
    assert len(flight.track.lookalikes.tracks) == 4
