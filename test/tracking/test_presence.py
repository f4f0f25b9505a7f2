# SPDX-License-Identifier: Apache-2.0
"""The presence state machine, second by second."""

import pytest

from mlkd_ros.tracking.presence import Presence, TrackState, calibrated_confidence
from mlkd_ros.tracking.settings import PresenceSettings, TrackerSettings

SETTINGS = PresenceSettings(
    tracking_above=0.5, uncertain_below=0.35, lost_below=0.15, lost_after=0.5, reacquire_above=0.6,
    reacquire_frames=2, give_up_after=2.0,
)  # fmt: skip


def steps(presence, confidence, count, elapsed=0.1):
    return [presence.step(confidence, elapsed) for _ in range(count)][-1]


def test_hysteresis_between_tracking_and_uncertain():
    presence = Presence(SETTINGS)
    assert steps(presence, 0.4, 3) == TrackState.TRACKING  # between the thresholds nothing changes
    assert steps(presence, 0.3, 1) == TrackState.UNCERTAIN
    assert steps(presence, 0.4, 3) == TrackState.UNCERTAIN
    assert steps(presence, 0.5, 1) == TrackState.TRACKING


def test_lost_only_after_a_while_and_one_good_frame_starts_anew():
    presence = Presence(SETTINGS)
    assert steps(presence, 0.1, 5) == TrackState.UNCERTAIN
    assert steps(presence, 0.2, 1) == TrackState.UNCERTAIN
    assert steps(presence, 0.1, 5) == TrackState.UNCERTAIN
    assert steps(presence, 0.1, 1) == TrackState.LOST


def test_reacquired_after_consecutive_hits_only():
    presence = Presence(SETTINGS)
    steps(presence, 0.0, 6)
    assert presence.state == TrackState.LOST
    assert steps(presence, 0.9, 1) == TrackState.LOST
    steps(presence, 0.1, 1)
    assert steps(presence, 0.9, 1) == TrackState.LOST
    assert steps(presence, 0.9, 1) == TrackState.TRACKING
    assert presence.reacquisitions == 1


def test_given_up_for_good():
    presence = Presence(SETTINGS)
    steps(presence, 0.0, 6)
    assert steps(presence, 0.0, 21) == TrackState.GIVEN_UP
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
    with pytest.raises(ValueError, match="lost_below"):
        PresenceSettings(lost_below=0.9)
