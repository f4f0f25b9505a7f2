# SPDX-License-Identifier: Apache-2.0
"""What a bag holds beside its images, to be played with them: ground truth and calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo
from vision_msgs.msg import Detection2DArray

from mlkd_ros.imaging.sources import open_bag

__all__ = ["Beside"]

#: Type by name; topics of a bag are found by both.
KINDS: dict[str, type] = {"ground_truth": Detection2DArray, "camera_info": CameraInfo}


class Beside:
    """Messages of a bag that belong to one of its images, by that image's stamp.

    All of them are held in memory, serialised: some 20 MB for an hour at 30 Hz. `topics` tells
    where they came from, by kind.
    """

    def __init__(self, bag: Path, image_topic: str) -> None:
        self._messages: dict[str, dict[int, bytes]] = {}
        reader = open_bag(bag)
        try:
            self.topics = _choose(reader, image_topic)
            for kind, topic in self.topics.items():
                self._messages[kind] = _read(reader, topic)
        finally:
            reader.close()

    def at(self, kind: str, stamp: int) -> Any:
        """The message of that kind about the image with that stamp in nanoseconds; None without
        one.
        """
        raw = self._messages.get(kind, {}).get(stamp)
        return None if raw is None else deserialize_message(raw, KINDS[kind])


def _choose(reader: Any, image_topic: str) -> dict[str, str]:
    """The topic of each kind: the one that shares most of its name with that of the images."""
    chosen = {}
    for kind, message in KINDS.items():
        package = message.__module__.split(".")[0]
        candidates = {
            connection.topic
            for connection in reader.connections
            if connection.msgcount
            and connection.msgtype == f"{package}/msg/{message.__name__}"
            and connection.topic.rsplit("/", 1)[-1] == kind
        }
        if candidates:
            chosen[kind] = max(sorted(candidates), key=lambda name: _shared(name, image_topic))
    return chosen


def _shared(first: str, second: str) -> int:
    """How many parts the two names have in common from the left."""
    pairs = zip(first.split("/"), second.split("/"), strict=False)
    count = 0
    for one, other in pairs:
        if one != other:
            break
        count += 1
    return count


def _read(reader: Any, topic: str) -> dict[int, bytes]:
    """The serialised messages of a topic by the stamps in their headers, which come first."""
    connections = [c for c in reader.connections if c.topic == topic]
    found = {}
    for _, _, raw in reader.messages(connections=connections):
        raw = bytes(raw)
        order = "little" if raw[1] & 1 else "big"
        seconds = int.from_bytes(raw[4:8], order, signed=True)  # type: ignore[arg-type]
        nanoseconds = int.from_bytes(raw[8:12], order)  # type: ignore[arg-type]
        found[seconds * 10**9 + nanoseconds] = raw
    return found
