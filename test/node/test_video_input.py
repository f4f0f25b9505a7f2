# SPDX-License-Identifier: Apache-2.0
"""The tracker on H.264 and H.265, as a process over DDS; the recorder on the same packets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rclpy
from ffmpeg_image_transport_msgs.msg import FFMPEGPacket
from foxglove_msgs.msg import CompressedVideo
from input_support import InputGround, overlap, running, values
from node_support import Scene, wait_until
from rclpy.duration import Duration
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from video_support import KEY_EVERY, Coded, coded

from mlkd_ros.imaging.sources import open_source
from mlkd_ros.node.messages import time_message
from mlkd_ros.srv import InitTarget

COUNT = 45


def packet_message(transport: str, kind: str, packet: Coded, stamp: int) -> Any:
    if transport == "foxglove":
        return CompressedVideo(
            timestamp=time_message(stamp), frame_id="camera", data=packet.data, format=kind
        )
    return FFMPEGPacket(
        header=Header(stamp=time_message(stamp), frame_id="camera"),
        encoding=f"{kind};yuv420p;bgr8;bgr8",
        pts=packet.picture,
        flags=int(packet.key),
        data=packet.data,
    )


def shown(ground: InputGround, message: Any, stamp: int) -> Any:
    """What the tracker says about the picture of that packet."""
    ground.images.publish(message)
    wait_until(lambda: stamp in ground.detections, 60, f"detections of image {stamp}")
    return ground.detections[stamp]


@pytest.mark.parametrize(("transport", "kind"), [("foxglove", "h264"), ("ffmpeg", "h265")])
def test_a_target_is_followed_through_video_with_a_lost_packet(
    scene: Scene, transport: str, kind: str
) -> None:
    packets = coded(kind, [scene.image(index) for index in range(COUNT)])
    with running(f"video_{transport}", image_transport=transport) as (process, ground):
        # Joined in the middle: nothing is shown before the key frame.
        for packet in packets[KEY_EVERY - 3 : KEY_EVERY]:
            ground.images.publish(packet_message(transport, kind, packet, ground.now()))
        images = ground.judged(": images", lambda s: values(s).get("unusable: joining") == "3")
        assert "joined at its next key frame" in images.message
        assert ground.detections == {}

        for index in range(KEY_EVERY, KEY_EVERY + 4):
            stamp = ground.now()
            found = shown(ground, packet_message(transport, kind, packets[index], stamp), stamp)
            assert found.header.frame_id == "camera"
        response = ground.designate(scene.box(index), stamp)
        assert response.code == InitTarget.Response.SUCCESS, response.message

        before = len(ground.detections)
        for packet in packets[index + 2 : 2 * KEY_EVERY]:
            ground.images.publish(packet_message(transport, kind, packet, ground.now()))
        reason = "lost" if kind == "h264" else "pixels"
        ground.judged(": images", lambda s: values(s).get(f"unusable: {reason}") == "1")
        for index in range(2 * KEY_EVERY, COUNT):
            stamp = ground.now()
            found = shown(ground, packet_message(transport, kind, packets[index], stamp), stamp)
        assert len(ground.detections) == before + COUNT - 2 * KEY_EVERY
        assert overlap(found, scene.box(index)) > 0.5
        assert f"320x240 {kind}" in process.log


def test_another_transport_is_named() -> None:
    with running("other_video", image_transport="foxglove") as (_, ground):
        ground.send(CompressedImage, "image/foxglove")
        images = ground.judged(": images", lambda s: "CompressedImage" in s.message)
        assert "needed is foxglove_msgs/msg/CompressedVideo" in images.message


@pytest.mark.parametrize("transport", ["foxglove", "ffmpeg"])
def test_the_recorder_keeps_every_packet(
    start_node: Callable, scene: Scene, tmp_path: Path, transport: str
) -> None:
    packets = coded("h264", [scene.image(index) for index in range(COUNT)])
    name = "qos_overrides./filmed/image/" + transport + ".subscription.reliability"
    recorder = start_node(
        "recorder",
        str(tmp_path / "bag"),
        "--transport",
        transport,
        *("--ros-args", "-r", "__ns:=/filmed", "-p", f"{name}:=reliable"),
    )
    recorder.wait_for_output("recording to")
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("camera", namespace="filmed", context=context)
    kind = CompressedVideo if transport == "foxglove" else FFMPEGPacket
    publisher = node.create_publisher(kind, f"image/{transport}", 60)
    try:
        wait_until(lambda: publisher.get_subscription_count() > 0, 60, "the recorder")
        stamps = [(index + 1) * 10**9 // 30 for index in range(COUNT)]
        for packet, stamp in zip(packets, stamps, strict=True):
            publisher.publish(packet_message(transport, "h264", packet, stamp))
        assert publisher.wait_for_all_acked(Duration(seconds=60))
    finally:
        node.destroy_node()
        context.try_shutdown()
    assert recorder.stop() == 0
    with open_source(tmp_path / "bag") as source:
        frames = list(source)
    assert [frame.stamp for frame in frames] == stamps
    assert abs(frames[-1].image.astype(int) - scene.image(COUNT - 1)).mean() < 8
