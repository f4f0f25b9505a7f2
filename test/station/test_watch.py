# SPDX-License-Identifier: Apache-2.0
"""Who is there, as the ground station finds out; and how the camera's values become pictures."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image
from station_support import CAMERA, SIZE, TRACKER, Observer, Wire, address_of, wait_for

from mlkd_ros.node.messages import nanoseconds

#: Seconds that DDS takes to miss who was killed, less a little.
FALL_BACK = 20.0


async def conflict(wire: Wire, is_one: bool) -> dict[str, Any]:
    """The first word of the link that tells of a conflict, or the first that tells of none."""
    while bool((link := await wire.receive("link"))["conflict"]) != is_one:
        pass
    return link


def visit(address: str, act: Callable[[Wire], Any]) -> None:
    """Act with a page's connection to the station."""

    async def run() -> None:
        async with aiohttp.ClientSession() as http:
            await act(await Wire.open(http, address))

    asyncio.run(run())


def test_two_cameras_on_one_topic_are_named_at_once(start_node: Callable) -> None:
    start_node("night_camera", "--ros-args", *CAMERA)
    address = address_of(start_node("ground_station", "--port", "0"))

    async def act(wire: Wire) -> None:
        await wire.picture()
        assert (await wire.receive("link"))["conflict"] == ""
        second = start_node("night_camera", "--ros-args", *CAMERA, "-r", "__node:=other_camera")
        while (await wire.receive("link"))["publishers"] < 2:
            pass
        known = time.monotonic()
        told = (await conflict(wire, True))["conflict"]
        assert time.monotonic() - known < FALL_BACK
        assert told.startswith("2 cameras publish on /mlkd/image: ")
        assert "/mlkd/night_camera" in told and "/mlkd/other_camera" in told
        # Killed, it is in the graph until DDS misses it; but it sends nothing.
        second.process.send_signal(signal.SIGKILL)
        link = await conflict(wire, False)
        assert link["publishers"] == 2
        # One that is killed and started again was never two.
        start_node("night_camera", "--ros-args", *CAMERA, "-r", "__node:=third_camera")
        assert "/mlkd/third_camera" in (await conflict(wire, True))["conflict"]

    visit(address, act)


def test_a_camera_that_is_started_again_is_one(start_node: Callable) -> None:
    camera = start_node("night_camera", "--ros-args", *CAMERA)
    address = address_of(start_node("ground_station", "--port", "0"))

    async def act(wire: Wire) -> None:
        header, _ = await wire.picture()
        await wire.acknowledge(header)
        camera.process.send_signal(signal.SIGKILL)
        camera.process.wait()
        start_node("night_camera", "--ros-args", *CAMERA)
        while (await wire.receive("link"))["publishers"] < 2:
            pass
        before = time.time_ns()
        for _ in range(12):  # three seconds of news, and pictures of the new one among them
            assert (await wire.receive("link"))["conflict"] == ""
        while int(header["stamp"]) < before:
            header, _ = await wire.picture()
            await wire.acknowledge(header)

    visit(address, act)


def test_two_trackers_of_one_name_are_named_and_both_get_a_mark(
    start_node: Callable, observer: Observer
) -> None:
    for _ in range(2):
        start_node("tracker", "--ros-args", *TRACKER)
    address = address_of(start_node("ground_station", "--port", "0"))

    async def act(wire: Wire) -> None:
        # There are no images yet.
        told = (await conflict(wire, True))["conflict"]
        assert told.startswith("Two trackers answer in /mlkd: /mlkd/tracker 2 times.")
        start_node("night_camera", "--ros-args", *CAMERA)
        header, _ = await wire.picture()
        while spoken_of(observer)[int(header["stamp"])] < 2:
            await wire.acknowledge(header)
            header, _ = await wire.picture()
        await wire.send(
            type="init",
            request=1,
            stamp=header["stamp"],
            box=[300.0, 150.0, 60.0, 40.0],
            image_size=list(SIZE),
            target_id="car",
        )
        reply = await wire.receive("reply")
        assert reply["code"] == "SUCCESS", reply
        await wait_for(lambda: 2 in spoken_of(observer, "car").values(), "two who follow")
        assert (await conflict(wire, True))["conflict"] == told

    visit(address, act)


def test_a_station_that_was_held_up_hears_one_tracker(
    start_node: Callable, observer: Observer
) -> None:
    """What one has said in seven seconds is heard at once: it is still one."""
    start_node("night_camera", "--ros-args", *CAMERA)
    start_node("tracker", "--ros-args", *TRACKER)
    observer.meet("night_camera", "tracker")
    station = start_node("ground_station", "--port", "0")
    address = address_of(station)
    told: list[int] = []
    observer.node.create_subscription(
        DiagnosticArray,
        "/diagnostics",
        lambda message: told.extend(1 for s in message.status if s.name.endswith(": images")),
        20,
    )

    async def act(wire: Wire) -> None:
        while (await wire.receive("link"))["tracker"] != "live":
            pass
        before = len(told)
        station.process.send_signal(signal.SIGSTOP)
        try:
            await wait_for(lambda: len(told) >= before + 7, "seven words of the tracker")
        finally:
            station.process.send_signal(signal.SIGCONT)
        resumed = time.monotonic()
        while time.monotonic() < resumed + 4.0:
            assert (await wire.receive("link"))["conflict"] == ""

    visit(address, act)


def spoken_of(observer: Observer, target_id: str = "") -> Counter[int]:
    """How many statuses there are of a target, or that there is none, by stamp."""
    return Counter(
        nanoseconds(s.header.stamp) for s in list(observer.statuses) if s.target_id == target_id
    )


def test_pictures_are_as_the_camera_settings_say(start_node: Callable, observer: Observer) -> None:
    """16-bit values between the levels that the tracker has; without any, between those in view."""
    values = np.linspace(1000, 3000, SIZE[0]).astype(np.uint16)
    values = np.tile(values, (SIZE[1], 1))
    publisher = observer.node.create_publisher(Image, "image", 1)
    message = Image(
        height=SIZE[1], width=SIZE[0], encoding="mono16", step=2 * SIZE[0], data=values.tobytes()
    )

    def publish() -> None:
        message.header.stamp = observer.node.get_clock().now().to_msg()
        publisher.publish(message)

    observer.node.create_timer(0.1, publish)
    address = address_of(start_node("ground_station", "--port", "0", "--video", "jpeg"))

    async def spread(wire: Wire) -> tuple[float, float]:
        """Brightness at the left and at the right edge of the next picture."""
        header, data = await wire.picture()
        await wire.acknowledge(header)
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        return float(grey[:, :8].mean()), float(grey[:, -8:].mean())

    async def act(wire: Wire) -> None:
        dark, bright = await spread(wire)
        assert dark < 20 and bright > 235
        levels = ("-p", "mono16_black:=0", "-p", "mono16_white:=4000")
        start_node("tracker", "--ros-args", *TRACKER, *levels)
        while not (55 < dark < 75 and 180 < bright < 200):  # 1000 and 3000 of 4000
            dark, bright = await spread(wire)

    visit(address, act)
