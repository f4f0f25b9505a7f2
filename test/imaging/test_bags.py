# SPDX-License-Identifier: Apache-2.0
"""Bags as they are found in the field are read, and what cannot be read is named."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_support import (
    SECOND,
    START,
    TYPES,
    compressed,
    header,
    image,
    make,
    write_bag,
)

from mlkd_ros.imaging.bag_types import box_of, known_types, score_of
from mlkd_ros.imaging.bags import Bag
from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.imaging.errors import DatasetError
from mlkd_ros.imaging.sources import open_source

STEP = SECOND // 30


def picture(index: int) -> np.ndarray:
    return np.full((24, 32, 3), (20 + index, 90, 200), np.uint8)


def images(count: int) -> list[tuple[str, int, Any]]:
    """On /camera/image, received 2 ms after their stamps."""
    return [
        (
            "/camera/image",
            START + index * STEP + 2_000_000,
            image(START + index * STEP, picture(index), "bgr8", 32, 24),
        )
        for index in range(count)
    ]


def stamps_in(path: Path) -> list[int | None]:
    with open_source(path) as source:
        return [frame.stamp for frame in source]


def expected(count: int) -> list[int]:
    return [START + index * STEP for index in range(count)]


@pytest.mark.parametrize("plugin", ["MCAP", "SQLITE3"])
def test_a_folder_without_metadata(tmp_path: Path, plugin: str) -> None:
    bag = write_bag(tmp_path / "bag", images(20), plugin)
    (bag / "metadata.yaml").unlink()
    assert stamps_in(bag) == expected(20)
    with Bag(bag) as opened:
        assert any("no metadata.yaml" in note for note in opened.notes)
    (bag / "metadata.yaml").write_text("half: [a, b\n")
    assert stamps_in(bag) == expected(20)


@pytest.mark.parametrize("plugin", ["MCAP", "SQLITE3"])
def test_a_split_bag_with_and_without_its_metadata(tmp_path: Path, plugin: str) -> None:
    """Eleven files, so that the order of names is not that of numbers."""
    whole = tmp_path / "split"
    whole.mkdir()
    messages, names = images(33), []
    for part in range(11):
        made = write_bag(tmp_path / f"part{part}", messages[3 * part : 3 * part + 3], plugin)
        (file,) = (f for f in made.iterdir() if f.suffix != ".yaml")
        names.append(f"split_{part}{file.suffix}")
        shutil.move(file, whole / names[-1])
    assert stamps_in(whole) == expected(33)
    import yaml

    content = yaml.safe_load((tmp_path / "part0" / "metadata.yaml").read_text())
    about = content["rosbag2_bagfile_information"]
    about["relative_file_paths"] = names
    (whole / "metadata.yaml").write_text(yaml.safe_dump(content))
    assert stamps_in(whole) == expected(33)
    # Cut off while it was written: the last file is not in the list yet.
    about["relative_file_paths"] = names[:-1]
    (whole / "metadata.yaml").write_text(yaml.safe_dump(content))
    assert stamps_in(whole) == expected(33)
    (whole / names[4]).unlink()
    with open_source(whole) as source:
        assert len(list(source)) == 30


def test_a_database_with_an_unmerged_write_ahead_log(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", images(10), "SQLITE3")
    (file,) = bag.glob("*.db3")
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA wal_autocheckpoint=0")
    topic, serialised = database.execute("SELECT topic_id, data FROM messages").fetchone()
    for index in range(10, 30):
        stamp = START + index * STEP
        data = bytearray(serialised)
        data[4:12] = struct.pack("<iI", stamp // SECOND, stamp % SECOND)
        database.execute(
            "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)",
            (topic, stamp, bytes(data)),
        )
    database.commit()
    killed = tmp_path / "killed"
    killed.mkdir()
    for one in bag.iterdir():
        shutil.copy(one, killed)
    database.close()
    (log,) = killed.glob("*.db3-wal")
    before = log.read_bytes()
    assert stamps_in(killed) == expected(30)
    with Bag(killed) as opened:
        assert any("write-ahead log" in note for note in opened.notes)
    assert log.read_bytes() == before, "a reader changes nothing"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_an_mcap_that_was_cut_off(tmp_path: Path, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (480, 640, 3)).astype(np.uint8)
    messages = [
        ("/camera/image", START + i * STEP, image(START + i * STEP, noise, "bgr8", 640, 480))
        for i in range(12)
    ]
    bag = write_bag(tmp_path / "bag", messages)
    (file,) = bag.glob("*.mcap")
    with file.open("r+b") as stream:
        stream.truncate(int(file.stat().st_size * share))
    found = stamps_in(bag)
    assert found == expected(12)[: len(found)]
    assert len(found) >= int(12 * share) - 2
    with open_source(bag) as source:
        list(source)
        assert any("breaks off" in note for note in source.notes)


@pytest.mark.parametrize(
    ("encoding", "message_encoding", "name", "data"),
    [
        ("jsonschema", "json", "foxglove.Log", b'{"type": "object"}'),
        ("protobuf", "protobuf", "foxglove.CompressedImage", b"\x0a\x00\xff"),
        ("omgidl", "cdr", "odd/msg/Thing", b"module odd { @unknown union Thing switch (x) {"),
        ("ros2idl", "cdr", "odd/msg/Other", b"\xff\xfe not IDL"),
        ("ros2msg", "cdr", "odd/msg/Third", b"this is no field!\n"),
        ("", "", "", b""),
    ],
)
def test_an_mcap_with_a_channel_that_nobody_reads(
    tmp_path: Path, encoding: str, message_encoding: str, name: str, data: bytes
) -> None:
    from mcap.writer import Writer

    path = tmp_path / "mixed.mcap"
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start(profile="")
        other = writer.register_schema(name or "x", encoding, data) if encoding else 0
        odd = writer.register_channel("/odd", message_encoding, other)
        from rosbags.typesys import Stores, get_typestore

        text, _ = get_typestore(Stores.ROS2_JAZZY).generate_msgdef(
            "sensor_msgs/msg/Image", ros_version=2
        )
        schema = writer.register_schema("sensor_msgs/msg/Image", "ros2msg", text.encode())
        camera = writer.register_channel("/camera/image", "cdr", schema)
        for topic, received, message in images(5):
            assert topic == "/camera/image"
            writer.add_message(odd, received, b"?", received)
            raw = bytes(TYPES.serialize_cdr(message, message.__msgtype__))
            writer.add_message(camera, received, raw, received)
        writer.finish()
    with open_source(path) as source:
        frames = list(source)
        assert [frame.stamp for frame in frames] == expected(5)
        np.testing.assert_array_equal(frames[3].image, picture(3))
    with Bag(path) as bag, pytest.raises(DatasetError, match="/odd"):
        bag.decode("/odd", next(bag.messages({"/odd"})).data)


def test_a_bag_without_images_says_what_it_has(tmp_path: Path) -> None:
    text = make("std_msgs/msg/String", data="x")
    bag = write_bag(tmp_path / "bag", [("/talk", START, text)])
    with pytest.raises(DatasetError, match=r"holds no image.*it has /talk \(std_msgs/msg/String\)"):
        open_source(bag)
    with pytest.raises(DatasetError, match="no image topic '/talk'.*it is std_msgs/msg/String"):
        open_source(bag, topic="/talk")


@pytest.mark.parametrize("layout", [1, 2, 3])
@pytest.mark.parametrize("plugin", ["MCAP", "SQLITE3"])
def test_detections_of_older_distributions(tmp_path: Path, layout: int, plugin: str) -> None:
    """With the definition in the bag (MCAP), and without, as before Iron (SQLite, removed here)."""
    store = list(known_types())[layout]
    types = store.types
    zero = types["geometry_msgs/msg/Point"](x=0.0, y=0.0, z=0.0)
    turn = types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0)
    pose = types["geometry_msgs/msg/PoseWithCovariance"](
        pose=types["geometry_msgs/msg/Pose"](position=zero, orientation=turn),
        covariance=np.zeros(36),
    )
    result = types["vision_msgs/msg/ObjectHypothesisWithPose"]
    if layout == 1:
        inner = types["vision_msgs/msg/ObjectHypothesis"](class_id="car", score=0.75)
        hypothesis = result(hypothesis=inner, pose=pose)
    else:
        hypothesis = result(id="car", score=0.75, pose=pose)
    centre = types["geometry_msgs/msg/Pose2D"](x=50.0, y=40.0, theta=0.0)
    bbox = types["vision_msgs/msg/BoundingBox2D"](center=centre, size_x=20.0, size_y=10.0)
    fields: dict[str, Any] = {"header": header(START), "results": [hypothesis], "bbox": bbox}
    if layout == 1:
        fields["id"] = "7"
    else:
        fields["source_img"] = types["sensor_msgs/msg/Image"](
            header=header(0),
            height=0,
            width=0,
            encoding="",
            is_bigendian=0,
            step=0,
            data=np.zeros(0, np.uint8),
        )
    if layout == 3:
        fields |= {"is_tracking": True, "tracking_id": "7"}
    found = types["vision_msgs/msg/Detection2DArray"](
        header=header(START), detections=[types["vision_msgs/msg/Detection2D"](**fields)]
    )
    bag = write_bag(tmp_path / "bag", [("/detections", START, found)], plugin, store)
    if plugin == "SQLITE3":
        (file,) = bag.glob("*.db3")
        database = sqlite3.connect(file)
        database.execute("DELETE FROM message_definitions")
        database.commit()
        database.close()
    with Bag(bag) as opened:
        message = opened.decode("/detections", next(opened.messages({"/detections"})).data)
    assert box_of(message.detections[0].bbox) == (40.0, 35.0, 20.0, 10.0)
    assert score_of(message.detections[0]) == 0.75


def test_an_unknown_type_is_named(tmp_path: Path) -> None:
    bag = write_bag(
        tmp_path / "bag", [*images(2), ("/talk", START, make("std_msgs/msg/String", data="x"))]
    )
    (file,) = bag.glob("*.mcap")
    with Bag(file) as opened, pytest.raises(DatasetError, match="topic /talk: std_msgs/msg/String"):
        opened.decode("/talk", b"\x00\x01\x00\x00\xff")


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def turned(data: bytes, orientation: int) -> bytes:
    """A JPEG with that EXIF orientation."""
    tiff = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def test_damaged_compressed_images_are_counted_and_left_out(tmp_path: Path) -> None:
    good = jpeg(picture(0))
    flipped = bytearray(png(picture(1)))
    flipped[60] ^= 0xFF
    data = [good, b"", good[:-40], bytes(flipped), b"GIF89a" + bytes(40), good]
    messages = [
        ("/camera/image/compressed", START + i * STEP, compressed(START + i * STEP, one))
        for i, one in enumerate(data)
    ]
    bag = write_bag(tmp_path / "bag", messages)
    seen = []
    with open_source(bag) as source:
        for frame in source:
            try:
                seen.append((frame.name, frame.image.shape))
            except UnusableImageError as error:
                source.refuse(error)
        assert seen == [
            ("/camera/image/compressed#0", (24, 32, 3)),
            ("/camera/image/compressed#5", (24, 32, 3)),
        ]
        assert source.unusable == 4
        assert any("4 images could not be used" in note for note in source.notes)


CLOCKS = {
    "good": lambda i: (START + i * STEP, START + i * STEP),
    "forward": lambda i: (START + i * STEP + (i > 30) * 1000 * SECOND,) * 2,
    "back": lambda i: (START + i * STEP - (i > 30) * 1000 * SECOND,) * 2,
    "1970": lambda i: (START + i * STEP if i > 30 else i * STEP + 1,) * 2,
    "one zero stamp": lambda i: (0 if i == 30 else START + i * STEP, START + i * STEP),
    "repeated": lambda i: (START + (i - i % 3) * STEP, START + i * STEP),
    "frozen": lambda i: (START, START + i * STEP),
    "camera back": lambda i: (START + i * STEP - (i > 30) * 1000 * SECOND, START + i * STEP),
    "TAI": lambda i: (START + i * STEP + 37 * SECOND, START + i * STEP),
}


@pytest.mark.parametrize("plugin", ["MCAP", "SQLITE3"])
@pytest.mark.parametrize("kind", CLOCKS)
def test_a_clock_that_was_set_in_flight_leaves_every_image_at_its_pace(
    tmp_path: Path, kind: str, plugin: str
) -> None:
    messages = []
    for index in range(60):
        stamp, received = CLOCKS[kind](index)
        message = image(stamp, picture(index), "bgr8", 32, 24)
        messages.append(("/camera/image", received + 2_000_000, message))
    with open_source(write_bag(tmp_path / "bag", messages, plugin)) as source:
        frames = list(source)
        assert [int(frame.image[0, 0, 0]) - 20 for frame in frames] == list(range(60))
        times = np.array([frame.time for frame in frames])
        steps = np.diff(times)
        assert steps.min() > 0
        assert steps.max() < 2.1 * STEP
        assert bool(source.notes) == (kind not in ("good", "TAI"))
