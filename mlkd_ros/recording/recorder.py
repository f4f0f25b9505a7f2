# SPDX-License-Identifier: Apache-2.0
"""Executable `recorder`: a flight into a rosbag2 bag (MCAP), without starving the tracker.

    recorder flight_17 --ros-args -r __ns:=/mlkd
    recorder flights/ --image-every 2 --ros-args -r __ns:=/mlkd -r image:=/camera/image_raw

Recorded are the images, and beside them camera_info, detections, status, bearing, ground_truth and
/diagnostics, each under the name it has in the graph. Small messages are written as they came over
the wire; images become JPEG, those with 16 bits a value PNG (or all stay what they are, with
--transport compressed, ffmpeg or foxglove). The settings of the camera go with them. One thread
writes. It leaves images out rather than falling behind, so memory is bounded. Whatever ends the
process, what came until two seconds before is on the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType, ROSClock
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray

from mlkd_ros.files import printable
from mlkd_ros.imaging.bag_types import message_types
from mlkd_ros.imaging.bags import Bag
from mlkd_ros.imaging.camera import CAMERA_TOPIC, CameraSettings, add_options, from_options
from mlkd_ros.imaging.encode import recorded_message
from mlkd_ros.imaging.messages import TRANSPORTS, VIDEO_TRANSPORTS, Decoder, topic_of
from mlkd_ros.msg import TargetBearing, TrackStatus
from mlkd_ros.node.graph import LatchedSubscription, message_class, message_type, wrong_type
from mlkd_ros.node.start import (
    USAGE,
    StartError,
    own_arguments,
    start_ros,
    warn_of_unknown,
)

if TYPE_CHECKING:
    from rosbags.rosbag2 import Writer

__all__ = ["IMAGE_TOPIC", "Recorder", "RecorderError", "main"]

#: Where the images go in the bag, below the namespace, unless `image` is remapped.
IMAGE_TOPIC = "image/compressed"
#: Topics recorded unchanged.
SMALL_TOPICS: dict[str, type] = {
    "camera_info": CameraInfo,
    "ground_truth": Detection2DArray,
    "detections": Detection2DArray,
    "status": TrackStatus,
    "bearing": TargetBearing,
    "/diagnostics": DiagnosticArray,
}
#: Those that a publisher may have sent once, before the recorder was there.
_LATCHED = ("camera_info",)
_WAITING_IMAGES = 3
#: The same of video, of which each packet is needed for those after it.
_WAITING_PACKETS = 90
_WAITING_SMALL = 3000
#: Seconds between two times at which what was written is forced to the disk.
_SYNC_EVERY = 2.0
_LOG_EVERY = 5.0
#: Seconds between two looks at who publishes.
_LOOK_EVERY = 0.5
#: Longest wait for a message, in seconds: an interrupt is noticed after that.
_LONGEST_WAIT = 0.1
#: Seconds that messages which had arrived before an interrupt are still taken for, at most.
_LAST_MESSAGES = 1.0


class RecorderError(ValueError):
    """It cannot be recorded there; the message says why, and what would be right."""


@dataclass(frozen=True)
class Options:
    """How images are recorded, and when to stop.

    images: record them at all. transport: how they come; all but raw are written as they come.
    image_every: 2 records every second image. quality: of JPEG, 1 to 100.
    keep_free: bytes of disk that are left free; recording ends there. camera: settings of the
    camera; None for those that the tracker publishes.
    """

    images: bool = True
    transport: str = "raw"
    image_every: int = 1
    quality: int = 85
    keep_free: int = 256 << 20
    camera: CameraSettings | None = None


class Recorder(Node):
    """Writes what it hears to a bag, from `record` to `close`.

    `failure` says why it stopped by itself, empty while it has not. `images_left_out` and
    `messages_left_out` count what came faster than it could be written.

    Raises ImportError where the rosbags library is missing, RecorderError if `bag` exists or cannot
    be made.
    """

    def __init__(self, bag: Path, settings: Options | None = None, **options: Any) -> None:
        options.setdefault("namespace", "mlkd")
        super().__init__("recorder", **options)
        self._settings = settings or Options()
        self.failure = ""
        self.images_left_out = self.messages_left_out = self.images_written = 0
        self._taken = 0
        self._image_count = 0
        self._recording = False
        self._decoder = Decoder(self._settings.camera)
        self._last_sync = time.monotonic()
        self._latest: dict[str, bytes] = {}
        self._latched: list[LatchedSubscription] = []
        self._wrong_types: set[str] = set()
        # Receipt is told by a clock that nobody sets in flight.
        self._clock_base = time.time_ns() - time.monotonic_ns()
        self._waiting: deque[tuple[str, Any, int]] = deque()
        self._waiting_images = 0
        self._changed = threading.Condition()
        self._ending = False
        names = {name: self.resolve_topic_name(name) for name in SMALL_TOPICS}
        topics = {names[name]: kind for name, kind in SMALL_TOPICS.items()}
        # As image_transport calls it: what players and viewers expect beside a camera's topic.
        transport = self._settings.transport
        self._image_kind = message_class(TRANSPORTS[transport])
        kept = "compressed" if transport == "raw" else transport
        self._image_topic = topic_of(self.resolve_topic_name("image"), kept)
        video = transport in VIDEO_TRANSPORTS
        self._longest_queue = _WAITING_PACKETS if video else _WAITING_IMAGES
        if self._settings.images:
            topics[self._image_topic] = message_class(TRANSPORTS[kept])
        self._camera_topic = self.resolve_topic_name(CAMERA_TOPIC)
        topics[self._camera_topic] = String
        self._bag = _Bag(bag, topics)
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()
        self._subscribe(names)

    def _subscribe(self, names: dict[str, str]) -> None:
        overridable = QoSOverridingOptions.with_default_policies()
        for name, kind in SMALL_TOPICS.items():
            # A camera driver's camera_info may be best effort, our own topics are not.
            lossy = name == "camera_info"
            reliability = ReliabilityPolicy.BEST_EFFORT if lossy else ReliabilityPolicy.RELIABLE
            self.create_subscription(
                kind,
                name,
                lambda raw, name=name, topic=names[name]: self.heard(name, topic, raw),
                QoSProfile(depth=100, reliability=reliability),
                raw=True,
            )
            if name in _LATCHED:
                take = partial(self._on_latched, name, names[name])
                self._latched.append(LatchedSubscription(self, kind, name, take, raw=True))
        if self._settings.camera is None:
            camera = LatchedSubscription(self, String, CAMERA_TOPIC, self._on_camera)
            self._latched.append(camera)
        self.create_timer(_LOOK_EVERY, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        if not self._settings.images:
            return
        images = QoSProfile(depth=self._longest_queue, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(
            self._image_kind,
            "image" if self._settings.transport == "raw" else self._image_topic,
            self._on_image,
            images,
            raw=self._settings.transport != "raw",
            qos_overriding_options=overridable,
        )

    @property
    def path(self) -> Path:
        """The bag."""
        return self._bag.path

    def record(self) -> None:
        """Begin to write to the bag."""
        self._recording = True
        if self._settings.camera is not None:
            self._record_camera(self._settings.camera)

    def pause(self) -> None:
        """Write no more."""
        self._recording = False

    def take_last(self, executor: SingleThreadedExecutor) -> None:
        """Take the messages that have arrived already, before the end."""
        end = time.monotonic() + _LAST_MESSAGES
        before = -1
        while before != self._taken and not self.failure and time.monotonic() < end:
            before = self._taken
            executor.spin_once(timeout_sec=_LONGEST_WAIT)

    def close(self) -> None:
        """Write what still waits, finish the bag and destroy the node."""
        self.pause()
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._writer.join()
        try:
            self._bag.close()
        except Exception as error:  # of the library, too
            self._fail(
                f"the bag cannot be finished: {_reason(error)}. What was written before can be "
                "read; `mlkd repair` gives it an end"
            )
        self.destroy_node()

    def heard(self, name: str, topic: str, raw: bytes) -> None:
        """A message of `name`, one of SMALL_TOPICS, has come, serialised."""
        self._taken += 1
        self._latest[name] = raw
        with self._changed:
            if len(self._waiting) >= _WAITING_SMALL:
                self.messages_left_out += self._recording
            else:
                self._put(topic, raw)

    def _look(self) -> None:
        """For publishers that keep messages, and for such as nobody here understands."""
        for latched in self._latched:
            latched.look()
        for subscription in list(self.subscriptions):
            problem = wrong_type(self, subscription.topic_name, subscription.msg_type)
            if problem and problem not in self._wrong_types:
                self._wrong_types.add(problem)
                self.get_logger().error(f"not recorded: {problem}")

    def _on_latched(self, name: str, topic: str, raw: bytes) -> None:
        """The same message comes by the other subscription, too, if it was not sent before."""
        if self._latest.get(name) != raw:
            self.heard(name, topic, raw)

    def _on_camera(self, message: String) -> None:
        try:
            self._record_camera(CameraSettings.from_json(message.data))
        except ValueError as error:
            self.get_logger().warning(f"{self._camera_topic}: {error}")

    def _record_camera(self, camera: CameraSettings) -> None:
        """Decode by these settings, and write those by which the recorded images are decoded."""
        self._decoder = Decoder(camera)
        if self._settings.transport == "raw":
            # The mosaic is gone, and the picture upright, when it becomes a JPEG.
            camera = dataclasses.replace(camera, bayer="", orientation="stored")
        raw = bytes(serialize_message(String(data=camera.to_json())))
        with self._changed:
            self._put(self._camera_topic, raw)

    def _on_image(self, message: Image | bytes) -> None:
        self._taken += 1
        self._image_count += 1
        if self._image_count % self._settings.image_every:
            return
        with self._changed:
            if self._waiting_images >= self._longest_queue:
                self.images_left_out += self._recording
            else:
                self._waiting_images += self._put(self._image_topic, message)

    def _put(self, topic: str, message: Any) -> bool:
        """Hand a message to the writing thread, with `_changed` held. Whether that was done."""
        now = self._now()
        if not self._recording or now == 0:  # 0: simulated time has not begun
            return False
        self._waiting.append((topic, message, now))
        self._changed.notify()
        return True

    def _now(self) -> int:
        clock = cast(ROSClock, self.get_clock())
        if clock.ros_time_is_active:
            return int(clock.now().nanoseconds)
        return self._clock_base + time.monotonic_ns()

    # --- writing thread -------------------------------------------------------------------------

    def _write(self) -> None:
        while (entry := self._next()) is not None:
            topic, message, received = entry
            try:
                if not topic:  # nothing came for a while: what waits in memory goes to the disk
                    self._keep()
                    continue
                raw = message if isinstance(message, bytes) else self._compress(message)
                if raw:
                    self._bag.write(topic, raw, received)
                    self.images_written += topic == self._image_topic
                self._keep()
            except Exception as error:  # of the library, too: recording must not end in silence
                self._fail(f"cannot be written: {_reason(error)}")

    def _next(self) -> tuple[str, Any, int] | None:
        """The message that has waited longest, with its topic and time; None at the end.

        An empty topic when none has come for a while.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ending, _SYNC_EVERY / 2)
            if not self._waiting:
                return None if self._ending else ("", None, 0)
            entry = self._waiting.popleft()
            self._waiting_images -= entry[0] == self._image_topic
            return entry

    def _compress(self, message: Image) -> bytes:
        """The image as a serialised CompressedImage; nothing if it cannot be used."""
        try:
            frame = self._decoder.decode(message)
            small = recorded_message(frame, message.header, self._settings.quality)
        except ValueError as error:  # UnusableImageError, or pixels that no format takes
            self.get_logger().warning(
                f"image not recorded: {error}", throttle_duration_sec=_LOG_EVERY
            )
            return b""
        return bytes(serialize_message(small))

    def _keep(self) -> None:
        """Now and then: force it to the disk, so that a power cut costs seconds; look for room."""
        now = time.monotonic()
        if self.failure or now - self._last_sync < _SYNC_EVERY / 2:
            return
        self._last_sync = now
        self._bag.sync()
        if self._bag.free_bytes() < self._settings.keep_free:
            self._fail(f"less than {self._settings.keep_free >> 20} MiB are free on the disk")

    def _fail(self, why: str) -> None:
        self.pause()
        with self._changed:
            self._waiting.clear()
            self._waiting_images = 0
        if not self.failure:
            self.failure = why
            self.get_logger().error(f"recording ended: {printable(self._bag.path)}: {why}")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


class _Bag:
    """A rosbag2 bag in MCAP being written. `topics`: message type by name."""

    def __init__(self, path: Path, topics: dict[str, type]) -> None:
        try:
            from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
        except ImportError:
            raise ImportError(
                "recording a bag needs rosbags: pip install 'mlkd-ros[bags]'"
            ) from None
        if path.exists():
            raise RecorderError(
                f"{printable(path)} exists already; a recording never overwrites anything"
            )
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer: Writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (OSError, WriterError) as error:
            raise RecorderError(f"{printable(path)} cannot be made: {error}") from error
        types = message_types()
        self._connections = {
            name: self._writer.add_connection(name, message_type(kind), typestore=types)
            for name, kind in topics.items()
        }
        self._storage: Any = self._writer.storage
        self._count = self._on_disk = 0

    def write(self, topic: str, raw: bytes, received: int) -> None:
        self._writer.write(self._connections[topic], received, raw)
        self._count += 1

    def sync(self) -> None:
        """Put what was written so far on the disk, readable without what comes after it."""
        if self._count > self._on_disk:
            # MCAP is readable up to its last whole chunk. The library ends one every megabyte,
            # which without images is half an hour.
            self._storage.close_chunk()
            self._on_disk = self._count
        self._storage.bio.flush()
        os.fdatasync(self._storage.bio.fileno())

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def close(self) -> None:
        """Write its end, and see that it can be read. OSError if not."""
        try:
            self._writer.close()
        except OSError:
            with contextlib.suppress(OSError):
                self._storage.bio.close()
            raise
        with Bag(self.path) as bag:
            found = sum(topic.count for topic in bag.topics.values())
        if found != self._count:
            raise OSError(f"{found} of {self._count} messages can be read of what was written")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recorder",
        description="Records images and what the tracker says about them into a rosbag2 bag.",
        epilog="ROS arguments follow --ros-args, for example -r image:=/camera/image_raw. An "
        "interrupt (Ctrl-C) ends the recording; `mlkd repair` mends one that was cut off.",
    )
    parser.add_argument(
        "bag",
        help="bag to make; a folder that exists, or a name that ends with a slash, gets a bag in "
        "it that is named after the time",
    )
    parser.add_argument("--no-images", action="store_true", help="only what is said about them")
    parser.add_argument(
        "--transport",
        choices=tuple(TRANSPORTS),
        default="raw",
        help="raw: compresses the images of image (default); others: records those of "
        "image/compressed, image/ffmpeg or image/foxglove as they are",
    )
    parser.add_argument(
        "--compressed",
        dest="transport",
        action="store_const",
        const="compressed",
        help="the same as --transport compressed",
    )
    parser.add_argument(
        "--image-every", type=_count, default=1, metavar="N", help="every Nth image (default 1)"
    )
    parser.add_argument(
        "--quality", type=_quality, default=85, help="of the JPEG images, 1 to 100 (default 85)"
    )
    parser.add_argument(
        "--keep-free",
        type=_count,
        default=256,
        metavar="MIB",
        help="end when less than that is free on the disk (default 256)",
    )
    add_options(parser)
    return parser


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return int(text)


def _quality(text: str) -> int:
    if not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 100")
    return int(text)


def _bag_path(text: str) -> Path:
    path = Path(text)
    if text.endswith("/") or (path.is_dir() and not (path / "metadata.yaml").exists()):
        return path / time.strftime("flight_%Y%m%d_%H%M%S")
    return path


def main(args: Sequence[str] | None = None) -> int:
    """Run the executable. Returns the exit code."""
    arguments = list(sys.argv if args is None else ["recorder", *args])
    parser = _parser()
    try:
        given = parser.parse_args(own_arguments(arguments, "recorder"))
        camera = from_options(given)
    except StartError as error:
        print(f"recorder: {error}", file=sys.stderr)
        return USAGE
    except ValueError as error:
        parser.error(str(error))
    if given.transport in VIDEO_TRANSPORTS and given.image_every > 1:
        parser.error("--image-every must be 1 with video: every packet is needed for the next")
    settings = Options(
        images=not given.no_images,
        transport=given.transport,
        image_every=given.image_every,
        quality=given.quality,
        keep_free=given.keep_free << 20,
        camera=camera,
    )
    cv2.setNumThreads(1)  # the other cores are the tracker's
    told_to_end = threading.Event()
    handlers = {
        number: signal.signal(number, lambda *_: told_to_end.set())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if number != signal.SIGHUP or signal.getsignal(number) == signal.SIG_DFL  # nohup
    }
    # Not rclpy's: those end its context at once, and what has arrived would not be written.
    try:
        start_ros(arguments, "recorder", signal_handler_options=SignalHandlerOptions.NO)
        return _run(Recorder(_bag_path(given.bag), settings), told_to_end)
    except StartError as error:
        print(f"recorder: {error}", file=sys.stderr)
        return USAGE
    except (ImportError, RecorderError) as error:
        print(f"recorder: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _run(node: Recorder, told_to_end: threading.Event) -> int:
    warn_of_unknown(node)
    node.record()
    node.get_logger().info(f"recording to {printable(node.path)}")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not node.failure and not told_to_end.is_set():
            executor.spin_once(timeout_sec=_LONGEST_WAIT)
        node.take_last(executor)
    finally:
        node.close()
    print(
        f"recorder: {printable(node.path)}: {node.images_written} images, "
        f"{node.images_left_out} left out, "
        f"{node.messages_left_out} other messages left out",
        file=sys.stderr,
    )
    return 1 if node.failure else 0


if __name__ == "__main__":
    sys.exit(main())
