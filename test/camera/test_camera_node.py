# SPDX-License-Identifier: Apache-2.0
"""Executable `camera`, as a process over DDS: images, calibration, diagnostics, exit codes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from stream_support import (
    COUNT,
    HEIGHT,
    PATIENCE,
    RATE,
    WIDTH,
    RtspServer,
    Witness,
    why_no_server,
    write_video,
)

from mlkd_ros.node.messages import nanoseconds

CALIBRATION = f"""
image_width: {WIDTH}
image_height: {HEIGHT}
camera_name: nose
camera_matrix: {{rows: 3, cols: 3, data: [300, 0, 160, 0, 300, 120, 0, 0, 1]}}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [-0.1, 0.01, 0, 0, 0]}}
"""


class Viewer:
    """Keeps what the camera says."""

    def __init__(self) -> None:
        self.images: list[Image] = []
        self.infos: list[CameraInfo] = []
        self.statuses: list[DiagnosticStatus] = []
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("viewer", namespace="mlkd", context=self._context)
        reliable = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        subscribe = self._node.create_subscription
        subscribe(Image, "image", self.images.append, reliable)
        subscribe(CameraInfo, "camera_info", self.infos.append, reliable)
        subscribe(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.statuses += [one for one in message.status if one.name == "/mlkd/camera: stream"]

    def until(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"no {what}"
            self._executor.spin_once(0.05)

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    viewer = Viewer()
    yield viewer
    viewer.close()


def parameters(**values: object) -> list[str]:
    given = [("-p", f"{name}:={value}") for name, value in values.items()]
    return ["--ros-args", *(part for pair in given for part in pair)]


def pixels(message: Image) -> np.ndarray:
    assert message.encoding == "bgr8"
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def value(status: DiagnosticStatus, key: str) -> str:
    return {item.key: item.value for item in status.values}[key]


def test_a_file_with_its_calibration(start_node: Callable, viewer: Viewer, tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", times=3)
    calibration = tmp_path / "nose.yaml"
    calibration.write_text(CALIBRATION)
    given = {"url": film, "calibration_file": calibration, "frame_id": "nose"}
    camera = start_node("camera", *parameters(**given))
    viewer.until(lambda: viewer.statuses and viewer.statuses[-1].level == b"\0", "good news")
    status = viewer.statuses[-1]
    assert value(status, "codec") == "h264"
    assert float(value(status, "rate").split()[0]) == pytest.approx(RATE, abs=RATE)
    viewer.until(lambda: not camera.running, "end")
    assert camera.process.returncode == 0
    viewer.until(lambda: len(viewer.infos) == len(viewer.images), "last calibration")
    witness = Witness()
    indices = [witness.index(pixels(message)) for message in viewer.images]
    assert len(indices) > COUNT
    stamps = [nanoseconds(message.header.stamp) for message in viewer.images]
    assert stamps == sorted(set(stamps))
    assert abs(stamps[-1] - time.time_ns()) < PATIENCE * 1e9
    assert [nanoseconds(info.header.stamp) for info in viewer.infos] == stamps
    info = viewer.infos[-1]
    assert info.header.frame_id == viewer.images[-1].header.frame_id == "nose"
    assert (info.width, info.height, info.k[0], info.p[2]) == (WIDTH, HEIGHT, 300.0, 160.0)
    assert list(info.d) == [-0.1, 0.01, 0.0, 0.0, 0.0]


def test_a_calibration_of_another_size_is_not_published(
    start_node: Callable, viewer: Viewer, tmp_path: Path
) -> None:
    film = write_video(tmp_path / "film.mp4")
    calibration = tmp_path / "nose.yaml"
    calibration.write_text(CALIBRATION.replace(str(WIDTH), "1280"))
    camera = start_node("camera", *parameters(url=film, calibration_file=calibration, loop="true"))
    viewer.until(lambda: len(viewer.images) > 5, "images")
    camera.wait_for_output("is for 1280x240 pixels, images have 320x240")
    assert viewer.infos == []
    assert camera.stop() == 0


@pytest.mark.skipif(why_no_server() != "", reason=why_no_server())
def test_a_stream_that_loses_packets_and_its_server(
    start_node: Callable, viewer: Viewer, tmp_path: Path
) -> None:
    server = RtspServer(tmp_path, "h264", 0.02)
    try:
        given = {"url": server.url, "rtsp_transport": "udp", "stall_timeout": "1.0"}
        camera = start_node("camera", *parameters(**given))
        viewer.until(lambda: len(viewer.images) > RATE, "images")
        server.stop()
        viewer.until(
            lambda: viewer.statuses and viewer.statuses[-1].level == DiagnosticStatus.ERROR,
            "news of the loss",
        )
        assert "no connection" in viewer.statuses[-1].message
        viewer.images.clear()
        server.start()
        viewer.until(lambda: len(viewer.images) > 2 * RATE, "images again")
        viewer.until(
            lambda: int(value(viewer.statuses[-1], "reconnects")) > 0, "count of connections"
        )
        assert camera.stop() == 0
        assert "Traceback" not in camera.output
        assert camera.output.count(f"connected to {server.url}: h264") > 1
        assert "[WARN]" in camera.output and f"{server.url}: " in camera.output
    finally:
        server.stop()
    witness = Witness()
    filmed = server.pushed()
    for message in viewer.images:
        stamp = nanoseconds(message.header.stamp)
        delays = [stamp - pushed for pushed in filmed[witness.index(pixels(message))]]
        assert any(-0.05e9 < delay < 5e9 for delay in delays)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "parameter 'url' is empty"),
        ({"url": "/no/such.mp4"}, "parameter 'url' is '/no/such.mp4': No such file"),
        ({"url": "rtsp://x/y", "rtsp_transport": "pigeon"}, "must be one of tcp, udp"),
        ({"url": "/dev/video9", "size": "large"}, "parameter 'size' is 'large'"),
        ({"url": "rtsp://x/y", "calibration_file": "/no.yaml"}, "/no.yaml: No such file"),
    ],
)
def test_what_cannot_be_is_said_at_the_start(
    start_node: Callable, given: dict[str, str], words: str
) -> None:
    camera = start_node("camera", *parameters(**given))
    assert camera.process.wait(PATIENCE) == 2
    assert "camera: " in camera.output and words in camera.output


def test_a_file_without_a_film_is_an_error(start_node: Callable, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"none" * 100)
    camera = start_node("camera", *parameters(url=film))
    assert camera.process.wait(PATIENCE) == 1
    assert "no image came of" in camera.output and "Invalid data" in camera.output


def test_it_ends_at_once_while_nothing_is_there(start_node: Callable) -> None:
    camera = start_node("camera", *parameters(url="rtsp://127.0.0.1:9/none"))
    camera.wait_for_output("refused")
    begin = time.monotonic()
    assert camera.stop() == 0
    assert time.monotonic() - begin < 20


def test_without_pyav_the_extra_is_named(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4")
    without = "import sys; sys.modules['av'] = None; from mlkd_ros.camera import command"
    camera = [sys.executable, "-c", f"{without}; sys.exit(command.main(sys.argv[1:]))"]
    done = subprocess.run([*camera, *parameters(url=film)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'mlkd-ros[video]'" in done.stderr
