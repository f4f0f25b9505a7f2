# SPDX-License-Identifier: Apache-2.0
"""Designation by the clicks and rectangles of other tools."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from geometry_msgs.msg import Point, PointStamped
from input_support import InputGround, overlap, running, values
from node_support import Scene, TrackerProcess, image_of, wait_until
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from mlkd_ros.node.messages import time_message

TOPICS = {
    "point_topic": "clicked_point",
    "mouse_topic": "image_mouse_left",
    "rectangle_topic": "/screen/rectangle",
}


@pytest.fixture(scope="module")
def tracker() -> Iterator[tuple[TrackerProcess, InputGround]]:
    with running("pointing", **TOPICS) as started:
        yield started


@pytest.fixture
def ground(tracker: tuple[TrackerProcess, InputGround]) -> InputGround:
    ground = tracker[1]
    ground.stop()
    return ground


def centre(scene: Scene, index: int) -> tuple[float, float]:
    x, y, w, h = scene.box(index)
    return x + w / 2, y + h / 2


def stamped(scene: Scene, index: int, stamp: int) -> PointStamped:
    x, y = centre(scene, index)
    return PointStamped(header=Header(stamp=time_message(stamp)), point=Point(x=x, y=y))


def told(scene: Scene, index: int) -> str:
    x, y = centre(scene, index)
    return f"click at ({x:g}, {y:g})"


def designated(ground: InputGround, words: str) -> str:
    """Wait until the diagnostics tell of this mark; what they tell."""
    status = ground.judged(
        ": tracking", lambda s: words in values(s).get("designated by topic", "")
    )
    return values(status)["designated by topic"]


def assert_followed(ground: InputGround, scene: Scene, index: int, least: float = 0.4) -> None:
    for step in range(3):
        message = image_of(scene.image(index + step), ground.now())
        assert overlap(ground.show(message), scene.box(index + step)) > least


def test_a_click_of_rqt_image_view(ground: InputGround, scene: Scene) -> None:
    clicks = ground.publisher(Point, "image_mouse_left")
    ground.show(image_of(scene.image(0), ground.now()))
    x, y = centre(scene, 0)
    clicks.publish(Point(x=float(round(x + 4)), y=float(round(y - 3))))
    text = designated(ground, f"click at ({round(x + 4)}, {round(y - 3)})")
    assert "on /pointing/image_mouse_left: target" in text
    assert_followed(ground, scene, 1)


def test_a_stamped_click_chooses_the_image(ground: InputGround, scene: Scene) -> None:
    clicks = ground.publisher(PointStamped, "clicked_point")
    stamps = [ground.now() - (30 - index) * 33_000_000 for index in range(30)]
    for index, stamp in enumerate(stamps):
        ground.show(image_of(scene.image(index), stamp))
    clicks.publish(stamped(scene, 4, stamps[4]))
    assert "followed through" in designated(ground, told(scene, 4))
    assert_followed(ground, scene, 30)


def test_a_click_with_its_own_time_is_on_the_newest_image(
    ground: InputGround, scene: Scene
) -> None:
    clicks = ground.publisher(PointStamped, "clicked_point")
    ground.show(image_of(scene.image(7), ground.now()))
    clicks.publish(stamped(scene, 7, ground.now() + 10**9))  # as Foxglove stamps it
    designated(ground, told(scene, 7))
    assert_followed(ground, scene, 8)


def test_a_rectangle(ground: InputGround, scene: Scene) -> None:
    rectangles = ground.publisher(RegionOfInterest, "/screen/rectangle")
    ground.show(image_of(scene.image(0), ground.now()))
    x, y, w, h = map(int, scene.box(0))
    rectangles.publish(RegionOfInterest(x_offset=x, y_offset=y, width=w, height=h))
    text = designated(ground, f"{w}x{h} rectangle at ({x}, {y}) on /screen/rectangle")
    assert "designated, then followed through" in text
    assert_followed(ground, scene, 1, 0.6)


def test_a_bad_mark_leaves_the_target(
    tracker: tuple[TrackerProcess, InputGround], ground: InputGround, scene: Scene
) -> None:
    process, _ = tracker
    target = ground.follow(scene)
    clicks = ground.publisher(PointStamped, "clicked_point")
    rectangles = ground.publisher(RegionOfInterest, "/screen/rectangle")
    clicks.publish(PointStamped(point=Point(x=5000.0, y=10.0)))
    assert "must lie inside the 320x240 image" in designated(ground, "refused")
    rectangles.publish(RegionOfInterest(x_offset=10, y_offset=10))
    assert "at least 2 pixels wide" in designated(ground, "rectangle at (10, 10)")
    clicks.publish(stamped(scene, 0, 5))
    assert "no image near stamp" in designated(ground, "no image near")
    wait_until(lambda: process.log.count("refused: ") >= 3, 60, "three refusals in the log")
    detections = ground.show(image_of(scene.image(1), ground.now()))
    assert detections.detections[0].id == target
    assert overlap(detections, scene.box(1)) > 0.6


def test_a_size_for_clicks_and_pixels_of_a_smaller_picture(
    ground: InputGround, scene: Scene
) -> None:
    clicks = ground.publisher(Point, "image_mouse_left")
    assert ground.set_parameter("click_size", 40.0).successful
    assert ground.set_parameter("click_image_width", 160).successful
    try:
        ground.show(image_of(scene.image(0), ground.now()))
        x, y = centre(scene, 0)
        clicks.publish(Point(x=x / 2, y=y / 2))
        designated(ground, f"click at ({x / 2:g}, {y / 2:g})")
        assert_followed(ground, scene, 1, 0.5)
    finally:
        assert ground.set_parameter("click_size", 0.0).successful
        assert ground.set_parameter("click_image_width", 0).successful


def test_by_default_nothing_is_listened_to(scene: Scene) -> None:
    with running("deaf") as (_, ground):
        status = ground.judged(": tracking", lambda s: True)
        assert "designated by topic" not in values(status)
        info = ground.node.get_subscriptions_info_by_topic
        for topic in ("/deaf/clicked_point", "/deaf/image_mouse_left", "/screen/rectangle"):
            assert [end for end in info(topic) if end.node_namespace == "/deaf"] == []
