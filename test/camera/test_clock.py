# SPDX-License-Identifier: Apache-2.0
"""Stamps of a stream: by the sender's clock where it can be ours, else by the quickest arrivals."""

from __future__ import annotations

import numpy as np

from mlkd_ros.camera.clock import StreamClock

MS = 1_000_000
NOW = 1_800_000_000_000 * MS
INTERVAL = 33 * MS


def test_the_senders_clock_is_taken_where_it_is_ours() -> None:
    clock = StreamClock()
    assert clock.stamp(NOW, 5 * INTERVAL, NOW - 80 * MS) == NOW - 80 * MS
    assert clock.by_sender and clock.sender_off is None


def test_a_clock_a_little_ahead_puts_no_picture_into_the_future() -> None:
    clock = StreamClock()
    assert clock.stamp(NOW, 0, NOW + 10 * MS) == NOW
    assert clock.by_sender


def test_a_clock_that_is_not_ours_is_told_of_and_not_taken() -> None:
    clock = StreamClock()
    for off in (37_000 * MS, -300 * MS):
        assert clock.stamp(NOW, 0, NOW - off) == NOW
        assert not clock.by_sender and clock.sender_off == off


def test_it_is_not_taken_when_not_wanted() -> None:
    clock = StreamClock(use_sender=False)
    assert clock.stamp(NOW, 0, NOW - 80 * MS) == NOW
    assert not clock.by_sender


def test_arrivals_with_jitter_make_stamps_without() -> None:
    clock = StreamClock()
    late = np.random.default_rng(1).integers(0, 60, 300) * MS
    late[50] = 0
    stamps = [
        clock.stamp(NOW + index * INTERVAL + int(late[index]), index * INTERVAL, None)
        for index in range(150)
    ]
    steps = np.diff(stamps[50:])
    assert (steps == INTERVAL).all()
    assert stamps[50] == NOW + 50 * INTERVAL


def test_no_stamp_is_later_than_its_arrival() -> None:
    clock = StreamClock()
    rng = np.random.default_rng(2)
    arrived = NOW
    for index in range(500):
        arrived += int(rng.integers(0, 70)) * MS
        assert clock.stamp(arrived, index * INTERVAL, None) <= arrived


def test_a_stream_whose_clock_jumps_is_followed_at_once() -> None:
    clock = StreamClock()
    for index in range(100):
        clock.stamp(NOW + index * INTERVAL, index * INTERVAL, None)
    later = NOW + 100 * INTERVAL
    assert clock.stamp(later, 10**15, None) == later
    assert clock.stamp(later + INTERVAL, 10**15 + INTERVAL, None) == later + INTERVAL


def test_a_slow_stream_clock_is_followed() -> None:
    """100 parts in a million, over ten minutes: without forgetting it would be 60 ms."""
    clock = StreamClock()
    for index in range(600):
        arrived = NOW + index * 1000 * MS
        stamp = clock.stamp(arrived, round(index * 1000 * MS * (1 - 1e-4)), None)
        assert 0 <= arrived - stamp <= 1 * MS


def test_without_a_time_of_the_stream_it_is_the_arrival() -> None:
    assert StreamClock().stamp(NOW, None, None) == NOW
