# SPDX-License-Identifier: Apache-2.0
"""What diagnostics say in each situation."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from diagnostic_msgs.msg import DiagnosticStatus

from mlkd_ros.node import diagnostics
from mlkd_ros.node.diagnostics import Latency, Monitor, Phase, Snapshot, diagnostic_statuses
from mlkd_ros.session.image_health import ImageHealth
from mlkd_ros.tracking import TrackState

GOOD = Snapshot(
    phase=Phase.ACTIVE,
    topic="/mlkd/image",
    silent=False,
    silence=0.02,
    publishers=1,
    received=100,
    input_rate=30.0,
    output_rate=29.0,
    problem="",
    unusable=Counter(),
    qos_problem="",
    engine="engine",
    device="cpu",
    fallback="",
    clock_missing=False,
    processed=90,
    dropped=Counter(busy=8, loading=2),
    latency=Latency(0.02, 0.03, 0.04, 0.05),
    states={"1": TrackState.TRACKING},
)
OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
ERROR, STALE = DiagnosticStatus.ERROR, DiagnosticStatus.STALE


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({}, OK, "30.0 Hz on /mlkd/image"),
        ({"phase": Phase.UNCONFIGURED, "silent": True}, STALE, "not subscribed to /mlkd/image"),
        ({"received": 0}, OK, "waiting for the first image on /mlkd/image"),
        (
            {"silent": True, "silence": 2.0, "publishers": 0},
            ERROR,
            "no image for 2.0 s on /mlkd/image: nobody publishes it",
        ),
        ({"silent": True, "silence": 2.0}, ERROR, "though it has 1 publisher"),
        ({"silent": True, "qos_problem": "camera offers X"}, ERROR, "camera offers X"),
        ({"qos_problem": "camera offers X"}, WARN, "camera offers X"),
        ({"problem": "step is 0"}, ERROR, "unusable images on /mlkd/image: step is 0"),
    ],
)
def test_about_the_images(change: dict, level: bytes, words: str) -> None:
    status = diagnostic_statuses("/mlkd/tracker", dataclasses.replace(GOOD, **change))[0]
    assert (status.name, status.level) == ("/mlkd/tracker: images", level)
    assert words in status.message


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({}, OK, "target 1 TRACKING"),
        ({"states": {}}, OK, "no target"),
        ({"states": {"1": TrackState.LOST}}, WARN, "target 1 LOST"),
        ({"silent": True, "silence": 2.0}, WARN, "no images for 2.0 s: target 1 was TRACKING"),
        ({"phase": Phase.CONFIGURING}, OK, "loading"),
        ({"phase": Phase.INACTIVE}, STALE, "inactive: not tracking"),
        ({"fallback": "the GPU failed"}, WARN, "the GPU failed"),
        ({"clock_missing": True}, WARN, "no time on /clock"),
        ({"clock_offset": 1e9}, WARN, "1000000000.0 s behind this node's clock"),
        ({"clock_offset": -37.02}, WARN, "37.0 s ahead of this node's clock (TAI"),
    ],
)
def test_about_the_tracking(change: dict, level: bytes, words: str) -> None:
    status = diagnostic_statuses("/mlkd/tracker", dataclasses.replace(GOOD, **change))[1]
    assert (status.name, status.level) == ("/mlkd/tracker: tracking", level)
    assert words in status.message
    assert status.hardware_id == "engine"


def test_values() -> None:
    images, tracking, *_ = (
        {item.key: item.value for item in status.values}
        for status in diagnostic_statuses(
            "x", dataclasses.replace(GOOD, unusable=Counter(step=3, empty=1))
        )
    )
    assert (images["unusable"], images["unusable: step"]) == ("4", "3")
    assert (tracking["dropped"], tracking["dropped: busy"]) == ("10", "8")
    assert tracking["latency p99 (ms)"] == "40.0"


def test_latency_percentiles() -> None:
    latency = Latency.of([value / 1000 for value in range(101)])
    assert latency == Latency(0.05, 0.095, 0.099, 0.1)
    assert math.isnan(Latency.of([]).median)


def test_silence_is_told_once_when_it_begins_and_once_when_it_ends(monkeypatch) -> None:
    now = 100.0
    monkeypatch.setattr(diagnostics.time, "monotonic", lambda: now)
    monitor = Monitor()
    assert monitor.silence_changed(2.0) is None
    now = 102.5
    assert monitor.silence_changed(2.0) is True
    assert monitor.silence_changed(2.0) is None
    monitor.arrived()
    assert monitor.silence_changed(2.0) is False
    assert monitor.silence_changed(2.0) is None


def test_silence_begins_anew_with_the_next_activation(monkeypatch) -> None:
    now = 100.0
    monkeypatch.setattr(diagnostics.time, "monotonic", lambda: now)
    monitor = Monitor()
    now = 200.0
    assert monitor.silence_changed(2.0) is True
    monitor.resume()
    assert monitor.silence_changed(2.0) is None
    assert monitor.silence() == 0.0


def test_time_that_was_set_back_begins_the_latencies_anew() -> None:
    monitor = Monitor()
    monitor.published(5.0)
    monitor.time_set_back(7)
    assert monitor.of_another_time == 7
    monitor.published(math.nan)
    assert math.isnan(monitor.latency().median)
    monitor.published(0.03)
    assert monitor.latency().worst == 0.03


def test_memory_of_a_gpu(monkeypatch) -> None:
    cuda = SimpleNamespace(
        mem_get_info=lambda device: (3 << 30, 4 << 30), memory_reserved=lambda device: 96 << 20
    )
    monkeypatch.setitem(diagnostics.sys.modules, "torch", SimpleNamespace(cuda=cuda))
    status = diagnostic_statuses("x", dataclasses.replace(GOOD, device="cuda:0"))[1]
    values = {item.key: item.value for item in status.values}
    assert values["GPU memory used (MiB)"] == "1024 of 4096"
    assert values["GPU memory of this node (MiB)"] == "96"
    status = diagnostic_statuses("x", GOOD)[1]
    assert not [item.key for item in status.values if "GPU" in item.key]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this GPU answers")
def test_a_gpu_that_cannot_be_asked_does_not_end_the_report() -> None:
    status = diagnostic_statuses("x", dataclasses.replace(GOOD, device="cuda:0"))[1]
    values = {item.key: item.value for item in status.values}
    assert values["GPU memory"].startswith("unknown (")


def test_rates_are_of_late(monkeypatch) -> None:
    now = 100.0
    monkeypatch.setattr(diagnostics.time, "monotonic", lambda: now)
    monitor = Monitor()
    for index in range(60):
        now = 100.0 + index / 10
        monitor.arrived()
        if index % 2:
            monitor.published(0.02)
    assert monitor.rates() == (pytest.approx(10.0), pytest.approx(5.0))
    now += 10
    assert monitor.rates() == (0.0, 0.0)
    assert monitor.latency().median == 0.02


def test_image_health_and_bearing() -> None:
    def judged(**changes: object) -> tuple[DiagnosticStatus, DiagnosticStatus]:
        return tuple(diagnostic_statuses("x", dataclasses.replace(GOOD, **changes))[2:])

    health, bearing = judged()
    assert (health.name, health.level) == ("x: image health", DiagnosticStatus.STALE)
    assert (bearing.name, bearing.level) == ("x: bearing", DiagnosticStatus.OK)
    fine = ImageHealth(40, 2, 30, 90, 1.5, 120, 0.0, 4.0, 4.0)
    health, _ = judged(health=fine)
    assert (health.level, health.message) == (DiagnosticStatus.OK, "good")
    health, _ = judged(health=dataclasses.replace(fine, saturated=0.12, edge_x=14.0))
    assert health.level == DiagnosticStatus.WARN
    assert health.message.startswith("12% of the image is saturated: lower gain or exposure")
    assert "blurred by motion sideways" in health.message
    assert {item.key: item.value for item in health.values}["saturated (%)"] == "12.0"
    assert judged(health=fine, silent=True)[0].level == DiagnosticStatus.STALE
    _, bearing = judged(bearing_problem="no bearings", bearing={"calibration": "none"})
    assert (bearing.level, bearing.message) == (DiagnosticStatus.WARN, "no bearings")
    assert bearing.values[0].key == "calibration"
