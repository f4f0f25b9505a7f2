# SPDX-License-Identifier: Apache-2.0
"""Every kind of image has the same pixels in the node and behind every offline door."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from bag_support import START, compressed, image, make, write_bag
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from mlkd_ros.imaging.bag_types import message_types
from mlkd_ros.imaging.camera import CameraSettings
from mlkd_ros.imaging.encode import encode, frame_message, recorded_message
from mlkd_ros.imaging.encodings import ENCODINGS
from mlkd_ros.imaging.images import whole
from mlkd_ros.imaging.messages import Decoder
from mlkd_ros.imaging.sources import open_source
from mlkd_ros.node.intake import Intake
from mlkd_ros.node.parameters import Settings
from mlkd_ros.session.history import HeldFrame
from mlkd_ros.station.picture import Pictures

WIDTH, HEIGHT = 64, 48
THERMAL = CameraSettings(black=7950, white=8300)


def colours() -> np.ndarray:
    small = np.random.default_rng(5).integers(40, 220, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def thermal() -> np.ndarray:
    """14 bits, of which the scene uses 350 levels."""
    grey = cv2.cvtColor(colours(), cv2.COLOR_BGR2GRAY).astype(float)
    return (7950 + grey * 350 / 255).round().astype(np.uint16)


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def turned(data: bytes, orientation: int) -> bytes:
    """A JPEG with that EXIF orientation."""
    tiff = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def raw(encoding: str) -> Any:
    return image(START, encode(colours(), encoding), encoding, WIDTH, HEIGHT)


def of_file(data: bytes, name: str) -> Any:
    return compressed(START, data, name)


def mosaic(encoding: str) -> np.ndarray:
    rows = encode(colours(), encoding)
    return rows.view("<u2") if encoding.endswith("16") else rows


#: Message and settings of the camera; and whether a file tells as much as the message does.
CASES: dict[str, tuple[Any, CameraSettings, bool]] = {
    **{name: (raw(name), CameraSettings(), False) for name in ENCODINGS},
    "thermal mono16": (
        image(START, thermal().view(np.uint8), "mono16", WIDTH, HEIGHT),
        THERMAL,
        False,
    ),
    "thermal png": (of_file(png(thermal()), "mono16; png compressed "), THERMAL, True),
    "jpeg": (of_file(jpeg(colours()), "jpeg"), CameraSettings(), True),
    "grey jpeg": (
        of_file(jpeg(colours()[..., 0]), "mono8; jpeg compressed "),
        CameraSettings(),
        True,
    ),
    "png": (of_file(png(colours()), "bgr8; png compressed bgr8"), CameraSettings(), True),
    "png with alpha": (
        of_file(png(cv2.cvtColor(colours(), cv2.COLOR_BGR2BGRA)), "png"),
        CameraSettings(),
        True,
    ),
    "16-bit colour png": (
        of_file(png(colours().astype(np.uint16) * 16), "png"),
        CameraSettings(white=4095),
        True,
    ),
    "compressed rgb": (
        of_file(jpeg(colours()), "rgb8; jpeg compressed rgb8"),
        CameraSettings(),
        False,
    ),
    "EXIF as stored": (of_file(turned(jpeg(colours()), 6), "jpeg"), CameraSettings(), True),
    "EXIF upright": (
        of_file(turned(jpeg(colours()), 6), "jpeg"),
        CameraSettings(orientation="exif"),
        True,
    ),
    "bayer png": (
        of_file(png(mosaic("bayer_grbg8")), "bayer_grbg8; png compressed "),
        CameraSettings(),
        False,
    ),
    "bayer png by setting": (
        of_file(png(mosaic("bayer_grbg8")), "png"),
        CameraSettings(bayer="grbg"),
        True,
    ),
    "16-bit bayer png": (
        of_file(png(mosaic("bayer_rggb16")), "bayer_rggb16; png compressed "),
        CameraSettings(),
        False,
    ),
}


def reference(name: str) -> np.ndarray:
    message, camera, _ = CASES[name]
    return whole(Decoder(camera).decode(message))


@pytest.fixture(scope="module")
def node() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("one_way", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    yield node, executor
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.parametrize("name", CASES)
def test_in_the_node(node: Any, name: str) -> None:
    """The intake of the node, over DDS."""
    made, executor = node
    message, camera, _ = CASES[name]
    is_raw = hasattr(message, "encoding")
    settings = Settings(
        image_topic="one_way",
        image_transport="raw" if is_raw else "compressed",
        mono16_black=camera.black,
        mono16_white=camera.white,
        bayer_pattern=camera.bayer,
        orientation=camera.orientation,
        reliability="reliable",
    )
    intake = Intake(made, settings)
    taken: list[HeldFrame] = []
    intake.subscribe(taken.append)
    kind = Image if is_raw else CompressedImage
    publisher = made.create_publisher(kind, intake.topic, 1)
    data = message_types().serialize_cdr(message, message.__msgtype__)
    end = time.monotonic() + 60
    try:
        while not taken and time.monotonic() < end:
            publisher.publish(deserialize_message(bytes(data), kind))
            executor.spin_once(timeout_sec=0.05)
        assert taken, intake.monitor.problem
        np.testing.assert_array_equal(whole(taken[0].frame), reference(name))
    finally:
        intake.close()
        made.destroy_publisher(publisher)


@pytest.mark.parametrize("name", CASES)
def test_in_a_bag_with_and_without_recorded_settings(tmp_path: Path, name: str) -> None:
    message, camera, _ = CASES[name]
    bag = write_bag(tmp_path / "plain", [("/nose/image", START, message)])
    with open_source(bag, camera=camera) as source:
        (frame,) = source
        np.testing.assert_array_equal(frame.image, reference(name))
    settings = make("std_msgs/msg/String", data=camera.to_json())
    other = make("std_msgs/msg/String", data=CameraSettings(1, 2).to_json())
    messages = [
        ("/nose/image", START, message),
        ("/nose/camera_settings", START, settings),
        ("/tail/camera_settings", START, other),
    ]
    with open_source(write_bag(tmp_path / "recorded", messages)) as source:
        (frame,) = source
        np.testing.assert_array_equal(frame.image, reference(name))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2]])
def test_in_a_folder(tmp_path: Path, name: str) -> None:
    message, camera, _ = CASES[name]
    suffix = ".png" if "png" in name else ".jpg"
    (tmp_path / f"0{suffix}").write_bytes(bytes(message.data))
    with open_source(tmp_path, camera=camera) as source:
        (frame,) = source
        np.testing.assert_array_equal(frame.image, reference(name))


def test_other_files_than_jpeg_and_png(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.tif"), thermal())
    cv2.imwrite(str(tmp_path / "1.bmp"), colours())
    with open_source(tmp_path, camera=THERMAL) as source:
        deep, flat = source
        np.testing.assert_array_equal(deep.image, reference("thermal mono16"))
        np.testing.assert_array_equal(flat.image, colours())


@pytest.mark.parametrize("name", CASES)
def test_played_again(name: str) -> None:
    message, camera, _ = CASES[name]
    played = frame_message(Decoder(camera).decode(message), Header())
    np.testing.assert_array_equal(whole(Decoder().decode(played)), reference(name))


def test_played_again_with_all_its_bits() -> None:
    message, camera, _ = CASES["thermal mono16"]
    played = frame_message(Decoder(camera).decode(message), Header(), "mono16")
    np.testing.assert_array_equal(
        np.frombuffer(played.data, "<u2").reshape(HEIGHT, WIDTH), thermal()
    )


@pytest.mark.parametrize("name", ["thermal mono16", "bayer_rggb16", "mono16", "16UC1"])
def test_a_recording_keeps_all_bits(name: str) -> None:
    message, camera, _ = CASES[name]
    recorded = recorded_message(Decoder(camera).decode(message), Header(), 85)
    assert "png" in recorded.format
    np.testing.assert_array_equal(whole(Decoder(camera).decode(recorded)), reference(name))
    if name == "thermal mono16":
        kept = cv2.imdecode(np.frombuffer(recorded.data, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(kept, thermal())
        assert len(np.unique(reference(name))) > 100, "stretched, it has more than 3 grey levels"


@pytest.mark.parametrize(
    "name", [name for name, (_, camera, _) in CASES.items() if camera != CameraSettings()]
)
def test_on_the_page_of_the_ground_station(name: str) -> None:
    """Once it has heard the settings of the camera."""
    message, camera, _ = CASES[name]
    pictures = Pictures()
    pictures.scaled(message, WIDTH)
    pictures.use(camera)
    pixels, size = pictures.scaled(message, 2 * WIDTH)
    np.testing.assert_array_equal(pixels, reference(name))
    assert size == reference(name).shape[1::-1]


@pytest.mark.parametrize("name", ["thermal mono16", "thermal png"])
def test_the_page_shows_a_thermal_camera_without_being_told_its_levels(name: str) -> None:
    message, _, _ = CASES[name]
    pixels, size = Pictures().scaled(message, WIDTH)
    assert size == (WIDTH, HEIGHT)
    assert int(pixels.max()) - int(pixels.min()) > 200
    likeness = np.corrcoef(pixels.ravel(), reference("thermal mono16").ravel())[0, 1]
    assert likeness > 0.99
