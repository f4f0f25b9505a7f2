# SPDX-License-Identifier: Apache-2.0
"""The executable `night_camera`, as a process of its own, over DDS."""

import contextlib
import threading
import time

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from rcl_interfaces.srv import DescribeParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_support import introduce
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection2DArray

from mlkd_ros.data.night_flight import SCENARIOS, NightFlight
from mlkd_ros.node.messages import box_from_message, nanoseconds

SIZE = (320, 180)
SMALL = ("-p", f"width:={SIZE[0]}", "-p", f"height:={SIZE[1]}")


class Listener:
    """Collects what a camera publishes, by stamp."""

    def __init__(self, reliability=ReliabilityPolicy.RELIABLE):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("listener", namespace="mlkd", context=self.context)
        self.images, self.infos, self.truths, self.ages = {}, {}, {}, []
        qos = QoSProfile(depth=10, reliability=reliability)
        for kind, topic, kept in (
            (CameraInfo, "camera_info", self.infos),
            (Detection2DArray, "ground_truth", self.truths),
        ):
            self.node.create_subscription(
                kind, topic, lambda m, kept=kept: kept.update({nanoseconds(m.header.stamp): m}), 100
            )
        self.node.create_subscription(Image, "image", self._on_image, qos)
        self.clock = self.node.create_publisher(Clock, "/clock", 10)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self):
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_image(self, message):
        stamp = nanoseconds(message.header.stamp)
        self.ages.append(time.time() - stamp * 1e-9)
        self.images[stamp] = message

    def wait(self, condition, timeout=60.0):
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"{len(self.images)} images in {timeout} s"
            time.sleep(0.01)

    def complete(self):
        """Stamps of which everything has arrived, in order."""
        return sorted(self.images.keys() & self.infos.keys() & self.truths.keys())

    def close(self):
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.close()


def start(start_node, *arguments):
    return start_node("night_camera", "--ros-args", *SMALL, *arguments)


def pixels(message):
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def number_of(flight, image):
    """Which frame of a flight an image is."""
    for number in range(flight.frame_count):
        if np.array_equal(flight.render(number).image, image):
            return number
    return None


def test_images_truth_and_camera_agree(start_node, listener):
    start(start_node, "-p", "scenario:=crossing", "-p", "seed:=2", "-p", "duration:=2.0")
    listener.wait(lambda: len(listener.complete()) >= 12)
    stamps = listener.complete()
    assert np.diff(stamps).min() > 0
    flight = NightFlight("crossing", 2, SIZE, 30.0, 2.0)
    for stamp in stamps[:12:5]:
        image, info, truth = (d[stamp] for d in (listener.images, listener.infos, listener.truths))
        assert (image.width, image.height) == SIZE
        assert (image.encoding, image.step) == ("bgr8", 3 * SIZE[0])
        assert image.header == info.header == truth.header
        assert image.header.frame_id == "camera_optical"
        number = number_of(flight, pixels(image))
        assert number is not None, "an image that the flight does not have"
        frame = flight.render(number)
        assert [d.id for d in truth.detections] == [identity for identity, *_ in frame.targets]
        assert truth.detections[0].id == "target"
        for detection, (_, box, fraction, kind) in zip(
            truth.detections, frame.targets, strict=True
        ):
            assert box_from_message(detection.bbox) == pytest.approx(box)
            assert detection.results[0].hypothesis.score == pytest.approx(fraction)
            assert detection.results[0].hypothesis.class_id == kind
        assert (info.width, info.height) == SIZE
        assert info.k[0] == info.k[4] == pytest.approx(flight.focal_px)
        assert (info.k[2], info.k[5]) == ((SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2)
        assert np.allclose(np.array(info.p).reshape(3, 4)[:, :3].ravel(), info.k)


def test_stamps_are_the_time_of_publishing(start_node, listener):
    # A picture is ready nearly half a second before it is due: that would be seen in its stamp.
    start(start_node, "-p", "rate:=2.0")
    listener.wait(lambda: len(listener.images) >= 8)
    assert min(listener.ages) >= 0
    assert np.percentile(listener.ages, 25) < 0.25
    stamps = np.array(sorted(listener.images)) * 1e-9
    # A machine that is too busy leaves images out, but none may come early.
    assert np.diff(stamps).mean() > 0.4


def test_a_best_effort_subscriber_is_served_too(start_node):
    listener = Listener(ReliabilityPolicy.BEST_EFFORT)
    try:
        start(start_node)
        listener.wait(lambda: len(listener.images) >= 5)
    finally:
        listener.close()


def test_without_loop_it_ends_with_the_flight(start_node, listener):
    camera = start(start_node, "-p", "loop:=false", "-p", "duration:=8.0", "-p", "frame_id:=eye")
    assert camera.process.wait(120) == 0
    listener.wait(lambda: listener.images)
    assert len(listener.images) <= 240
    assert {m.header.frame_id for m in listener.images.values()} == {"eye"}


def test_simulated_time_sets_pace_and_stamps(start_node, listener):
    start(start_node, "-p", "use_sim_time:=true", "-p", "rate:=10.0")

    def ticking():
        for tick in range(20_000):
            if done.is_set():
                return
            now = 100_000_000_000 + tick * 5_000_000
            listener.clock.publish(Clock(clock=Time(sec=now // 10**9, nanosec=now % 10**9)))
            time.sleep(0.01)  # half as fast as real time: it has time to render

    done = threading.Event()
    ticker = threading.Thread(target=ticking)
    ticker.start()
    try:
        listener.wait(lambda: len([s for s in listener.images if s >= 100_000_000_000]) >= 8)
    finally:
        done.set()
        ticker.join()
    stamps = [s for s in sorted(listener.images) if s >= 100_000_000_000]
    assert stamps[-1] < 200_000_000_000
    assert np.median(np.diff(stamps)) * 1e-9 == pytest.approx(0.1, abs=0.045)


def test_parameters_explain_themselves(start_node, listener):
    start(start_node)
    client = listener.node.create_client(DescribeParameters, "night_camera/describe_parameters")
    assert client.wait_for_service(60.0)
    introduce(listener.node, "night_camera")
    answer = client.call_async(
        DescribeParameters.Request(names=["scenario", "seed", "rate", "width", "loop"])
    )
    listener.wait(answer.done)
    described = answer.result().descriptors
    assert all(d.description and d.read_only for d in described)
    assert all(name in described[0].description for name in SCENARIOS)
    assert described[2].floating_point_range[0].to_value == 240.0
    assert described[3].integer_range[0].from_value == 32


@pytest.mark.parametrize(
    ("argument", "said"), [("scenario:=sunny", "crossing"), ("width:=3", "width")]
)
def test_values_that_cannot_be_used_end_it_with_a_message(start_node, argument, said):
    camera = start_node("night_camera", "--ros-args", "-p", argument)
    assert camera.process.wait(60) == 2
    assert said in camera.output


def test_told_to_end_it_ends_cleanly(start_node, listener):
    camera = start(start_node)
    listener.wait(lambda: len(listener.images) >= 3)
    assert camera.stop() == 0
    assert "Traceback" not in camera.output
