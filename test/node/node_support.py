# SPDX-License-Identifier: Apache-2.0
"""A scene with a target, the tracker as a process, and a ground station to talk to it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_support import PATIENCE, destroy, introduce, wait_until
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from mlkd_ros.imaging.encode import image_message
from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import box_from_message, nanoseconds, time_message
from mlkd_ros.share import share_directory
from mlkd_ros.srv import InitTarget, StopTarget

__all__ = [
    "PATIENCE",
    "PERIOD",
    "GroundStation",
    "Scene",
    "TrackerProcess",
    "destroy",
    "image_of",
    "introduce",
    "only_box",
    "wait_until",
]

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


def image_of(bgr: np.ndarray, stamp: int, encoding: str = "bgr8") -> Image:
    """A BGR image as the message of a camera."""
    header = Header(stamp=time_message(stamp), frame_id="camera_optical")
    return image_message(bgr, header, encoding)


class TrackerProcess:
    """The executable `tracker`, started with parameters; its log is collected."""

    def __init__(self, namespace: str = "mlkd", **parameters: object) -> None:
        # Where `ros2 run` takes it from, in an installation of either kind.
        executable = share_directory().parents[1] / "lib" / "mlkd_ros" / "tracker"
        command = [str(executable), "--ros-args", "-r", f"__ns:=/{namespace}"]
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

    def wait_for_log(self, text: str, timeout: float = PATIENCE) -> None:
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
            # Where a test fails, what the process said is shown with it.
            print(f"--- tracker, ended with {self.process.returncode}:\n{self.log}")


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
        self._heard = (
            subscribe(Detection2DArray, "detections", self._on_detections, 100),
            subscribe(TrackStatus, "status", self.statuses.append, 100),
        )
        subscribe(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self.init_client = self.node.create_client(InitTarget, "init_target")
        self.stop_client = self.node.create_client(StopTarget, "stop")
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.last_stamp = 0
        self._subscriptions: dict[int, object] = {}

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

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

    def connect(self, timeout: float = PATIENCE) -> None:
        """Wait until this and the tracker have found each other in every way."""
        wait_until(lambda: self.images.get_subscription_count() > 0, timeout, "a subscription")
        for client in (self.init_client, self.stop_client):
            assert client.wait_for_service(timeout), client.srv_name
        # Matched, not merely known to be there: what comes before that is lost.
        for heard in self._heard:
            wait_until(lambda one=heard: one.get_publisher_count() > 0, timeout, heard.topic_name)
        self.introduce()

    def introduce(self) -> None:
        """Wait until the tracker knows every publisher and subscription that has been made here."""
        introduce(self.node, f"{self.node.get_namespace()}/tracker")

    def subscribe(self, kind: type, name: str, depth: int = 10) -> list:
        """Collects every message of that topic that the tracker publishes from now on."""
        found: list = []
        subscription = self.node.create_subscription(kind, name, found.append, depth)
        topic = subscription.topic_name
        wait_until(lambda: subscription.get_publisher_count() > 0, PATIENCE, topic)
        self.introduce()
        self._subscriptions[id(found)] = subscription
        return found

    def unsubscribe(self, found: list) -> None:
        """Collect no more into the list that `subscribe` returned."""
        destroy(self.node, self._subscriptions.pop(id(found)))

    def show(self, message: Image, timeout: float = PATIENCE) -> Detection2DArray:
        """Publish one image and wait for what the tracker says about it."""
        stamp = nanoseconds(message.header.stamp)
        self.images.publish(message)
        wait_until(lambda: stamp in self.detections, timeout, f"detections of image {stamp}")
        return self.detections[stamp]

    def status_of(self, stamp: int, timeout: float = PATIENCE) -> TrackStatus:
        def find() -> list[TrackStatus]:
            return [s for s in list(self.statuses) if nanoseconds(s.header.stamp) == stamp]

        wait_until(lambda: bool(find()), timeout, f"status of image {stamp}")
        return find()[-1]

    def call(self, client: object, request: object, timeout: float = PATIENCE) -> object:
        future = client.call_async(request)  # type: ignore[attr-defined]
        wait_until(future.done, timeout, "an answer")
        return future.result()

    def ask(self, kind: type, name: str, request: object, timeout: float = PATIENCE) -> object:
        """Call one of the tracker's own services, such as those of its parameters."""
        client = self.node.create_client(kind, f"tracker/{name}")
        assert client.wait_for_service(timeout), client.srv_name
        self.introduce()  # or the answer may be lost, and not every request can be repeated
        answer = self.call(client, request, timeout)
        destroy(self.node, client)
        return answer

    def transition(self, label: str) -> bool:
        """Ask for a lifecycle transition; whether it succeeded."""
        request = ChangeState.Request(transition=Transition(label=label))
        return self.ask(ChangeState, "change_state", request).success  # type: ignore[attr-defined]

    def state(self) -> str:
        """The tracker's lifecycle state."""
        answer = self.ask(GetState, "get_state", GetState.Request())
        return answer.current_state.label  # type: ignore[attr-defined,no-any-return]

    def set_parameter(self, name: str, value: object) -> SetParametersResult:
        message = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[message])
        answer = self.ask(SetParameters, "set_parameters", request)
        return answer.results[0]  # type: ignore[attr-defined,no-any-return]

    def get_parameter(self, name: str) -> object:
        answer = self.ask(GetParameters, "get_parameters", GetParameters.Request(names=[name]))
        return parameter_value_to_python(answer.values[0])  # type: ignore[attr-defined]

    def describe_parameter(self, name: str) -> ParameterDescriptor:
        request = DescribeParameters.Request(names=[name])
        answer = self.ask(DescribeParameters, "describe_parameters", request)
        return answer.descriptors[0]  # type: ignore[attr-defined,no-any-return]

    def designate(
        self, box: tuple[float, float, float, float], stamp: int = 0, **fields: object
    ) -> InitTarget.Response:
        x, y, w, h = map(float, box)
        request = InitTarget.Request(
            stamp=time_message(stamp), x=x, y=y, width=w, height=h, **fields
        )
        return self.call(self.init_client, request)  # type: ignore[return-value]

    def stop(self, target_id: str = "") -> StopTarget.Response:
        request = StopTarget.Request(target_id=target_id)
        return self.call(self.stop_client, request)  # type: ignore[return-value]


def only_box(message: Detection2DArray) -> tuple[float, float, float, float]:
    assert len(message.detections) == 1
    return box_from_message(message.detections[0].bbox)
