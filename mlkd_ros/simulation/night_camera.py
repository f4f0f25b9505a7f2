# SPDX-License-Identifier: Apache-2.0
"""Executable `night_camera`: the camera of a UAV on a rendered night flight, with ground truth.

    night_camera --ros-args -p scenario:=occlusion -p seed:=3

It publishes `image` (bgr8), `camera_info` (a pinhole that agrees with the picture to the pixel) and
`ground_truth` (vision_msgs/Detection2DArray, the main target first). A picture is rendered ahead,
then stamped and published when it is due, so that its stamp is the time of its capture and
rendering does not count as latency. When the machine is too slow, frames are left out and the
flight keeps its time.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
from geometry_msgs.msg import TwistStamped
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from mlkd_ros.data.night_flight import SCENARIOS, NightFlight, RenderedFrame
from mlkd_ros.imaging.encode import image_message
from mlkd_ros.node.help import take_no_arguments
from mlkd_ros.node.messages import box_to_message
from mlkd_ros.node.start import run_node, warn_of_unknown
from mlkd_ros.share import use_fastdds_profile
from mlkd_ros.simulation.gimbal import SimulatedGimbal

__all__ = ["NightCamera", "camera_info", "ground_truth", "main"]

#: Seconds between two looks at the clock while waiting: a signal or a pause is noticed after that.
_LONGEST_SLEEP = 0.02
#: Seconds between two log lines about the same thing.
_LOG_EVERY = 5.0
#: Share of left-out frames that is worth a warning.
_NOTABLE_SHARE = 0.05
_SHUTDOWN_S = 10.0
#: Messages kept for reliable subscribers that are held up: images, and the small ones beside them.
_IMAGES_KEPT, _SMALL_KEPT = 4, 100


@dataclass(frozen=True)
class _Declared:
    """A parameter: name, default, description, inclusive range or choices."""

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


_DESCRIPTION = (
    "The camera of a UAV on a rendered night flight: publishes image (bgr8), camera_info and "
    "ground_truth, in namespace /mlkd unless -r __ns:=/other is given."
)
_PARAMETERS = (
    _Declared(
        "scenario",
        "crossing",
        "What happens in the flight. "
        + " ".join(f"{name}: {text}" for name, text in SCENARIOS.items()),
        choices=tuple(SCENARIOS),
    ),
    _Declared(
        "seed", 0, "Chooses town, traffic and noise; the same seed, the same flight.", 0, 2**31
    ),
    _Declared("rate", 30.0, "Images a second.", 0.1, 240.0),
    _Declared("width", 1280, "Width of the images in pixels.", 32, 3840),
    _Declared("height", 720, "Height of the images in pixels.", 32, 2160),
    _Declared("duration", 60.0, "Length of the flight in seconds.", 0.1, 3600.0),
    _Declared("loop", True, "Begin again at the end; otherwise the camera stops there."),
    _Declared(
        "gimbal",
        False,
        "Whether the camera is on a gimbal that takes rates on gimbal_rate (TwistStamped, see "
        "executable gimbal), on an aircraft that sways.",
    ),
    _Declared("sway", 35.0, "With gimbal: how far the aircraft sways, degrees of yaw.", 0.0, 90.0),
    _Declared("gimbal_delay", 0.0, "With gimbal: seconds until a rate is taken up.", 0.0, 2.0),
    _Declared("frame_id", "camera_optical", "frame_id of images, camera_info and ground truth."),
)


class NightCamera(Node):
    """Renders and publishes a night flight; see the module's description.

    Raises ValueError, naming the parameter, if one has a value that cannot be used.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("namespace", "mlkd")
        super().__init__("night_camera", **options)
        value = {declared.name: _declare(self, declared) for declared in _PARAMETERS}
        self._rate, self._loop = float(value["rate"]), bool(value["loop"])
        self._frame_id = str(value["frame_id"])
        size = (int(value["width"]), int(value["height"]))
        self.flight = NightFlight(
            value["scenario"], int(value["seed"]), size, self._rate, float(value["duration"])
        )
        self._gimbal: SimulatedGimbal | None = None
        if value["gimbal"]:
            self._put_on_gimbal(math.radians(value["sway"]), float(value["gimbal_delay"]))
        self._advertise()
        self.published = 0
        self.left_out = 0

    def _advertise(self) -> None:
        overridable = QoSOverridingOptions.with_default_policies()
        # A reliable camera serves subscribers of either kind.
        images = QoSProfile(depth=_IMAGES_KEPT, reliability=ReliabilityPolicy.RELIABLE)
        self._images = self.create_publisher(
            Image, "image", images, qos_overriding_options=overridable
        )
        self._info = self.create_publisher(
            CameraInfo, "camera_info", _SMALL_KEPT, qos_overriding_options=overridable
        )
        self._truth = self.create_publisher(
            Detection2DArray, "ground_truth", _SMALL_KEPT, qos_overriding_options=overridable
        )

    def _put_on_gimbal(self, sway: float, delay: float) -> None:
        self._gimbal = SimulatedGimbal(sway, delay=delay)
        # It starts on the target, as an operator's camera does.
        self._gimbal.yaw, self._gimbal.pitch = (-angle for angle in self._gimbal.turn(0.0))
        self._turn = self._gimbal.turn(0.0)
        self._turning = threading.Lock()
        self.create_subscription(TwistStamped, "gimbal_rate", self._on_rate, 10)

    def _on_rate(self, message: TwistStamped) -> None:
        angular = message.twist.angular
        if self._gimbal is not None:
            with self._turning:
                self._gimbal.command(self._now(), float(angular.y), float(angular.x))

    def _render(self, index: int, due: float) -> RenderedFrame:
        """What the camera will see when the picture is due, turned as it is known to be then."""
        number = index % self.flight.frame_count
        if self._gimbal is None:
            return self.flight.render(number)
        with self._turning:
            depression = self.flight.depression(number) - self._turn[1]
            self._gimbal.advance(due, depression)
            before, self._turn = self._turn, self._gimbal.turn(index / self._rate)
        return self.flight.render(number, self._turn, before)

    def fly(self) -> None:
        """Publish the flight until it is over or the node is told to end."""
        index = 0
        self.flight.render(0)  # the first one is slow: its time must not count
        begin = self._now()
        while self.context.ok() and (self._loop or index < self.flight.frame_count):
            frame = self._render(index, begin + index / self._rate)
            image = image_message(frame.image, Header(frame_id=self._frame_id))
            if not self._wait_until(begin + index / self._rate):
                return
            self._publish(image, frame)
            begin, index = self._next(begin, index)

    def _next(self, begin: float, index: int) -> tuple[float, int]:
        """Begin of the flight and number of the next frame that can still be on time."""
        elapsed = self._now() - begin
        if elapsed < 0:  # simulated time was set back
            return self._now(), 0
        missed = int(elapsed * self._rate) - index
        if missed <= 0:
            return begin, index + 1
        self.left_out += missed
        due = self.left_out + self.published
        if due > 2 * self._rate and self.left_out > _NOTABLE_SHARE * due:
            self.get_logger().warning(
                f"too slow for {self._rate:g} images a second: {self.left_out} of {due} left out",
                throttle_duration_sec=_LOG_EVERY,
            )
        return begin, index + 1 + missed

    def _now(self) -> float:
        """The node's time in seconds, simulated if use_sim_time is set."""
        return self.get_clock().now().nanoseconds * 1e-9

    def _wait_until(self, due: float) -> bool:
        """Sleep until a picture is due. False if told to end."""
        while self.context.ok():
            left = due - self._now()
            if left <= 0:
                return True
            time.sleep(min(left, _LONGEST_SLEEP))
        return False

    def _publish(self, image: Image, frame: RenderedFrame) -> None:
        stamp = self.get_clock().now().to_msg()
        image.header.stamp = stamp
        self._images.publish(image)
        self._info.publish(camera_info(self.flight, image.header))
        self._truth.publish(ground_truth(frame, image.header))
        self.published += 1

    def flush(self) -> None:
        """Wait a moment until the last images have reached reliable subscribers."""
        for publisher in (self._images, self._info, self._truth):
            if self.context.ok():
                publisher.wait_for_all_acked(Duration(seconds=1.0))


def camera_info(flight: NightFlight, header: Header) -> CameraInfo:
    """The flight's camera: a pinhole without distortion, pixel centres at whole numbers."""
    width, height = flight.size
    focal, x, y = flight.focal_px, (width - 1) / 2, (height - 1) / 2
    return CameraInfo(
        header=header,
        width=width,
        height=height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[focal, 0.0, x, 0.0, focal, y, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[focal, 0.0, x, 0.0, 0.0, focal, y, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def ground_truth(frame: RenderedFrame, header: Header) -> Detection2DArray:
    """The objects of a frame, the main target first; a score is the visible fraction, 0 to 1."""
    message = Detection2DArray(header=header)
    for identity, box, visible, kind in frame.targets:
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = kind
        result.hypothesis.score = float(visible)
        message.detections.append(
            Detection2D(header=header, id=identity, bbox=box_to_message(box), results=[result])
        )
    return message


def _declare(node: Node, declared: _Declared) -> Any:
    """Declare a parameter and return its value; ValueError if it is none of the choices."""
    descriptor = ParameterDescriptor(
        name=declared.name, description=declared.description, read_only=True
    )
    if declared.choices:
        descriptor.additional_constraints = "one of " + ", ".join(declared.choices)
    if declared.low is not None and declared.high is not None:
        if isinstance(declared.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(declared.low), to_value=float(declared.high))
            ]
        else:
            descriptor.integer_range = [
                IntegerRange(from_value=int(declared.low), to_value=int(declared.high), step=1)
            ]
    value = node.declare_parameter(declared.name, declared.default, descriptor).value
    if declared.choices and value not in declared.choices:
        raise ValueError(
            f"parameter '{declared.name}' is '{value}', it must be one of "
            + ", ".join(declared.choices)
        )
    return value


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


def main(args: Sequence[str] | None = None) -> int:
    """Run the executable. Returns the exit code."""
    described = [(one.name, one.default, one.description) for one in _PARAMETERS]
    take_no_arguments("night_camera", _DESCRIPTION, described, args)
    use_fastdds_profile()
    cv2.setNumThreads(1)  # the tracker has the other core
    return run_node("night_camera", args, _fly)


def _fly() -> int:
    node = NightCamera()
    try:
        warn_of_unknown(node)
        _run(node)
        return 0
    finally:
        node.destroy_node()


def _run(node: NightCamera) -> None:
    flight = node.flight
    node.get_logger().info(
        f"flight '{flight.scenario}', seed {flight.seed}: {flight.size[0]}x{flight.size[1]} at "
        f"{flight.rate:g} Hz"
    )
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    services = threading.Thread(target=_spin, args=(executor,), daemon=True)
    services.start()
    try:
        node.fly()
        node.flush()
        if node.context.ok():
            node.get_logger().info(f"{node.published} images published, {node.left_out} left out")
    finally:
        # Python must not end while that thread is inside rclpy: the process would abort.
        executor.shutdown(timeout_sec=_SHUTDOWN_S)
        services.join(_SHUTDOWN_S)


if __name__ == "__main__":
    sys.exit(main())
