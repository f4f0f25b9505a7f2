# SPDX-License-Identifier: Apache-2.0
"""The launch files, launched. Runs where ROS 2's launch is installed; it is not on PyPI."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.wait_for_message import wait_for_message
from ros_support import introduce
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from mlkd_ros.imaging.encode import image_message
from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import nanoseconds, time_message
from mlkd_ros.share import share_directory
from mlkd_ros.srv import InitTarget
from mlkd_ros.tracking.geometry import iou

launch_pytest = pytest.importorskip("launch_pytest", reason="launch_pytest is not installed")
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessIO, OnProcessStart, OnShutdown
from launch.events.process import ProcessStarted
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.utilities import perform_substitutions
from launch_pytest.actions import ReadyToTest
from rclpy.parameter_client import AsyncParameterClient

pytestmark = pytest.mark.timeout(300)

TRACKER_ARGUMENTS = {
    "namespace",
    "params_file",
    "image_topic",
    "device",
    "use_sim_time",
    "log_level",
}
MAVLINK_ARGUMENTS = {"mavlink", "video_uri", "gimbal", "point_topic"}
OWN_ARGUMENTS = {
    "tracker": set(),
    "simulation": {
        "simulator",
        "scenario",
        "seed",
        "gz_image_topic",
        "gz_camera_info_topic",
        "record",
        *MAVLINK_ARGUMENTS,
    },
    "replay": {"input", "bag_topic", "rate", "loop", "init", "record", "score"},
    "onboard": {
        "camera",
        "camera_params_file",
        "url",
        "image_transport",
        "camera_info_topic",
        "reliability",
        "engine",
        "threads",
        "max_targets",
        "resume",
        "respawn",
        "respawn_delay",
        "manage_lifecycle",
        "prefix",
        "record",
        *MAVLINK_ARGUMENTS,
    },
}
PROFILE = "FASTDDS_DEFAULT_PROFILES_FILE"
FRAMES = 60


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


@pytest.fixture
def printed() -> list[str]:
    return []


def box(index: int) -> tuple[int, int, int, int]:
    """Where the target is in the recording: x, y, w, h."""
    return 40 + 2 * index, 60, 36, 30


def scene(index: int) -> np.ndarray:
    """An image of it."""
    rng = np.random.default_rng(4)
    x, y, w, h = box(index)
    image = np.full((160, 240, 3), 40, np.uint8)
    colours = rng.integers(60, 255, (5, 6, 3)).astype(np.uint8)
    image[y : y + h, x : x + w] = cv2.resize(colours, (w, h))
    return image


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, with a target that moves to the right."""
    folder = tmp_path_factory.mktemp("recording")
    for index in range(FRAMES):
        cv2.imwrite(str(folder / f"{index:03}.png"), scene(index))
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
    assert (status.image_width, status.image_height) == (240, 160)
    assert status.header.stamp.sec < 1000  # the recording's, not today's
    assert parameter(node, "/mlkd/tracker", "use_sim_time") is True


@launch_pytest.fixture
def scored(
    recording: Path, started: list[ProcessStarted], printed: list[str], tmp_path: Path
) -> LaunchDescription:
    arguments = {
        "input": str(recording),
        "init": ",".join(map(str, box(0))),
        "record": str(tmp_path / "bag"),
        "score": "true",
        "rate": "0.2",  # a busy machine leaves images out
    }
    description = launching("replay", started, **arguments)
    description.add_action(
        RegisterEventHandler(OnProcessIO(on_stdout=lambda io: printed.append(io.text.decode())))
    )
    return description


@launch_pytest.fixture
def unplayable(started: list[ProcessStarted], printed: list[str]) -> LaunchDescription:
    description = launching("replay", started, input="/no/such.mp4")
    over = OnShutdown(on_shutdown=lambda event, context: printed.append(event.reason))
    description.add_action(RegisterEventHandler(over))
    return description


@pytest.mark.launch(fixture=unplayable)
def test_replay_ends_where_there_is_nothing_to_play(printed: list[str]) -> None:
    wait_until(lambda: "the input could not be played, see above" in printed, 60, "the end")


@pytest.mark.launch(fixture=scored)
def test_replay_records_and_scores(printed: list[str], tmp_path: Path) -> None:
    highlevel = pytest.importorskip("rosbags.highlevel")
    wait_until(lambda: "stamp to publish p50" in "".join(printed), 100, "the score")
    with highlevel.AnyReader([tmp_path / "bag"]) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
    assert counts["/mlkd/image/compressed"] > FRAMES / 2
    assert counts["/mlkd/detections"] > FRAMES / 2


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited {timeout} s for {what}"
        time.sleep(0.05)


def lifecycle_state(node: Node, of: str) -> str:
    """The state of a lifecycle node; empty while it does not answer."""
    client = node.create_client(GetState, f"{of}/get_state")
    try:
        if not client.wait_for_service(1.0):
            return ""
        future = client.call_async(GetState.Request())
        executor = rclpy.executors.SingleThreadedExecutor(context=node.context)
        rclpy.spin_until_future_complete(node, future, executor, timeout_sec=2.0)
        return future.result().current_state.label if future.done() else ""
    finally:
        node.destroy_client(client)


@launch_pytest.fixture
def onboard(started: list[ProcessStarted]) -> LaunchDescription:
    started.clear()
    arguments = {
        "namespace": "uav",
        "image_topic": "/nose/image_raw",
        "device": "cpu",
        "threads": "2",
        "prefix": "nice -n 1",
        "manage_lifecycle": "true",
    }
    return launching("onboard", started, **arguments)


@pytest.mark.launch(fixture=onboard)
def test_onboard_a_killed_tracker_comes_back(node: Node, started: list[ProcessStarted]) -> None:
    def active() -> bool:
        return lifecycle_state(node, "/uav/tracker") == "active"

    wait_until(active, 60, "the tracker to be active")
    assert parameter(node, "/uav/tracker", "threads") == 2
    assert parameter(node, "/uav/tracker", "autostart") is False
    assert node.count_subscribers("/nose/image_raw") == 1
    (first,) = started
    assert os.getpriority(os.PRIO_PROCESS, first.pid) == os.getpriority(os.PRIO_PROCESS, 0) + 1
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: len(started) == 2, 60, "another tracker")
    wait_until(active, 60, "that to be active")
    assert started[1].pid != first.pid


class Flight:
    """A camera that goes on whatever happens to the tracker, and an ear for what that says."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("flight", namespace="uav", context=self.context)
        self.statuses: list[TrackStatus] = []
        self.shown: dict[int, int] = {}
        self._images = self.node.create_publisher(Image, "/nose/image_raw", 10)
        self.node.create_subscription(TrackStatus, "status", self.statuses.append, 100)
        self.init_target = self.node.create_client(InitTarget, "init_target")
        self._over = threading.Event()
        executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        executor.add_node(self.node)
        self._executor = executor
        self._threads = [threading.Thread(target=run) for run in (self._spin, self._film)]
        for thread in self._threads:
            thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(rclpy.executors.ExternalShutdownException):
            self._executor.spin()

    def _film(self) -> None:
        for count in itertools.count():
            if self._over.wait(0.1):
                return
            index = FRAMES - 1 - abs(count % (2 * FRAMES - 2) - FRAMES + 1)  # there and back again
            stamp = time.time_ns()
            self.shown[stamp] = index
            header = Header(stamp=time_message(stamp), frame_id="nose")
            self._images.publish(image_message(scene(index), header))

    def designate(self, name: str) -> InitTarget.Response:
        """The target on the image that the tracker has spoken of last."""
        wait_until(lambda: bool(self.statuses), 60, "a status")
        stamp = nanoseconds(self.statuses[-1].header.stamp)
        x, y, w, h = map(float, box(self.shown[stamp]))
        request = InitTarget.Request(x=x, y=y, width=w, height=h, target_id=name)
        request.stamp = time_message(stamp)
        answer = self.init_target.call_async(request)
        wait_until(answer.done, 60, "an answer")
        return answer.result()

    def follows(self, name: str) -> bool:
        """Whether the newest status is of that target, in its place."""
        status = self.statuses[-1] if self.statuses else TrackStatus()
        if (status.target_id, status.state) != (name, TrackStatus.TRACKING):
            return False
        truth = box(self.shown[nanoseconds(status.header.stamp)])
        return iou((status.x, status.y, status.width, status.height), truth) > 0.5

    def close(self) -> None:
        self._over.set()
        self._executor.shutdown()
        for thread in self._threads:
            thread.join(10.0)
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def flight() -> Iterator[Flight]:
    flight = Flight()
    yield flight
    flight.close()


@launch_pytest.fixture(params=["false", "true"])
def resuming(
    request: pytest.FixtureRequest,
    started: list[ProcessStarted],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> LaunchDescription:
    started.clear()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    arguments = {
        "namespace": "uav",
        "image_topic": "/nose/image_raw",
        "reliability": "reliable",
        "device": "cpu",
        "resume": "true",
        "manage_lifecycle": request.param,
    }
    return launching("onboard", started, **arguments)


@pytest.mark.launch(fixture=resuming)
def test_onboard_a_killed_tracker_resumes_its_target(
    flight: Flight, started: list[ProcessStarted], tmp_path: Path
) -> None:
    """Killed with SIGKILL in the middle of it; nobody designates the target a second time."""
    wait_until(lambda: bool(started), 60, "the tracker")
    introduce(flight.node, "tracker")
    response = flight.designate("white van")
    assert response.code == InitTarget.Response.SUCCESS, response.message
    wait_until(lambda: flight.follows("white van"), 60, "the target")
    saved = tmp_path / "mlkd_ros" / "uav.tracker.npz"
    wait_until(saved.is_file, 60, "the saved target")

    first = started[0].pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(started) == 2, 60, "another tracker")
    flight.statuses.clear()
    wait_until(lambda: bool(flight.statuses), 120, "a word of it")
    # It takes the target for lost at first, under its name, and then finds it.
    wait_until(lambda: flight.follows("white van"), 120, "the target again")
    assert {status.target_id for status in flight.statuses} == {"white van"}
    assert started[1].pid != first


@launch_pytest.fixture
def two_cameras(started: list[ProcessStarted]) -> LaunchDescription:
    """Left: a rendered flight of its own; right: one whose camera has a topic of its own."""
    return LaunchDescription(
        [
            *launching("simulation", started, namespace="left", scenario="crossing").entities[:-1],
            *launching(
                "simulation", started, namespace="right", image_topic="camera/raw", seed="5"
            ).entities,
        ]
    )


@pytest.mark.launch(fixture=two_cameras)
def test_two_cameras_two_trackers(node: Node) -> None:
    for side, topic in (("left", "/left/image"), ("right", "/right/camera/raw")):
        message(node, TrackStatus, f"/{side}/status")
        assert node.count_publishers(topic) == 1
        assert node.count_subscribers(topic) >= 1
        assert parameter(node, f"/{side}/tracker", "use_sim_time") is False


@launch_pytest.fixture
def streaming(recording: Path, started: list[ProcessStarted], tmp_path: Path) -> LaunchDescription:
    video = pytest.importorskip("mlkd_ros.imaging.video")
    pytest.importorskip("av")
    with video.VideoWriter(tmp_path / "film.mp4") as film:
        for index in range(FRAMES):
            film.write(scene(index), index * 10**9 // 10)
    parameters = tmp_path / "camera.yaml"
    parameters.write_text("/**:\n  ros__parameters:\n    loop: true\n    frame_id: nose\n")
    arguments = {
        "namespace": "uav",
        "camera": "stream",
        "url": str(tmp_path / "film.mp4"),
        "camera_params_file": str(parameters),
        "image_topic": "nose/image",
        "device": "cpu",
    }
    return launching("onboard", started, **arguments)


@pytest.mark.launch(fixture=streaming)
def test_onboard_a_video_stream_is_the_camera(node: Node) -> None:
    status = message(node, TrackStatus, "/uav/status")
    assert (status.image_width, status.image_height) == (240, 160)
    assert status.header.frame_id == "nose"
    assert parameter(node, "/uav/camera", "loop") is True
    assert node.count_publishers("/uav/nose/image") == 1


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("simulation", {"simulator": "gazebo"}, "needs the ROS package ros_gz_bridge"),
        ("onboard", {"camera": "v4l2"}, "needs the ROS package v4l2_camera"),
        ("onboard", {"camera": "stream"}, "camera:=stream needs url"),
        ("onboard", {"url": "rtsp://camera/video"}, "needs camera:=stream"),
        ("tracker", {"params_file": "/no/such.yaml"}, "params_file:=/no/such.yaml is not a file"),
        ("onboard", {"threads": "many"}, "threads:=many is not a number"),
        ("replay", {"score": "true"}, "score:=true needs input"),
        ("replay", {"score": "true", "input": "x", "record": "y/"}, "needs a new bag"),
    ],
)
def test_what_cannot_be_launched_says_why(name: str, arguments: dict[str, str], words: str) -> None:
    source = PythonLaunchDescriptionSource(launch_file(name))
    context = LaunchContext()
    description = source.get_launch_description(context)
    for declared in description.get_launch_arguments():
        value = arguments.get(declared.name)
        context.launch_configurations[declared.name] = (
            perform_substitutions(context, declared.default_value) if value is None else value
        )
    (nodes,) = [entity for entity in description.entities if isinstance(entity, OpaqueFunction)]
    try:
        nodes.execute(context)
    except RuntimeError as error:
        assert words in str(error)
    else:
        pytest.skip("that package is installed here")
