# SPDX-License-Identifier: Apache-2.0
"""Footage without annotation, read one way: a video file, a folder of images, a rosbag2 bag."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mlkd_ros.data.sequences import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    DatasetError,
    list_images,
    read_image,
)
from mlkd_ros.imaging.encodings import frame_over

BAG_SUFFIXES = frozenset({".mcap", ".db3"})
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
DEFAULT_RATE = 30.0


class SourceFrame(NamedTuple):
    """One image of a source.

    ``nanoseconds`` is its time: since the start for videos and folders, the message's header stamp
    for bags, exactly. ``image`` is uint8 BGR ``(height, width, 3)``. ``name`` tells where it came
    from.
    """

    nanoseconds: int
    image: np.ndarray
    name: str

    @property
    def stamp(self) -> float:
        """The time in seconds. A float: of a stamp of today it loses the last hundreds of
        nanoseconds.
        """
        return self.nanoseconds / 1e9


class FrameSource(abc.ABC):
    """Iterates over :class:`SourceFrame`; each iteration starts anew. Also a context manager."""

    def __init__(self, path: Path, frame_count: int | None, rate: float) -> None:
        self.path = path
        self.rate = rate
        """Frames a second, on average."""
        self.frame_count = frame_count
        """Number of frames where it is known (a video's container may lie), else None."""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[SourceFrame]: ...

    def __len__(self) -> int:
        if self.frame_count is None:
            raise TypeError(f"{self.path} does not know its number of frames")
        return self.frame_count

    def close(self) -> None:
        """Free what the source holds open."""
        return None

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VideoSource(FrameSource):
    """A video file, at the stamps of its container (or at its frame rate where it has none)."""

    def __init__(self, path: Path) -> None:
        capture = self._open(path)
        try:
            rate = capture.get(cv2.CAP_PROP_FPS)
            rate = rate if 0.1 < rate < 1000 else DEFAULT_RATE
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            if not capture.grab():
                raise DatasetError(f"{path}: the video holds no frame that can be decoded")
        finally:
            capture.release()
        super().__init__(path, count if count > 0 else None, rate)

    @staticmethod
    def _open(path: Path) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(path))
        if not capture.isOpened():
            raise DatasetError(f"{path}: cannot be opened as a video")
        return capture

    def __iter__(self) -> Iterator[SourceFrame]:
        capture = self._open(self.path)
        try:
            index, last = 0, -1.0
            while capture.grab():
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
                if stamp <= last:  # No usable stamps in this container.
                    stamp = last + 1.0 / self.rate
                good, image = capture.retrieve()
                if not good:
                    raise DatasetError(f"{self.path}: frame {index} cannot be decoded")
                yield SourceFrame(round(stamp * 1e9), image, f"{self.path.name}#{index}")
                index, last = index + 1, stamp
        finally:
            capture.release()


class FolderSource(FrameSource):
    """A folder of image files in natural order of their names, at a fixed rate in frames/s."""

    def __init__(self, path: Path, rate: float = DEFAULT_RATE) -> None:
        if not rate > 0:
            raise ValueError(f"rate must be positive, not {rate!r}")
        self._paths = list_images(path)
        super().__init__(path, len(self._paths), rate)

    def __iter__(self) -> Iterator[SourceFrame]:
        for index, path in enumerate(self._paths):
            yield SourceFrame(round(index / self.rate * 1e9), read_image(path), path.name)


class BagSource(FrameSource):
    """The images of one topic of a rosbag2 bag (MCAP or sqlite3), at their header stamps."""

    def __init__(self, path: Path, topic: str | None = None) -> None:
        """Open a bag folder, or one of its files.

        Args:
            path: Folder with ``metadata.yaml``, or an ``.mcap`` or ``.db3`` file.
            topic: Image topic; may be None where the bag holds exactly one.

        Raises:
            DatasetError: Not a bag, no such image topic, or several and none was named.
        """
        self._reader = open_bag(path)
        try:
            self.topic = self._choose_topic(path, topic)
        except DatasetError:
            self._reader.close()
            raise
        self._connections = [c for c in self._reader.connections if c.topic == self.topic]
        count = sum(connection.msgcount for connection in self._connections)
        seconds = self._reader.duration * 1e-9
        super().__init__(path, count, (count - 1) / seconds if count > 1 else DEFAULT_RATE)

    def _choose_topic(self, path: Path, topic: str | None) -> str:
        counts: dict[str, int] = {}
        for connection in self._reader.connections:
            if connection.msgtype in IMAGE_TYPES:
                counts[connection.topic] = counts.get(connection.topic, 0) + connection.msgcount
        if topic is not None and topic not in counts:
            raise DatasetError(f"{path}: no image topic {topic!r}; it has {_listed(counts)}")
        found = [topic] if topic is not None else sorted(name for name, n in counts.items() if n)
        if len(found) != 1:
            raise DatasetError(f"{path}: name one image topic of {_listed(counts)}")
        if counts[found[0]] == 0:
            raise DatasetError(f"{path}: topic {found[0]!r} holds no image")
        return found[0]

    def __iter__(self) -> Iterator[SourceFrame]:
        read = self._reader.messages(connections=self._connections)
        for index, (connection, received, data) in enumerate(read):
            message = self._reader.deserialize(data, connection.msgtype)
            name = f"{self.topic}#{index}"
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            try:
                image = decode_message(message)
            except ValueError as error:
                raise DatasetError(f"{self.path}, {name}: {error}") from error
            yield SourceFrame(stamp if stamp > 0 else received, image, name)

    def close(self) -> None:
        """Close the bag."""
        self._reader.close()


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({n} images)" for name, n in sorted(counts.items())) or "none"


def open_bag(path: Path) -> Any:
    """Open a rosbag2 bag, folder or file, as a reader of the ``rosbags`` library.

    Raises:
        ImportError: ``rosbags`` is not installed; the message names the extra.
        DatasetError: It cannot be read as a bag.
    """
    if not path.exists():
        raise DatasetError(f"{path}: no such bag")
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise ImportError("reading a bag needs rosbags: pip install mlkd_ros[tools]") from None
    try:
        # Bags from before Iron carry no message definitions; image messages have not changed since.
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
    except (AnyReaderError, OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read as a rosbag2 bag: {error}") from error
    return reader


def decode_message(message: Any) -> np.ndarray:
    """Decode an Image or CompressedImage message, of ROS or of rosbags, to uint8 BGR.

    Raises:
        ValueError: The message cannot be decoded; the error says why.
    """
    if hasattr(message, "format"):
        image = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"compressed image of format {message.format!r} cannot be decoded")
        return image
    frame = frame_over(
        message.data,
        message.width,
        message.height,
        message.step,
        message.encoding,
        bigendian=bool(message.is_bigendian),
    )
    return np.ascontiguousarray(frame.window(0, 0, frame.width, frame.height))


def open_source(
    path: str | Path, *, topic: str | None = None, rate: float = DEFAULT_RATE
) -> FrameSource:
    """Open a video file, a folder of images, or a rosbag2 bag (folder, ``.mcap`` or ``.db3``).

    Args:
        path: What to open.
        topic: Image topic of a bag; may be None where it holds exactly one.
        rate: Frames a second of a folder of images.

    Raises:
        DatasetError: Nothing there, or nothing that can be read; the path is named.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder")
    if path.suffix.lower() in BAG_SUFFIXES or (path / "metadata.yaml").is_file():
        return BagSource(path, topic)
    if path.is_dir():
        return FolderSource(path, rate)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise DatasetError(f"{path}: a single image; give the folder that holds the frames")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        kinds = ", ".join(sorted(VIDEO_SUFFIXES | BAG_SUFFIXES))
        raise DatasetError(f"{path}: not a folder and not one of {kinds}")
    return VideoSource(path)
