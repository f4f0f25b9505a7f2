# SPDX-License-Identifier: Apache-2.0
"""A recording played again, by our `replay` and as `ros2 bag play --clock` does it.

`ros2 bag play` itself is not on PyPI. What it does to a graph is done here: every topic of the bag
under its own name, the recorded bytes at their recorded intervals, with the QoS that it takes where
a bag holds none (reliable, volatile, ten messages), and the time on /clock.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rclpy
from input_support import InputGround, compressed_of, running
from node_support import GroundStation, Scene, introduce, wait_until
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage

from mlkd_ros.imaging.bag_types import message_types
from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import nanoseconds, time_message
from mlkd_ros.srv import InitTarget
from mlkd_ros.tracking.geometry import iou

rosbag2 = pytest.importorskip("rosbags.rosbag2")
highlevel = pytest.importorskip("rosbags.highlevel")

FRAMES, INTERVAL, BEGIN = 40, 100_000_000, 1_700_000_000 * 10**9


# --- as `replay` does it --------------------------------------------------------------------------


class Listener:
    """Somebody who is interested in a camera."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("listener", namespace="mlkd", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def offered(self, names: tuple[str, ...]) -> dict[str, tuple[str, str, str]]:
        """Type, reliability and durability of the publisher of each of these topics."""
        found = {}
        info = self.node.get_publishers_info_by_topic
        for name in names:
            topic = f"/mlkd/{name}"
            wait_until(lambda topic=topic: len(info(topic)) == 1, 60, topic)
            (publisher,) = info(topic)
            qos = publisher.qos_profile
            found[name] = (publisher.topic_type, qos.reliability.name, qos.durability.name)
        return found

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def test_a_replayed_recording_offers_what_the_camera_did(
    start_node: Callable, listener: Listener, tmp_path: Path
) -> None:
    names = ("image", "camera_info", "ground_truth")
    bag = tmp_path / "bag"
    size = ("-p", "width:=320", "-p", "height:=180", "-p", "rate:=10.0")
    camera = start_node("night_camera", "--ros-args", *size)
    recorder = start_node("recorder", str(bag))
    introduce(listener.node, "recorder")
    flown = listener.offered(names)
    assert flown["image"] == ("sensor_msgs/msg/Image", "RELIABLE", "VOLATILE")
    heard: list[CompressedImage] = []
    listener.node.create_subscription(CameraInfo, "camera_info", heard.append, 100)
    wait_until(lambda: len(heard) > 20, 60, "some flight")
    assert recorder.stop() == 0
    assert camera.stop() == 0
    wait_until(lambda: listener.node.count_publishers("/mlkd/image") == 0, 60, "the camera's end")
    start_node("replay", str(bag), "--loop", "--wait", "0")
    assert listener.offered(names) == flown


# --- as `ros2 bag play` does it -------------------------------------------------------------------


def write_bag(path: Path, scene: Scene) -> None:
    """What the recorder writes of a flight."""
    types = message_types()
    with rosbag2.Writer(path, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
        connections = {
            name: writer.add_connection(
                f"/tango/{name}", f"sensor_msgs/msg/{kind}", typestore=types
            )
            for name, kind in (
                ("image/compressed", "CompressedImage"),
                ("camera_info", "CameraInfo"),
            )
        }
        for index in range(FRAMES):
            stamp = BEGIN + index * INTERVAL
            image = compressed_of(scene.image(index), stamp)
            info = CameraInfo(header=image.header, width=scene.width, height=scene.height)
            for name, message in (("image/compressed", image), ("camera_info", info)):
                writer.write(connections[name], stamp, serialize_message(message))


class BagPlay:
    """`ros2 bag play --clock --loop` in a thread."""

    def __init__(self, bag: Path, ground: GroundStation) -> None:
        node = ground.node
        with highlevel.AnyReader([bag]) as reader:
            self._messages = [(c.topic, at, bytes(raw)) for c, at, raw in reader.messages()]
            types = {c.topic: c.msgtype for c in reader.connections}
        self._publishers = {}
        for topic, name in types.items():
            package, folder, kind = name.split("/")
            message_type = getattr(importlib.import_module(f"{package}.{folder}"), kind)
            self._publishers[topic] = node.create_publisher(message_type, topic, 10)
        self._clock = node.create_publisher(Clock, "/clock", 10)
        for publisher in (*self._publishers.values(), self._clock):
            wait_until(lambda p=publisher: p.get_subscription_count() > 0, 60, publisher.topic_name)
        ground.introduce()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._play)

    def __enter__(self) -> BagPlay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _play(self) -> None:
        while not self._over.is_set():
            begin, first = time.monotonic(), self._messages[0][1]
            for topic, at, raw in self._messages:
                while not self._over.is_set():
                    now = first + round((time.monotonic() - begin) * 1e9)
                    self._clock.publish(Clock(clock=time_message(min(now, at))))
                    if now >= at:
                        break
                    time.sleep(min((at - now) * 1e-9, 0.025))
                self._publishers[topic].publish(raw)


def test_a_tracker_follows_a_played_bag_again_and_again(scene: Scene, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", scene)
    parameters = {"image_transport": "compressed", "use_sim_time": True}
    with running("tango", **parameters) as (process, ground):
        followed(process, ground, scene, tmp_path / "bag")


def followed(process: object, ground: InputGround, scene: Scene, bag: Path) -> None:
    def index_of(status: TrackStatus) -> int:
        return (nanoseconds(status.header.stamp) - BEGIN) // INTERVAL

    def designated() -> bool:
        """On the image spoken of last; the bag may have begun again meanwhile."""
        status = ground.statuses[-1]
        response = ground.designate(
            scene.box(index_of(status)), nanoseconds(status.header.stamp), target_id="van"
        )
        return response.code == InitTarget.Response.SUCCESS

    def good(since: int) -> list[TrackStatus]:
        return [
            s
            for s in ground.statuses[since:]
            if s.target_id == "van"
            and s.state == TrackStatus.TRACKING
            and iou((s.x, s.y, s.width, s.height), scene.box(index_of(s))) > 0.5
        ]

    with BagPlay(bag, ground):
        wait_until(lambda: bool(ground.statuses), 60, "a status")
        wait_until(designated, 60, "a designation on an image that is still held")
        wait_until(lambda: len(good(0)) > 5, 60, "the target")
        # Time goes back, and the tracker goes on with the same target.
        process.wait_for_log("the clock was set back")  # type: ignore[attr-defined]
        again = len(ground.statuses)
        wait_until(lambda: len(good(again)) > 5, 60, "the target in the next round")
    known = [s.latency for s in good(0) if s.latency == s.latency]
    assert known and max(known) < FRAMES * INTERVAL * 1e-9  # of the bag's time, not of today's
