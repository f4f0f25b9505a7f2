# SPDX-License-Identifier: Apache-2.0
"""The search for a lost target, with places, odds and times worked out by hand."""

import math

import pytest

from mlkd_ros.tracking.existence import probability_of
from mlkd_ros.tracking.global_motion import STILL, Motion
from mlkd_ros.tracking.kinematics import Kinematics, Measurement
from mlkd_ros.tracking.lookalikes import Lookalikes
from mlkd_ros.tracking.peaks import Peak
from mlkd_ros.tracking.search import Search
from mlkd_ros.tracking.settings import BeliefSettings

BELIEF = BeliefSettings(jitter=0.1, freedom=4.0, independent_after=0.1, wander=2.0, wander_time=2.0)
HERE, SIZE, STEP, IMAGE = (100.0, 100.0), 10.0, 50.0, (640, 360)
#: From this probability on a tracker takes the best candidate for the target.
REACQUIRE = 0.7
#: Log ratio of the best look that a student can have of a target.
PLAIN = BELIEF.score_slope * BELIEF.score_most + BELIEF.score_offset
RATES = [15, 30, 120]


def search(expected=HERE, last=HERE, deviation=20.0):
    """One whose target may be ``deviation`` pixels away from where it is expected."""
    at = Measurement(*expected, deviation**2 - (BELIEF.jitter * SIZE) ** 2)
    return Search(BELIEF, Kinematics(BELIEF, at, SIZE), last, SIZE, STEP, IMAGE)


def peak(x, y, log_ratio=PLAIN):
    return Peak(x, y, SIZE, SIZE, 0.0, log_ratio, 0.5)


class Watched:
    """A search that is shown the same image again and again."""

    def __init__(self, one, rate=30, lookalikes=None):
        self.search, self.seconds = one, 1 / rate
        self.lookalikes = lookalikes or Lookalikes(BELIEF)

    def show(self, *peaks, looked_at=HERE, motion=STILL):
        """Probability that the best candidate is the target."""
        self.lookalikes.predict(self.seconds, motion)
        self.search.predict(self.seconds, motion)
        self.search.update(list(peaks), [looked_at], self.lookalikes, self.seconds)
        return self.search.probability()


def test_nothing_seen_is_no_candidate():
    watched = Watched(search())
    assert watched.show() < 1e-6
    assert watched.show(peak(*HERE, -2.5)) < 1e-6  # clutter
    assert watched.search.candidates == []


def test_the_odds_of_a_candidate_by_hand():
    watched = Watched(search())
    away = peak(110.0, 100.0, 2.0)  # half a deviation
    prior = -1.5 - 3.0 * math.log(1 + 0.25 / 4)
    first = 0.33  # of an independent look, and a third each of the others
    assert watched.show(away) == pytest.approx(probability_of(prior + first * 2.0))
    assert watched.show(away) == pytest.approx(probability_of(prior + (first + 1 / 3) * 2.0))
    better = peak(110.0, 100.0, 3.5)
    odds = prior + (first + 1 / 3) * 2.0 + 3.5 / 3
    assert watched.show(better) == pytest.approx(probability_of(odds))


@pytest.mark.parametrize("rate", RATES)
def test_one_look_is_no_reacquisition_and_evidence_adds_up(rate):
    watched = Watched(search(), rate)
    seen = [watched.show(peak(*HERE)) for _ in range(round(0.5 * rate))]
    assert seen[0] < REACQUIRE
    assert seen == sorted(seen) and seen[-1] > 0.95


def test_it_takes_as_long_at_any_rate():
    times = []
    for rate in RATES:
        watched, images = Watched(search(), rate), 1
        while watched.show(peak(*HERE, 2.5)) < REACQUIRE:
            images += 1
        times.append(images / rate)
    assert max(times) - min(times) < 1 / 15
    assert 0.05 < min(times) <= max(times) < 0.3


def test_weak_evidence_adds_up_and_stays_weak():
    """However long it is looked at: no more than a few looks at one thing are independent."""
    weak, none = Watched(search()), Watched(search())
    for _ in range(60):
        ends = weak.show(peak(*HERE, 1.0)), none.show(peak(*HERE, -0.5))
    assert ends[0] == pytest.approx(probability_of(-1.5 + 3.0))
    assert ends[1] < 0.1


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dim", [(), (-1.0,)])
def test_one_dim_image_does_not_end_a_candidate(rate, dim):
    watched = Watched(search(), rate)
    for _ in range(round(0.2 * rate)):
        before = watched.show(peak(*HERE))
    after = watched.show(*(peak(*HERE, ratio) for ratio in dim))
    assert 0.5 < after < before
    (one,) = watched.search.candidates
    assert watched.show(peak(*HERE)) > after
    assert watched.search.candidates == [one]


def test_what_is_not_seen_again_where_it_is_looked_for_is_dropped():
    watched = Watched(search())
    for _ in range(3):
        watched.show(peak(*HERE))
    probabilities = [watched.show() for _ in range(9)]
    assert probabilities == sorted(probabilities, reverse=True)
    assert watched.search.candidates == []


def test_what_is_not_looked_at_costs_nothing():
    watched = Watched(search())
    seen = watched.show(peak(*HERE))
    assert watched.show(looked_at=(600.0, 300.0)) == seen


@pytest.mark.parametrize("rate", RATES)
def test_what_is_out_of_reach_is_not_taken_at_once(rate):
    """However much it looks like the target."""
    far, very_far = (Watched(search(), rate) for _ in range(2))
    for _ in range(math.ceil(0.12 * rate)):
        assert far.show(peak(300.0, 100.0)) < 0.1  # ten deviations
    for _ in range(2 * rate):
        assert very_far.show(peak(600.0, 100.0)) < 0.05


def test_what_is_near_is_taken_rather_than_what_is_far():
    watched = Watched(search())
    for _ in range(6):
        watched.show(peak(170.0, 100.0), peak(106.0, 100.0, 3.0))
    assert watched.search.candidates[0].place == pytest.approx((106.0, 100.0))


def test_the_reach_is_the_covariance_and_grows_with_it():
    one = search(deviation=20.0)
    assert one.reach == pytest.approx(20.0)
    one._expected.predict(1.0, SIZE, Motion(variance=400.0))
    assert one.reach > 30.0
    near, far = Watched(search()), Watched(search(deviation=200.0))
    place = peak(200.0, 100.0, 3.0)
    assert [watched.show(place) < 0.05 for watched in (near, far)] == [True, False]


def test_a_known_lookalike_is_refused_and_what_is_beside_it_is_not():
    lookalikes = Lookalikes(BELIEF)
    lookalikes.begin([peak(140.0, 100.0)], peak(*HERE))
    watched = Watched(search(), lookalikes=lookalikes)
    for _ in range(15):
        assert watched.show(peak(140.0, 100.0)) < 1e-6
    for _ in range(5):
        found = watched.show(peak(140.0, 100.0), peak(120.0, 100.0))
    assert found > REACQUIRE
    assert watched.search.candidates[0].place == pytest.approx((120.0, 100.0))


def test_a_lookalike_stays_known_as_long_as_it_can_be_followed():
    """Also where it drives, and the camera pans, for longer than one unseen is remembered."""
    lookalikes = Lookalikes(BELIEF)
    lookalikes.begin([peak(140.0, 100.0)], peak(*HERE))
    watched = Watched(search(deviation=60.0), lookalikes=lookalikes)
    for i in range(1, 90):
        place = peak(140.0 + 1.5 * i, 100.0)
        assert watched.show(place, motion=Motion(tx=1.0)) < 0.1, i


def test_a_candidate_is_followed_in_the_moved_picture():
    watched = Watched(search())
    pan = Motion(tx=30.0, ty=-5.0, variance=1.0, seen=True)
    watched.show(peak(*HERE))
    for i in range(1, 5):
        watched.show(peak(100.0 + 30 * i, 100.0 - 5 * i), motion=pan)
        assert watched.search.centres(3)[0] == pytest.approx((100.0 + 30 * i, 100.0 - 5 * i))
    (one,) = watched.search.candidates
    assert one.track.seen == 5


def test_a_target_that_left_the_picture_is_expected_at_the_border_it_crossed():
    one = search(expected=(-500.0, 200.0), last=(0.0, 200.0))
    assert one.centres(3)[0] == (0.0, 200.0)
    assert Watched(one).show(peak(5.0, 200.0)) > 0.3
    beyond = search(expected=(-500.0, 200.0), last=(0.0, 200.0))
    assert Watched(beyond).show(peak(320.0, 200.0)) < 0.05


def test_it_is_expected_where_it_was_seen_last_too():
    one = search(expected=(300.0, 100.0), deviation=40.0)
    assert one.centres(3)[:2] == [(300.0, 100.0), HERE]
    at_both = [
        Watched(search(expected=(300.0, 100.0), deviation=40.0)).show(peak(x, 100.0))
        for x in (300.0, 100.0, 200.0)
    ]
    assert at_both == sorted(at_both, reverse=True)
    assert at_both[1] > 5 * at_both[2]


def test_a_candidate_is_looked_at_in_the_next_image_and_the_scan_goes_on():
    watched = Watched(search())
    watched.show(peak(130.0, 120.0))
    one = watched.search
    assert one.centres(1) == one.centres(2) == [(130.0, 120.0)]
    places = [one.centres(3) for _ in range(4)]
    assert {each[0] for each in places} == {(130.0, 120.0)}
    assert len({each[1] for each in places}) == 4


@pytest.mark.parametrize("windows", [2, 3, 5])
def test_the_scan_covers_the_reach_nearest_first(windows):
    """Half-overlapping windows: nothing within reach is farther than half a step from a place."""
    one, scanned = search(deviation=40.0), []
    while len(scanned) < 80:
        here, *others = one.centres(windows)
        assert here == HERE and 1 <= len(others) <= windows - 1
        scanned += others
    count = len(set(scanned))
    assert len(scanned) > count  # it begins again
    distances = [math.dist(place, HERE) for place in scanned[:count]]
    assert len(set(scanned[:count])) == count and distances == sorted(distances)
    assert max(distances) <= 3 * 40.0 + STEP
    for angle in range(0, 360, 10):
        for radius in (20.0, 60.0, 100.0):
            x = 100.0 + radius * math.cos(math.radians(angle))
            y = 100.0 + radius * math.sin(math.radians(angle))
            if x >= 0 and y >= 0:
                gaps = [max(abs(x - px), abs(y - py)) for px, py in {*scanned, HERE}]
                assert min(gaps) <= STEP / 2 + 1


@pytest.mark.parametrize("windows", [1, 2, 3])
def test_where_nobody_knows_the_whole_image_is_looked_at_sooner_or_later(windows):
    one = search(deviation=math.hypot(*IMAGE))
    places = set()
    for _ in range(400):
        looked = one.centres(windows)
        assert 1 <= len(looked) <= windows
        places.update(looked)
    assert {(0.0, 0.0), (640.0, 0.0), (0.0, 360.0), (640.0, 360.0), HERE} <= places


def test_with_a_budget_of_one_window_places_take_turns():
    one = search(expected=(300.0, 100.0))
    turns = [one.centres(1) for _ in range(9)]
    assert all(len(places) == 1 for places in turns)
    turns = [places[0] for places in turns]
    assert turns.count((300.0, 100.0)) == turns.count(HERE) == 3
    assert len(set(turns)) == 5  # and the next place of the scan in each third image


def test_no_more_candidates_than_a_few():
    """What the search costs does not grow with what there is to be seen."""
    watched = Watched(search(deviation=100.0))
    crowd = [peak(60.0 + 12 * i, 100.0, 1.0 + 0.1 * i) for i in range(12)]
    watched.show(*crowd)
    assert len(watched.search.candidates) == 4


def test_another_resolution():
    one = search(expected=(300.0, 100.0))
    watched = Watched(one)
    watched.show(peak(*HERE))
    one._expected.rescale(2.0, 2.0)
    one.rescale(2.0, 2.0, (1280, 720))
    assert one.reach == pytest.approx(40.0, rel=0.01)
    assert one.centres(3)[:2] == [(600.0, 200.0), (200.0, 200.0)]
    columns = sorted({one.centres(2)[1][0] for _ in range(20)})
    assert columns[1] - columns[0] == pytest.approx(1280 / 13)  # as many windows as before
