# SPDX-License-Identifier: Apache-2.0
"""The executable `replay` plays every kind of recording at its own times."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from node_support import GroundStation, Scene, TrackerProcess, destroy, image_of, wait_until
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection2D, Detection2DArray

from mlkd_ros.imaging.bag_types import message_types
from mlkd_ros.imaging.messages import Decoder
from mlkd_ros.imaging.sources import BagSource, open_source
from mlkd_ros.node.messages import box_from_message, box_to_message, nanoseconds
from mlkd_ros.recording.beside import Beside
from mlkd_ros.srv import InitTarget
from mlkd_ros.tracking.geometry import iou

WIDTH, HEIGHT = 64, 48
#: A busy machine may hold up who listens for longer than a camera's queue lasts.
LOSSLESS = (
    "--wait",
    "60",
    "--subscribers",
    "2",
    "--ros-args",
    "-p",
    "qos_overrides./mlkd/image.publisher.depth:=100",
)


def picture(index: int) -> np.ndarray:
    """Its brightness tells which image it is, through any compression."""
    return np.full((HEIGHT, WIDTH, 3), 20 + 20 * index, np.uint8)


def index_of(message: Image) -> int:
    frame = Decoder().decode(message)
    return round((frame.window(0, 0, frame.width, frame.height).mean() - 20) / 20)


class Audience:
    """Subscribes to images and the clock, and notes when they came."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("audience", namespace="mlkd", context=self.context)
        self.images: list[tuple[float, Image]] = []
        self.clock: list[int] = []
        subscribe = self.node.create_subscription
        self._clock = subscribe(
            Clock, "/clock", lambda message: self.clock.append(nanoseconds(message.clock)), 1000
        )
        self._image = subscribe(Image, "image", self._on_image, 100)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._ending = False
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        while not self._ending:
            self._executor.spin_once(timeout_sec=0.05)

    def begin(self, *, clock: bool = False) -> None:
        """Let a player begin that waits for two subscribers; nothing of it is lost then."""
        subscriptions = (self._image, self._clock) if clock else (self._image,)
        begin_together(self.node, subscriptions)

    def _on_image(self, message: Image) -> None:
        self.images.append((time.monotonic(), message))

    def wait_for(self, count: int) -> list[Image]:
        wait_until(lambda: len(self.images) >= count, 60, f"{count} images")
        return [message for _, message in self.images]

    def close(self) -> None:
        self._ending = True
        self._thread.join()
        self.node.destroy_node()
        self.context.try_shutdown()


def begin_together(node: Node, subscriptions: Sequence[Any]) -> None:
    """Add one more subscriber to the images, which the player waits for, when these have found it.

    DDS announces subscriptions in the order in which they were made: when the player has found the
    last, it has found the others.
    """
    for one in subscriptions:
        wait_until(lambda one=one: one.get_publisher_count() > 0, 60, one.topic_name)
    node.create_subscription(Image, "image", lambda message: None, 1)


@pytest.fixture
def audience() -> Iterator[Audience]:
    audience = Audience()
    yield audience
    audience.close()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replay") / "flight.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 4.0, (WIDTH, HEIGHT))
    for index in range(8):
        writer.write(picture(index))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(8):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture(index))
    return tmp_path


def write_bag(
    path: Path, plugin: str, stamps: list[int], received: list[int] | None = None
) -> Path:
    """Two image topics; /camera/image holds one image per stamp, received then or as told."""
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    typesys = pytest.importorskip("rosbags.typesys")
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    types, kind = store.types, "sensor_msgs/msg/Image"
    storage = getattr(rosbag2.StoragePlugin, plugin)
    with rosbag2.Writer(path, version=8, storage_plugin=storage) as writer:
        for topic in ("/camera/image", "/other/image"):
            connection = writer.add_connection(topic, kind, typestore=store)
            for index, stamp in enumerate(stamps if topic == "/camera/image" else stamps[:1]):
                stamp_message = types["builtin_interfaces/msg/Time"](
                    sec=stamp // 10**9, nanosec=stamp % 10**9
                )
                message = types[kind](
                    header=types["std_msgs/msg/Header"](stamp=stamp_message, frame_id="camera"),
                    height=HEIGHT,
                    width=WIDTH,
                    encoding="bgr8",
                    is_bigendian=0,
                    step=WIDTH * 3,
                    data=picture(index).ravel(),
                )
                when = stamp if received is None else received[index]
                writer.write(connection, when, store.serialize_cdr(message, kind))
    return path


def test_a_video_at_its_own_times_with_stamps_of_now(
    audience: Audience, start_node: Callable, video: Path
) -> None:
    replay = start_node("replay", str(video), *LOSSLESS)
    audience.begin()
    messages = audience.wait_for(8)
    assert [index_of(message) for message in messages] == list(range(8))
    stamps = np.array([nanoseconds(message.header.stamp) for message in messages]) / 1e9
    # Slow enough that it can be told from half and twice as fast on any machine.
    assert np.median(np.diff(stamps)) == pytest.approx(0.25, abs=0.1)
    assert stamps[-1] - stamps[0] == pytest.approx(1.75, abs=0.7)
    assert abs(time.time() - stamps[-1]) < 60.0
    assert {(m.encoding, m.header.frame_id) for m in messages} == {("bgr8", "camera_optical")}
    assert audience.clock == []
    assert replay.process.wait(60) == 0
    assert "8 images played" in replay.output


def test_twice_as_fast_again_and_again_until_interrupted(
    audience: Audience, start_node: Callable, folder: Path
) -> None:
    options = ("--frame-rate", "4", "--rate", "2", "--loop", "--frame-id", "nose")
    replay = start_node("replay", str(folder), *options, *LOSSLESS)
    audience.begin()
    messages = audience.wait_for(20)
    assert [index_of(message) for message in messages[:20]] == [i % 8 for i in range(20)]
    arrivals = np.array([when for when, _ in audience.images])
    assert np.median(np.diff(arrivals)) == pytest.approx(0.125, abs=0.06)
    assert messages[0].header.frame_id == "nose"
    assert replay.running
    assert replay.stop() == 0
    assert "Traceback" not in replay.output


@pytest.mark.parametrize("plugin", ["MCAP", "SQLITE3"])
def test_a_bag_with_its_own_stamps_and_clock(
    audience: Audience, start_node: Callable, tmp_path: Path, plugin: str
) -> None:
    recorded = [1_700_000_000 * 10**9 + i * 200_000_000 for i in (0, 1, 2, 6, 7)]
    bag = write_bag(tmp_path / "bag", plugin, recorded)
    options = ("--bag-topic", "/camera/image", "--clock")
    replay = start_node("replay", str(bag), *options, *LOSSLESS)
    audience.begin(clock=True)
    messages = audience.wait_for(5)
    stamps = [nanoseconds(message.header.stamp) for message in messages]
    # Sources give seconds as floats: a quarter of a microsecond at today's time.
    np.testing.assert_allclose(np.array(stamps) - recorded, 0, atol=300)
    arrivals = np.array([when for when, _ in audience.images])
    assert arrivals[3] - arrivals[2] == pytest.approx(0.8, abs=0.4)
    assert replay.process.wait(60) == 0
    assert "5 images played" in replay.output
    wait_until(lambda: stamps[-1] in audience.clock, 60, "the time of the last image")
    clock = np.array(audience.clock)
    assert len(clock) > 10
    assert (np.diff(clock) >= 0).all()
    assert set(stamps) <= set(audience.clock)


def test_clocks_that_were_set_in_flight(
    audience: Audience, start_node: Callable, tmp_path: Path
) -> None:
    """Back, forward for years, a zero, a stamp twice: all images come, at the pace of receipt."""
    begin, step = 1_700_000_000 * 10**9, 250_000_000
    set_by = (0, -(10**12), 2 * 10**17)
    received = [begin + i * step + set_by[(i > 3) + (i > 6)] for i in range(10)]
    stamps = list(received)
    stamps[2], stamps[6] = 0, stamps[5]
    bag = write_bag(tmp_path / "bag", "MCAP", stamps, received)
    options = ("--bag-topic", "/camera/image", "--clock")
    replay = start_node("replay", str(bag), *options, *LOSSLESS)
    audience.begin(clock=True)
    messages = audience.wait_for(10)
    assert [index_of(message) for message in messages] == list(range(10))
    steps = np.diff([nanoseconds(message.header.stamp) for message in messages])
    assert (steps > 0).all() and (steps < 2 * step).all()
    arrivals = np.array([when for when, _ in audience.images])
    assert arrivals[-1] - arrivals[0] == pytest.approx(9 * 0.25, abs=1.0)
    assert replay.process.wait(60) == 0
    assert "10 images played" in replay.output
    for words in ("stamps are zero", "stamps are repeated", "backwards", "jumped forward"):
        assert words in replay.output, words
    assert (np.diff(audience.clock) >= 0).all()


def test_a_recording_that_begins_at_zero_gets_no_zero_stamp(
    audience: Audience, start_node: Callable, folder: Path
) -> None:
    options = ("--clock", "--encoding", "mono8", "--frame-rate", "8")
    start_node("replay", str(folder), *options, *LOSSLESS)
    audience.begin()
    messages = audience.wait_for(8)
    assert nanoseconds(messages[0].header.stamp) == 10**9
    assert (messages[0].encoding, messages[0].step) == ("mono8", WIDTH)
    assert [index_of(message) for message in messages] == list(range(8))


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nothing.mp4"], 1, "nothing.mp4: no such file"),
        ([], 2, "the following arguments are required: input"),
        (["x.mp4", "--rate", "0"], 2, "0 is not above 0"),
        (["x.mp4", "--encoding", "h264"], 2, "invalid choice: 'h264'"),
        (["x.mp4", "--init", "1,2,3"], 2, "'1,2,3' is not a box"),
    ],
)
def test_what_cannot_be_played(
    start_node: Callable, arguments: list[str], status: int, words: str
) -> None:
    replay = start_node("replay", *arguments)
    assert replay.process.wait(60) == status
    assert words in replay.output
    assert "Traceback" not in replay.output


def test_names_that_are_not_utf8(start_node: Callable, folder: Path, video: Path) -> None:
    named = folder / os.fsdecode(b"caf\xe9")
    named.mkdir()
    (folder / "0.png").rename(named / "0.png")
    shutil.copy(video, named / "flight.mp4")
    replay = start_node("replay", str(named), "--wait", "0")
    assert replay.process.wait(60) == 0, replay.output
    assert "1 images played" in replay.output and "caf\\xe9 on /mlkd/image" in replay.output
    replay = start_node("replay", str(named / "flight.mp4"), "--wait", "0")
    assert replay.process.wait(60) == 1
    assert "flight.mp4: the name is not UTF-8 text: rename" in replay.output


def test_odd_sides_in_an_encoding_that_needs_even_ones(
    start_node: Callable, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 63, 3), np.uint8))
    replay = start_node("replay", str(tmp_path), "--encoding", "nv12", "--wait", "0")
    assert replay.process.wait(60) == 1
    assert "nv12 needs even sides, not 63x48" in replay.output


def test_nobody_listens_and_it_ends_when_asked(start_node: Callable, video: Path) -> None:
    arguments = ["--wait", "0", "--loop", "--ros-args", "-r", "image:=/elsewhere"]
    replay = start_node("replay", str(video), *arguments)
    replay.wait_for_output("nobody subscribes to /elsewhere, playing anyway")
    replay.process.send_signal(signal.SIGTERM)
    assert replay.process.wait(60) == 0


def test_a_tracker_on_the_recordings_clock(
    start_node: Callable, tmp_path: Path, scene: Scene
) -> None:
    """Latencies are of the replayed time, and a loop goes back in time without an end."""
    for index in range(40):
        cv2.imwrite(str(tmp_path / f"{index:03}.png"), scene.image(index))
    process = TrackerProcess(namespace="foxtrot", use_sim_time=True, reliability="reliable")
    ground = GroundStation("foxtrot")
    rate, first_stamp = 10, 10**9
    try:
        ground.connect()
        destroy(ground.node, ground.images)
        options = ("--clock", "--loop", "--frame-rate", str(rate), "--wait", "60")
        start_node("replay", str(tmp_path), *options, "--ros-args", "-r", "__ns:=/foxtrot")
        wait_until(lambda: len(ground.detections) > 3, 60, "detections")

        def index_at(stamp: int) -> int:
            return round((stamp - first_stamp) / 1e9 * rate)

        def designated() -> bool:
            """On the newest image said anything about; a loop may have begun again meanwhile."""
            stamp = nanoseconds(ground.statuses[-1].header.stamp)
            box = scene.box(index_at(stamp))
            return ground.designate(box, stamp).code == InitTarget.Response.SUCCESS

        wait_until(designated, 60, "a designation on an image that is still held")
        process.wait_for_log("was set back", 60)
        count = len(ground.statuses)
        wait_until(lambda: len(ground.statuses) > count + 15, 60, "statuses after the loop")
        statuses = [s for s in list(ground.statuses) if s.target_id]
        # Around the jump image and clock may be from different rounds: NaN when that is known.
        latencies = [s.latency for s in statuses if np.isfinite(s.latency)]
        assert len(latencies) > len(statuses) / 2
        assert np.median(latencies) < 1.0
        overlaps = [
            iou(box_from_message(message.detections[0].bbox), scene.box(index_at(stamp)))
            for stamp, message in list(ground.detections.items())
            if message.detections
        ]
        assert np.median(overlaps) > 0.5
    finally:
        ground.close()
        code = process.end()
        assert code == 0, process.log


def write_flight(path: Path, scene: Scene, frames: int) -> Path:
    """A bag with images of the scene, and on every one but the first two the truth about them."""
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    types = message_types()
    connections = {}
    with rosbag2.Writer(path, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
        for topic, kind in (
            ("/nose/image", Image),
            ("/nose/camera_info", CameraInfo),
            ("/tail/camera_info", CameraInfo),
            ("/nose/ground_truth", Detection2DArray),
        ):
            name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
            connections[topic] = writer.add_connection(topic, name, typestore=types)
        for index in range(frames):
            stamp = 1_700_000_000 * 10**9 + index * 33_333_333
            image = image_of(scene.image(index), stamp)
            truth = Detection2DArray(header=image.header)
            if index > 1:
                box = box_to_message(scene.box(index))
                truth.detections.append(Detection2D(header=image.header, id="car", bbox=box))
            for topic, message in (
                ("/nose/ground_truth", truth),  # before its image, as a camera may publish it
                ("/nose/image", image),
                ("/nose/camera_info", CameraInfo(header=image.header, width=scene.width)),
                ("/tail/camera_info", CameraInfo(header=image.header, width=1)),
            ):
                writer.write(connections[topic], stamp, serialize_message(message))
    return path


#: When camera_info is stamped for each of the images, nanoseconds after it; None: not at all.
CALIBRATIONS: dict[str, Callable[[int], int | None]] = {
    "25 us off": lambda index: 25_000 if index % 2 else -25_000,
    "once, before": lambda index: -5_000_000_000 if index == 0 else None,
    "once, late": lambda index: 7_000_000 if index == 20 else None,
    "once, without a stamp": lambda index: 0 if index == 0 else None,
}


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_a_calibration_is_found_for_every_image(tmp_path: Path, kind: str) -> None:
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    types = message_types()
    bag = tmp_path / "bag"
    with rosbag2.Writer(bag, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
        connections = {
            name: writer.add_connection(f"/nose/{name}", kind, typestore=types)
            for name, kind in (
                ("image", "sensor_msgs/msg/Image"),
                ("camera_info", "sensor_msgs/msg/CameraInfo"),
            )
        }
        messages = []
        for index in range(60):
            stamp = 1_700_000_000 * 10**9 + index * 33_333_333
            messages.append((stamp + 2_000_000, "image", image_of(picture(0), stamp)))
            after = CALIBRATIONS[kind](index)
            if after is not None:
                info = CameraInfo(width=WIDTH, height=1 + index)
                if after:
                    info.header = image_of(picture(0), stamp + after).header
                messages.append((stamp + after + 2_500_000, "camera_info", info))
        for received, name, message in sorted(messages, key=lambda one: one[0]):
            writer.write(connections[name], received, serialize_message(message))
    with open_source(bag) as source:
        assert isinstance(source, BagSource)
        beside = Beside(source.bag, source.topic)
        found = [beside.at("camera_info", frame) for frame in source]
    assert [info.width for info in found] == [WIDTH] * 60
    if kind == "25 us off":
        assert [info.height for info in found] == list(range(1, 61)), "each has its own"


@pytest.mark.parametrize("clock", [False, True])
def test_a_bags_truth_goes_with_its_images_and_designates_the_target(
    start_node: Callable, tmp_path: Path, scene: Scene, clock: bool
) -> None:
    bag = write_flight(tmp_path / "bag", scene, 40)
    process = TrackerProcess(namespace="golf", reliability="reliable", use_sim_time=clock)
    ground = GroundStation("golf")
    truth: dict[int, Detection2DArray] = {}
    infos: list[CameraInfo] = []
    subscribe = ground.node.create_subscription
    truths = subscribe(
        Detection2DArray,
        "ground_truth",
        lambda message: truth.update({nanoseconds(message.header.stamp): message}),
        100,
    )
    calibrations = subscribe(CameraInfo, "camera_info", infos.append, 100)
    try:
        ground.connect()
        destroy(ground.node, ground.images)
        # Slow: this is about which image belongs to what, not about keeping up.
        arguments = ["--init", "ground_truth", "--rate", "0.25", "--subscribers", "2"]
        arguments += ["--wait", "60", *(["--clock"] if clock else [])]
        replay = start_node("replay", str(bag), *arguments, "--ros-args", "-r", "__ns:=/golf")
        begin_together(ground.node, (truths, calibrations))
        assert replay.process.wait(120) == 0, replay.output
        assert "designated" in replay.output
        wait_until(lambda: len(truth) >= 40, 60, lambda: f"{len(truth)} of the ground truth")
        wait_until(lambda: max(truth) in ground.detections, 60, "the last detections")
        if clock:
            assert {stamp // 10**9 for stamp in truth} <= {1_700_000_000, 1_700_000_001}
        else:
            assert abs(time.time() - max(truth) * 1e-9) < 120
        overlaps = [
            iou(
                box_from_message(said.detections[0].bbox), box_from_message(true.detections[0].bbox)
            )
            for stamp, true in truth.items()
            if true.detections
            and (said := ground.detections.get(stamp)) is not None
            and said.detections
        ]
        assert len(overlaps) > 5
        assert np.median(overlaps) > 0.5
        assert {message.width for message in infos} == {scene.width}
    finally:
        ground.close()
        assert process.end() == 0


def test_truth_that_is_not_there(start_node: Callable, video: Path) -> None:
    replay = start_node("replay", str(video), "--init", "ground_truth")
    assert replay.process.wait(60) == 1
    assert "--init ground_truth needs a bag with a topic ground_truth" in replay.output


def test_nobody_to_designate_to(start_node: Callable, video: Path) -> None:
    arguments = ["--wait", "0", "--init", "1,2,30,20", "--answer-time", "1"]
    replay = start_node("replay", str(video), *arguments)
    assert replay.process.wait(60) == 1
    assert "the target cannot be designated: no service /mlkd/init_target" in replay.output
    assert "Traceback" not in replay.output
