# SPDX-License-Identifier: Apache-2.0
"""The search for a lost target, with places and times worked out by hand."""

import math

import pytest

from mlkd_ros.tracking.search import LostSearch, Sighting
from mlkd_ros.tracking.settings import PresenceSettings

#: A reach of 20 px at first, that grows by 40 px a second.
SETTINGS = PresenceSettings(tracking_above=0.3, reacquire_above=0.6, near=2.0, spread=4.0)
HERE = (100.0, 100.0)


def search(last=HERE, unseen=0.0):
    return LostSearch(SETTINGS, last, 10.0, 50.0, (640, 360), unseen)


def logit(p):
    return math.log(p / (1 - p))


def test_the_reach_grows_with_time_and_faster_when_blind():
    one = search()
    assert one.reach == pytest.approx(20.0)
    one.advance(0.5, (0.0, 0.0))
    assert one.reach == pytest.approx(40.0)
    one.advance(0.5, None)
    assert one.reach == pytest.approx(70.0)
    assert search(unseen=2.0).reach == pytest.approx(100.0)


def test_what_is_out_of_reach_is_not_the_target_however_much_it_looks_like_it():
    one = search()
    assert one.rank((100.0, 125.0), 0.999, HERE) is None
    assert one.rank((115.0, 100.0), 0.4, HERE) == pytest.approx(logit(0.4) - 2 * 0.75**2)
    assert one.rank((115.0, 100.0), 0.2, HERE) is None  # too little evidence
    one = search()
    one.advance(1.0, (0.0, 0.0))  # reach 60
    assert one.rank((140.0, 100.0), 0.5, HERE) is None  # not near: needs reacquire_above
    assert one.rank((140.0, 100.0), 0.7, HERE) == pytest.approx(logit(0.7) - 2 * (40 / 60) ** 2)


def test_a_known_lookalike_is_refused_when_the_reach_has_come_to_include_it():
    one = search()
    assert one.rank((150.0, 100.0), 0.9, HERE) is None  # 50 px away, reach 20
    for _ in range(10):
        one.advance(0.1, (2.0, 0.0))
        place = one.lookalikes[0].x + 1.0, 100.0  # moves by itself, too
        assert one.rank(place, 0.9, HERE) is None
    assert one.reach == pytest.approx(60.0)
    assert one.rank((120.0, 100.0), 0.9, HERE) is not None  # the target beside it is taken
    one.advance(1.0, (0.0, 0.0))  # reach 100 = 2 x 50: by now the prediction may have been wrong
    assert one.rank((one.lookalikes[0].x, 100.0), 0.9, HERE) is not None


def test_a_lookalike_is_forgotten():
    one = search()
    assert one.rank((150.0, 100.0), 0.9, HERE) is None
    one.advance(1.9, (0.0, 0.0))
    assert len(one.lookalikes) == 1
    one.advance(0.2, (0.0, 0.0))
    assert not one.lookalikes


def test_a_target_that_left_the_picture_is_expected_at_the_border_it_crossed():
    one = search(last=(0.0, 200.0))
    predicted = (-500.0, 200.0)
    assert one.centres(predicted, 3)[0] == (0.0, 200.0)
    assert one.away((15.0, 200.0), predicted) == pytest.approx(15.0)
    assert one.rank((15.0, 200.0), 0.5, predicted) is not None
    assert one.rank((320.0, 200.0), 0.99, predicted) is None


def test_it_is_expected_where_it_was_seen_last_too():
    one = search()
    predicted = (300.0, 100.0)
    assert one.centres(predicted, 3)[:2] == [predicted, HERE]
    assert one.away((290.0, 100.0), predicted) == pytest.approx(10.0)
    assert one.away((110.0, 100.0), predicted) == pytest.approx(10.0)


def test_a_sighting_is_confirmed_at_the_same_place_of_the_moved_picture():
    one = search()
    one.advance(1.0, (0.0, 0.0))
    one.sighting = Sighting((110.0, 100.0), (12.0, 8.0))
    one.advance(0.1, (30.0, 0.0))
    assert one.centres(HERE, 3) == [(140.0, 100.0)]
    assert one.rank((151.0, 100.0), 0.9, (130.0, 100.0)) is None
    assert one.rank((149.0, 100.0), 0.9, (130.0, 100.0)) is not None


@pytest.mark.parametrize("windows", [1, 2, 3])
def test_the_whole_image_is_looked_at_sooner_or_later(windows):
    one = search()
    places = set()
    for _ in range(400):
        looked = one.centres(HERE, windows)
        assert 1 <= len(looked) <= windows
        places.update(looked)
    assert {(0.0, 0.0), (640.0, 0.0), (0.0, 360.0), (640.0, 360.0), HERE} <= places


def test_another_resolution():
    one = search()
    assert one.rank((150.0, 100.0), 0.9, HERE) is None
    one.sighting = Sighting((110.0, 90.0), (12.0, 8.0))
    one.scaled(2.0, 2.0, (1280, 720))
    assert one.reach == pytest.approx(40.0)
    assert (one.lookalikes[0].x, one.lookalikes[0].away) == pytest.approx((300.0, 100.0))
    assert one.sighting == Sighting((220.0, 180.0), (24.0, 16.0))
