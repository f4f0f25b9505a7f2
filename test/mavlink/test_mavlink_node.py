# SPDX-License-Identifier: Apache-2.0
"""Executable `mavlink` between the real tracker, on a rendered flight, and real ground stations."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pymavlink")

import rclpy  # noqa: E402
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
    autopilot,
    free_port,
    ground_station,
    mavlink,
)
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_support import PATIENCE, introduce, wait_until  # noqa: E402
from vision_msgs.msg import Detection2DArray  # noqa: E402

from mlkd_ros.msg import TrackStatus  # noqa: E402
from mlkd_ros.node.messages import box_from_message, nanoseconds  # noqa: E402
from mlkd_ros.share import share_directory  # noqa: E402
from mlkd_ros.tracking.geometry import iou  # noqa: E402

ACCEPTED, REJECTED, DENIED, UNSUPPORTED, FAILED = range(5)
SIZE = (640, 360)
HERE = Path(__file__).parent
Box = tuple[float, float, float, float]


class Flight:
    """Camera, tracker and `mavlink` as processes, the vehicle's autopilot, and what is true."""

    def __init__(self, folder: Path) -> None:
        self.port, self.sdk_port, self.proxy_port = (free_port() for _ in range(3))
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.logs: dict[str, Path] = {}
        self.run("night_camera", width=SIZE[0], height=SIZE[1], rate=8.0)
        self.run("tracker", history_duration=60.0, catch_up_duration=2.0, point_topic="point")
        self.run(
            "mavlink",
            connections=f"udpin:127.0.0.1:{self.port},udpout:127.0.0.1:{self.sdk_port},"
            f"udpout:127.0.0.1:{self.proxy_port}",
            video_uri="rtsp://127.0.0.1:8554/night",
            mount_pitch=-50.0,
        )
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("eye", namespace="mlkd", context=self.context)
        self.truth: list[tuple[int, Box]] = []
        self.statuses: list[TrackStatus] = []
        self.node.create_subscription(Detection2DArray, "ground_truth", self._on_truth, 50)
        self.node.create_subscription(TrackStatus, "status", self.statuses.append, 50)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._spin, self._fly)
        ]
        self._flying = True
        for thread in self._threads:
            thread.start()
        for name in ("night_camera", "tracker", "mavlink"):
            introduce(self.node, f"/mlkd/{name}")
        wait_until(lambda: bool(self.truth and self.statuses), PATIENCE, "truth and a status")

    def run(self, name: str, **parameters: Any) -> None:
        executable = share_directory().parents[1] / "lib" / "mlkd_ros" / name
        command = [str(executable), "--ros-args"]
        for key, value in parameters.items():
            command += ["-p", f"{key}:={value}"]
        self.logs[name] = self.folder / f"{name}.log"
        with open(self.logs[name], "wb") as log:
            self._processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            )

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _fly(self) -> None:
        """The autopilot: level, 38 m above its take-off place, heading east."""
        vehicle = autopilot(f"udpout:127.0.0.1:{self.port}")
        proxied = autopilot(f"udpout:127.0.0.1:{self.proxy_port}")
        turn = 0
        while self._flying:
            if turn % 10 == 0:
                vehicle.heartbeat()
                proxied.heartbeat()
            vehicle.link.mav.attitude_send(turn * 50, 0.0, 0.0, math.pi / 2, 0, 0, 0)
            vehicle.link.mav.global_position_int_send(
                turn * 50, 473977418, 85455939, 500_000, 38_000, 0, 0, 0, 9000
            )
            turn += 1
            time.sleep(0.05)
        vehicle.close()
        proxied.close()

    def _on_truth(self, message: Detection2DArray) -> None:
        box = box_from_message(message.detections[0].bbox)
        self.truth = [*self.truth[-200:], (nanoseconds(message.header.stamp), box)]

    def close(self) -> None:
        self._flying = False
        self._executor.shutdown()
        for thread in self._threads:
            thread.join(5.0)
        self.node.destroy_node()
        self.context.try_shutdown()
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            process.wait(30)
        for name, log in self.logs.items():
            print(f"--- {name}:\n{log.read_text(errors='replace')[-3000:]}")

    def shares(self, box: Box | None = None) -> Box:
        """A box of the picture, by default of the newest image, as shares: corners."""
        x, y, w, h = box or self.truth[-1][1]
        corners = (x / SIZE[0], y / SIZE[1], (x + w) / SIZE[0], (y + h) / SIZE[1])
        return tuple(min(max(c, 0.0), 1.0) for c in corners)  # type: ignore[return-value]

    def overlap(self, status: Any) -> float:
        """Best IoU of a CAMERA_TRACKING_IMAGE_STATUS, which bears no stamp, with recent truth."""
        left, top = status.rec_top_x * SIZE[0], status.rec_top_y * SIZE[1]
        right, bottom = status.rec_bottom_x * SIZE[0], status.rec_bottom_y * SIZE[1]
        if math.isnan(left):
            return 0.0
        box = (left, top, right - left, bottom - top)
        return max(iou(box, truth) for _, truth in self.truth[-16:])

    def set(self, name: str, value: Any) -> bool:
        client = self.node.create_client(SetParameters, "mavlink/set_parameters")
        assert client.wait_for_service(PATIENCE)
        introduce(self.node, "/mlkd/mavlink")
        parameter = Parameter(name, value=value).to_parameter_msg()
        answer = client.call_async(SetParameters.Request(parameters=[parameter]))
        wait_until(answer.done, PATIENCE, "set_parameters")
        return bool(answer.result().results[0].successful)


@pytest.fixture(scope="module")
def flight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flight]:
    flight = Flight(tmp_path_factory.mktemp("flight"))
    yield flight
    flight.close()


@pytest.fixture
def station(flight: Flight) -> Iterator[Other]:
    station = ground_station(f"udpout:127.0.0.1:{flight.port}")
    station.wait("HEARTBEAT", lambda m: m.get_srcComponent() == CAMERA)
    assert station.ask(SET_INTERVAL, IMAGE_STATUS, 100_000) == ACCEPTED
    yield station
    station.close()


def followed(flight: Flight, station: Other, mode: int) -> Any:
    """The next status that shows the target where it is."""
    return station.wait(
        "CAMERA_TRACKING_IMAGE_STATUS",
        lambda m: m.tracking_mode == mode and flight.overlap(m) > 0.4,
        PATIENCE,
    )


def test_a_rectangle_is_followed_and_stopped(flight: Flight, station: Other) -> None:
    assert station.ask(TRACK_RECTANGLE, *flight.shares()) == ACCEPTED
    status = followed(flight, station, 2)
    assert (status.tracking_status, status.target_data) == (1, 4)
    assert station.ask(REQUEST, mavlink.MAVLINK_MSG_ID_CAMERA_INFORMATION) == ACCEPTED
    information = station.wait("CAMERA_INFORMATION")
    assert (information.resolution_h, information.resolution_v) == SIZE
    assert station.ask(STOP_TRACKING) == ACCEPTED
    station.wait("CAMERA_TRACKING_IMAGE_STATUS", lambda m: m.tracking_status == 0)
    assert flight.statuses[-1].state == TrackStatus.IDLE


def test_a_box_is_fitted_to_a_point(flight: Flight, station: Other) -> None:
    left, top, right, bottom = flight.shares()
    assert station.ask(TRACK_POINT, (left + right) / 2, (top + bottom) / 2, 0.1) == ACCEPTED
    status = followed(flight, station, 1)
    middle = (status.rec_top_x + status.rec_bottom_x) / 2
    assert status.point_x == pytest.approx(middle, abs=1e-5)
    assert station.ask(STOP_TRACKING) == ACCEPTED


def test_the_delay_of_the_video_is_taken_into_account(flight: Flight, station: Other) -> None:
    assert flight.set("video_delay", 2.0)
    # There has to be an image that is so old.
    wait_until(lambda: flight.truth[0][0] < time.time_ns() - 2_500_000_000, PATIENCE, "old images")
    try:
        seen = time.time_ns() - 2_000_000_000
        _, box = min(flight.truth, key=lambda item: abs(item[0] - seen))
        assert station.ask(TRACK_RECTANGLE, *flight.shares(box)) == ACCEPTED
        followed(flight, station, 2)
        assert flight.set("video_delay", 30.0)
        flight.statuses.clear()
    finally:
        assert flight.set("video_delay", 0.0)
    assert not flight.set("video_delay", -1.0)
    assert not flight.set("connections", "udpin:127.0.0.1:1")


def test_a_place_on_flat_ground(flight: Flight, station: Other) -> None:
    assert station.ask(TRACK_RECTANGLE, *flight.shares()) == ACCEPTED
    assert station.ask(SET_INTERVAL, GEO_STATUS, 200_000) == ACCEPTED
    status = station.wait("CAMERA_TRACKING_GEO_STATUS", lambda m: m.lat != 0, PATIENCE)
    assert status.tracking_status == 1
    # 38 m above the ground, looking 50 degrees down: some 30 to 80 m away, and to the east of the
    # aircraft, for that is where it heads.
    assert 25 < status.dist < 150 and 0 < status.h_acc < 50
    assert status.alt == pytest.approx(462.0)
    assert status.lon > 85455939
    assert math.degrees(status.hdg) == pytest.approx(90, abs=45)
    assert station.ask(SET_INTERVAL, GEO_STATUS, -1) == ACCEPTED


def test_mavsdk(flight: Flight) -> None:
    left, top, right, bottom = flight.shares()
    numbers = ((left + right) / 2, (top + bottom) / 2, left, top, right, bottom)
    done = subprocess.run(
        [sys.executable, str(HERE / "mavsdk_station.py"), str(flight.sdk_port), *map(str, numbers)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, done.stdout + done.stderr
    assert said[0]["component"] == CAMERA and said[0]["resolution"] == list(SIZE)
    assert said[1]["uri"] == "rtsp://127.0.0.1:8554/night" and said[1]["hfov"] == 64
    results = {entry["call"]: entry["result"] for entry in said[2:]}
    assert results.pop("track_rectangle outside").startswith("DENIED"), results
    assert set(results.values()) == {"SUCCESS"} and len(results) == 3, said


def test_mavproxy(flight: Flight, tmp_path: Path) -> None:
    pytest.importorskip("MAVProxy")
    commands = (
        (f"set target_component {CAMERA}", "target_component"),
        ("module load camera", "Loaded module camera"),
        ("camera discover", "discovery requested"),
        ("camera status", f"mlkd_ros night tracker ({VEHICLE}:{CAMERA}) streams=1"),
        ("camera streams", "rtsp://127.0.0.1:8554/night"),
        (f"long SET_MESSAGE_INTERVAL {IMAGE_STATUS} 200000 0 0 0 0 0", "INTERVAL: ACCEPTED"),
        ("long CAMERA_TRACK_RECTANGLE {} {} {} {} 0 0 0", "TRACK_RECTANGLE: ACCEPTED"),
        ("status CAMERA_TRACKING_IMAGE_STATUS", "tracking_mode : 2"),
        ("long CAMERA_TRACK_RECTANGLE 0.2 0.2 1.4 0.4 0 0 0", "TRACK_RECTANGLE: DENIED"),
        ("long CAMERA_STOP_TRACKING 0 0 0 0 0 0 0", "STOP_TRACKING: ACCEPTED"),
    )
    proxy = subprocess.Popen(
        [
            sys.executable,
            str(Path(sys.executable).with_name("mavproxy.py")),
            f"--master=udpin:127.0.0.1:{flight.proxy_port}",
            "--nowait",
            "--default-modules=cmdlong",
            f"--target-system={VEHICLE}",
            f"--state-basedir={tmp_path}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "MAVLINK20": "1"},
    )
    said: list[str] = []
    assert proxy.stdout is not None and proxy.stdin is not None
    reader = threading.Thread(target=lambda: said.extend(iter(proxy.stdout.readline, "")))
    reader.start()
    try:
        wait_until(
            lambda: f"vehicle {VEHICLE}:{CAMERA}" in "".join(said), PATIENCE, lambda: str(said)
        )
        for command, answer in commands:
            before, end = len(said), time.monotonic() + PATIENCE
            while answer not in "".join(said[before:]):
                assert time.monotonic() < end, (command, said)
                # What it has not yet heard it is asked again.
                line = command.format(*(f"{share:.4f}" for share in flight.shares()))
                said.append(f">>> {line}\n")
                proxy.stdin.write(line + "\n")
                waited = time.monotonic() + 3.0
                while answer not in "".join(said[before:]) and time.monotonic() < waited:
                    time.sleep(0.02)
    finally:
        proxy.kill()
        proxy.wait()
        reader.join(5.0)
        proxy.stdin.close()
        proxy.stdout.close()
        print("".join(said))


def test_without_a_tracker_a_designation_is_rejected_for_now(tmp_path: Path) -> None:
    port = free_port()
    executable = share_directory().parents[1] / "lib" / "mlkd_ros" / "mavlink"
    given = ["-r", "__ns:=/nobody", "-p", f"connections:=udpin:127.0.0.1:{port}"]
    with open(tmp_path / "log", "wb") as log:
        alone = subprocess.Popen([str(executable), "--ros-args", *given], stdout=log, stderr=log)
    vehicle, station = (kind(f"udpout:127.0.0.1:{port}") for kind in (autopilot, ground_station))
    try:
        end = time.monotonic() + PATIENCE
        while not station.heard:
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            vehicle.heartbeat()
            station.heartbeat()
            station.pump()
            time.sleep(0.2)
        for command in (TRACK_RECTANGLE, TRACK_POINT, STOP_TRACKING):
            given_shares = (0.2, 0.2, 0.4, 0.4) if command != STOP_TRACKING else ()
            shares = given_shares[:2] if command == TRACK_POINT else given_shares
            station.command(command, *shares)
            assert "there is no tracker /nobody/tracker" in station.wait("STATUSTEXT").text
            assert station.result(command) == REJECTED
    finally:
        alone.terminate()
        alone.wait(30)
        vehicle.close()
        station.close()


def run_alone(*parameters: str) -> subprocess.CompletedProcess[str]:
    executable = share_directory().parents[1] / "lib" / "mlkd_ros" / "mavlink"
    return subprocess.run(
        [str(executable), "--ros-args", *parameters], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ("connections:=''", "parameter 'connections' is empty"),
        ("connections:=carrier_pigeon:1", "connection 'carrier_pigeon:1' is none"),
        ("signing_key_file:=/no/such/file", "parameter 'signing_key_file'"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(parameter: str, said: str) -> None:
    given = ["-p", "connections:=udpin:127.0.0.1:9"] if "connections" not in parameter else []
    done = run_alone(*given, "-p", parameter)
    assert done.returncode == 2 and said in done.stderr, done
