# SPDX-License-Identifier: Apache-2.0
"""Executable `camera`: a video stream, a device or a file as images.

    camera --ros-args -p url:=rtsp://192.168.1.10:8554/night

It publishes `image` (bgr8), always the newest, and with a calibration file `camera_info`. Nothing
of a stream that was joined in its middle, or has lost a packet, is shown before its next key frame.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import cv2
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from mlkd_ros.camera.access_units import shown
from mlkd_ros.camera.calibration import read_calibration
from mlkd_ros.camera.settings import CameraParameters, declared
from mlkd_ros.camera.stream import Picture, Report, VideoStream
from mlkd_ros.imaging.encode import frame_message
from mlkd_ros.interrupt import leave_interrupts_to_rclpy
from mlkd_ros.node.help import take_no_arguments
from mlkd_ros.node.messages import time_message
from mlkd_ros.node.parameters import described
from mlkd_ros.node.start import USAGE, start_ros, warn_of_unknown
from mlkd_ros.share import use_fastdds_profile

__all__ = ["StreamCamera", "main"]

_DESCRIPTION = (
    "A video stream, a V4L2 device or a file as images: publishes image (bgr8) and, with a "
    "calibration file, camera_info, in namespace /mlkd unless -r __ns:=/other is given."
)
#: Seconds until it is seen whether to end, while no picture comes.
_POLL = 0.1
#: Seconds that rates and delays are told of.
_LATELY = 5.0
_SHUTDOWN_S = 10.0
#: Messages kept for reliable subscribers that are held up: images, and the small ones beside them.
_IMAGES_KEPT, _SMALL_KEPT = 4, 100


class StreamCamera(Node):
    """Publishes what comes; see the module's description.

    Raises ValueError, naming the parameter or file, for what cannot be used; ImportError without
    the extra `video`.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("namespace", "mlkd")
        super().__init__("camera", **options)
        parameters = declared(self)
        self._frame_id = parameters.frame_id
        self._url = shown(parameters.url)
        self._calibration: CameraInfo | None = None
        if parameters.calibration_file:
            self._calibration = read_calibration(parameters.calibration_file)
        self._stream = VideoStream(parameters.stream(), self._now, self._say)
        self._lately: deque[tuple[float, float]] = deque()
        self._counting = threading.Lock()
        self.published = 0
        overridable = QoSOverridingOptions.with_default_policies()
        # A reliable camera serves subscribers of either kind.
        images = QoSProfile(depth=_IMAGES_KEPT, reliability=ReliabilityPolicy.RELIABLE)
        self._images = self.create_publisher(
            Image, "image", images, qos_overriding_options=overridable
        )
        self._info: Any = None
        if self._calibration is not None:
            self._info = self.create_publisher(
                CameraInfo, "camera_info", _SMALL_KEPT, qos_overriding_options=overridable
            )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _say(self, bad: bool, text: str) -> None:
        # Told by the stream's threads, which may outlive the context.
        with contextlib.suppress(Exception):
            if bad:  # rclpy wants a line of its own for each severity
                self.get_logger().warning(text)
            else:
                self.get_logger().info(text)

    def film(self) -> int:
        """Publish until a file is over or the node is told to end. Returns the exit code."""
        self._stream.start()
        try:
            while self.context.ok():
                picture = self._stream.newest(_POLL)
                if picture is not None:
                    self._publish(picture)
                elif self._stream.ended:
                    return self._over()
        finally:
            self._stream.close()
        return 0

    def _over(self) -> int:
        """A file is over: whether anything was in it."""
        if not self.published:
            self.get_logger().error(f"no image came of {self._url}: {self._stream.report.problem}")
            return 1
        for publisher in (self._images, self._info):
            if publisher is not None and self.context.ok():
                publisher.wait_for_all_acked(Duration(seconds=1.0))
        self.get_logger().info(f"{self.published} images published")
        return 0

    def _publish(self, picture: Picture) -> None:
        header = Header(stamp=time_message(picture.stamp), frame_id=self._frame_id)
        self._images.publish(frame_message(picture.frame, header))
        info = self._calibration
        size = (picture.frame.width, picture.frame.height)
        if info is not None and size == (info.width, info.height):
            info.header = header
            self._info.publish(info)
        elif info is not None:
            self.get_logger().warning(
                f"calibration_file is for {info.width}x{info.height} pixels, images have "
                f"{size[0]}x{size[1]}: camera_info is not published",
                throttle_duration_sec=60.0,
            )
        self.published += 1
        with self._counting:
            self._lately.append((time.monotonic(), (self._now() - picture.stamp) * 1e-9))

    def _report(self) -> None:
        now = time.monotonic()
        with self._counting:
            while self._lately and self._lately[0][0] < now - _LATELY:
                self._lately.popleft()
            delays = [delay for _, delay in self._lately]
        status = _status(self._url, self._stream.report, delays)
        status.name = f"{self.get_fully_qualified_name()}: stream"
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def _status(url: str, report: Report, delays: list[float]) -> DiagnosticStatus:
    """Stream and delays of late, in seconds, as diagnostics."""
    status = DiagnosticStatus(hardware_id=url)
    off = report.sender_off
    if not report.connected:
        status.level, status.message = DiagnosticStatus.ERROR, f"no connection: {report.problem}"
    elif not delays:
        status.level = DiagnosticStatus.WARN
        status.message = report.problem or "no image of late"
    elif not math.isnan(off):
        status.level = DiagnosticStatus.WARN
        status.message = (
            f"the sender's clock is {abs(off):.1f} s {'behind' if off > 0 else 'ahead of'} ours: "
            "images are stamped when they arrive; synchronise the clocks"
        )
    else:
        status.level, status.message = DiagnosticStatus.OK, "images come"
    stamps = "the sender's clock" if report.by_sender else "time of arrival"
    values = {
        "connected": report.connected,
        "reconnects": report.reconnects,
        "codec": report.codec,
        "rate": f"{len(delays) / _LATELY:.1f} Hz",
        "delay (mean)": f"{sum(delays) / len(delays) * 1e3:.0f} ms" if delays else "",
        "delay (worst)": f"{max(delays) * 1e3:.0f} ms" if delays else "",
        "stamped by": stamps,
        "packets": report.packets,
        "decoded": report.decoded,
        "replaced by a newer one": report.replaced,
        "left out to catch up": report.skipped,
    }
    values |= {f"unusable: {why}": count for why, count in sorted(report.unusable.items())}
    status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return status


def _spin(executor: SingleThreadedExecutor, node: Node) -> None:
    try:
        executor.spin()
    except ExternalShutdownException:
        pass
    except Exception:
        # Told to end while a timer published.
        if node.context.ok():
            raise


def main(args: Sequence[str] | None = None) -> int:
    """Run the executable. Returns the exit code: 2 for what the user can mend."""
    take_no_arguments("camera", _DESCRIPTION, described(CameraParameters), args)
    use_fastdds_profile()
    cv2.setNumThreads(1)  # the tracker has the other cores
    leave_interrupts_to_rclpy()
    node = None
    code = 0
    try:
        start_ros(args, "camera")
        node = StreamCamera()
        warn_of_unknown(node)
        code = _run(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ImportError, ValueError, ParameterException) as error:
        print(f"camera: {error}", file=sys.stderr)
        return USAGE
    except Exception:
        # Told to end between two calls: the context is gone.
        if rclpy.ok():
            raise
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return code


def _run(node: StreamCamera) -> int:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    services = threading.Thread(target=_spin, args=(executor, node), daemon=True)
    services.start()
    try:
        return node.film()
    finally:
        # Python must not end while that thread is inside rclpy: the process would abort.
        executor.shutdown(timeout_sec=_SHUTDOWN_S)
        services.join(_SHUTDOWN_S)


if __name__ == "__main__":
    sys.exit(main())
