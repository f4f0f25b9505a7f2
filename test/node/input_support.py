# SPDX-License-Identifier: Apache-2.0
"""A ground station with a camera of any kind, and a look into the diagnostics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from node_support import (
    GroundStation,
    Scene,
    TrackerProcess,
    destroy,
    image_of,
    only_box,
    wait_until,
)
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from mlkd_ros.imaging.messages import TRANSPORTS, VIDEO_TRANSPORTS
from mlkd_ros.node.graph import message_class
from mlkd_ros.node.messages import time_message
from mlkd_ros.tracking.geometry import iou


class InputGround(GroundStation):
    """Publishes and collects messages of any kind beside the images."""

    def compress(self, image_topic: str = "image") -> None:
        """Have a camera that compresses."""
        self.send(CompressedImage, f"{image_topic}/compressed")

    def send(self, kind: type, topic: str) -> None:
        """Have a camera that sends such messages."""
        destroy(self.node, self.images)
        self.images = self.node.create_publisher(kind, topic, 60)

    def publisher(self, kind: type, name: str, depth: int = 10) -> Any:
        """A publisher that the tracker has found."""
        publisher = self.node.create_publisher(kind, name, depth)
        wait_until(lambda: publisher.get_subscription_count() > 0, 60, f"a subscription to {name}")
        self.introduce()
        return publisher

    def judged(self, about: str, condition: Callable[[DiagnosticStatus], bool]) -> DiagnosticStatus:
        """The first diagnostics about a part of the node, from now on, that fulfil a condition."""
        self.diagnostics.clear()
        name = f"{self.node.get_namespace()}/tracker{about}"  # others report there, too

        def found() -> list[DiagnosticStatus]:
            statuses = [s for message in list(self.diagnostics) for s in message.status]
            return [s for s in statuses if s.name == name and condition(s)]

        wait_until(
            lambda: bool(found()),
            60,
            lambda: f"diagnostics about {about}: {[m.status for m in self.diagnostics][-1:]}",
        )
        return found()[0]

    def follow(self, scene: Scene, index: int = 0) -> str:
        """Show an image and get the target on it followed; its id."""
        self.show(image_of(scene.image(index), self.now()))
        response = self.designate(scene.box(index))
        assert response.code == response.SUCCESS, response.message
        return response.target_id


def values(status: DiagnosticStatus) -> dict[str, str]:
    return {item.key: item.value for item in status.values}


@contextlib.contextmanager
def running(namespace: str, **parameters: object) -> Iterator[tuple[TrackerProcess, InputGround]]:
    """A tracker in a namespace of its own and a ground station that it is connected to."""
    process = TrackerProcess(namespace, reliability="reliable", device="cpu", **parameters)
    ground = InputGround(namespace)
    try:
        process.wait_for_log("ready:", 60)
        transport = str(parameters.get("image_transport", "raw"))
        if transport == "compressed":
            ground.compress()
        elif transport in VIDEO_TRANSPORTS:
            ground.send(message_class(TRANSPORTS[transport]), f"image/{transport}")
        ground.connect()
        yield process, ground
        assert process.end() == 0, process.log
        assert "Traceback" not in process.log
    finally:
        ground.close()
        if process.process.poll() is None:
            process.end()


def compressed_of(
    bgr: np.ndarray, stamp: int, kind: str = "jpeg", name: str = "", quality: int = 90
) -> CompressedImage:
    """A BGR image as the message of a camera that compresses."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    data = cv2.imencode(".jpg" if kind == "jpeg" else ".png", bgr, options)[1]
    header = Header(stamp=time_message(stamp), frame_id="camera_optical")
    return CompressedImage(
        header=header, format=name or f"bgr8; {kind} compressed bgr8", data=data.tobytes()
    )


def overlap(message: Any, box: tuple[float, float, float, float]) -> float:
    """IoU of the one detection with a box."""
    return float(iou(only_box(message), box))
