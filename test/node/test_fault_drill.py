# SPDX-License-Identifier: Apache-2.0
"""What cameras do in flight: they stop and come back, and change the size and kind of their images.

Of a real tracker over DDS. Elsewhere: a tracker that is killed (test_resume), a GPU that fails
(test_fallback), clocks (test_sim_time), QoS (test_tracker_node), wild input (test_random_input).
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from input_support import InputGround, overlap, running, values
from node_support import Scene, TrackerProcess, destroy, image_of, only_box, wait_until
from sensor_msgs.msg import Image

from mlkd_ros.msg import TrackStatus
from mlkd_ros.session.targets import Code
from mlkd_ros.tracking.geometry import iou

Box = tuple[float, float, float, float]
PRESENT = (TrackStatus.TRACKING, TrackStatus.UNCERTAIN)


@pytest.fixture(scope="module")
def running_tracker() -> Iterator[tuple[TrackerProcess, InputGround]]:
    with running("drill", silence_timeout=1.0) as started:
        yield started


@pytest.fixture
def drill(running_tracker: tuple[TrackerProcess, InputGround]) -> Iterator[InputGround]:
    _, ground = running_tracker
    yield ground
    ground.stop()


@pytest.fixture
def tracker(running_tracker: tuple[TrackerProcess, InputGround]) -> TrackerProcess:
    return running_tracker[0]


def shown(ground: InputGround, image: np.ndarray, encoding: str = "bgr8") -> TrackStatus:
    """Show one image; the status of the one target on it. Where it has a box, it is the
    detection's; that a target is in doubt or lost and has none is said by its state.
    """
    stamp = ground.now()
    detections = ground.show(image_of(image, stamp, encoding))
    status = ground.status_of(stamp)
    if detections.detections:
        assert status.state in PRESENT
        assert np.allclose(only_box(detections), box_of(status))
    else:
        assert status.state != TrackStatus.TRACKING and not any(box_of(status))
    return status


def box_of(status: TrackStatus) -> Box:
    return status.x, status.y, status.width, status.height


# --- the camera stops and comes back -------------------------------------------------------------


def test_the_camera_stops_and_comes_back_with_the_target_elsewhere(
    drill: InputGround, tracker: TrackerProcess, scene: Scene
) -> None:
    before, after = 78, 235  # as far to the right and to the left as it goes
    target_id = drill.follow(scene, before)
    for _ in range(5):
        assert (
            overlap(drill.show(image_of(scene.image(before), drill.now())), scene.box(before)) > 0.6
        )
    told = tracker.log.count("on /drill/image: nobody publishes it")
    destroy(drill.node, drill.images)

    images = drill.judged(": images", lambda status: status.level == DiagnosticStatus.ERROR)
    wait_until(
        lambda: tracker.log.count("on /drill/image: nobody publishes it") == told + 1, 20, "the log"
    )
    assert "no image for" in images.message and "/drill/image" in images.message
    # What it saw last is no news any more.
    tracking = drill.judged(": tracking", lambda status: "no images" in status.message)
    assert tracking.level == DiagnosticStatus.WARN
    assert f"target {target_id} was TRACKING" in tracking.message
    assert drill.judged(": image health", lambda status: True).level == DiagnosticStatus.STALE

    drill.images = drill.node.create_publisher(Image, "image", 10)
    drill.connect()
    seen: list[TrackStatus] = []

    def found_again() -> bool:
        seen.append(shown(drill, scene.image(after)))
        return seen[-1].state == TrackStatus.TRACKING

    wait_until(found_again, 60, lambda: f"TRACKING; {[status.state for status in seen]}")
    assert {status.target_id for status in seen} == {target_id}
    # On the way there was no box where the target had been.
    for status in seen:
        assert not any(box_of(status)) or iou(box_of(status), scene.box(after)) > 0.4
    wait_until(lambda: "images on /drill/image again" in tracker.log, 60, "the end of the silence")


# --- another size, another encoding ---------------------------------------------------------------


def sized(scene: Scene, index: int, width: int, height: int) -> tuple[np.ndarray, Box]:
    """The scene as a camera of that resolution would show it by night, in grey BGR, and where the
    target is.
    """
    grey = cv2.cvtColor(scene.image(index), cv2.COLOR_BGR2GRAY)
    image = cv2.resize(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), (width, height))
    sx, sy = width / scene.width, height / scene.height
    x, y, w, h = scene.box(index)
    return image, (x * sx, y * sy, w * sx, h * sy)


LARGE, SMALL = (1280, 720), (640, 360)


def test_the_box_is_in_pixels_of_each_image(drill: InputGround, scene: Scene) -> None:
    image, box = sized(scene, 0, *LARGE)
    shown(drill, image)
    response = drill.designate(box)
    assert response.code == Code.SUCCESS, response.message
    kinds = [(LARGE, "bgr8"), (SMALL, "mono8"), (LARGE, "bgr8"), (SMALL, "nv12"), (LARGE, "mono8")]
    index = 0
    for size, encoding in kinds:
        for _ in range(4):
            index += 1
            image, box = sized(scene, index, *size)
            status = shown(drill, image, encoding)
            assert (status.image_width, status.image_height) == size
            assert status.target_id == response.target_id
            assert iou(box_of(status), box) > 0.5, (index, size, encoding)


def test_a_target_out_of_sight_is_found_in_another_resolution(
    drill: InputGround, scene: Scene
) -> None:
    image, box = sized(scene, 0, *LARGE)
    shown(drill, image)
    target_id = drill.designate(box).target_id
    empty = np.full((LARGE[1], LARGE[0], 3), 60, np.uint8)
    wait_until(lambda: shown(drill, empty).state == TrackStatus.LOST, 60, "LOST")
    image, box = sized(scene, 0, *SMALL)
    seen: list[TrackStatus] = []

    def found_again() -> bool:
        seen.append(shown(drill, image, "mono8"))
        return seen[-1].state == TrackStatus.TRACKING

    wait_until(found_again, 60, lambda: f"TRACKING; {[status.state for status in seen]}")
    assert seen[-1].target_id == target_id
    assert iou(box_of(seen[-1]), box) > 0.4


def test_a_box_drawn_before_the_change_is_followed_across_it(
    drill: InputGround, scene: Scene
) -> None:
    stamps = []
    for index in range(20):
        image, _ = sized(scene, index, *(LARGE if index < 10 else SMALL))
        stamps.append(drill.now())
        drill.show(image_of(image, stamps[-1]))
    _, drawn = sized(scene, 3, *LARGE)
    response = drill.designate(drawn, stamps[3])
    assert response.code == Code.SUCCESS, response.message
    _, box = sized(scene, 19, *SMALL)
    assert (response.status.image_width, response.status.image_height) == SMALL
    assert iou(box_of(response.status), box) > 0.5


def turned_left(image: np.ndarray, box: Box) -> tuple[np.ndarray, Box]:
    """What a camera that is turned by 90 degrees shows."""
    x, y, w, h = box
    return np.ascontiguousarray(np.rot90(image)), (y, image.shape[1] - x - w, h, w)


def test_images_of_another_shape_ask_for_a_new_designation(
    drill: InputGround, tracker: TrackerProcess, scene: Scene
) -> None:
    """Turned by 90 degrees, or cut: nothing says where in them the target would be."""
    image, box = sized(scene, 0, *SMALL)
    drill.show(image_of(image, drill.now()))
    target_id = drill.designate(box).target_id
    upright, turned = turned_left(*sized(scene, 1, *SMALL))
    stamp = drill.now()
    drill.images.publish(image_of(upright, stamp))
    words = "a 360x640 image cannot show the scene of the 640x360 images before"
    images = drill.judged(": images", lambda status: words in status.message)
    assert images.level == DiagnosticStatus.ERROR
    assert "designate the target anew" in images.message and words in tracker.log
    tracking = values(drill.judged(": tracking", lambda status: True))
    assert int(tracking["dropped: unusable"]) >= 1
    assert stamp not in drill.detections  # no box, in whatever scale

    response = drill.designate(turned, target_id=target_id)
    assert response.code == Code.SUCCESS, response.message
    assert response.target_id == target_id
    assert iou(box_of(shown(drill, upright)), turned) > 0.6


def test_a_box_drawn_before_a_change_of_shape_is_refused(drill: InputGround, scene: Scene) -> None:
    image, box = sized(scene, 0, *SMALL)
    stamp = drill.now()
    drill.show(image_of(image, stamp))
    drill.show(image_of(turned_left(image, box)[0], drill.now()))
    response = drill.designate(box, stamp)
    assert response.code == Code.UNUSABLE_IMAGE
    assert "designate the target anew" in response.message
