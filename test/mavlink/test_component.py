# SPDX-License-Identifier: Apache-2.0
"""The camera component over real sockets, with a tracker that does as it is told."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("pymavlink")

from mavlink_support import (  # noqa: E402
    CAMERA,
    GEO_STATUS,
    IMAGE_STATUS,
    REQUEST,
    SET_INTERVAL,
    STOP_TRACKING,
    TRACK_POINT,
    TRACK_RECTANGLE,
    VEHICLE,
    Other,
    ScriptedTracker,
    autopilot,
    frames,
    free_port,
    ground_station,
    mavlink,
    target,
)

from mlkd_ros.mavlink.component import CameraFacts, CameraSettings, Outcome  # noqa: E402
from mlkd_ros.mavlink.connections import parse_endpoint, signing_key  # noqa: E402
from mlkd_ros.mavlink.link import LinkThread  # noqa: E402
from mlkd_ros.tracking import TrackState  # noqa: E402

ACCEPTED, REJECTED, DENIED, UNSUPPORTED, FAILED, IN_PROGRESS = range(6)
NAN = math.nan


class Aircraft:
    """A camera component that listens on two endpoints, and the autopilot beside it."""

    def __init__(self, *endpoints: str, key: bytes | None = None, **settings: Any) -> None:
        self.tracker = ScriptedTracker()
        self.log: list[str] = []
        self.link = LinkThread(
            [parse_endpoint(e) for e in endpoints],
            CameraSettings(**settings),
            0,
            self.tracker,
            self.log.append,
            key,
        )
        self.link.start()
        listening = [e for e in endpoints if e.startswith(("udpin", "tcpin"))]
        end = time.monotonic() + 20
        while sum(line.endswith(": open") for line in self.log) < len(listening):
            assert time.monotonic() < end, self.log
            time.sleep(0.005)

    def report(self, *args: Any, **options: Any) -> None:
        seen = target(*args, **options)
        self.link.call(lambda: self.link.component.report(seen, time.monotonic()))

    def facts(self, facts: CameraFacts) -> None:
        self.link.call(lambda: setattr(self.link.component, "facts", facts))


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """Makes something that is closed in the end."""
    opened: list[Any] = []

    def make(kind: Callable[..., Any], *args: Any, **options: Any) -> Any:
        opened.append(kind(*args, **options))
        return opened[-1]

    yield make
    for one in reversed(opened):
        one.link.stop() if isinstance(one, Aircraft) else one.close()


@pytest.fixture
def scene(start: Callable[..., Any]) -> tuple[Aircraft, Other]:
    """An aircraft whose system is known, and a ground station that hears its camera."""
    port = free_port()
    aircraft = start(Aircraft, f"udpin:127.0.0.1:{port}", video_uri="rtsp://127.0.0.1:8554/night")
    start(autopilot, f"udpout:127.0.0.1:{port}").heartbeat()
    station = start(ground_station, f"udpout:127.0.0.1:{port}")
    station.wait("HEARTBEAT", lambda m: m.get_srcComponent() == CAMERA)
    return aircraft, station


def test_it_is_silent_until_it_knows_whose_camera_it_is(start: Callable[..., Any]) -> None:
    port = free_port()
    aircraft = start(Aircraft, f"udpin:127.0.0.1:{port}")
    station = start(ground_station, f"udpout:127.0.0.1:{port}")
    with pytest.raises(AssertionError):
        station.wait("HEARTBEAT", timeout=1.5)
    start(autopilot, f"udpout:127.0.0.1:{port}").heartbeat()
    beat = station.wait("HEARTBEAT")
    assert (beat.get_srcSystem(), beat.get_srcComponent()) == (VEHICLE, CAMERA)
    assert (beat.type, beat.autopilot) == (mavlink.MAV_TYPE_CAMERA, mavlink.MAV_AUTOPILOT_INVALID)
    assert any(f"system {VEHICLE}" in line for line in aircraft.log)


def test_camera_information_has_the_capabilities(scene: tuple[Aircraft, Other]) -> None:
    aircraft, station = scene
    aircraft.facts(CameraFacts(1280, 720, 30.0, math.radians(64)))
    assert station.ask(REQUEST, mavlink.MAVLINK_MSG_ID_CAMERA_INFORMATION) == ACCEPTED
    information = station.wait("CAMERA_INFORMATION")
    wanted = (
        mavlink.CAMERA_CAP_FLAGS_HAS_TRACKING_POINT
        | mavlink.CAMERA_CAP_FLAGS_HAS_TRACKING_RECTANGLE
        | mavlink.CAMERA_CAP_FLAGS_HAS_TRACKING_GEO_STATUS
        | mavlink.CAMERA_CAP_FLAGS_HAS_VIDEO_STREAM
    )
    assert information.flags == wanted
    assert (information.resolution_h, information.resolution_v) == (1280, 720)
    assert bytes(information.vendor_name).rstrip(b"\0") == b"mlkd_ros"


@pytest.mark.parametrize("command", [REQUEST, 2504])
def test_the_video_stream_is_announced(scene: tuple[Aircraft, Other], command: int) -> None:
    aircraft, station = scene
    aircraft.facts(CameraFacts(1280, 720, 30.0, math.radians(64)))
    identity = mavlink.MAVLINK_MSG_ID_VIDEO_STREAM_INFORMATION
    assert station.ask(command, identity if command == REQUEST else 1) == ACCEPTED
    stream = station.wait("VIDEO_STREAM_INFORMATION")
    assert (stream.uri, stream.type) == (
        "rtsp://127.0.0.1:8554/night",
        mavlink.VIDEO_STREAM_TYPE_RTSP,
    )
    assert (stream.framerate, stream.hfov, stream.count) == (30.0, 64, 1)
    assert station.ask(REQUEST, mavlink.MAVLINK_MSG_ID_VIDEO_STREAM_STATUS) == ACCEPTED
    assert station.wait("VIDEO_STREAM_STATUS").resolution_h == 1280


def test_without_video_none_is_announced(start: Callable[..., Any]) -> None:
    port = free_port()
    start(Aircraft, f"udpin:127.0.0.1:{port}")
    start(autopilot, f"udpout:127.0.0.1:{port}").heartbeat()
    station = start(ground_station, f"udpout:127.0.0.1:{port}")
    station.wait("HEARTBEAT")
    assert station.ask(REQUEST, mavlink.MAVLINK_MSG_ID_VIDEO_STREAM_INFORMATION) == DENIED
    assert station.ask(REQUEST, mavlink.MAVLINK_MSG_ID_CAMERA_INFORMATION) == ACCEPTED
    flags = station.wait("CAMERA_INFORMATION").flags
    assert not flags & mavlink.CAMERA_CAP_FLAGS_HAS_VIDEO_STREAM


def test_designations_reach_the_tracker(scene: tuple[Aircraft, Other]) -> None:
    aircraft, station = scene
    assert station.ask(TRACK_RECTANGLE, 0.25, 0.5, 0.5, 0.75) == ACCEPTED
    assert station.ask(TRACK_POINT, 0.5, 0.25, 0.125) == ACCEPTED
    assert station.ask(TRACK_POINT, 0.5, 0.25, NAN) == ACCEPTED
    assert station.ask(STOP_TRACKING) == ACCEPTED
    assert aircraft.tracker.requests == [
        ("rectangle", 0.25, 0.5, 0.25, 0.25),
        ("point", 0.5, 0.25, 0.125),
        ("point", 0.5, 0.25, 0.0),
        ("stop",),
    ]


@pytest.mark.parametrize(
    ("command", "parameters"),
    [
        (TRACK_RECTANGLE, (NAN, 0.1, 0.2, 0.2)),
        (TRACK_RECTANGLE, (0.1, 0.1, 0.2, math.inf)),
        (TRACK_RECTANGLE, (-0.1, 0.1, 0.2, 0.2)),
        (TRACK_RECTANGLE, (0.1, 0.1, 1.2, 0.2)),
        (TRACK_RECTANGLE, (0.3, 0.1, 0.2, 0.2)),
        (TRACK_RECTANGLE, (0.1, 0.1, 0.1, 0.2)),
        (TRACK_RECTANGLE, (0.1, 0.1, 0.2, 0.2, 101)),
        (TRACK_POINT, (NAN, 0.5, 0.1)),
        (TRACK_POINT, (0.5, 1.5, 0.1)),
        (TRACK_POINT, (0.5, 0.5, -0.1)),
        (TRACK_POINT, (0.5, 0.5, 0.1, 2)),
        (STOP_TRACKING, (101,)),
        (SET_INTERVAL, (IMAGE_STATUS, NAN)),
        (SET_INTERVAL, (IMAGE_STATUS, -7)),
        (SET_INTERVAL, (33, 100000)),
        (SET_INTERVAL, (NAN, 100000)),
        (REQUEST, (NAN,)),
        (REQUEST, (0.5,)),
        (REQUEST, (mavlink.MAVLINK_MSG_ID_STORAGE_INFORMATION,)),
    ],
)
def test_what_makes_no_sense_is_denied(
    scene: tuple[Aircraft, Other], command: int, parameters: tuple[float, ...]
) -> None:
    aircraft, station = scene
    assert station.ask(command, *parameters) == DENIED
    assert aircraft.tracker.requests == []


def test_a_denied_rectangle_is_explained_to_the_operator(scene: tuple[Aircraft, Other]) -> None:
    _, station = scene
    station.command(TRACK_RECTANGLE, 0.1, 0.1, 1.2, 0.2)
    first = station.wait("STATUSTEXT")
    assert first.severity == mavlink.MAV_SEVERITY_WARNING
    rest = station.wait("STATUSTEXT", lambda m: m.id == first.id)
    assert "rectangle refused, corners must be from 0 to 1" in first.text + rest.text


def test_commands_it_does_not_know_and_those_of_others(scene: tuple[Aircraft, Other]) -> None:
    aircraft, station = scene
    assert station.ask(mavlink.MAV_CMD_IMAGE_START_CAPTURE) == UNSUPPORTED
    for component in (1, 101, 154):
        station.command(TRACK_POINT, 0.5, 0.5, component=component)
    station.link.mav.command_long_send(VEHICLE + 1, CAMERA, TRACK_POINT, 0, *(0.5,) * 3, *(0,) * 4)
    # To everybody: what is not a camera's business is somebody else's to refuse.
    station.command(mavlink.MAV_CMD_COMPONENT_ARM_DISARM, 1, component=0)
    assert station.ask(STOP_TRACKING, component=0) == ACCEPTED
    assert aircraft.tracker.requests == [("stop",)]
    assert not [m for m in station.heard if m.get_type() == "COMMAND_ACK"]


def test_command_int_is_understood(scene: tuple[Aircraft, Other]) -> None:
    aircraft, station = scene
    station.link.mav.command_int_send(
        VEHICLE, CAMERA, 0, TRACK_RECTANGLE, 0, 0, 0.25, 0.5, 0.5, 0.75, 0, 0, 0.0
    )
    assert station.result(TRACK_RECTANGLE) == ACCEPTED
    assert aircraft.tracker.requests == [("rectangle", 0.25, 0.5, 0.25, 0.25)]


@pytest.mark.parametrize(
    ("result", "name"), [(FAILED, "STAMP"), (REJECTED, "NO_IMAGE"), (DENIED, "BOX")]
)
def test_the_trackers_refusal_is_the_answer(
    scene: tuple[Aircraft, Other], result: int, name: str
) -> None:
    aircraft, station = scene
    aircraft.tracker.outcome = Outcome(result, f"no: {name}")
    station.command(TRACK_RECTANGLE, 0.1, 0.1, 0.2, 0.2)
    assert name in station.wait("STATUSTEXT").text
    assert station.result(TRACK_RECTANGLE) == result


def test_a_slow_tracker_is_in_progress_and_a_repeated_command_begins_nothing_new(
    scene: tuple[Aircraft, Other],
) -> None:
    aircraft, station = scene
    aircraft.tracker.outcome = None
    station.command(TRACK_RECTANGLE, 0.1, 0.1, 0.2, 0.2)
    acknowledged = station.wait("COMMAND_ACK")
    assert (acknowledged.result, acknowledged.progress) == (IN_PROGRESS, 255)
    assert (acknowledged.target_system, acknowledged.target_component) == (255, 190)
    station.command(TRACK_RECTANGLE, 0.1, 0.1, 0.2, 0.2, confirmation=1)
    assert station.wait("COMMAND_ACK").result == IN_PROGRESS
    done = aircraft.tracker.waiting.pop()
    aircraft.link.call(lambda: done(Outcome(ACCEPTED, "", "1")))
    assert station.result(TRACK_RECTANGLE) == ACCEPTED
    # As if that acknowledgement had been lost.
    assert station.ask(TRACK_RECTANGLE, 0.1, 0.1, 0.2, 0.2, confirmation=2) == ACCEPTED
    assert len(aircraft.tracker.requests) == 1
    # The same again without a confirmation is meant.
    aircraft.tracker.outcome = Outcome(ACCEPTED, "", "2")
    assert station.ask(TRACK_RECTANGLE, 0.1, 0.1, 0.2, 0.2) == ACCEPTED
    assert len(aircraft.tracker.requests) == 2


def test_an_answer_that_never_comes_is_a_failure(
    scene: tuple[Aircraft, Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    aircraft, station = scene
    monkeypatch.setattr("mlkd_ros.mavlink.component._DEADLINE", 0.5)
    aircraft.tracker.outcome = None
    assert station.ask(STOP_TRACKING) == FAILED


def test_more_than_it_can_carry_out_at_once_is_rejected_for_now(
    scene: tuple[Aircraft, Other],
) -> None:
    aircraft, station = scene
    aircraft.tracker.outcome = None
    for index in range(9):
        station.command(TRACK_POINT, 0.1 * index, 0.5)
    assert station.result(TRACK_POINT) == REJECTED
    assert len(aircraft.tracker.requests) == 8


def test_the_status_comes_at_the_asked_rate(scene: tuple[Aircraft, Other]) -> None:
    aircraft, station = scene
    aircraft.report()
    assert station.ask(SET_INTERVAL, IMAGE_STATUS, 50_000) == ACCEPTED
    station.wait("CAMERA_TRACKING_IMAGE_STATUS")
    began = time.monotonic()
    for _ in range(20):
        aircraft.report()
        status = station.wait("CAMERA_TRACKING_IMAGE_STATUS")
    assert 0.7 < time.monotonic() - began < 5.0  # 1.0 s, on a machine that may be busy
    assert (status.tracking_status, status.tracking_mode, status.target_data) == (1, 2, 4)
    assert (status.rec_top_x, status.rec_bottom_y) == pytest.approx((0.25, 0.35))
    assert station.ask(mavlink.MAV_CMD_GET_MESSAGE_INTERVAL, IMAGE_STATUS) == ACCEPTED
    assert station.ask(SET_INTERVAL, IMAGE_STATUS, -1) == ACCEPTED
    station.heard.clear()
    with pytest.raises(AssertionError):
        station.wait("CAMERA_TRACKING_IMAGE_STATUS", timeout=0.5)


@pytest.mark.parametrize(
    ("state", "flags"),
    [(TrackState.LOST, 9), (TrackState.GIVEN_UP, 2), (TrackState.IDLE, 0)],
)
def test_a_target_that_is_not_seen_has_no_rectangle(
    scene: tuple[Aircraft, Other], state: TrackState, flags: int
) -> None:
    aircraft, station = scene
    aircraft.report(state)
    assert station.ask(REQUEST, IMAGE_STATUS) == ACCEPTED
    status = station.wait("CAMERA_TRACKING_IMAGE_STATUS")
    assert status.tracking_status == flags
    assert status.target_data == 0 and math.isnan(status.rec_top_x)


def test_a_tracker_that_says_nothing_is_an_error_not_an_old_rectangle(
    scene: tuple[Aircraft, Other],
) -> None:
    aircraft, station = scene
    aircraft.report()
    assert station.ask(SET_INTERVAL, IMAGE_STATUS, 100_000) == ACCEPTED
    assert station.wait("CAMERA_TRACKING_IMAGE_STATUS").tracking_status == 1
    status = station.wait("CAMERA_TRACKING_IMAGE_STATUS", lambda m: m.tracking_status == 2)
    assert status.target_data == 0 and math.isnan(status.rec_top_x)
    station.wait("HEARTBEAT", lambda m: m.system_status == mavlink.MAV_STATE_STANDBY)


def test_of_several_targets_the_one_that_was_designated_last(scene: tuple[Aircraft, Other]) -> None:
    aircraft, station = scene
    aircraft.tracker.outcome = Outcome(ACCEPTED, "", "2")
    assert station.ask(TRACK_POINT, 0.3, 0.3) == ACCEPTED
    for name in ("1", "2"):
        aircraft.report(stamp=5, name=name)
    assert station.ask(REQUEST, IMAGE_STATUS) == ACCEPTED
    # A target that was pointed at has its point.
    status = station.wait("CAMERA_TRACKING_IMAGE_STATUS")
    assert (status.tracking_mode, status.point_x) == (1, pytest.approx(0.3))
    for stamp in (6, 7):  # the second is stopped
        aircraft.report(stamp=stamp, name="1")
    assert station.ask(REQUEST, IMAGE_STATUS) == ACCEPTED
    assert station.wait("CAMERA_TRACKING_IMAGE_STATUS").tracking_mode == 2


def test_geo_status_without_a_place_is_no_place(scene: tuple[Aircraft, Other]) -> None:
    aircraft, station = scene
    aircraft.report()
    assert station.ask(REQUEST, GEO_STATUS) == ACCEPTED
    status = station.wait("CAMERA_TRACKING_GEO_STATUS")
    assert (status.tracking_status, status.lat, status.lon) == (2, 0, 0)
    assert math.isnan(status.alt) and math.isnan(status.h_acc)


def test_two_ground_stations_each_get_what_they_asked_for(start: Callable[..., Any]) -> None:
    port, tcp = free_port(), free_port(socket.SOCK_STREAM)
    aircraft = start(Aircraft, f"udpin:127.0.0.1:{port}", f"tcpin:127.0.0.1:{tcp}")
    start(autopilot, f"udpout:127.0.0.1:{port}").heartbeat()
    first = start(ground_station, f"udpout:127.0.0.1:{port}", 255)
    second = start(ground_station, f"tcp:127.0.0.1:{tcp}", 254)
    aircraft.report()
    for station, interval in ((first, 50_000), (second, 400_000)):
        station.wait("HEARTBEAT")
        assert station.ask(SET_INTERVAL, IMAGE_STATUS, interval) == ACCEPTED
    first.heard.clear()
    second.heard.clear()
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        aircraft.report()
        first.pump()
        second.pump()
        time.sleep(0.02)
    counts = [
        sum(m.get_type() == "CAMERA_TRACKING_IMAGE_STATUS" for m in station.heard)
        for station in (first, second)
    ]
    assert counts[0] > 2 * counts[1] > 4, counts
    # What one no longer wants the other still gets.
    assert first.ask(SET_INTERVAL, IMAGE_STATUS, -1) == ACCEPTED
    second.heard.clear()
    second.wait("CAMERA_TRACKING_IMAGE_STATUS")


def test_a_ground_station_that_comes_back_need_not_ask_again(start: Callable[..., Any]) -> None:
    port, tcp = free_port(), free_port(socket.SOCK_STREAM)
    aircraft = start(Aircraft, f"udpin:127.0.0.1:{port}", f"tcpin:127.0.0.1:{tcp}")
    start(autopilot, f"udpout:127.0.0.1:{port}").heartbeat()
    station = start(ground_station, f"tcp:127.0.0.1:{tcp}")
    aircraft.report()
    station.wait("HEARTBEAT")
    assert station.ask(SET_INTERVAL, IMAGE_STATUS, 50_000) == ACCEPTED
    station.wait("CAMERA_TRACKING_IMAGE_STATUS")
    station.close()
    time.sleep(1.2)  # a heartbeat notices
    again = start(ground_station, f"tcp:127.0.0.1:{tcp}")
    again.wait("CAMERA_TRACKING_IMAGE_STATUS")


def test_a_router_that_is_restarted_is_found_again(start: Callable[..., Any]) -> None:
    tcp = free_port(socket.SOCK_STREAM)
    aircraft = start(Aircraft, f"tcp:127.0.0.1:{tcp}")
    for _ in range(2):  # at first there is nobody
        vehicle = start(autopilot, f"tcpin:127.0.0.1:{tcp}")
        vehicle.wait("HEARTBEAT", lambda m: m.get_srcComponent() == CAMERA)
        vehicle.close()
        time.sleep(0.3)
    assert any("lost" in line for line in aircraft.log)


def test_a_serial_port(start: Callable[..., Any]) -> None:
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    try:
        aircraft = start(Aircraft, f"serial:{os.ttyname(theirs)}:115200")
        writer = mavlink.MAVLink(None, srcSystem=VEHICLE, srcComponent=1)
        reader = mavlink.MAVLink(None)
        reader.robust_parsing = True
        beat = mavlink.MAVLink_heartbeat_message(2, 3, 0, 0, 4, 3)
        heard: list[Any] = []
        end = time.monotonic() + 10
        while not any(m.get_srcComponent() == CAMERA for m in heard):
            assert time.monotonic() < end, aircraft.log
            os.write(ours, beat.pack(writer))
            time.sleep(0.05)
            try:
                heard += reader.parse_buffer(os.read(ours, 4096)) or []
            except BlockingIOError:
                continue
        assert heard[-1].get_type() == "HEARTBEAT"
    finally:
        os.close(ours)
        os.close(theirs)


def test_ten_thousand_bad_frames_and_nothing_lost(scene: tuple[Aircraft, Other]) -> None:
    aircraft, station = scene
    aircraft.report()
    address = ("127.0.0.1", station.link.destination_addr[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as vandal:
        for index, data in enumerate(frames(15, 10_000)):
            vandal.sendto(data, address)
            if index % 500 == 499:
                # What is sane is still answered, in between.
                aircraft.tracker.outcome = Outcome(ACCEPTED, "", "1")
                before = aircraft.tracker.requests.count(("rectangle", 0.25, 0.5, 0.25, 0.25))
                assert station.insist(TRACK_RECTANGLE, 0.25, 0.5, 0.5, 0.75) == ACCEPTED
                after = aircraft.tracker.requests.count(("rectangle", 0.25, 0.5, 0.25, 0.25))
                assert after == before + 1
    assert not [line for line in aircraft.log if "internal error" in line]
    for request in aircraft.tracker.requests:
        assert all(0 <= value <= 1 for value in request[1:]), request


def signed(other: Other, passphrase: str) -> Other:
    other.link.setup_signing(signing_key(passphrase), sign_outgoing=True)
    return other


def test_with_signing_only_the_passphrase_is_heard(start: Callable[..., Any]) -> None:
    port = free_port()
    aircraft = start(Aircraft, f"udpin:127.0.0.1:{port}", key=signing_key("night owl"))
    signed(start(autopilot, f"udpout:127.0.0.1:{port}"), "night owl").heartbeat()
    station = signed(start(ground_station, f"udpout:127.0.0.1:{port}"), "night owl")
    assert station.wait("HEARTBEAT").get_signed()
    assert station.ask(TRACK_POINT, 0.5, 0.5) == ACCEPTED
    wrong = signed(start(ground_station, f"udpout:127.0.0.1:{port}"), "day owl")
    unsigned = start(ground_station, f"udpout:127.0.0.1:{port}")
    # From the far future, under the good station's name: it must not silence that one.
    wrong.link.mav.signing.timestamp += 10**9
    for other in (wrong, unsigned):
        other.command(STOP_TRACKING)
    assert station.ask(TRACK_POINT, 0.25, 0.5) == ACCEPTED
    assert ("stop",) not in aircraft.tracker.requests


@pytest.mark.parametrize(
    "text", ["", "udp", "udpin:", "tcp:host:0", "tcp:host:99999", "serial:/dev/x:fast", "rtsp:a:1"]
)
def test_an_endpoint_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="connection"):
        parse_endpoint(text)


def test_the_component_needs_no_ros() -> None:
    code = (
        "import sys, mlkd_ros.mavlink.link, mlkd_ros.mavlink.geolocation;"
        "sys.exit(', '.join({'rclpy', 'torch'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
