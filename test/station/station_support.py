# SPDX-License-Identifier: Apache-2.0
"""What the tests of the operator's side share: an eye on camera and tracker, commands, pages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from ros_support import introduce
from vision_msgs.msg import Detection2DArray

from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import box_from_message, nanoseconds
from mlkd_ros.share import share_directory
from mlkd_ros.tracking.geometry import iou

Box = tuple[float, float, float, float]

#: A light camera, and a tracker that forgives a slow machine: its history is longer than usual.
SIZE = (640, 360)
CAMERA = ("-p", f"width:={SIZE[0]}", "-p", f"height:={SIZE[1]}", "-p", "rate:=8.0")
TRACKER = ("-p", "history_duration:=60.0", "-p", "catch_up_duration:=2.0")


class Observer:
    """Hears the camera's ground truth and the tracker's statuses over DDS, by stamp."""

    def __init__(self, namespace: str = "mlkd") -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("observer", namespace=namespace, context=self.context)
        self.truth: dict[int, Box] = {}
        self.statuses: list[TrackStatus] = []
        self._heard = {
            "night_camera": self.node.create_subscription(
                Detection2DArray, "ground_truth", self._on_truth, 100
            ),
            "tracker": self.node.create_subscription(
                TrackStatus, "status", self.statuses.append, 100
            ),
        }
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def meet(self, *others: str) -> None:
        """Wait until these and this know each other: from then on it hears all that they say."""
        for other in others:
            heard = self._heard[other]
            wait_until(lambda one=heard: one.get_publisher_count() > 0, heard.topic_name)
            introduce(self.node, other)

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_truth(self, message: Detection2DArray) -> None:
        self.truth[nanoseconds(message.header.stamp)] = box_from_message(message.detections[0].bbox)

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()
        self.context.try_shutdown()

    def overlap(self, status: TrackStatus) -> float:
        """IoU of a status's box with the ground truth of its image."""
        truth = self.truth.get(nanoseconds(status.header.stamp))
        box = (status.x, status.y, status.width, status.height)
        return iou(box, truth) if truth and status.width > 0 else 0.0

    def since(self, stamp: int) -> list[TrackStatus]:
        """The statuses of images after that stamp."""
        return [s for s in list(self.statuses) if nanoseconds(s.header.stamp) > stamp]

    def spoken_of_by(self, stamp: int) -> bool:
        """Whether the tracker has spoken of an image of that stamp or one before."""
        return any(nanoseconds(s.header.stamp) <= stamp for s in list(self.statuses))

    def newest(self) -> int:
        """The stamp of the newest image that the tracker has spoken of and truth is known of."""
        stamps = {nanoseconds(s.header.stamp) for s in list(self.statuses)} & set(self.truth)
        return max(stamps, default=0)


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
    """Poll, because what is waited for happens in another process."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {timeout} s for {what}"
        time.sleep(0.02)
    return value


async def wait_for(condition: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
    """The same in an event loop."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {timeout} s for {what}"
        await asyncio.sleep(0.02)
    return value


def mlkd(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command `mlkd` as a user does."""
    executable = share_directory().parents[1] / "lib" / "mlkd_ros" / "mlkd"
    command = [str(executable), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def address_of(station: Any) -> str:
    """The address that a ground station has printed."""
    station.wait_for_output("ground station: http", 60)
    match = re.search(r"ground station: (http://\S+)", station.output)
    assert match, station.output
    return match[1]


class Wire:
    """A WebSocket to a ground station, as the page has it, without the page."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    @classmethod
    async def open(
        cls, http: aiohttp.ClientSession, address: str, tab: str = "", **headers: str
    ) -> Wire:
        headers.setdefault("Origin", address.rstrip("/"))
        url = f"{address}socket" + (f"?tab={tab}" if tab else "")
        return cls(await http.ws_connect(url, headers=headers, max_msg_size=0))

    async def send(self, **message: Any) -> None:
        await self.socket.send_str(json.dumps(message))

    async def receive(self, kind: str, timeout: float = 60.0) -> dict[str, Any]:
        """The next text of that type; others are passed over, and pictures acknowledged."""
        end = time.monotonic() + timeout
        while True:
            message = await self.socket.receive(max(end - time.monotonic(), 0.01))
            assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
            if message.type == aiohttp.WSMsgType.BINARY:
                await self.acknowledge(_header(message.data)[0])
            elif (content := json.loads(message.data))["type"] == kind:
                return content

    async def picture(self, timeout: float = 60.0) -> tuple[dict[str, Any], bytes]:
        """The next picture: its header and the coded picture. Not acknowledged."""
        end = time.monotonic() + timeout
        while True:
            message = await self.socket.receive(max(end - time.monotonic(), 0.01))
            assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
            if message.type == aiohttp.WSMsgType.BINARY:
                return _header(message.data)

    async def acknowledge(self, header: dict[str, Any]) -> None:
        """As the page does when a picture is on its screen."""
        await self.send(type="ack", number=header["number"], stamp=header["stamp"])


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack(">I", data[:4])
    return json.loads(data[4 : 4 + length]), data[4 + length :]
