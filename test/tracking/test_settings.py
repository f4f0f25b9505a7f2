# SPDX-License-Identifier: Apache-2.0
"""Settings of the tracker: what a checkpoint's header says, and what it must not say."""

import dataclasses
import json
import math

import pytest

from mlkd_ros.tracking.settings import (
    BeliefSettings,
    MemorySettings,
    PresenceSettings,
    TrackerSettings,
)


def through_json(settings):
    """As a checkpoint's header keeps it."""
    return TrackerSettings.from_dict(json.loads(json.dumps(settings.to_dict())))


def test_settings_survive_the_header():
    settings = TrackerSettings(
        context_amount=0.4,
        penalty_k=0.1,
        calibration=(2.0, -1.0),
        presence=PresenceSettings(tracking_above=0.6, search_windows=5),
        memory=MemorySettings(share=0.1),
        belief=BeliefSettings(
            association=(0.5, 0.9, -1.5),
            evidence=(2.0, 0.8, 2.0, -3.0, -0.5),
            confidence=(-3.0, 0.1, 0.2, 0.3),
            wander=1.5,
        ),
    )
    assert through_json(settings) == settings
    assert through_json(TrackerSettings()) == TrackerSettings()
    assert isinstance(through_json(settings).belief.evidence, tuple)


def test_a_header_may_leave_out_what_is_as_by_default():
    header = {"penalty_k": 0.1, "belief": {"wander": 1.5}, "presence": {"shown_above": 0.1}}
    loaded = TrackerSettings.from_dict(header)
    assert loaded == TrackerSettings(
        penalty_k=0.1,
        belief=BeliefSettings(wander=1.5),
        presence=PresenceSettings(shown_above=0.1),
    )
    assert TrackerSettings.from_dict({}) == TrackerSettings()
    assert header["belief"] == {"wander": 1.5}  # what was given is left alone


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"penalty": 1}, "unknown TrackerSettings 'penalty': known are belief, calibration"),
        ({"belief": {"wander": 1.5, "wonder": 1}}, "unknown BeliefSettings 'wonder'"),
        ({"belief": {"wander": 1.5}, "near_above": 0.7}, "unknown TrackerSettings 'near_above'"),
        ({"belief": {"wander": 1.5}, "presence": {"lost_after": 1}}, "'lost_after': known are"),
        ({"memory": {"shares": 0.2}}, "unknown MemorySettings 'shares'"),
    ],
)
def test_the_unknown_is_refused_by_name(header, message):
    with pytest.raises(ValueError, match=message):
        TrackerSettings.from_dict(header)


def test_a_header_of_before_the_belief_is_accepted():
    """Its rules of presence and its window have no meaning any more; the rest has."""
    header = {
        "context_amount": 0.5,
        "penalty_k": 0.1,
        "window_influence": 0.455,
        "size_lr": 0.3,
        "calibration": [0.66, -4.6],
        "near_above": 0.75,
        "presence": {"tracking_above": 0.35, "lost_after": 0.1, "near": 1.5, "spread": 3.0},
        "memory": {"share": 0.2, "renewal": 0.5, "above": 0.75, "interval": 0.5},
    }
    assert TrackerSettings.from_dict(header) == TrackerSettings(
        penalty_k=0.1, size_lr=0.3, calibration=(0.66, -4.6), memory=MemorySettings(share=0.2)
    )
    del header["presence"], header["near_above"]
    assert TrackerSettings.from_dict(header).presence == PresenceSettings()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lost_below", 0.9, "0.9 <= 0.4"),
        ("tracking_above", 1.5, "<= 1, not"),
        ("uncertain_below", math.nan, "uncertain_below"),
        ("reacquire_above", -0.1, "reacquire_above must be 0 to 1, not -0.1"),
        ("shown_above", 1.1, "shown_above must be 0 to 1, not 1.1"),
        ("shown_above", math.nan, "shown_above"),
        ("give_up_after", -1.0, "give_up_after must be at least 0, not -1.0"),
        ("give_up_after", math.nan, "give_up_after"),
        ("search_windows", 0, "search_windows must be at least 1, not 0"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused_by_name(name, value, message):
    with pytest.raises(ValueError, match=message):
        PresenceSettings(**{name: value})


WEIGHTS = {"association": 3, "evidence": 5, "confidence": 4}
NUMBERS = [f.name for f in dataclasses.fields(BeliefSettings) if f.name not in WEIGHTS]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_density_without_a_number_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must be finite, not {value}"):
        BeliefSettings(**{name: value})


@pytest.mark.parametrize(
    "name",
    ["score_slope", "displacement", "freedom", "wander", "wander_time", "jitter", "visible_for",
     "hidden_for", "independent_after", "score_time"],
)  # fmt: skip
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_lengths_and_times_are_above_zero(name, value):
    with pytest.raises(ValueError, match=f"{name} must be above 0, not {value}"):
        BeliefSettings(**{name: value})


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_a_detection_is_never_certain(value):
    with pytest.raises(ValueError, match=f"detection must be between 0 and 1, not {value}"):
        BeliefSettings(detection=value)


@pytest.mark.parametrize(("name", "count"), WEIGHTS.items())
def test_as_many_finite_weights_as_there_are_terms(name, count):
    for weights in ((0.5,) * (count - 1), (0.5,) * (count + 1), (0.5,) * (count - 1) + (math.nan,)):
        with pytest.raises(ValueError, match=f"{name} must be {count} finite weights"):
            BeliefSettings(**{name: weights})
