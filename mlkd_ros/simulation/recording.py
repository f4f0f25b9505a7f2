# SPDX-License-Identifier: Apache-2.0
"""Records a flight into a rosbag2 bag (MCAP) without starving camera and tracker of CPU time.

Small messages are written as they came over the wire. Images are compressed to JPEG by one thread,
which leaves images out rather than falling behind.
"""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import nanoseconds
from mlkd_ros.share import share_directory

if TYPE_CHECKING:
    from rosbags.rosbag2 import Writer
    from rosbags.typesys.store import Typestore

__all__ = ["IMAGE_TOPIC", "FlightRecorder"]

#: Where compressed images go in the bag, below the namespace.
IMAGE_TOPIC = "image/compressed"
#: Topics recorded unchanged, below the namespace.
SMALL_TOPICS: dict[str, type] = {
    "camera_info": CameraInfo,
    "ground_truth": Detection2DArray,
    "detections": Detection2DArray,
    "status": TrackStatus,
}
_JPEG_QUALITY = 85
_QUEUE_IMAGES = 3


class FlightRecorder(Node):
    """Keeps what camera and tracker say, and writes it to a bag from `record` to `close`.

    `truth`, `detections` and `statuses` map an image's stamp in nanoseconds to the messages about
    it, since the recorder started. `image_every`: 2 records every second image.

    Raises ImportError where the rosbags library is missing.
    """

    def __init__(self, bag: Path, *, image_every: int = 1, **options: Any) -> None:
        options.setdefault("namespace", "mlkd")
        super().__init__("recorder", **options)
        self.truth: dict[int, Detection2DArray] = {}
        self.detections: dict[int, Detection2DArray] = {}
        self.statuses: dict[int, TrackStatus] = {}
        self.images_left_out = 0
        self._image_every, self._image_count = image_every, 0
        self._kept: dict[str, dict[int, Any]] = {
            "ground_truth": self.truth,
            "detections": self.detections,
            "status": self.statuses,
        }
        self._recording = False
        self._bag = _Bag(bag, self.get_namespace().rstrip("/"))
        self._images: queue.Queue[Image | None] = queue.Queue(_QUEUE_IMAGES)
        self._compressor = threading.Thread(target=self._compress, daemon=True)
        self._compressor.start()
        self._subscribe()

    def _subscribe(self) -> None:
        for name, kind in SMALL_TOPICS.items():
            self.create_subscription(
                kind,
                name,
                lambda raw, name=name, kind=kind: self._on_small(name, kind, raw),
                100,
                raw=True,
            )
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(Image, "image", self._on_image, newest)

    def record(self) -> None:
        """Begin to write to the bag."""
        self._recording = True

    def pause(self) -> None:
        """Write no more."""
        self._recording = False

    def close(self) -> None:
        """Finish the bag and destroy the node."""
        self.pause()
        self._images.put(None)
        self._compressor.join()
        self._bag.close()
        self.destroy_node()

    def _on_small(self, name: str, kind: type, raw: bytes) -> None:
        if self._recording:
            self._bag.write(name, raw, self._now())
        if name in self._kept:
            message: Any = deserialize_message(raw, kind)
            self._kept[name][nanoseconds(message.header.stamp)] = message

    def _on_image(self, message: Image) -> None:
        self._image_count += 1
        if not self._recording or self._image_count % self._image_every:
            return
        try:
            self._images.put_nowait(message)
        except queue.Full:
            self.images_left_out += 1

    def _compress(self) -> None:
        while (message := self._images.get()) is not None:
            pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
            _, coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            small = CompressedImage(header=message.header, format="bgr8; jpeg compressed bgr8")
            small.data.frombytes(coded.tobytes())
            self._bag.write(IMAGE_TOPIC, serialize_message(small), self._now())

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)


class _Bag:
    """A rosbag2 bag in MCAP being written, from several threads."""

    def __init__(self, path: Path, namespace: str) -> None:
        try:
            from rosbags.rosbag2 import StoragePlugin, Writer
        except ImportError:
            raise ImportError(
                "recording a bag needs rosbags: pip install mlkd_ros[tools]"
            ) from None
        self._lock = threading.Lock()
        self._writer: Writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        types = _message_types()
        names = {
            **{name: kind for name, kind in SMALL_TOPICS.items()},
            IMAGE_TOPIC: CompressedImage,
        }
        self._connections = {
            name: self._writer.add_connection(
                f"{namespace}/{name}", _type_name(kind), typestore=types
            )
            for name, kind in names.items()
        }

    def write(self, name: str, raw: bytes, received: int) -> None:
        with self._lock:
            self._writer.write(self._connections[name], received, raw)

    def close(self) -> None:
        with self._lock:
            self._writer.close()


def _type_name(kind: type) -> str:
    package, folder = kind.__module__.split(".")[:2]
    return f"{package}/{folder}/{kind.__name__}"


def _message_types() -> Typestore:
    """The types that rosbags knows, and ours and those of vision_msgs from their definitions."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    share = share_directory().parent
    for package in ("vision_msgs", "mlkd_ros"):
        for path in sorted((share / package / "msg").glob("*.msg")):
            definition = path.read_text(encoding="utf-8")
            store.register(get_types_from_msg(definition, f"{package}/msg/{path.stem}"))
    return store
