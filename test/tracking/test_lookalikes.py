# SPDX-License-Identifier: Apache-2.0
"""Lookalikes: what is seen beside the target is something else, as long as it can be followed."""

import math

import pytest

from mlkd_ros.tracking.association import associate, log_student
from mlkd_ros.tracking.global_motion import STILL, Motion
from mlkd_ros.tracking.lookalikes import Lookalikes, begun
from mlkd_ros.tracking.peaks import Peak
from mlkd_ros.tracking.settings import BeliefSettings

BELIEF = BeliefSettings(wander=2.0, wander_time=2.0)
TARGET = (100.0, 100.0)


def peak(x, y, log_ratio=3.0, w=12.0, h=12.0):
    return Peak(x, y, w, h, 0.0, log_ratio, 0.9)


def beside(*places):
    """Lookalikes that have just been seen at these places, beside the target."""
    lookalikes = Lookalikes(BELIEF)
    lookalikes.begin([peak(*TARGET), *(peak(*place) for place in places)], peak(*TARGET))
    return lookalikes


def shown(lookalikes, peaks, taken=None, seconds=1 / 30, motion=STILL):
    """One image: prediction, association of the lookalikes alone, update."""
    lookalikes.predict(seconds, motion)
    rows = [[one.weight(each, BELIEF) for each in peaks] for one in lookalikes.tracks]
    lookalikes.update(peaks, associate(rows), taken)


def test_what_is_seen_beside_the_target_begins_a_track_and_the_target_does_not():
    lookalikes = beside((140.0, 100.0), (60.0, 130.0))
    assert [one.kinematics.place for one in lookalikes.tracks] == [(140.0, 100.0), (60.0, 130.0)]
    assert lookalikes.known(peak(143.0, 98.0))
    assert not lookalikes.known(peak(*TARGET))


def test_neither_clutter_nor_a_second_peak_of_the_target_is_one():
    lookalikes = Lookalikes(BELIEF)
    lookalikes.begin([peak(140.0, 100.0, -2.5), peak(106.0, 100.0)], peak(*TARGET))
    assert lookalikes.tracks == []


def test_one_that_is_followed_already_is_not_begun_anew():
    lookalikes = beside((140.0, 100.0))
    (one,) = lookalikes.tracks
    lookalikes.begin([peak(*TARGET), peak(144.0, 100.0)], peak(*TARGET))
    assert lookalikes.tracks == [one]


def test_a_track_that_the_target_covers_ends():
    """Where the target is beyond doubt there is no lookalike."""
    lookalikes = beside((140.0, 100.0))
    lookalikes.begin([peak(138.0, 100.0)], peak(138.0, 100.0))
    assert lookalikes.tracks == []


def test_the_most_alike_are_followed_and_no_more_than_four():
    lookalikes = Lookalikes(BELIEF)
    crowd = [peak(100.0 + 30 * i, 200.0, i) for i in range(7)]
    lookalikes.begin(crowd, peak(*TARGET))
    assert [one.log_ratio for one in lookalikes.tracks] == [6, 5, 4, 3]


@pytest.mark.parametrize("rate", [15, 30, 120])
def test_one_that_drives_is_followed_while_the_camera_pans(rate):
    """At 60 px a second over ground, with the picture moving by 90 the other way."""
    lookalikes = beside((140.0, 100.0))
    (one,) = lookalikes.tracks
    pan = Motion(tx=-90 / rate, variance=1.0, seen=True)
    for i in range(1, 2 * rate + 1):
        x = 140.0 - 30.0 * i / rate
        shown(lookalikes, [peak(x, 100.0), peak(x + 60, 160.0)], seconds=1 / rate, motion=pan)
        assert lookalikes.tracks == [one] and one.unseen == 0.0
        assert one.kinematics.x == pytest.approx(x, abs=4.0)
    assert one.seen == 2 * rate + 1
    assert one.kinematics.vx == pytest.approx(60.0, abs=15.0)


@pytest.mark.parametrize("rate", [15, 30, 120])
def test_one_unseen_is_remembered_for_a_second_where_it_should_be(rate):
    lookalikes = beside((140.0, 100.0))
    images = 0
    while lookalikes.tracks:
        shown(lookalikes, [], seconds=1 / rate, motion=Motion(tx=60 / rate))
        images += 1
        assert not lookalikes.tracks or lookalikes.known(peak(140.0 + 60 * images / rate, 100.0))
    assert images / rate == pytest.approx(1.0, abs=1.5 / rate)


def test_the_peak_that_is_the_target_is_none_of_them():
    lookalikes = beside((140.0, 100.0))
    (one,) = lookalikes.tracks
    shown(lookalikes, [peak(138.0, 100.0)], taken=0)
    assert one.unseen > 0 and one.seen == 1


def test_its_looks_and_size_are_means_of_late():
    lookalikes = beside((140.0, 100.0))
    (one,) = lookalikes.tracks
    for _ in range(30):
        shown(lookalikes, [peak(140.0, 100.0, 2.0, 16.0, 10.0)])
    assert (one.w, one.h, one.log_ratio) == pytest.approx((16.0, 10.0, 2.0), abs=0.01)


def test_the_weight_of_a_peak_by_hand():
    one = begun(peak(100.0, 100.0), BELIEF)
    seen = peak(106.0, 108.0, 2.0, 24.0, 12.0)
    noise = (BELIEF.displacement * 12.0) ** 2
    total = one.kinematics.pp + noise
    expected = (
        math.log(BELIEF.detection / (1 - BELIEF.detection))
        + 2.0  # it looks that much more like the target than like clutter
        + log_student(100.0 / total, BELIEF.freedom)
        - math.log(total / noise)
        - math.log(2.0)
        - 0.5 / 1.3**2
    )
    assert one.weight(seen, BELIEF) == pytest.approx(expected)


def test_of_two_that_cross_each_keeps_its_own():
    """They come to 10 px of each other and part again; what they look like differs a little."""
    lookalikes = Lookalikes(BELIEF)

    def places(i):
        return (200.0 + 3.0 * i, 200.0), (290.0 - 3.0 * i, 210.0)

    def peaks(i):
        return [peak(*places(i)[0], 4.0), peak(*places(i)[1], 1.0)]

    lookalikes.begin(peaks(0), peak(*TARGET))
    first, second = lookalikes.tracks
    for i in range(1, 31):
        shown(lookalikes, peaks(i)[::-1] if i % 2 else peaks(i))
    assert first.kinematics.place == pytest.approx(places(30)[0], abs=4.0)
    assert second.kinematics.place == pytest.approx(places(30)[1], abs=4.0)


def test_another_resolution():
    lookalikes = beside((140.0, 100.0))
    lookalikes.rescale(2.0, 0.5)
    (one,) = lookalikes.tracks
    assert (one.kinematics.place, one.w, one.h) == ((280.0, 50.0), 24.0, 6.0)
