# SPDX-License-Identifier: Apache-2.0
"""The executable `recorder`: what it hears is in the bag, read back with rosbags."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from node_support import Scene, image_of, introduce, wait_until
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray

from mlkd_ros.cli import main as mlkd
from mlkd_ros.imaging.bags import Bag
from mlkd_ros.msg import TargetBearing, TrackStatus
from mlkd_ros.node.messages import time_message
from mlkd_ros.recording.recorder import main as recorder_main

highlevel = pytest.importorskip("rosbags.highlevel")

SMALL = {
    "detections": Detection2DArray,
    "status": TrackStatus,
    "bearing": TargetBearing,
    "camera_info": CameraInfo,
    "/diagnostics": DiagnosticArray,
}


class Aircraft:
    """Publishes everything that is recorded."""

    def __init__(self, namespace: str, image: str = "image") -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("aircraft", namespace=namespace, context=self.context)
        self.images = self.node.create_publisher(Image, image, 10)
        self.compressed = self.node.create_publisher(CompressedImage, f"{image}/compressed", 10)
        self.small = {
            name: self.node.create_publisher(kind, name, 10) for name, kind in SMALL.items()
        }
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def wait_for_recorder(self, *publishers: Any) -> None:
        """Until the recorder hears all of these."""
        for publisher in [*publishers, *self.small.values()]:
            wait_until(lambda p=publisher: p.get_subscription_count() > 0, 60, publisher.topic_name)
        introduce(self.node, f"{self.node.get_namespace()}/recorder")

    def delivered(self) -> None:
        """Until everything that was published has reached the recorder's process."""
        for publisher in (self.images, self.compressed, *self.small.values()):
            assert publisher.wait_for_all_acked(Duration(seconds=60)), publisher.topic_name

    def say(self, header: Header) -> None:
        """One message of each small kind."""
        found = Detection2D(header=header, id="7")
        status = DiagnosticStatus(name="tracker", message="fine")
        messages = {
            "detections": Detection2DArray(header=header, detections=[found]),
            "status": TrackStatus(header=header, target_id="7", latency=0.02),
            "bearing": TargetBearing(header=header, target_id="7", azimuth=0.25),
            "camera_info": CameraInfo(header=header, width=320, height=240),
            "/diagnostics": DiagnosticArray(header=header, status=[status]),
        }
        for name, message in messages.items():
            self.small[name].publish(message)

    def fly(self, image: np.ndarray, encoding: str = "bgr8") -> Image:
        """One image and what is said about it."""
        message = image_of(image, time.time_ns(), encoding)
        self.images.publish(message)
        self.say(message.header)
        return message

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def aircraft(request: pytest.FixtureRequest) -> Iterator[Aircraft]:
    aircraft = Aircraft(*getattr(request, "param", ("recorded",)))
    yield aircraft
    aircraft.close()


def read(bag: Path) -> dict[str, list[Any]]:
    """The messages of a bag by topic."""
    messages: dict[str, list[Any]] = {}
    with highlevel.AnyReader([bag]) as reader:
        for connection, _, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            messages.setdefault(connection.topic, []).append(message)
    return messages


def counted(bag: Path) -> Counter[str]:
    """Messages by topic of a bag that may lack its end."""
    with Bag(bag) as opened:
        return Counter(topic for topic, _, _ in opened.messages(opened.topics))


def ros(namespace: str = "recorded", *more: str) -> list[str]:
    return ["--ros-args", "-r", f"__ns:=/{namespace}", *more]


def lossless(topic: str) -> list[str]:
    """Images are taken as they come by default, and a busy machine loses some."""
    name = f"qos_overrides.{topic}.subscription"
    return ["-p", f"{name}.reliability:=reliable", "-p", f"{name}.depth:=10"]


def record(start_node: Callable, *arguments: str) -> Any:
    recorder = start_node("recorder", *arguments)
    recorder.wait_for_output("recording to")
    return recorder


def publish_until_there(recorder: Any, aircraft: Aircraft, image: np.ndarray, bag: Path) -> None:
    """Until so much has come that a chunk is on the disk."""
    file = bag / f"{bag.name}.mcap"

    def written() -> bool:
        aircraft.fly(image)
        time.sleep(0.02)
        assert recorder.running, recorder.output
        return file.stat().st_size > 2 << 20

    wait_until(written, 60, "2 MiB on the disk")


def test_everything_is_in_the_bag_under_its_name(
    start_node: Callable, aircraft: Aircraft, tmp_path: Path, scene: Scene
) -> None:
    bag = tmp_path / "flights/first"
    recorder = record(start_node, str(bag), *ros("recorded", *lossless("/recorded/image")))
    aircraft.wait_for_recorder(aircraft.images)
    # As many images as may wait to be written: of more, some might be left out.
    encodings = ("mono16", "rgb8", "bgr8")
    sent = [aircraft.fly(scene.image(i), encoding) for i, encoding in enumerate(encodings)]
    aircraft.delivered()
    assert recorder.stop() == 0
    assert "3 images, 0 left out, 0 other messages left out" in recorder.output
    messages = read(bag)
    assert Counter({topic: len(found) for topic, found in messages.items()}) == {
        "/recorded/image/compressed": 3,
        "/recorded/detections": 3,
        "/recorded/status": 3,
        "/recorded/bearing": 3,
        "/recorded/camera_info": 3,
        "/diagnostics": 3,
    }
    stamps = [message.header.stamp for message in messages["/recorded/image/compressed"]]
    assert [(s.sec, s.nanosec) for s in stamps] == [
        (m.header.stamp.sec, m.header.stamp.nanosec) for m in sent
    ]
    coded = messages["/recorded/image/compressed"][1]
    picture = cv2.imdecode(np.asarray(coded.data), cv2.IMREAD_COLOR)
    assert np.abs(picture.astype(int) - scene.image(1)).mean() < 6
    assert messages["/recorded/bearing"][0].azimuth == 0.25
    assert messages["/recorded/detections"][0].detections[0].id == "7"


@pytest.mark.parametrize("aircraft", [("recorded", "/nose/image_raw")], indirect=True)
def test_compressed_images_stay_as_they_are(
    start_node: Callable, aircraft: Aircraft, tmp_path: Path, scene: Scene
) -> None:
    # An existing folder is where flights go, each under the time it began.
    topic = "/nose/image_raw"
    remapped = ros("recorded", "-r", f"image:={topic}", *lossless(f"{topic}/compressed"))
    recorder = record(start_node, str(tmp_path), "--compressed", "--image-every", "2", *remapped)
    aircraft.wait_for_recorder(aircraft.compressed)
    data = cv2.imencode(".png", scene.image(0))[1].tobytes()
    for index in range(6):
        header = Header(stamp=time_message((index + 1) * 10**9))
        image = CompressedImage(header=header, format="bgr8; png compressed bgr8")
        image.data.frombytes(data)
        aircraft.compressed.publish(image)
    aircraft.delivered()
    assert recorder.stop() == 0
    (bag,) = tmp_path.glob("flight_*")
    images = read(bag)["/nose/image_raw/compressed"]
    assert [image.header.stamp.sec for image in images] == [2, 4, 6]
    assert bytes(images[0].data) == data


def test_without_images_and_the_bag_is_kept_when_told_to_end(
    start_node: Callable, aircraft: Aircraft, tmp_path: Path, scene: Scene
) -> None:
    bag = tmp_path / "bag"
    recorder = record(start_node, str(bag), "--no-images", *ros())
    aircraft.wait_for_recorder()
    aircraft.fly(scene.image(0))
    aircraft.delivered()
    recorder.process.send_signal(signal.SIGTERM)
    assert recorder.process.wait(60) == 0
    assert aircraft.images.get_subscription_count() == 0
    assert set(read(bag)) == {"/diagnostics"} | {f"/recorded/{n}" for n in SMALL if n[0] != "/"}


def test_a_recording_that_was_cut_off_is_repaired(
    start_node: Callable,
    aircraft: Aircraft,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bag = tmp_path / "bag"
    recorder = record(start_node, str(bag), *ros())
    aircraft.wait_for_recorder(aircraft.images)
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
    publish_until_there(recorder, aircraft, noise, bag)
    recorder.process.kill()
    recorder.process.wait()
    file = bag / "bag.mcap"
    with open(file, "ab") as stream:  # as if the power had gone in the middle of a chunk
        stream.write(b"\x06" + (1 << 20).to_bytes(8, "little") + bytes(5000))
    with pytest.raises(highlevel.AnyReaderError):
        read(file)
    assert mlkd(["repair", str(bag)]) == 0
    assert "readable again; 5009 bytes" in capsys.readouterr().out
    messages = read(file)
    assert len(messages["/recorded/image/compressed"]) >= 3
    assert len(messages["/recorded/status"]) >= 3
    size = file.stat().st_size
    assert mlkd(["repair", str(file)]) == 0
    assert "is complete" in capsys.readouterr().out
    assert file.stat().st_size == size


@pytest.mark.parametrize(
    ("content", "words"), [(b"no", "not an MCAP file"), (b"\x89MCAP0\r\n", "nothing to rescue")]
)
def test_what_cannot_be_repaired_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: str
) -> None:
    file = tmp_path / "broken.mcap"
    file.write_bytes(content)
    assert mlkd(["repair", str(file)]) == 2
    assert words in capsys.readouterr().err
    assert file.read_bytes() == content


def test_memory_is_bounded_when_images_come_faster_than_they_can_be_written(
    start_node: Callable, aircraft: Aircraft, tmp_path: Path
) -> None:
    recorder = record(start_node, str(tmp_path / "bag"), *ros())
    aircraft.wait_for_recorder(aircraft.images)
    noise = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3)).astype(np.uint8)
    message = image_of(noise, time.time_ns())

    def memory() -> int:
        status = Path(f"/proc/{recorder.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) >> 10

    before = memory()
    for _ in range(60):
        aircraft.images.publish(message)
    assert memory() - before < 200, "60 of these images are 360 MiB"
    assert recorder.stop() == 0, recorder.output
    assert "left out" in recorder.output


def fly_until_it_ends(aircraft: Aircraft, recorder: Any, image: np.ndarray) -> None:
    def ended() -> bool:
        aircraft.fly(image)
        time.sleep(0.02)
        return not recorder.running

    wait_until(ended, 60, "the end")


def test_a_full_disk_ends_the_recording_and_keeps_the_bag(
    start_node: Callable, aircraft: Aircraft, small_disk: Path | None
) -> None:
    """There is room to begin with: on a slow machine it must not end before it was met."""
    if small_disk is None:
        pytest.skip("nobody may mount a small disk here")
    bag = small_disk / "bag"
    recorder = record(start_node, str(bag), "--keep-free", "5", *ros())
    aircraft.wait_for_recorder(aircraft.images)
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3)).astype(np.uint8)
    fly_until_it_ends(aircraft, recorder, noise)
    assert recorder.process.returncode == 1
    assert "less than 5 MiB are free" in recorder.output
    assert read(bag)


def test_a_disk_that_fills_up_under_it(
    start_node: Callable, aircraft: Aircraft, tmp_path: Path, small_disk: Path | None
) -> None:
    """Faster than the recorder looks at what is free."""
    bag = (small_disk or tmp_path) / "bag"
    recorder = record(start_node, str(bag), "--keep-free", "1", *ros())
    if small_disk is None:  # none can be made here
        resource.prlimit(recorder.process.pid, resource.RLIMIT_FSIZE, (6 << 20, 6 << 20))
    aircraft.wait_for_recorder(aircraft.images)
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
    fly_until_it_ends(aircraft, recorder, noise)
    assert recorder.process.returncode == 1, recorder.output
    words = ["the disk is full"] if small_disk else ["File too large"]
    words.append("1 MiB are free on the disk")  # where this machine is slow, it looks in time
    assert "recording ended" in recorder.output
    assert any(one in recorder.output for one in words)
    assert "Traceback" not in recorder.output
    count = counted(bag)
    assert count["/recorded/image/compressed"] >= 5 and count["/recorded/status"] >= 5


def test_killed_it_leaves_all_but_the_last_two_seconds(
    start_node: Callable, aircraft: Aircraft, tmp_path: Path, scene: Scene
) -> None:
    """Also where so little comes that the library would keep half an hour of it in memory."""
    bag = tmp_path / "bag"
    recorder = record(start_node, str(bag), "--no-images", *ros())
    aircraft.wait_for_recorder()
    sent: list[float] = []
    begin = time.monotonic()
    while time.monotonic() - begin < 5.0:
        aircraft.fly(scene.image(0))
        sent.append(time.monotonic())
        time.sleep(0.05)
    recorder.process.kill()
    killed = time.monotonic()
    recorder.process.wait()
    # Half a second for the way from here to there on a busy machine.
    due = sum(moment < killed - 2.5 for moment in sent)
    assert due > 10
    count = counted(bag)
    for name in SMALL:
        assert count[name if name[0] == "/" else f"/recorded/{name}"] >= due, count


def test_a_terminal_that_is_closed_ends_the_recording(
    start_node: Callable, aircraft: Aircraft, tmp_path: Path, scene: Scene
) -> None:
    bag = tmp_path / os.fsdecode(b"caf\xe9")  # and whatever its name is
    recorder = record(start_node, str(bag), *ros("recorded", *lossless("/recorded/image")))
    aircraft.wait_for_recorder(aircraft.images)
    for index in range(3):
        aircraft.fly(scene.image(index))
    aircraft.delivered()
    recorder.process.send_signal(signal.SIGHUP)
    assert recorder.process.wait(60) == 0, recorder.output
    assert "3 images, 0 left out" in recorder.output
    assert len(read(bag)["/recorded/image/compressed"]) == 3


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metadata.yaml").touch()
    assert recorder_main([str(tmp_path)]) == 1
    assert "exists already; a recording never overwrites anything" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [("--quality", "0"), ("--image-every", "0"), ("--keep-free", "x")]
)
def test_bad_options(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        recorder_main(["bag", *option])
    assert option[0] in capsys.readouterr().err
