# SPDX-License-Identifier: Apache-2.0
"""A gimbal manager's client against a manager made of pymavlink, over loopback."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("pymavlink")

from mavlink_support import (  # noqa: E402
    CAMERA,
    VEHICLE,
    ScriptedTracker,
    autopilot,
    free_port,
    mavlink,
)

from mlkd_ros.mavlink.component import CameraSettings  # noqa: E402
from mlkd_ros.mavlink.connections import parse_endpoint  # noqa: E402
from mlkd_ros.mavlink.link import LinkThread  # noqa: E402

CONFIGURE = mavlink.MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE


class Manager:
    """An autopilot with a gimbal manager: who is in control, and what it was told."""

    def __init__(self, port: int) -> None:
        self.control = (0, 0)
        self.rates: list[Any] = []
        self.configured: list[tuple[int, int]] = []
        self._other = autopilot(f"udpout:127.0.0.1:{port}")
        self._running = True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        beat = 0.0
        while self._running:
            if time.monotonic() > beat:
                beat = time.monotonic() + 0.2
                self._other.heartbeat()
            self._other.pump()
            for message in self._other.heard:
                self._take(message)
            self._other.heard.clear()
            time.sleep(0.002)

    def _take(self, message: Any) -> None:
        mav = self._other.link.mav
        if message.get_type() == "GIMBAL_MANAGER_SET_PITCHYAW":
            self.rates.append(message)
        if message.get_type() != "COMMAND_LONG":
            return
        if message.command == CONFIGURE:
            asked = (int(message.param1), int(message.param2))
            self.configured.append(asked)
            if asked == (-3, -3):
                self.control = (0, 0)
            elif self.control == (0, 0):
                self.control = asked
            mav.command_ack_send(CONFIGURE, 0, 0, 0, VEHICLE, CAMERA)
        elif message.command == mavlink.MAV_CMD_REQUEST_MESSAGE and message.param1 == 280:
            mav.gimbal_manager_information_send(0, 0, 1, 0, 0, 0, 0, 0, 0)
        elif message.command == mavlink.MAV_CMD_REQUEST_MESSAGE and message.param1 == 281:
            self.say()

    def say(self) -> None:
        self._other.link.mav.gimbal_manager_status_send(0, 0, 1, *self.control, 0, 0)

    def close(self) -> None:
        self._running = False
        self._thread.join()
        self._other.close()


@pytest.fixture
def scene() -> Iterator[tuple[LinkThread, Manager]]:
    port = free_port()
    link = LinkThread(
        [parse_endpoint(f"udpin:127.0.0.1:{port}")], CameraSettings(), 0, ScriptedTracker(), print
    )
    link.drive_gimbal()
    link.start()
    manager = Manager(port)
    yield link, manager
    manager.close()
    link.stop()


def follow(link: LinkThread, seconds: float, until: Any = lambda: False) -> None:
    end = time.monotonic() + seconds
    gimbal = link.gimbal
    assert gimbal is not None
    while time.monotonic() < end and not until():
        link.call(lambda: gimbal.rate(0.2, -0.1, time.monotonic()))
        time.sleep(0.03)


def test_control_is_taken_used_and_given_back(scene: tuple[LinkThread, Manager]) -> None:
    link, manager = scene
    follow(link, 20.0, lambda: len(manager.rates) > 5)
    assert manager.configured[0] == (VEHICLE, CAMERA)
    sent = manager.rates[-1]
    assert (sent.yaw_rate, sent.pitch_rate) == pytest.approx((0.2, -0.1))
    assert math.isnan(sent.yaw) and math.isnan(sent.pitch)
    assert sent.flags == 4 | 8 | 16  # the horizon is kept, yaw is against north
    end = time.monotonic() + 10.0
    while manager.configured[-1] != (-3, -3) and time.monotonic() < end:
        time.sleep(0.02)
    assert manager.configured[-1] == (-3, -3)
    assert (manager.rates[-1].yaw_rate, manager.rates[-1].pitch_rate) == (0.0, 0.0)


def test_an_operator_who_takes_the_gimbal_keeps_it(scene: tuple[LinkThread, Manager]) -> None:
    link, manager = scene
    follow(link, 20.0, lambda: len(manager.rates) > 5)
    manager.control = (255, 190)
    manager.say()
    gimbal = link.gimbal
    assert gimbal is not None
    follow(link, 10.0, lambda: gimbal.overridden)
    assert gimbal.overridden
    time.sleep(0.1)
    count, asked = len(manager.rates), len(manager.configured)
    follow(link, 1.5)
    assert (len(manager.rates), len(manager.configured)) == (count, asked)
    # The operator lets go and the follower begins anew.
    manager.control = (0, 0)
    manager.say()
    time.sleep(0.8)
    follow(link, 20.0, lambda: len(manager.rates) > count)
    assert len(manager.rates) > count
