# SPDX-License-Identifier: Apache-2.0
"""What the node's diagnostics say about the images themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from input_support import InputGround, running, values
from node_support import TrackerProcess, image_of

from mlkd_ros.data.night_flight import NightFlight


@pytest.fixture(scope="module")
def tracker() -> Iterator[tuple[TrackerProcess, InputGround]]:
    with running("healthy", health_rate=20.0) as started:
        yield started


@pytest.fixture(scope="module")
def night() -> np.ndarray:
    return NightFlight("crossing", seed=2, size=(640, 360)).render(60).image


def judged(
    ground: InputGround, image: np.ndarray, condition: Callable[[DiagnosticStatus], bool]
) -> DiagnosticStatus:
    """What is said while a camera shows an image again and again."""
    over = threading.Event()

    def camera() -> None:
        while not over.wait(0.05):
            ground.images.publish(image_of(image, ground.now()))

    thread = threading.Thread(target=camera)
    thread.start()
    try:
        return ground.judged(": image health", condition)
    finally:
        over.set()
        thread.join()


def test_good_images(tracker: tuple[TrackerProcess, InputGround], night: np.ndarray) -> None:
    status = judged(tracker[1], night, lambda status: status.level == DiagnosticStatus.OK)
    assert status.message == "good"
    assert 10 < float(values(status)["luminance mean"]) < 80


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda image: image // 8, "too dark"),
        (lambda image: image * 0, "the image is black"),
        (lambda image: cv2.blur(image, (25, 25)), "blurred"),
        (lambda image: np.maximum(image, np.uint8(255) * (np.arange(640) < 200)[:, None]),
         "% of the image is saturated"),
    ],
)  # fmt: skip
def test_bad_images_and_what_to_do(
    tracker: tuple[TrackerProcess, InputGround],
    night: np.ndarray,
    spoil: Callable[[np.ndarray], np.ndarray],
    words: str,
) -> None:
    image = np.ascontiguousarray(spoil(night).astype(np.uint8))
    status = judged(tracker[1], image, lambda status: words in status.message)
    assert status.level == DiagnosticStatus.WARN


def test_it_can_be_switched_off(
    tracker: tuple[TrackerProcess, InputGround], night: np.ndarray
) -> None:
    _, ground = tracker
    judged(ground, night, lambda status: status.message == "good")
    assert ground.set_parameter("health_rate", 0.0).successful
    status = judged(ground, night * 0, lambda status: True)
    assert status.message == "good"  # the last one that was judged
    assert ground.set_parameter("health_rate", 20.0).successful
    judged(ground, night * 0, lambda status: "black" in status.message)
