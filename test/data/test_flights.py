# SPDX-License-Identifier: Apache-2.0
"""Rendered flights as sequences and as pair caches, with a stand-in for the renderer."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from mlkd_ros.data.cache import CacheSettings
from mlkd_ros.data.flights import build_flight_cache, flight_sequence
from mlkd_ros.data.night_flight import NightFlight, RenderedFrame


@dataclass
class _Flight:
    """A target hidden in frame 2, a bus that comes late, a tiny and a hidden person."""

    scenario: str = "crossing"
    seed: int = 7
    frame_count: int = 8
    rate: float = 24.0

    def render(self, when: int) -> RenderedFrame:
        visible = 0.0 if when == 2 else 1.0
        targets = [
            ("car_0", (50.0 + when, 40.0, 30.0, 20.0), visible, "car"),
            ("tiny", (20.0, 20.0, 4.0, 8.0), 1.0, "person"),
            ("hidden", (120.0, 60.0, 20.0, 20.0), 0.1, "person"),
        ]
        if when >= 4:
            targets.append(("bus_1", (100.0, 50.0, 60.0, 30.0), 0.9, "bus"))
        return RenderedFrame(np.full((120, 200, 3), when, np.uint8), when / 30, targets)


def _flight() -> NightFlight:
    return cast(NightFlight, _Flight())


def test_a_flight_is_a_sequence_of_its_main_target() -> None:
    sequence = flight_sequence(_flight(), count=5, start=1)
    assert (sequence.name, sequence.group, sequence.night) == ("crossing_7", "flights", True)
    assert sequence.rate == 24.0
    assert np.isnan(sequence.boxes[1]).all(), "frame 2 shows nothing of it"
    assert sequence.boxes[4].tolist() == [55, 40, 30, 20]
    assert [int(frame[0, 0, 0]) for frame in sequence.frames] == [1, 2, 3, 4, 5]


def test_objects_of_a_flight_are_told_apart(tmp_path: Path) -> None:
    settings = CacheSettings(side=64)
    cache = build_flight_cache(tmp_path, [_flight()], settings, every=2, objects=3)
    found = list(zip(cache.frame.tolist(), cache.object.tolist(), strict=True))
    car, bus = [f for f, o in found if o == 0], [f for f, o in found if o == found[-1][1]]
    assert car == [0, 2, 3] and bus == [2, 3], "not where it is hidden, or not yet there"
    assert cache.skipped == {"too small": 4}
    assert cache.night == [True] and cache.groups == ["flights"]
