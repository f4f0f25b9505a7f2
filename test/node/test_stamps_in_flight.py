# SPDX-License-Identifier: Apache-2.0
"""A camera whose stamps cannot be trusted, and topics of the wrong type: the node goes on and says
what is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point
from input_support import InputGround, running, values
from node_support import Scene, TrackerProcess, destroy, image_of, only_box, wait_until
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from mlkd_ros.imaging.camera import CAMERA_TOPIC, CameraSettings
from mlkd_ros.msg import TargetBearing
from mlkd_ros.node.messages import nanoseconds
from mlkd_ros.srv import InitTarget
from mlkd_ros.tracking.geometry import iou

WARN, ERROR = DiagnosticStatus.WARN, DiagnosticStatus.ERROR
TAI = 37 * 10**9


@pytest.fixture(scope="module")
def tracker() -> Iterator[tuple[TrackerProcess, InputGround]]:
    with running(
        "stamped", point_topic="clicks", rectangle_topic="boxes", mono16_white=4095
    ) as started:
        yield started


def show_unstamped(ground: InputGround, scene: Scene, index: int) -> None:
    """An image with stamp zero; its status tells that it was processed."""
    before = sum(nanoseconds(status.header.stamp) == 0 for status in list(ground.statuses))

    def processed() -> bool:
        found = sum(nanoseconds(status.header.stamp) == 0 for status in list(ground.statuses))
        return found > before

    ground.images.publish(image_of(scene.image(index), 0))
    wait_until(processed, 60, "the status of an image without a stamp")


def test_now_and_then_a_zero_and_the_history_survives(
    tracker: tuple[TrackerProcess, InputGround], scene: Scene
) -> None:
    process, ground = tracker
    ground.follow(scene)
    old = ground.now()
    ground.show(image_of(scene.image(1), old))
    show_unstamped(ground, scene, 2)
    ground.show(image_of(scene.image(3), ground.now()))
    unknown = [s for s in list(ground.statuses) if nanoseconds(s.header.stamp) == 0][-1]
    assert math.isnan(unknown.latency)
    assert ground.status_of(nanoseconds(ground.statuses[-1].header.stamp)).latency < 60
    response = ground.designate(scene.box(1), old)
    assert response.code == InitTarget.Response.SUCCESS, response.message
    status = ground.judged(": images", lambda s: s.level == WARN)
    assert "stamps are zero" in status.message
    assert values(status)["stamps missing"] == "1"
    assert process.log.count("stamps are zero") == 1


def test_another_epoch_makes_the_latency_unknown(
    tracker: tuple[TrackerProcess, InputGround], scene: Scene
) -> None:
    _, ground = tracker
    stamps = []
    for index in range(4, 9):
        stamps.append(ground.now() + TAI)
        boxes = ground.show(image_of(scene.image(index), stamps[-1]))
    assert iou(only_box(boxes), scene.box(8)) > 0.5
    assert math.isnan(ground.status_of(stamps[-1]).latency)
    status = ground.judged(": tracking", lambda s: s.level == WARN)
    assert re.search(r" 3[67]\.\d s ahead of this node's clock \(TAI", status.message)
    assert values(status)["latency max (ms)"] == "unknown" or "latency max (ms)" in values(status)
    response = ground.designate(scene.box(6), stamps[2])
    assert response.code == InitTarget.Response.SUCCESS, response.message


def test_all_settings_of_the_camera_are_published_for_those_who_come_late(
    tracker: tuple[TrackerProcess, InputGround],
) -> None:
    _, ground = tracker
    heard: list[String] = []
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    late = ground.node.create_subscription(String, CAMERA_TOPIC, heard.append, qos)
    wait_until(lambda: bool(heard), 60, "the settings of the camera")
    assert CameraSettings.from_json(heard[0].data) == CameraSettings(white=4095)
    destroy(ground.node, late)


def test_a_calibration_that_was_sent_once_before(
    tracker: tuple[TrackerProcess, InputGround], scene: Scene
) -> None:
    """The camera keeps it for those who come late, and the node asks for that."""
    _, ground = tracker
    bearings = ground.subscribe(TargetBearing, "bearing")
    kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    once = ground.node.create_publisher(CameraInfo, "camera_info", kept)
    k = [300.0, 0.0, 159.5, 0.0, 300.0, 119.5, 0.0, 0.0, 1.0]
    once.publish(CameraInfo(width=320, height=240, distortion_model="plumb_bob", k=k))
    ground.judged(": bearing", lambda status: "320x240" in values(status)["calibration"])
    ground.show(image_of(scene.image(9), ground.now()))
    wait_until(lambda: bool(bearings), 60, "a bearing")
    destroy(ground.node, once)


def test_topics_of_the_wrong_type_are_named_with_both(
    tracker: tuple[TrackerProcess, InputGround],
) -> None:
    process, ground = tracker
    # A participant of its own: one does not take two types under one name.
    context = rclpy.Context()
    rclpy.init(context=context)
    stranger = rclpy.create_node("stranger", namespace="stamped", context=context)
    stranger.create_publisher(Point, "clicks", 1)
    stranger.create_publisher(Point, "boxes", 1)
    stranger.create_publisher(Image, "camera_info", 1)
    stranger.create_publisher(CompressedImage, "image", 1)
    wrong = "geometry_msgs/msg/Point on /stamped/"
    click = f"{wrong}clicks, needed is geometry_msgs/msg/PointStamped"
    rectangle = f"{wrong}boxes, needed is sensor_msgs/msg/RegionOfInterest"
    ground.judged(
        ": tracking", lambda s: s.level == ERROR and click in s.message and rectangle in s.message
    )
    status = ground.judged(": bearing", lambda s: s.level == ERROR)
    assert "sensor_msgs/msg/Image on /stamped/camera_info" in status.message
    assert "needed is sensor_msgs/msg/CameraInfo" in status.message
    words = "publishes sensor_msgs/msg/CompressedImage on /stamped/image, needed is "
    process.wait_for_log(
        words + "sensor_msgs/msg/Image: set parameter image_transport to compressed"
    )
    process.wait_for_log(click)
    process.wait_for_log(rectangle)
    status = ground.judged(": images", lambda s: s.level == ERROR)
    assert words + "sensor_msgs/msg/Image" in status.message
    stranger.destroy_node()
    context.try_shutdown()


def test_frozen_stamps(tracker: tuple[TrackerProcess, InputGround], scene: Scene) -> None:
    _, ground = tracker
    stamp = ground.now()
    ground.show(image_of(scene.image(10), stamp))
    for index in range(11, 31):
        count = len(ground.statuses)
        ground.images.publish(image_of(scene.image(index), stamp))
        wait_until(lambda n=count: len(ground.statuses) > n, 60, "the next status")
    wait_until(
        lambda: any(math.isnan(status.latency) for status in list(ground.statuses)[-5:]),
        60,
        "an unknown latency",
    )
    status = ground.judged(": images", lambda s: s.level == WARN)
    assert "stamps" in status.message
    response = ground.designate(scene.box(30), stamp)
    assert response.code == InitTarget.Response.SUCCESS, response.message
