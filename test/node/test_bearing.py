# SPDX-License-Identifier: Apache-2.0
"""Bearings as the node publishes them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from input_support import InputGround, running, values
from node_support import Scene, TrackerProcess, image_of, only_box, wait_until
from sensor_msgs.msg import CameraInfo

from mlkd_ros.msg import TargetBearing
from mlkd_ros.node.messages import nanoseconds

K = [300.0, 0.0, 159.5, 0.0, 300.0, 119.5, 0.0, 0.0, 1.0]
D = [-0.2, 0.05, 0.001, -0.001, 0.0]


def calibrate(ground: InputGround, about: str, topic: str = "camera_info", **fields: Any) -> None:
    """Publish a calibration, as cameras do again and again, until the node has it."""
    calibrations = ground.publisher(CameraInfo, topic)

    def told(status: DiagnosticStatus) -> bool:
        calibrations.publish(camera_info(**fields))
        return about in values(status)["calibration"]

    calibrations.publish(camera_info(**fields))
    ground.judged(": bearing", told)


def camera_info(**fields: Any) -> CameraInfo:
    known = {"width": 320, "height": 240, "distortion_model": "plumb_bob", "d": D, "k": K}
    return CameraInfo(**{**known, **fields})


@pytest.fixture(scope="module")
def tracker() -> Iterator[tuple[TrackerProcess, InputGround]]:
    with running("bearings") as started:
        yield started


@pytest.fixture(scope="module")
def bearings(tracker: tuple[TrackerProcess, InputGround]) -> list[TargetBearing]:
    return tracker[1].subscribe(TargetBearing, "bearing")


def test_without_a_calibration_it_says_so_once(
    tracker: tuple[TrackerProcess, InputGround], bearings: list[TargetBearing], scene: Scene
) -> None:
    process, ground = tracker
    ground.follow(scene)
    words = "no bearings by /bearings/camera_info: no sensor_msgs/CameraInfo has been received"
    assert words not in process.log  # It may follow the first image.

    def warned() -> bool:
        ground.show(image_of(scene.image(0), ground.now()))
        return words in process.log

    wait_until(warned, 60, "a warning")
    # One, however many images: found by showing some after it was given.
    for _ in range(3):
        ground.show(image_of(scene.image(0), ground.now()))
    status = ground.judged(": bearing", lambda status: status.level == DiagnosticStatus.WARN)
    assert status.message.startswith(words)
    assert values(status)["calibration"] == "none"
    assert process.log.count(words) == 1
    assert bearings == []


def test_the_ray_through_the_box(
    tracker: tuple[TrackerProcess, InputGround], bearings: list[TargetBearing], scene: Scene
) -> None:
    _, ground = tracker
    target = ground.follow(scene)
    calibrate(ground, "plumb_bob")
    bearings.clear()
    stamp = ground.now()
    detections = ground.show(image_of(scene.image(3), stamp))
    wait_until(lambda: bool(bearings), 60, "a bearing")
    bearing = bearings[0]
    assert nanoseconds(bearing.header.stamp) == stamp
    assert bearing.header.frame_id == "camera_optical"
    assert bearing.target_id == target
    direction = [getattr(bearing.direction, axis) for axis in "xyz"]
    assert np.linalg.norm(direction) == pytest.approx(1.0)
    k = np.array(K).reshape(3, 3)
    back = cv2.projectPoints(np.array([[direction]]), np.zeros(3), np.zeros(3), k, np.array(D))[0]
    x, y, w, h = only_box(detections)
    np.testing.assert_allclose(back.ravel() + 0.5, (x + w / 2, y + h / 2), atol=1e-3)
    assert bearing.azimuth == pytest.approx(math.atan2(direction[0], direction[2]))
    assert bearing.elevation_down == pytest.approx(math.atan2(direction[1], direction[2]))
    assert bearing.angular_width == pytest.approx(w / 300, rel=0.2)
    assert bearing.angular_height == pytest.approx(h / 300, rel=0.2)
    assert bearing.confidence == pytest.approx(
        detections.detections[0].results[0].hypothesis.score, abs=1e-6
    )
    assert np.linalg.eigvalsh(np.array(bearing.covariance).reshape(2, 2)).min() > 0
    assert ground.judged(": bearing", lambda s: s.level == DiagnosticStatus.OK)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": [0.0] * 9}, "the camera is not calibrated: K has focal lengths 0"),
        ({"distortion_model": "odd"}, "distortion model 'odd' is not supported"),
        ({"width": 640}, "images of 320x240 are not of the calibrated camera"),
    ],
)
def test_an_unusable_calibration_is_named_and_the_next_one_counts(
    tracker: tuple[TrackerProcess, InputGround],
    bearings: list[TargetBearing],
    scene: Scene,
    change: dict[str, Any],
    words: str,
) -> None:
    process, ground = tracker
    ground.follow(scene)
    calibrations = ground.publisher(CameraInfo, "camera_info")

    def shown(calibration: CameraInfo) -> bool:
        calibrations.publish(calibration)
        ground.show(image_of(scene.image(0), ground.now()))
        return True

    wait_until(lambda: shown(camera_info(**change)) and words in process.log, 20, words)
    bearings.clear()
    ground.show(image_of(scene.image(0), ground.now()))
    ground.judged(": bearing", lambda status: words in status.message)
    assert bearings == []
    wait_until(lambda: shown(camera_info()) and bool(bearings), 60, "a bearing")


def test_a_lost_target_has_no_bearing(
    tracker: tuple[TrackerProcess, InputGround], bearings: list[TargetBearing], scene: Scene
) -> None:
    _, ground = tracker
    ground.follow(scene)
    calibrate(ground, "plumb_bob")
    nothing = np.full((240, 320, 3), 60, np.uint8)
    for _ in range(120):
        if not ground.show(image_of(nothing, ground.now() + 50_000_000)).detections:
            break
        ground.last_stamp += 50_000_000
    bearings.clear()
    stamp = ground.now()
    assert ground.show(image_of(nothing, stamp)).detections == []
    ground.status_of(stamp)
    assert bearings == []


def test_another_topic_and_rectified_images(scene: Scene) -> None:
    p = [320.0, 0.0, 160.0, 0.0, 0.0, 320.0, 120.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    eye = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    with running("rectified", camera_info_topic="lens/info", image_rectified=True) as (_, ground):
        bearings = ground.subscribe(TargetBearing, "bearing")
        ground.follow(scene)
        calibrate(ground, "320x240", topic="lens/info", p=p, r=eye)
        detections = ground.show(image_of(scene.image(1), ground.now()))
        wait_until(lambda: bool(bearings), 60, "a bearing")
        x, _, w, _ = only_box(detections)
        expected = math.atan2(x + w / 2 - 0.5 - 160.0, 320.0)
        assert bearings[-1].azimuth == pytest.approx(expected, abs=1e-6)
