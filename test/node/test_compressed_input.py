# SPDX-License-Identifier: Apache-2.0
"""The tracker on compressed images, as a process over DDS."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from input_support import InputGround, compressed_of, overlap, running, values
from node_support import Scene, TrackerProcess, image_of, wait_until
from sensor_msgs.msg import CompressedImage, Image

from mlkd_ros.srv import InitTarget


@pytest.fixture(scope="module")
def tracker() -> Iterator[tuple[TrackerProcess, InputGround]]:
    with running("compressed", image_transport="compressed") as started:
        yield started


def test_a_target_is_followed_through_jpeg_and_png(
    tracker: tuple[TrackerProcess, InputGround], scene: Scene
) -> None:
    process, ground = tracker
    stamps = [ground.now() for _ in range(20)]
    for index, stamp in enumerate(stamps):
        detections = ground.show(compressed_of(scene.image(index), stamp))
        assert detections.detections == []
    response = ground.designate(scene.box(5), stamps[5])
    assert response.code == InitTarget.Response.SUCCESS, response.message
    assert response.frames_caught_up >= 1
    for index in range(20, 40):
        kind = "jpeg" if index % 4 else "png"
        message = compressed_of(scene.image(index), ground.now(), kind)
        assert overlap(ground.show(message), scene.box(index)) > 0.6, index
    assert "images on /compressed/image/compressed are 320x240 bgr8; jpeg" in process.log
    images = ground.judged(": images", lambda status: True)
    assert values(images)["topic"] == "/compressed/image/compressed"


def test_bad_images_are_named_counted_and_skipped(
    tracker: tuple[TrackerProcess, InputGround], scene: Scene
) -> None:
    process, ground = tracker
    start = 40
    ground.show(compressed_of(scene.image(start), ground.now()))
    response = ground.designate(scene.box(start))
    assert response.code == InitTarget.Response.SUCCESS, response.message
    good = compressed_of(scene.image(start), ground.now())

    def bad(data: bytes, name: str = "jpeg") -> None:
        message = CompressedImage(header=good.header, format=name, data=data)
        ground.images.publish(message)

    whole = bytes(good.data)
    for data, name, words in (
        (whole[: len(whole) // 2], "jpeg", "the JPEG is cut short or damaged"),
        (b"", "jpeg", "the compressed image is empty"),
        (b"\0\0\0\1\x67" + whole[5:], "h264", "must be JPEG or PNG; format 'h264'"),
    ):
        bad(data, name)
        ground.judged(": images", lambda status, words=words: words in status.message)
    images = ground.judged(": images", lambda status: values(status)["unusable"] == "3")
    assert images.level == DiagnosticStatus.ERROR
    counted = {key: count for key, count in values(images).items() if key.startswith("unusable: ")}
    assert counted == {
        "unusable: truncated": "1",
        "unusable: empty": "1",
        "unusable: encoding": "1",
    }

    # What only decoding finds out: refused by the tracking thread.
    png = bytearray(compressed_of(scene.image(start), 1, "png").data)
    png[60:-60] = bytes(len(png) - 120)
    dropped = ground.subscribe(Image, "overlay")
    bad(bytes(png), "png")
    process.wait_for_log("the png of", 60)
    assert dropped == []

    message = compressed_of(scene.image(start + 1), ground.now())
    assert overlap(ground.show(message), scene.box(start + 1)) > 0.6


def test_designation_on_an_image_that_cannot_be_decoded(
    tracker: tuple[TrackerProcess, InputGround], scene: Scene
) -> None:
    _, ground = tracker
    ground.stop()
    message = compressed_of(scene.image(0), ground.now(), "png")
    data = bytearray(message.data)
    data[60:-60] = bytes(len(data) - 120)
    message.data = bytes(data)
    ground.show(message)  # Without a target nobody looks at its pixels.
    response = ground.designate(scene.box(0))
    assert response.code == InitTarget.Response.UNUSABLE_IMAGE
    assert "the png of" in response.message


def test_raw_images_are_not_listened_to(
    tracker: tuple[TrackerProcess, InputGround], scene: Scene
) -> None:
    _, ground = tracker
    raw = ground.node.create_publisher(Image, "image", 10)
    raw.publish(image_of(scene.image(0), ground.now()))
    stamp = ground.now()
    ground.show(compressed_of(scene.image(0), stamp))
    assert raw.get_subscription_count() == 0


def test_a_large_target_is_followed_at_reduced_scale() -> None:
    """Its search window is wider than the network's input, so the JPEG is decoded at half scale."""
    rng = np.random.default_rng(2)
    ground_picture = rng.integers(30, 60, (720, 1280, 3)).astype(np.uint8)
    texture = np.kron(rng.integers(60, 250, (8, 8, 3)), np.ones((25, 25, 1))).astype(np.uint8)

    def picture(index: int) -> tuple[np.ndarray, tuple[float, float, float, float]]:
        image, x, y = ground_picture.copy(), 400 + 6 * index, 250 + 3 * index
        image[y : y + 200, x : x + 200] = texture
        return image, (float(x), float(y), 200.0, 200.0)

    with running("large", image_transport="compressed") as (_, ground):
        image, box = picture(0)
        ground.show(compressed_of(image, ground.now()))
        assert ground.designate(box).code == InitTarget.Response.SUCCESS
        for index in range(1, 10):
            image, box = picture(index)
            assert overlap(ground.show(compressed_of(image, ground.now())), box) > 0.75, index
        wait_until(lambda: ground.statuses[-1].image_width == 1280, 60, "a status")


def test_the_transport_changes_with_the_configuration(scene: Scene) -> None:
    """Every subscription and publisher is made anew, with the parameters as they are then."""
    with running("transport", mouse_topic="clicks") as (process, ground):
        ground.follow(scene)
        assert ground.transition("deactivate") and ground.transition("cleanup")
        assert ground.set_parameter("image_transport", "compressed").successful
        assert ground.set_parameter("camera_info_topic", "/lens/camera_info").successful
        assert ground.set_parameter("mouse_topic", "").successful
        assert ground.transition("configure") and ground.transition("activate")
        ground.compress()
        ground.connect()
        ground.show(compressed_of(scene.image(0), ground.now()))
        assert ground.designate(scene.box(0)).code == InitTarget.Response.SUCCESS
        detections = ground.show(compressed_of(scene.image(1), ground.now()))
        assert overlap(detections, scene.box(1)) > 0.6
        subscribed = ground.node.get_subscriptions_info_by_topic
        assert subscribed("/transport/clicks") == []
        assert len(subscribed("/lens/camera_info")) == 1
        assert ground.set_parameter("image_transport", "raw").successful is False
