# SPDX-License-Identifier: Apache-2.0
"""The launch files, launched. Runs where ROS 2's launch is installed; it is not on PyPI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.wait_for_message import wait_for_message
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from mlkd_ros.msg import TrackStatus
from mlkd_ros.share import share_directory

launch_pytest = pytest.importorskip("launch_pytest", reason="launch_pytest is not installed")
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessStart
from launch.events.process import ProcessStarted
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_pytest.actions import ReadyToTest
from rclpy.parameter_client import AsyncParameterClient

pytestmark = pytest.mark.timeout(120)

TRACKER_ARGUMENTS = {
    "namespace",
    "params_file",
    "image_topic",
    "device",
    "use_sim_time",
    "log_level",
}
OWN_ARGUMENTS = {
    "tracker": set(),
    "simulation": {"scenario", "seed"},
    "replay": {"input", "bag_topic", "rate", "loop"},
}
PROFILE = "FASTDDS_DEFAULT_PROFILES_FILE"
FRAMES = 20


def launch_file(name: str) -> str:
    return str(share_directory() / "launch" / f"{name}.launch.py")


def launching(name: str, started: list[ProcessStarted], **arguments: str) -> LaunchDescription:
    """Launch one of our files; what it starts is put into `started`."""

    def remember(event: ProcessStarted, context: LaunchContext) -> None:
        started.append(event)

    include = IncludeLaunchDescription(launch_file(name), launch_arguments=arguments.items())
    handler = RegisterEventHandler(OnProcessStart(on_start=remember))
    return LaunchDescription([handler, include, ReadyToTest()])


@pytest.fixture(scope="module")
def started() -> list[ProcessStarted]:
    return []


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images."""
    folder = tmp_path_factory.mktemp("recording")
    for index in range(FRAMES):
        cv2.imwrite(str(folder / f"{index:03}.png"), np.full((48, 64, 3), 5 * index, np.uint8))
    return folder


@pytest.fixture
def node() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("launch_test", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def message(node: Node, message_type: type, topic: str) -> object:
    """The next message of a topic."""
    arrived, received = wait_for_message(
        message_type, node, topic, qos_profile=qos_profile_sensor_data, time_to_wait=60.0
    )
    assert arrived, f"nothing on {topic}"
    return received


def parameter(node: Node, of: str, name: str) -> object:
    """The value of a parameter of another node."""
    client = AsyncParameterClient(node, of)
    assert client.wait_for_services(60.0), of
    future = client.get_parameters([name])
    executor = rclpy.executors.SingleThreadedExecutor(context=node.context)
    rclpy.spin_until_future_complete(node, future, executor, timeout_sec=30.0)
    return rclpy.parameter.parameter_value_to_python(future.result().values[0])


@pytest.mark.parametrize("name", OWN_ARGUMENTS)
def test_arguments_are_described(name: str) -> None:
    source = PythonLaunchDescriptionSource(launch_file(name))
    description = source.get_launch_description(LaunchContext())
    arguments: list[DeclareLaunchArgument] = description.get_launch_arguments()
    assert {argument.name for argument in arguments} == TRACKER_ARGUMENTS | OWN_ARGUMENTS[name]
    for argument in arguments:
        assert "." in argument.description, argument.name


@launch_pytest.fixture
def tracker(started: list[ProcessStarted]) -> LaunchDescription:
    return launching("tracker", started)


@pytest.mark.launch(fixture=tracker)
def test_tracker_runs_with_the_installed_parameters(node: Node) -> None:
    parameters = (share_directory() / "config/tracker.yaml").read_text()
    topic = parameter(node, "/mlkd/tracker", "image_topic")
    assert f'image_topic: "{topic}"' in parameters
    assert parameter(node, "/mlkd/tracker", "use_sim_time") is False


@launch_pytest.fixture
def simulation(started: list[ProcessStarted], monkeypatch: pytest.MonkeyPatch) -> LaunchDescription:
    monkeypatch.delenv(PROFILE)  # set by the tests' own environment
    arguments = {"namespace": "uav", "image_topic": "camera/image", "device": "cpu", "seed": "3"}
    return launching("simulation", started, scenario="occlusion", **arguments)


@pytest.mark.launch(fixture=simulation)
def test_simulation_shows_the_tracker_a_flight(node: Node, started: list[ProcessStarted]) -> None:
    image = message(node, Image, "/uav/camera/image")
    truth = message(node, Detection2DArray, "/uav/ground_truth")
    status = message(node, TrackStatus, "/uav/status")
    assert (status.image_width, status.image_height) == (image.width, image.height)
    assert truth.detections
    assert parameter(node, "/uav/night_camera", "scenario") == "occlusion"
    assert parameter(node, "/uav/night_camera", "seed") == 3
    assert parameter(node, "/uav/tracker", "device") == "cpu"
    for process in started[-2:]:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        profile = share_directory() / "config/fastdds.xml"
        assert f"{PROFILE}={profile}".encode() in environment, process.process_name


@launch_pytest.fixture
def replay(recording: Path, started: list[ProcessStarted]) -> LaunchDescription:
    arguments = {"input": str(recording), "loop": "true", "use_sim_time": "True"}
    return launching("replay", started, **arguments)


@pytest.mark.launch(fixture=replay)
def test_replay_shows_the_tracker_a_recording_on_its_own_clock(node: Node) -> None:
    status = message(node, TrackStatus, "/mlkd/status")
    assert (status.image_width, status.image_height) == (64, 48)
    assert status.header.stamp.sec < 1000  # the recording's, not today's
    assert parameter(node, "/mlkd/tracker", "use_sim_time") is True
