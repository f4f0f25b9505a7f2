# SPDX-License-Identifier: Apache-2.0
"""A tracker that takes its time from /clock, as in a simulation or a replay that begins again."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from node_support import GroundStation, Scene, TrackerProcess, image_of, only_box, wait_until
from rosgraph_msgs.msg import Clock

from mlkd_ros.node.messages import nanoseconds, time_message
from mlkd_ros.srv import InitTarget
from mlkd_ros.tracking.geometry import iou

MS = 1_000_000
Code = InitTarget.Response


class Simulation(GroundStation):
    """A ground station that is the camera and the clock, too."""

    def __init__(self) -> None:
        super().__init__("november")
        self.clock = self.node.create_publisher(Clock, "/clock", 10)

    def set_clock(self, moment: int) -> None:
        """Returns when the tracker has heard of it."""

        def heard() -> bool:
            self.clock.publish(Clock(clock=time_message(moment)))
            return any(nanoseconds(d.header.stamp) == moment for d in self.diagnostics[-1:])

        wait_until(heard, 60, f"diagnostics at {moment}")

    def latencies(self) -> dict[str, float]:
        """Of the next diagnostics, in milliseconds."""
        self.diagnostics.clear()
        wait_until(lambda: bool(self.diagnostics), 60, "diagnostics")
        values = self.diagnostics[0].status[1].values
        return {
            v.key: math.nan if v.value == "unknown" else float(v.value)
            for v in values
            if v.key.startswith("latency")
        }


@pytest.fixture
def process() -> Iterator[TrackerProcess]:
    process = TrackerProcess("november", use_sim_time=True, reliability="reliable", device="cpu")
    yield process
    process.end()


@pytest.fixture
def simulation(process: TrackerProcess) -> Iterator[Simulation]:
    simulation = Simulation()
    simulation.connect(60)
    yield simulation
    simulation.close()


def test_from_before_the_clock_to_its_second_beginning(
    simulation: Simulation, process: TrackerProcess, scene: Scene
) -> None:
    simulation.show(image_of(scene.image(0), 99_000 * MS))
    assert math.isnan(simulation.status_of(99_000 * MS).latency)

    def reported() -> bool:
        statuses = (m.status[1] for m in list(simulation.diagnostics))
        return any(
            s.level == DiagnosticStatus.WARN and "no time on /clock" in s.message for s in statuses
        )

    wait_until(reported, 60, "the missing clock in the diagnostics")

    simulation.set_clock(100_000 * MS)
    simulation.show(image_of(scene.image(0), 99_950 * MS))
    assert simulation.status_of(99_950 * MS).latency == pytest.approx(0.05, abs=1e-3)
    response = simulation.designate(scene.box(0))
    assert response.code == Code.SUCCESS
    for index in range(1, 6):
        simulation.show(image_of(scene.image(index), (99_950 + index) * MS))
    assert simulation.latencies()["latency max (ms)"] == pytest.approx(50.0, abs=1)

    simulation.set_clock(10_000 * MS)
    process.wait_for_log("the clock was set back by 90.000 s", 60)
    assert all(map(math.isnan, simulation.latencies().values()))
    # On its way since before: nobody can say how long.
    refused = simulation.designate(scene.box(5), 99_955 * MS)
    assert refused.code in (Code.NO_IMAGE, Code.STAMP_OUTSIDE_HISTORY)
    for index in range(6, 12):
        stamp = (9_960 + index) * MS
        detections = simulation.show(image_of(scene.image(index), stamp))
        assert detections.detections[0].id == response.target_id
        assert iou(only_box(detections), scene.box(index)) > 0.6
        assert 0.02 < simulation.status_of(stamp).latency < 0.04
    worst = simulation.latencies()["latency max (ms)"]
    assert 20 < worst < 40
    assert simulation.designate(scene.box(6), 9_966 * MS).code == Code.SUCCESS
    old = simulation.designate(scene.box(5), 99_955 * MS)
    assert old.code == Code.STAMP_OUTSIDE_HISTORY
    assert "history of 6 images" in old.message


def test_images_that_begin_again_before_the_clock_does(
    simulation: Simulation, scene: Scene
) -> None:
    """Two topics, no order: the latency of the images in between is unknown or soon forgotten."""
    simulation.set_clock(50_000 * MS)
    simulation.show(image_of(scene.image(0), 49_990 * MS))
    simulation.show(image_of(scene.image(1), 4_990 * MS))
    simulation.set_clock(5_000 * MS)
    simulation.show(image_of(scene.image(2), 4_995 * MS))
    assert simulation.latencies()["latency max (ms)"] == pytest.approx(5.0, abs=1)
