# SPDX-License-Identifier: Apache-2.0
"""Two cameras and two trackers in one graph: neither hears of the other's images and targets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from node_support import GroundStation, Scene, TrackerProcess, destroy, image_of, wait_until
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from sensor_msgs.msg import Image

from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import nanoseconds
from mlkd_ros.srv import InitTarget

#: Namespace of a tracker, how it is told the topic of its camera, and that topic.
CAMERAS = {
    "left": ({}, "/left/image"),
    "right": ({"image_topic": "/nose/image_raw"}, "/nose/image_raw"),
}


@pytest.fixture(scope="module")
def stations() -> Iterator[dict[str, GroundStation]]:
    """A ground station for each tracker, which publishes its camera's images."""
    with contextlib.ExitStack() as stack:
        stations = {}
        for side, (parameters, topic) in CAMERAS.items():
            process = TrackerProcess(namespace=side, reliability="reliable", **parameters)
            stack.callback(process.end)
            station = stations[side] = GroundStation(side)
            stack.callback(station.close)
            if parameters:
                destroy(station.node, station.images)
                station.images = station.node.create_publisher(Image, topic, 10)
        for station in stations.values():
            station.connect()
        yield stations


def show(
    stations: dict[str, GroundStation], scene: Scene, index: int
) -> dict[str, tuple[int, TrackStatus]]:
    """An image to each, and what the trackers say about it, by side."""
    said = {}
    for side, station in stations.items():
        stamp = station.now()
        # The right one sees the same scene a second later.
        image = scene.image(index + 30 * (side == "right"))
        station.show(image_of(image, stamp))
        said[side] = (stamp, station.status_of(stamp))
    return said


def test_a_target_of_one_is_none_of_the_other(
    stations: dict[str, GroundStation], scene: Scene
) -> None:
    said = show(stations, scene, 0)
    left, right = stations["left"], stations["right"]
    assert left.designate(scene.box(0), said["left"][0]).code == InitTarget.Response.SUCCESS
    for index in range(1, 4):
        said = show(stations, scene, index)
    assert said["left"][1].state == TrackStatus.TRACKING
    assert said["right"][1].state == TrackStatus.IDLE
    answer = right.designate(scene.box(33), said["right"][0], target_id="boat")
    assert answer.code == InitTarget.Response.SUCCESS
    for index in range(4, 8):
        said = show(stations, scene, index)
    assert said["left"][1].target_id != "boat"
    assert said["right"][1].target_id == "boat"
    assert said["left"][1].x == pytest.approx(scene.box(7)[0], abs=8)
    assert said["right"][1].x == pytest.approx(scene.box(37)[0], abs=8)
    assert left.stop().code == 0
    said = show(stations, scene, 8)
    assert said["left"][1].state == TrackStatus.IDLE
    assert said["right"][1].state == TrackStatus.TRACKING


def test_neither_processes_images_of_the_other(
    stations: dict[str, GroundStation], scene: Scene
) -> None:
    stamps: dict[str, set[int]] = {}
    for side, station in stations.items():
        station.statuses.clear()
        stamps[side] = set()
        for index in range(3):
            stamp = station.now()
            station.show(image_of(scene.image(index), stamp))
            stamps[side].add(stamp)
    for side, station in stations.items():
        station.status_of(max(stamps[side]))
        assert {nanoseconds(status.header.stamp) for status in station.statuses} == stamps[side]
    assert not stamps["left"] & stamps["right"]


def test_names_in_the_graph(stations: dict[str, GroundStation]) -> None:
    node = stations["left"].node
    for side, (_, topic) in CAMERAS.items():
        # Names of nodes are discovered apart from their topics, and later on a busy machine.
        wait_until(
            lambda tracker=("tracker", f"/{side}"): tracker in node.get_node_names_and_namespaces(),
            60,
            f"the tracker of {side}",
        )
        assert node.count_subscribers(topic) == 1
        for name in ("detections", "status"):
            assert node.count_publishers(f"/{side}/{name}") == 1


def test_diagnostics_tell_them_apart(stations: dict[str, GroundStation]) -> None:
    def named(side: str) -> bool:
        return any(
            status.name.startswith(f"/{side}/tracker")
            for array in list(stations["left"].diagnostics)
            for status in array.status
        )

    for side in CAMERAS:
        wait_until(lambda side=side: named(side), 60, f"diagnostics of {side}")


def test_a_parameter_of_one_leaves_the_other_alone(stations: dict[str, GroundStation]) -> None:
    clients = {
        side: AsyncParameterClient(station.node, f"/{side}/tracker")
        for side, station in stations.items()
    }

    change = clients["left"].set_parameters([Parameter("class_id", value="boat")])
    wait_until(change.done, 60, "the change")
    assert change.result().results[0].successful
    for side, expected in (("left", "boat"), ("right", "target")):
        got = clients[side].get_parameters(["class_id"])
        wait_until(got.done, 60, "the value")
        assert parameter_value_to_python(got.result().values[0]) == expected
