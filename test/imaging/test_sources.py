# SPDX-License-Identifier: Apache-2.0
"""Videos, image folders and bags are read alike."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mlkd_ros.data.sequences import DatasetError
from mlkd_ros.imaging.sources import open_source


def _picture(value: int) -> np.ndarray:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:] = (value, 40, 200 - value)
    return image


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "flight.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
    for value in range(0, 100, 20):
        writer.write(_picture(value))
    writer.release()
    return path


def _write_bag(folder: Path, plugin: str, topics: dict[str, int], stamped: bool = True) -> Path:
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    typesys = pytest.importorskip("rosbags.typesys")
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    storage = getattr(rosbag2.StoragePlugin, plugin)
    with rosbag2.Writer(folder, version=8, storage_plugin=storage) as writer:
        for topic, count in topics.items():
            kind = "sensor_msgs/msg/Image"
            connection = writer.add_connection(topic, kind, typestore=store)
            for number in range(count):
                message = _ros_image(store, number, stamped)
                stamp = 50_000_000_000 + number * 100_000_000
                writer.write(connection, stamp, store.serialize_cdr(message, kind))
    return folder


def _ros_image(store: Any, number: int, stamped: bool) -> Any:
    types = store.types
    seconds = 7 + number if stamped else 0
    time = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=500_000_000 * stamped)
    header = types["std_msgs/msg/Header"](stamp=time, frame_id="camera")
    pixels = np.ascontiguousarray(_picture(20 * number)[:, :, ::-1]).ravel()
    return types["sensor_msgs/msg/Image"](
        header=header, height=48, width=64, encoding="rgb8", is_bigendian=0, step=192, data=pixels
    )


def test_video(video: Path) -> None:
    with open_source(video) as source:
        frames = list(source)
        assert source.rate == pytest.approx(20.0) and len(source) == 5
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert frames[0].image.shape == (48, 64, 3) and frames[2].name == "flight.mp4#2"
    assert len(list(source)) == 5, "a second pass starts anew"


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f"img{number}.png"), _picture(number))
    frames = list(open_source(tmp_path, rate=10.0))
    assert [frame.name for frame in frames] == ["img1.png", "img2.png", "img10.png"]
    assert [frame.seconds for frame in frames] == pytest.approx([0.0, 0.1, 0.2])
    with pytest.raises(ValueError, match="rate must be positive"):
        open_source(tmp_path, rate=0.0)


@pytest.mark.parametrize(("plugin", "suffix"), [("MCAP", "mcap"), ("SQLITE3", "db3")])
def test_bag_folder_and_bag_file(tmp_path: Path, plugin: str, suffix: str) -> None:
    folder = _write_bag(tmp_path / "bag", plugin, {"/camera/image": 4})
    (file,) = folder.glob(f"*.{suffix}")
    for path in (folder, file):
        with open_source(path) as source:
            frames = list(source)
            assert len(source) == 4
        assert [frame.stamp for frame in frames] == [n * 500_000_000 for n in (15, 17, 19, 21)]
        np.testing.assert_array_equal(frames[3].image, _picture(60))


def test_a_bag_without_header_stamps_falls_back_on_the_time_of_receipt(tmp_path: Path) -> None:
    folder = _write_bag(tmp_path / "bag", "MCAP", {"/image": 2}, stamped=False)
    with open_source(folder) as source:
        frames = list(source)
        assert [frame.stamp for frame in frames] == [None, None]
        assert [frame.seconds for frame in frames] == pytest.approx([50.0, 50.1])
        assert any("stamps are zero" in note for note in source.notes)


def test_a_bag_with_several_image_topics_needs_a_name(tmp_path: Path) -> None:
    folder = _write_bag(tmp_path / "bag", "MCAP", {"/left": 2, "/right": 3})
    with pytest.raises(DatasetError, match=r"/left \(2 images\), /right \(3 images\)"):
        open_source(folder)
    with pytest.raises(DatasetError, match="no image topic '/middle'"):
        open_source(folder, topic="/middle")
    with open_source(folder, topic="/right") as source:
        assert len(list(source)) == 3


def test_what_is_no_footage_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nothing\.mp4: no such"):
        open_source(tmp_path / "nothing.mp4")
    for name, message in (
        ("broken.mp4", "cannot be opened as a video"),
        ("broken.mcap", "cannot be read as an MCAP file"),
        ("broken.db3", "cannot be read as a rosbag2 database"),
        ("notes.txt", "not a folder and not one of"),
        ("one.png", "give the folder"),
    ):
        if name.endswith("mcap"):
            pytest.importorskip("mcap")
        (tmp_path / name).write_bytes(b"nothing of use")
        with pytest.raises(DatasetError, match=f"{name}: .*{message}"):
            open_source(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no image file"):
        open_source(tmp_path / "empty")
