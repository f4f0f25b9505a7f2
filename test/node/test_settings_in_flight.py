# SPDX-License-Identifier: Apache-2.0
"""What each parameter does, seen from outside: given at the start, or set while it flies."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from node_support import GroundStation, Scene, TrackerProcess, image_of, wait_until
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from mlkd_ros.msg import TrackStatus
from mlkd_ros.srv import InitTarget

Code = InitTarget.Response
GIVEN = {
    "threads": 2,
    "engine": "onnxruntime",
    "device": "cpu",
    "reliability": "reliable",
    "history_duration": 0.5,
    "history_megabytes": 1,
    "mono16_black": 500,
    "mono16_white": 4095,
    "presence.give_up_after": 25.0,
}


@pytest.fixture(scope="module")
def process() -> Iterator[TrackerProcess]:
    process = TrackerProcess("quebec", **GIVEN)
    yield process
    assert process.end() == 0, process.log


@pytest.fixture(scope="module")
def ground(process: TrackerProcess) -> Iterator[GroundStation]:
    ground = GroundStation("quebec")
    ground.connect(60)
    yield ground
    ground.close()


def set_together(ground: GroundStation, **values: object) -> str:
    """Set several at once; why not, or nothing."""
    parameters = [Parameter(name, value=v).to_parameter_msg() for name, v in values.items()]
    request = SetParametersAtomically.Request(parameters=parameters)
    return ground.ask(SetParametersAtomically, "set_parameters_atomically", request).result.reason


def state_after(ground: GroundStation, image: Image) -> int:
    ground.show(image)
    return ground.status_of(ground.last_stamp).state


def test_values_given_at_the_start(process: TrackerProcess, ground: GroundStation) -> None:
    for name, value in GIVEN.items():
        assert ground.get_parameter(name) == value
    assert "onnxruntime" in process.log and "2 threads" in process.log


def test_thresholds_of_presence(ground: GroundStation, scene: Scene) -> None:
    ground.show(image_of(scene.image(0), ground.now()))
    assert ground.designate(scene.box(0)).code == Code.SUCCESS
    assert state_after(ground, image_of(scene.image(1), ground.now())) == TrackStatus.TRACKING
    calibrated = {
        name: ground.get_parameter(f"presence.{name}")
        for name in ("uncertain_below", "tracking_above", "lost_below")
    }
    # One alone contradicts the others, and nothing changes.
    refused = ground.set_parameter("presence.uncertain_below", 1.0)
    assert not refused.successful
    assert "uncertain_below <= tracking_above" in refused.reason
    strict = {"presence.uncertain_below": 1.0, "presence.tracking_above": 1.0}
    assert set_together(ground, **strict) == ""
    assert state_after(ground, image_of(scene.image(2), ground.now())) == TrackStatus.UNCERTAIN
    assert ground.set_parameter("presence.give_up_after", 0.0).successful
    # What nothing is sure enough for is lost at once, and given up soon after.
    assert ground.set_parameter("presence.reacquire_above", 1.0).successful
    assert ground.set_parameter("presence.lost_below", 1.0).successful
    states = [state_after(ground, image_of(scene.image(3 + i), ground.now())) for i in range(5)]
    assert TrackStatus.LOST in states
    assert states[-1] == TrackStatus.GIVEN_UP
    back = {f"presence.{name}": value for name, value in calibrated.items()}
    assert set_together(ground, **back) == ""
    assert ground.designate(scene.box(5)).code == Code.SUCCESS
    assert state_after(ground, image_of(scene.image(6), ground.now())) == TrackStatus.TRACKING
    descriptor = ground.describe_parameter("presence.lost_below")
    assert "LOST" in descriptor.description and not descriptor.read_only


def hidden_until_lost(ground: GroundStation) -> None:
    """Take the target out of sight until it is LOST; half a second of it an image."""

    def lost() -> bool:
        ground.last_stamp += 500_000_000
        nothing = np.full((240, 320, 3), 60, np.uint8)
        return state_after(ground, image_of(nothing, ground.now())) == TrackStatus.LOST

    wait_until(lost, 60, "LOST")


def test_where_a_lost_target_is_looked_for_and_believed(
    ground: GroundStation, scene: Scene
) -> None:
    names = ("lost_below", "reacquire_above", "give_up_after")
    before = {f"presence.{name}": ground.get_parameter(f"presence.{name}") for name in names}
    right, left = 78, 235  # as far from each other as it goes

    def found(images: int) -> bool:
        """Whether it is TRACKING again after so many images of it on the other side."""
        for _ in range(images):
            shown = image_of(scene.image(right), ground.now())
            if state_after(ground, shown) == TrackStatus.TRACKING:
                return True
        return False

    def lose() -> None:
        """Designate it on the right, follow it to the left, and lose it there."""
        ground.show(image_of(scene.image(right), ground.now()))
        assert ground.designate(scene.box(right)).code == Code.SUCCESS
        for index in range(right, left + 1):
            state = state_after(ground, image_of(scene.image(index), ground.now()))
            assert state == TrackStatus.TRACKING, index
        hidden_until_lost(ground)

    assert ground.set_parameter("presence.give_up_after", 86400.0).successful
    # More evidence is asked for than there ever is.
    assert ground.set_parameter("presence.reacquire_above", 1.0).successful
    lose()
    assert not found(30)
    assert ground.set_parameter("presence.reacquire_above", 0.5).successful
    wait_until(lambda: found(10), 60, "the target on the other side")
    # Never sure of it, and not for long.
    strict = {"presence.uncertain_below": 1.0, "presence.tracking_above": 1.0}
    calibrated = {name: ground.get_parameter(name) for name in strict}
    assert set_together(ground, **strict) == ""

    def states(images: int) -> list[int]:
        return [
            state_after(ground, image_of(scene.image(right), ground.now())) for _ in range(images)
        ]

    assert states(6) == [TrackStatus.UNCERTAIN] * 6
    assert ground.set_parameter("presence.reacquire_above", 1.0).successful
    assert ground.set_parameter("presence.lost_below", 1.0).successful
    assert states(4)[-1] == TrackStatus.LOST
    assert set_together(ground, **calibrated, **before) == ""


def test_rates_and_names(ground: GroundStation, scene: Scene) -> None:
    assert set_together(ground, class_id="boat", overlay_width=64, overlay_rate=240.0) == ""
    assert ground.set_parameter("search_budget", 0.05).successful
    assert ground.set_parameter("catch_up_duration", 2.0).successful
    assert not ground.set_parameter("catch_up_duration", 0.0).successful
    assert ground.get_parameter("catch_up_duration") == 2.0
    pictures = ground.subscribe(Image, "overlay")
    ground.show(image_of(scene.image(0), ground.now()))
    assert ground.designate(scene.box(0)).code == Code.SUCCESS
    said = ground.show(image_of(scene.image(1), ground.now()))
    wait_until(lambda: bool(pictures), 60, "an overlay")
    ground.unsubscribe(pictures)
    assert pictures[0].width == 64
    assert said.detections[0].results[0].hypothesis.class_id == "boat"


def test_the_history_is_as_long_as_was_asked_for(ground: GroundStation, scene: Scene) -> None:
    # 225 kB each: four of them are a megabyte.
    stamps = [ground.now() for _ in range(10)]
    for index, stamp in enumerate(stamps):
        ground.show(image_of(scene.image(index), stamp))
    response = ground.designate(scene.box(0), stamps[0])
    assert response.code == Code.STAMP_OUTSIDE_HISTORY
    assert "the history of 4 images" in response.message
    # And not older than half a second.
    time.sleep(0.7)
    late = ground.now()
    ground.last_stamp = late
    ground.show(image_of(scene.image(9), late))
    response = ground.designate(scene.box(8), stamps[8])
    assert response.code == Code.STAMP_OUTSIDE_HISTORY
    assert "the history of 1 images" in response.message


def test_the_range_of_16_bit_images(ground: GroundStation, scene: Scene) -> None:
    """A camera with 12 bits: over 16 bits it would be black, even where the overlay lifts it."""
    pictures = ground.subscribe(Image, "overlay")
    ground.stop()
    expected = 255 * (3320 - 500) / (4095 - 500)

    def drawn() -> bool:
        message = image_of(np.zeros((240, 320, 3), np.uint8), ground.now())
        message.encoding, message.step = "mono16", 640
        message.data = np.full((240, 320), 3320, "<u2").tobytes()
        ground.show(message)
        # Beside what is written on it.
        greys = [np.median(np.frombuffer(picture.data, np.uint8)) for picture in pictures[-1:]]
        return greys == [pytest.approx(expected, abs=3)]

    wait_until(drawn, 60, f"an overlay with the grey level {expected:.0f}")
    ground.unsubscribe(pictures)


def test_silence(ground: GroundStation, process: TrackerProcess) -> None:
    assert ground.set_parameter("silence_timeout", 0.3).successful
    wait_until(lambda: "no image for" in process.log, 60, "silence")
