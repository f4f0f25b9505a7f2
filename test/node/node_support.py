# SPDX-License-Identifier: Apache-2.0
"""A scene with a target, the tracker in a process of its own, and a ground station to talk to it."""

from __future__ import annotations

import array
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from vision_msgs.msg import Detection2DArray

from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import box_from_message, nanoseconds, time_message
from mlkd_ros.srv import InitTarget

PERIOD = 1 / 30


class Scene:
    """A textured target that drifts over a smooth background; frame i is always the same."""

    width, height = 320, 240
    target = (44, 36)

    def __init__(self) -> None:
        rng = np.random.default_rng(11)
        ground = cv2.GaussianBlur(rng.normal(70, 60, (self.height, self.width, 3)), (0, 0), 6)
        self._ground = np.clip(ground * 3 - 130, 20, 110).astype(np.uint8)
        coarse = rng.integers(60, 255, (6, 7, 3)).astype(np.uint8)
        self._target = cv2.resize(coarse, self.target, interpolation=cv2.INTER_CUBIC)

    def box(self, index: int) -> tuple[float, float, float, float]:
        angle = index * 0.02
        x = round(130 + 70 * np.sin(angle))
        y = round(100 + 45 * np.sin(2 * angle))
        return float(x), float(y), float(self.target[0]), float(self.target[1])

    def image(self, index: int) -> np.ndarray:
        """BGR, 240x320x3 uint8."""
        image = self._ground.copy()
        x, y, w, h = map(int, self.box(index))
        image[y : y + h, x : x + w] = self._target
        return image


def image_message(
    pixels: np.ndarray,
    stamp: int,
    encoding: str = "bgr8",
    *,
    size: tuple[int, int] | None = None,
    padding: int = 0,
    bigendian: bool = False,
) -> Image:
    """`pixels` (rows first) as a message; `size` is width, height where rows say something else."""
    rows = pixels.reshape(len(pixels), -1)
    if bigendian:
        rows = rows.astype(rows.dtype.newbyteorder(">"))
    raw = np.ascontiguousarray(rows).view(np.uint8)
    raw = np.pad(raw, ((0, 0), (0, padding)), constant_values=77)
    width, height = size or (pixels.shape[1], pixels.shape[0])
    message = Image(
        width=width,
        height=height,
        encoding=encoding,
        step=raw.shape[1],
        is_bigendian=int(bigendian),
        data=array.array("B", raw.tobytes()),
    )
    message.header.stamp = time_message(stamp)
    message.header.frame_id = "camera_optical"
    return message


def encoded(bgr: np.ndarray, encoding: str, stamp: int, padding: int = 0) -> Image:
    """A BGR image in any of the encodings that the node reads, as a camera would send it."""
    height, width = bgr.shape[:2]
    kwargs: dict = {"padding": padding}
    grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    if encoding in ("bgr8", "8UC3"):
        pixels = bgr
    elif encoding == "rgb8":
        pixels = bgr[..., ::-1]
    elif encoding in ("bgra8", "8UC4"):
        pixels = cv2.cvtColor(bgr, cv2.COLOR_BGR2BGRA)
    elif encoding == "rgba8":
        pixels = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA)
    elif encoding in ("mono8", "8UC1"):
        pixels = grey
    elif encoding in ("mono16", "16UC1"):
        pixels = grey.astype(np.uint16) * 257
        kwargs["bigendian"] = encoding == "mono16"
    elif encoding.startswith("bayer_"):
        pixels = np.zeros((height, width), np.uint8)
        for position, letter in enumerate(encoding[6:10]):
            plane = np.s_[position // 2 :: 2, position % 2 :: 2]
            pixels[plane] = bgr[..., "bgr".index(letter)][plane]
    else:
        pixels = _yuv(bgr, encoding)
        kwargs["size"] = (width, height)
    return image_message(pixels, stamp, encoding, **kwargs)


def _yuv(bgr: np.ndarray, encoding: str) -> np.ndarray:
    height, width = bgr.shape[:2]
    planes = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    luma = planes[:height]
    u, v = planes[height:].reshape(2, height // 2, width // 2)
    if encoding == "nv12":
        return np.concatenate((luma, np.stack((u, v), -1).reshape(height // 2, width)))
    chroma = np.stack((u, v), -1).reshape(height // 2, width).repeat(2, axis=0)
    pair = (chroma, luma) if encoding in ("yuv422", "uyvy") else (luma, chroma)
    return np.stack(pair, -1)


class TrackerProcess:
    """The executable `tracker`, started with parameters; its log is collected."""

    def __init__(self, *arguments: str, **parameters: object) -> None:
        command = [str(Path(sysconfig.get_path("scripts")) / "tracker"), *arguments, "--ros-args"]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{name}:={text}"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self._lines.extend(iter(self.process.stderr.readline, ""))

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def wait_for_log(self, text: str, timeout: float = 30.0) -> None:
        wait_until(lambda: text in self.log, timeout, lambda: f"'{text}' in the log:\n{self.log}")

    def end(self, how: int = signal.SIGINT, timeout: float = 20.0) -> int:
        """Ask it to end; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._reader.join(5.0)


class GroundStation:
    """Publishes images, collects what the tracker says about them, calls its services."""

    def __init__(self, namespace: str = "mlkd", reliability: str = "reliable") -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("ground", namespace=namespace, context=self.context)
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy[reliability.upper()])
        self.images = self.node.create_publisher(Image, "image", qos)
        self.detections: dict[int, Detection2DArray] = {}
        self.statuses: list[TrackStatus] = []
        self.diagnostics: list[DiagnosticArray] = []
        subscribe = self.node.create_subscription
        subscribe(Detection2DArray, "detections", self._on_detections, 100)
        subscribe(TrackStatus, "status", self.statuses.append, 100)
        subscribe(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self.init_client = self.node.create_client(InitTarget, "init_target")
        self.stop_client = self.node.create_client(Trigger, "stop")
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.last_stamp = 0

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def _on_detections(self, message: Detection2DArray) -> None:
        self.detections[nanoseconds(message.header.stamp)] = message

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()
        self.context.try_shutdown()

    def now(self) -> int:
        """A stamp that is later than any before."""
        self.last_stamp = max(self.last_stamp + 1_000_000, time.time_ns())
        return self.last_stamp

    def connect(self, timeout: float = 30.0) -> None:
        """Wait until the tracker is there in every way."""
        wait_until(lambda: self.images.get_subscription_count() > 0, timeout, "a subscription")
        for client in (self.init_client, self.stop_client):
            assert client.wait_for_service(timeout), client.srv_name
        for name in ("detections", "status"):
            topic = f"{self.node.get_namespace()}/{name}"
            wait_until(lambda topic=topic: self.node.count_publishers(topic) > 0, timeout, topic)

    def show(self, message: Image, timeout: float = 10.0) -> Detection2DArray:
        """Publish one image and wait for what the tracker says about it."""
        stamp = nanoseconds(message.header.stamp)
        self.images.publish(message)
        wait_until(lambda: stamp in self.detections, timeout, f"detections of image {stamp}")
        return self.detections[stamp]

    def status_of(self, stamp: int, timeout: float = 10.0) -> TrackStatus:
        def find() -> list[TrackStatus]:
            return [s for s in list(self.statuses) if nanoseconds(s.header.stamp) == stamp]

        wait_until(lambda: bool(find()), timeout, f"status of image {stamp}")
        return find()[-1]

    def call(self, client: object, request: object, timeout: float = 20.0) -> object:
        future = client.call_async(request)  # type: ignore[attr-defined]
        wait_until(future.done, timeout, "an answer")
        return future.result()

    def designate(
        self, box: tuple[float, float, float, float], stamp: int = 0, **fields: object
    ) -> InitTarget.Response:
        x, y, w, h = map(float, box)
        request = InitTarget.Request(
            stamp=time_message(stamp), x=x, y=y, width=w, height=h, **fields
        )
        return self.call(self.init_client, request)  # type: ignore[return-value]

    def stop(self) -> Trigger.Response:
        return self.call(self.stop_client, Trigger.Request())  # type: ignore[return-value]


def wait_until(
    condition: Callable[[], bool], timeout: float, what: str | Callable[[], str]
) -> None:
    """Poll, because what is waited for happens in another process; AssertionError with `what`."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {timeout} s for {text}")
        time.sleep(0.005)


def only_box(message: Detection2DArray) -> tuple[float, float, float, float]:
    assert len(message.detections) == 1
    return box_from_message(message.detections[0].bbox)


def own_domain() -> None:
    """Keep this test run's DDS traffic from others on the machine, and check message fields."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + (os.getpid() + int(worker)) % 100))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")


