# SPDX-License-Identifier: Apache-2.0
"""The other ends of a MAVLink component's links: an autopilot and ground stations, by pymavlink."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

os.environ["MAVLINK20"] = "1"  # before mavutil is imported: it chooses the dialect by it

from pymavlink import mavutil  # noqa: E402
from pymavlink.dialects.v20 import common as mavlink  # noqa: E402

from mlkd_ros.mavlink.component import Done, Outcome, Target  # noqa: E402
from mlkd_ros.tracking import TrackState  # noqa: E402

VEHICLE, CAMERA = 7, mavlink.MAV_COMP_ID_CAMERA
TRACK_POINT = mavlink.MAV_CMD_CAMERA_TRACK_POINT
TRACK_RECTANGLE = mavlink.MAV_CMD_CAMERA_TRACK_RECTANGLE
STOP_TRACKING = mavlink.MAV_CMD_CAMERA_STOP_TRACKING
SET_INTERVAL = mavlink.MAV_CMD_SET_MESSAGE_INTERVAL
REQUEST = mavlink.MAV_CMD_REQUEST_MESSAGE
IMAGE_STATUS = mavlink.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS
GEO_STATUS = mavlink.MAVLINK_MSG_ID_CAMERA_TRACKING_GEO_STATUS
PATIENCE = 20.0


def free_port(kind: int = socket.SOCK_DGRAM) -> int:
    with closing(socket.socket(socket.AF_INET, kind)) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ScriptedTracker:
    """A `TrackerPort` that does as it is told: `outcome` for every request, or never for None."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = Outcome(mavlink.MAV_RESULT_ACCEPTED, "", "1")
        self.requests: list[tuple[Any, ...]] = []
        self.waiting: list[Done] = []

    def track_rectangle(self, x: float, y: float, w: float, h: float, done: Done) -> None:
        self._take(("rectangle", x, y, w, h), done)

    def track_point(self, x: float, y: float, radius: float, done: Done) -> None:
        self._take(("point", x, y, radius), done)

    def stop(self, done: Done) -> None:
        self._take(("stop",), done)

    def _take(self, request: tuple[Any, ...], done: Done) -> None:
        self.requests.append(request)
        if self.outcome is None:
            self.waiting.append(done)
        else:
            done(self.outcome)


def target(state: int = TrackState.TRACKING, stamp: int = 1, name: str = "1") -> Target:
    """A target at (0.25, 0.25), a tenth of the image wide and high."""
    box = (320.0, 180.0, 128.0, 72.0) if state in (1, 2) else (0.0, 0.0, 0.0, 0.0)
    return Target(name if state else "", int(state), *box, 1280, 720, stamp)


class Other:
    """An autopilot or a ground station at the other end of a link."""

    def __init__(
        self, url: str, system: int, component: int, kind: int, autopilot: int, **options: Any
    ) -> None:
        self.link = mavutil.mavlink_connection(
            url, source_system=system, source_component=component, dialect="common", **options
        )
        self._kind, self._autopilot = kind, autopilot
        self.heard: list[Any] = []

    def close(self) -> None:
        self.link.close()

    def heartbeat(self) -> None:
        self.link.mav.heartbeat_send(self._kind, self._autopilot, 0, 0, mavlink.MAV_STATE_ACTIVE)

    def pump(self) -> None:
        """Take in what has come."""
        while (message := self.link.recv_msg()) is not None:
            if message.get_type() != "BAD_DATA":
                self.heard.append(message)

    def wait(
        self, kind: str, fits: Callable[[Any], bool] = lambda m: True, timeout: float = PATIENCE
    ) -> Any:
        """The first message of that type that fits, of those not taken before; it and all before
        it are then taken.
        """
        end, beat = time.monotonic() + timeout, 0.0
        while time.monotonic() < end:
            if time.monotonic() > beat:
                beat = time.monotonic() + 0.5
                self.heartbeat()
            self.pump()
            for index, message in enumerate(self.heard):
                if message.get_type() == kind and fits(message):
                    del self.heard[: index + 1]
                    return message
            time.sleep(0.005)
        raise AssertionError(f"no {kind} in {timeout} s; heard {[str(m) for m in self.heard[-5:]]}")

    def command(
        self, command: int, *parameters: float, component: int = CAMERA, confirmation: int = 0
    ) -> None:
        given = [*parameters, *(0.0,) * (7 - len(parameters))]
        self.link.mav.command_long_send(VEHICLE, component, command, confirmation, *given)

    def result(self, command: int, timeout: float = PATIENCE) -> int:
        """The final acknowledgement of a command."""
        return int(
            self.wait(
                "COMMAND_ACK",
                lambda m: m.command == command and m.result != mavlink.MAV_RESULT_IN_PROGRESS,
                timeout,
            ).result
        )

    def ask(self, command: int, *parameters: float, **options: Any) -> int:
        self.command(command, *parameters, **options)
        return self.result(command)

    def insist(self, command: int, *parameters: float) -> int:
        """Ask again and again, as ground stations do where datagrams get lost."""
        for confirmation in range(10):
            self.command(command, *parameters, confirmation=confirmation)
            with suppress(AssertionError):
                return self.result(command, timeout=1.0)
        raise AssertionError(f"no answer to {command}")


def autopilot(url: str, **options: Any) -> Other:
    return Other(
        url, VEHICLE, 1, mavlink.MAV_TYPE_QUADROTOR, mavlink.MAV_AUTOPILOT_ARDUPILOTMEGA, **options
    )


def ground_station(url: str, system: int = 255, **options: Any) -> Other:
    return Other(url, system, 190, mavlink.MAV_TYPE_GCS, mavlink.MAV_AUTOPILOT_INVALID, **options)


def frames(seed: int, count: int) -> Iterator[bytes]:
    """Bytes as a bad link brings them: noise, cut, spoilt and foreign frames, strange values."""
    import random

    rng = random.Random(seed)
    writer = mavlink.MAVLink(None, srcSystem=255, srcComponent=190)
    commands = (TRACK_POINT, TRACK_RECTANGLE, STOP_TRACKING, SET_INTERVAL, REQUEST, 520, 31000)
    numbers = (0.0, 0.5, 1.0, -1.0, 1e30, float("nan"), float("inf"), -float("inf"), 275.0)
    for _ in range(count):
        kind = rng.randrange(6)
        command = mavlink.MAVLink_command_long_message(
            rng.choice((0, VEHICLE, 9, 255)),
            rng.choice((0, CAMERA, 1, 101)),
            rng.choice(commands),
            rng.randrange(256),
            *(rng.choice(numbers) for _ in range(7)),
        )
        frame = bytearray(command.pack(writer, force_mavlink1=rng.random() < 0.2))
        if kind == 0:
            yield rng.randbytes(rng.randrange(1, 300))
        elif kind == 1:
            yield bytes(frame[: rng.randrange(1, len(frame))])
        elif kind == 2:
            frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
            yield bytes(frame)
        elif kind == 3:  # a message that is in no dialect
            payload = rng.randbytes(rng.randrange(256))
            header = bytes((253, len(payload), 0, 0, 0, 255, 190))
            yield header + rng.randrange(1 << 24).to_bytes(3, "little") + payload + b"xy"
        elif kind == 4:
            yield bytes(frame) + rng.randbytes(rng.randrange(20))
        else:
            yield bytes(frame)
