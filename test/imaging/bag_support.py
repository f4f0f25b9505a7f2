# SPDX-License-Identifier: Apache-2.0
"""Writes bags as cameras and recorders do, and as they should not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlkd_ros.imaging.bag_types import message_types

rosbag2 = pytest.importorskip("rosbags.rosbag2")

TYPES = message_types()
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
SECOND = 10**9
START = 1_764_000_000 * SECOND


def make(name: str, **fields: Any) -> Any:
    return TYPES.types[name](**fields)


def header(stamp: int | None) -> Any:
    seconds, rest = divmod(stamp or 0, SECOND)
    time = make("builtin_interfaces/msg/Time", sec=seconds, nanosec=rest)
    return make("std_msgs/msg/Header", stamp=time, frame_id="camera")


def image(stamp: int | None, pixels: np.ndarray, encoding: str, width: int, height: int) -> Any:
    """`pixels`: rows of bytes."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    return make(
        IMAGE,
        header=header(stamp),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.ravel(),
    )


def compressed(stamp: int | None, data: bytes, name: str = "jpeg") -> Any:
    return make(
        COMPRESSED, header=header(stamp), format=name, data=np.frombuffer(data, np.uint8).copy()
    )


def write_bag(
    path: Path, messages: Iterable[tuple[str, int, Any]], plugin: str = "MCAP", types: Any = TYPES
) -> Path:
    """Write (topic, time of receipt, message) in this order."""
    storage = getattr(rosbag2.StoragePlugin, plugin)
    with rosbag2.Writer(path, version=9, storage_plugin=storage) as writer:
        connections: dict[str, Any] = {}
        for topic, received, message in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=types)
            writer.write(connections[topic], received, types.serialize_cdr(message, kind))
    return path
