# SPDX-License-Identifier: Apache-2.0
"""From a MAVLink command to its acknowledgement and to the first status, and what it costs.

    python benchmarks/mavlink_latency.py               # half a minute
    python benchmarks/mavlink_latency.py --size 1920 1080 --commands 100

The real tracker, `mavlink` and `gimbal`, each in a process of its own, on images with a textured
target; this one is camera and ground station. Every command marks the target on the newest image,
after the one before was stopped. "First status" is CAMERA_TRACKING_IMAGE_STATUS with ACTIVE, which
is asked for every 20 ms. Exit code 2: something could not be started, or was not answered.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import rclpy
import soak
from scene import Scene
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from stream import cpu_seconds, wait_for

os.environ["MAVLINK20"] = "1"  # before mavutil is imported: it chooses the dialect by it

from pymavlink import mavutil  # noqa: E402
from pymavlink.dialects.v20 import common as mavlink  # noqa: E402

from mlkd_ros.imaging.encode import image_message  # noqa: E402
from mlkd_ros.node.messages import time_message  # noqa: E402
from mlkd_ros.share import use_fastdds_profile  # noqa: E402

VEHICLE = 7
PATIENCE = 30.0
#: Microseconds between two statuses.
STATUS_INTERVAL = 20_000


class Camera:
    """Publishes a scene and its calibration at a rate, from a thread of its own."""

    def __init__(self, size: tuple[int, int], rate: float) -> None:
        self.scene = Scene(size)
        self._rate, self._size = rate, size
        self._images = [image_message(image, Header()) for image in self.scene.images]
        self._node = rclpy.create_node("night_camera", namespace=soak.NAMESPACE)
        self._publisher = self._node.create_publisher(Image, "image", 4)
        self._calibration = self._node.create_publisher(CameraInfo, "camera_info", 4)
        self._landed = threading.Event()
        self._thread = threading.Thread(target=self._fly, daemon=True)
        self.step = 0

    def __enter__(self) -> Camera:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._landed.set()
        self._thread.join()
        self._node.destroy_node()

    def _fly(self) -> None:
        width, height = self._size
        calibration = CameraInfo(width=width, height=height, distortion_model="plumb_bob")
        calibration.d, calibration.k = (
            [0.0] * 5,
            [width, 0, width / 2, 0, width, height / 2, 0, 0, 1],
        )
        begin = time.monotonic()
        while not self._landed.wait(max(0.0, begin + self.step / self._rate - time.monotonic())):
            message = self._images[self.scene.index(self.step)]
            message.header = Header(stamp=time_message(time.time_ns()), frame_id="camera")
            calibration.header = message.header
            self._calibration.publish(calibration)
            self._publisher.publish(message)
            self.step += 1

    def corners(self) -> list[float]:
        """Of the target on the newest image, as shares of the picture."""
        x, y, w, h = self.scene.boxes(self.scene.index(max(self.step - 1, 0)))[0]
        width, height = self._size
        return [x / width, y / height, (x + w) / width, (y + h) / height]


class Ground:
    """A MAVLink ground station, which is the vehicle's autopilot as well."""

    def __init__(self, port: int) -> None:
        self.link = mavutil.mavlink_connection(
            f"udpout:127.0.0.1:{port}", source_system=VEHICLE, dialect="common"
        )

    def command(self, number: int, *values: float) -> float:
        """Send one and wait until it is acknowledged as accepted; seconds that took.

        RuntimeError when it is refused.
        """
        begin = time.monotonic()
        numbers = [*values, *[0.0] * (7 - len(values))]
        self.link.mav.command_long_send(VEHICLE, mavlink.MAV_COMP_ID_CAMERA, number, 0, *numbers)
        while True:
            answer = self.await_message("COMMAND_ACK", lambda one: one.command == number)
            if answer.result == mavlink.MAV_RESULT_ACCEPTED:
                return time.monotonic() - begin
            if answer.result != mavlink.MAV_RESULT_IN_PROGRESS:
                raise RuntimeError(f"command {number} was answered with {answer.result}")

    def tracker_known(self) -> bool:
        """Whether the component has found its tracker: it stops what is not followed, too."""
        try:
            self.command(mavlink.MAV_CMD_CAMERA_STOP_TRACKING)
        except RuntimeError:
            return False
        return True

    def await_message(self, kind: str, wanted: Callable[[Any], bool] = bool) -> Any:
        """The next message of that kind that is wanted. TimeoutError."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            message = self.link.recv_match(type=kind, blocking=True, timeout=0.5)
            if message is not None and wanted(message):
                return message
            if message is None:
                self.heartbeat()
        raise TimeoutError(f"no such {kind} in {PATIENCE:g} s")

    def heartbeat(self) -> None:
        """Of the autopilot: the component takes its system's number from it."""
        self.link.mav.heartbeat_send(mavlink.MAV_TYPE_QUADROTOR, mavlink.MAV_AUTOPILOT_PX4, 0, 0, 0)

    def status(self, status: int) -> None:
        """Wait for CAMERA_TRACKING_IMAGE_STATUS with that value."""
        self.await_message(
            "CAMERA_TRACKING_IMAGE_STATUS", lambda one: one.tracking_status == status
        )


def measure(arguments: argparse.Namespace) -> None:
    """Print both tables."""
    size = tuple(arguments.size)
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    history = soak.history_of(argparse.Namespace(size=size, rate=arguments.rate))
    with ExitStack() as stack:
        start = stack.enter_context
        processes = {
            "tracker": start(
                soak.executable("tracker", device="cpu", point_topic="point", **history)
            ),
            "mavlink": start(soak.executable("mavlink", connections=f"udpin:127.0.0.1:{port}")),
            "gimbal": start(soak.executable("gimbal")),
        }
        camera, ground = start(Camera(size, arguments.rate)), Ground(port)
        stack.callback(ground.link.close)
        ground.heartbeat()
        ground.await_message("HEARTBEAT")
        asked = mavlink.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS
        ground.command(mavlink.MAV_CMD_SET_MESSAGE_INTERVAL, asked, STATUS_INTERVAL)
        wait_for(lambda: camera.step > arguments.rate, PATIENCE, "second of images")
        wait_for(ground.tracker_known, PATIENCE, "tracker")
        begin = time.monotonic()
        before = {name: cpu_seconds(one.pid) for name, one in processes.items()}
        print(
            f"{size[0]}x{size[1]}, {arguments.rate} Hz, load of the machine "
            f"{os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n\n"
            "| command | acknowledged p50 / p95, ms | first status p50 / p95, ms |"
        )
        print("| --- " * 3 + "|")
        rectangle, point = (
            mavlink.MAV_CMD_CAMERA_TRACK_RECTANGLE,
            mavlink.MAV_CMD_CAMERA_TRACK_POINT,
        )
        print(_row("CAMERA_TRACK_RECTANGLE", rectangle, camera, ground, arguments.commands))
        print(_row("CAMERA_TRACK_POINT", point, camera, ground, arguments.commands))
        took = time.monotonic() - begin
        print("\n| executable | CPU, share of a core |\n| --- | --- |")
        for name, one in processes.items():
            print(f"| {name} | {100 * (cpu_seconds(one.pid) - before[name]) / took:.0f}% |")


def _row(name: str, number: int, camera: Camera, ground: Ground, count: int) -> str:
    """Of the first table."""
    acknowledged, seen = [], []
    active = mavlink.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE
    for _ in range(count):
        ground.command(mavlink.MAV_CMD_CAMERA_STOP_TRACKING)
        ground.status(mavlink.CAMERA_TRACKING_STATUS_FLAGS_IDLE)
        time.sleep(np.random.default_rng().uniform(0.05, 0.15))  # at no fixed phase of the camera
        left, top, right, bottom = camera.corners()
        point = ((left + right) / 2, (top + bottom) / 2, 0.02)
        values = (
            point if number == mavlink.MAV_CMD_CAMERA_TRACK_POINT else (left, top, right, bottom)
        )
        begin = time.monotonic()
        acknowledged.append(ground.command(number, *values))
        ground.status(active)
        seen.append(time.monotonic() - begin)
    texts = [
        " / ".join(f"{value:.0f}" for value in 1e3 * np.percentile(times, [50, 95]))
        for times in (acknowledged, seen)
    ]
    return f"| {name} | {texts[0]} | {texts[1]} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=30.0, help="images a second")
    parser.add_argument("--size", nargs=2, type=int, default=(1280, 720))
    parser.add_argument("--commands", type=int, default=40, help="of each kind")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    use_fastdds_profile()
    rclpy.init()
    try:
        measure(arguments)
    except (RuntimeError, TimeoutError) as error:
        print(f"mavlink_latency: {error}", file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
