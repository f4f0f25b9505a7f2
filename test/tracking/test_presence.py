# SPDX-License-Identifier: Apache-2.0
"""The presence state machine, second by second."""

import pytest

from mlkd_ros.tracking.presence import Presence, TrackState, calibrated_confidence
from mlkd_ros.tracking.settings import PresenceSettings, TrackerSettings

SETTINGS = PresenceSettings(
    tracking_above=0.5, uncertain_below=0.35, lost_below=0.15, lost_after=0.5, doubt_for=1.0,
    reacquire_above=0.6, reacquire_frames=2, give_up_after=2.0,
)  # fmt: skip


def steps(presence, confidence, count, elapsed=0.1):
    return [presence.step(confidence, elapsed) for _ in range(count)][-1]


def searches(presence, sighted, count, elapsed=0.1):
    return [presence.search(sighted, elapsed) for _ in range(count)][-1]


def lost():
    presence = Presence(SETTINGS)
    assert steps(presence, 0.0, 6) == TrackState.LOST
    return presence


def test_hysteresis_between_tracking_and_uncertain():
    presence = Presence(SETTINGS)
    assert steps(presence, 0.4, 3) == TrackState.TRACKING  # between the thresholds nothing changes
    assert steps(presence, 0.3, 1) == TrackState.UNCERTAIN
    assert steps(presence, 0.4, 3) == TrackState.UNCERTAIN
    assert steps(presence, 0.5, 1) == TrackState.TRACKING


def test_lost_only_after_a_while_without_evidence():
    presence = Presence(SETTINGS)
    assert steps(presence, 0.1, 5) == TrackState.UNCERTAIN
    assert steps(presence, 0.2, 1) == TrackState.UNCERTAIN
    assert steps(presence, 0.1, 3) == TrackState.UNCERTAIN
    assert steps(presence, 0.5, 1) == TrackState.TRACKING
    assert steps(presence, 0.1, 5) == TrackState.UNCERTAIN
    assert steps(presence, 0.1, 1) == TrackState.LOST


def test_weak_evidence_does_not_hold_a_target_for_ever():
    presence = Presence(SETTINGS)
    assert steps(presence, 0.3, 11) == TrackState.UNCERTAIN  # the first one only began the doubt
    assert steps(presence, 0.3, 1) == TrackState.LOST
    presence = Presence(SETTINGS)
    for _ in range(10):
        assert steps(presence, 0.3, 9) == TrackState.UNCERTAIN
        assert steps(presence, 0.5, 1) == TrackState.TRACKING


def test_one_image_without_evidence_is_no_loss_however_long_ago_the_last_one_was():
    presence = Presence(SETTINGS)
    assert steps(presence, 0.0, 1, elapsed=60.0) == TrackState.UNCERTAIN
    assert steps(presence, 0.0, 1) == TrackState.LOST


def test_reacquired_after_consecutive_sightings_only():
    presence = lost()
    assert searches(presence, True, 1) == TrackState.LOST
    searches(presence, False, 1)
    assert searches(presence, True, 1) == TrackState.LOST
    assert searches(presence, True, 1) == TrackState.TRACKING
    assert presence.reacquisitions == 1
    assert steps(presence, 0.0, 5) == TrackState.UNCERTAIN  # the loss before does not count


def test_given_up_for_good():
    presence = lost()
    assert searches(presence, False, 19) == TrackState.LOST
    assert searches(presence, False, 2) == TrackState.GIVEN_UP
    assert searches(presence, True, 5) == TrackState.GIVEN_UP
    assert steps(presence, 1.0, 5) == TrackState.GIVEN_UP


def test_calibration_is_a_logistic_map_of_the_logit():
    assert calibrated_confidence(0.7, 1.0, 0.0) == pytest.approx(0.7)
    assert calibrated_confidence(0.5, 3.0, 1.0) == pytest.approx(1 / (1 + 2.718281828**-1))
    assert 0.0 < calibrated_confidence(0.0, 1.0, 0.0) < calibrated_confidence(1.0, 1.0, 0.0) < 1.0


def test_settings_survive_the_header_and_refuse_the_unknown():
    settings = TrackerSettings(penalty_k=0.1, calibration=(2.0, -1.0), presence=SETTINGS)
    assert TrackerSettings.from_dict(settings.to_dict()) == settings
    with pytest.raises(ValueError, match="unknown TrackerSettings 'penalty'"):
        TrackerSettings.from_dict({"penalty": 1})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("lost_below", 0.9, "0.9 <= 0.2"), ("tracking_above", 1.5, "<= 1, not"),
     ("reacquire_above", -0.1, "reacquire_above must be 0 to 1, not -0.1"),
     ("lost_after", -1.0, "lost_after"), ("doubt_for", float("nan"), "doubt_for"),
     ("give_up_after", -1.0, "give_up_after"), ("spread", -1.0, "spread"), ("near", 0.0, "near"),
     ("reacquire_frames", 0, "reacquire_frames"), ("search_windows", 0, "search_windows")]
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_by_name(name, value, message):
    with pytest.raises(ValueError, match=message):
        PresenceSettings(**{name: value})


def test_presence_settings_of_an_older_header_give_way_to_the_defaults():
    header = TrackerSettings(penalty_k=0.1).to_dict()
    header["presence"] = {"lost_after": 1.0, "search_windows": 2}  # before near and spread
    loaded = TrackerSettings.from_dict(header)
    assert loaded.presence == PresenceSettings() and loaded.penalty_k == 0.1
    with pytest.raises(ValueError, match="unknown PresenceSettings 'lost_later'"):
        TrackerSettings.from_dict({"presence": {"lost_later": 1.0}})
