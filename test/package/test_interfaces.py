# SPDX-License-Identifier: Apache-2.0
"""The generated interfaces are those that other ROS nodes know, and that the core agrees with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from ffmpeg_image_transport_msgs.msg import FFMPEGPacket
from foxglove_msgs.msg import CompressedVideo
from package_support import TYPE_HASHES
from rclpy.node import Node
from vision_msgs.msg import Detection2DArray

from mlkd_ros.msg import TrackStatus
from mlkd_ros.share import share_directory
from mlkd_ros.tracking import TrackState


@pytest.fixture
def node() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("interface_test", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.parametrize("kind", [Detection2DArray, CompressedVideo, FFMPEGPacket])
def test_type_hashes_are_those_of_the_other_packages(node: Node, kind: Any) -> None:
    node.create_publisher(kind, "topic", 1)
    (endpoint,) = node.get_publishers_info_by_topic("topic")
    assert str(endpoint.topic_type_hash) == TYPE_HASHES[endpoint.topic_type]


@pytest.mark.parametrize("name", TYPE_HASHES)
def test_definitions_are_installed_with_the_type_hash(name: str) -> None:
    description = share_directory().parent / f"{name}.json"
    hashes = json.loads(description.read_text())["type_hashes"]
    (found,) = [entry["hash_string"] for entry in hashes if entry["type_name"] == name]
    assert found == TYPE_HASHES[name]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (
            CompressedVideo,
            {
                "timestamp": "builtin_interfaces/Time",
                "frame_id": "string",
                "data": "sequence<uint8>",
                "format": "string",
            },
        ),
        (
            FFMPEGPacket,
            {
                "header": "std_msgs/Header",
                "width": "int32",
                "height": "int32",
                "encoding": "string",
                "pts": "uint64",
                "flags": "uint8",
                "is_bigendian": "boolean",
                "data": "sequence<uint8>",
            },
        ),
    ],
)
def test_packets_of_video_are_laid_out_as_in_their_packages(
    kind: Any, fields: dict[str, str]
) -> None:
    """Names, types and order, as in the published definitions."""
    assert list(kind.get_fields_and_field_types().items()) == list(fields.items())


def test_message_and_core_number_the_states_alike() -> None:
    assert {state.name: state.value for state in TrackState} == {
        name: getattr(TrackStatus, name)
        for name in ("IDLE", "TRACKING", "UNCERTAIN", "LOST", "GIVEN_UP")
    }


def test_middleware_takes_the_types_without_complaint(
    node: Node, capfd: pytest.CaptureFixture[str]
) -> None:
    # Fast DDS asks for a second type support, and reports on stderr when there is none.
    node.create_publisher(TrackStatus, "status", 1)
    node.create_publisher(Detection2DArray, "detections", 1)
    node.create_subscription(TrackStatus, "other", print, 1)
    assert capfd.readouterr().err == ""
