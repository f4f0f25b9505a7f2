# SPDX-License-Identifier: Apache-2.0
"""Footage without annotation, read one way: a video file, a folder of images, a rosbag2 bag.

The frames are lazy and those that the node would have: same decoders, same camera settings. What
cannot be decoded is counted and left out; what is wrong with the footage is in the source's notes.
"""

from __future__ import annotations

import abc
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mlkd_ros.files import library_name, printable
from mlkd_ros.imaging.bags import BAG_SUFFIXES, Bag, is_bag, stamp_of
from mlkd_ros.imaging.camera import CAMERA_TOPIC, CameraSettings
from mlkd_ros.imaging.compressed import Decoded
from mlkd_ros.imaging.encodings import UnusableImageError
from mlkd_ros.imaging.errors import DatasetError
from mlkd_ros.imaging.frame import BgrFrame, Frame
from mlkd_ros.imaging.images import IMAGE_SUFFIXES, list_images, open_image, whole
from mlkd_ros.imaging.messages import IMAGE_TYPES, TRANSPORTS, VIDEO_TRANSPORTS, Decoder
from mlkd_ros.imaging.packets import require_video
from mlkd_ros.imaging.stamps import StampJudge

__all__ = [
    "DEFAULT_RATE",
    "VIDEO_SUFFIXES",
    "BagSource",
    "FolderSource",
    "FrameSource",
    "SourceFrame",
    "VideoSource",
    "open_source",
    "open_video",
    "shared_parts",
]

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"})
DEFAULT_RATE = 30.0
#: Frames that a container may count wrongly without being cut short.
_COUNTED_WRONG = 2


@dataclass(frozen=True)
class SourceFrame:
    """One image of a source.

    stamp: nanoseconds; since the start for videos and folders, the message's header for bags, None
    where that has none. time: nanoseconds as `StampJudge` judged them: they never go back, and
    where the stamps are good they are the stamps. name: where the image came from. received: when
    the recorder got it, by its clock; for videos and folders the time.
    """

    frame: Frame
    stamp: int | None
    time: int
    name: str
    received: int

    @property
    def seconds(self) -> float:
        """`time` in seconds. Of a time of today this loses the last hundreds of nanoseconds."""
        return self.time / 1e9

    @property
    def image(self) -> np.ndarray:
        """All pixels, uint8 BGR ``(height, width, 3)``, not to be written to.

        Raises UnusableImageError.
        """
        return whole(self.frame)


class FrameSource(abc.ABC):
    """Iterates over :class:`SourceFrame`; each iteration starts anew. Also a context manager.

    camera: the settings in use. frame_count: number of frames where it is known (a video's
    container may lie), else None. cut_short: whether frames are missing at the end.
    """

    def __init__(self, path: Path, frame_count: int | None, camera: CameraSettings | None) -> None:
        self.path = path
        self.name = printable(path)
        self.frame_count = frame_count
        self.camera = camera or CameraSettings()
        self.cut_short = False
        self._unusable: Counter[str] = Counter()
        self._notes: list[str] = []

    def __iter__(self) -> Iterator[SourceFrame]:
        self._unusable.clear()
        self._notes.clear()
        self.cut_short = False
        return self._frames()

    @abc.abstractmethod
    def _frames(self) -> Iterator[SourceFrame]: ...

    def __len__(self) -> int:
        if self.frame_count is None:
            raise TypeError(f"{self.name} does not know its number of frames")
        return self.frame_count

    def refuse(self, error: Exception) -> None:
        """Count an image that turned out not to be decodable."""
        self._unusable[str(error)] += 1

    @property
    def unusable(self) -> int:
        """Images of this iteration that could not be decoded."""
        return self._unusable.total()

    @property
    def notes(self) -> list[str]:
        """What was wrong in this iteration, a sentence each."""
        notes = list(self._notes)
        if self._unusable:
            (reason, _), *others = self._unusable.most_common()
            more = f" (and {len(others)} other reasons)" if others else ""
            notes.append(
                f"{self.unusable} images could not be used and were left out: {reason}{more}"
            )
        return notes

    def close(self) -> None:
        """Free what the source holds open."""
        return None

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_video(path: Path) -> cv2.VideoCapture:
    """A video file, opened for reading. Raises DatasetError or FileNameError."""
    if not path.is_file():
        raise DatasetError(f"{printable(path)}: no such video file")
    capture = cv2.VideoCapture(library_name(path))
    if not capture.isOpened():
        raise DatasetError(f"{printable(path)}: cannot be opened as a video")
    return capture


class VideoSource(FrameSource):
    """A video file, at the stamps of its container (or at its frame rate where it has none)."""

    def __init__(self, path: Path, camera: CameraSettings | None = None) -> None:
        capture = open_video(path)
        try:
            rate = capture.get(cv2.CAP_PROP_FPS)
            self.rate = rate if 0.1 < rate < 1000 else DEFAULT_RATE
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            if not capture.grab():
                raise DatasetError(
                    f"{printable(path)}: the video holds no frame that can be decoded"
                )
        finally:
            capture.release()
        super().__init__(path, count if count > 0 else None, camera)

    def _frames(self) -> Iterator[SourceFrame]:
        capture = open_video(self.path)
        try:
            index, last = 0, -1.0
            while capture.grab():
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
                if stamp <= last:  # No usable stamps in this container.
                    stamp = last + 1.0 / self.rate
                good, image = capture.retrieve()
                if good:
                    time = round(stamp * 1e9)
                    name = f"{printable(self.path.name)}#{index}"
                    yield SourceFrame(BgrFrame(image), time, time, name, time)
                else:
                    self.refuse(ValueError(f"frame {index} cannot be decoded"))
                index, last = index + 1, stamp
        finally:
            capture.release()
        if self.frame_count is not None and index < self.frame_count - _COUNTED_WRONG:
            self.cut_short = True
            self._notes.append(
                f"only {index} of {self.frame_count} frames can be read: the file is cut off or "
                "damaged"
            )


class FolderSource(FrameSource):
    """A folder of image files in natural order of their names, at a fixed rate in frames/s."""

    def __init__(
        self, path: Path, rate: float = DEFAULT_RATE, camera: CameraSettings | None = None
    ) -> None:
        if not rate > 0:
            raise ValueError(f"rate must be positive, not {rate!r}")
        self.rate = rate
        self._paths = list_images(path)
        super().__init__(path, len(self._paths), camera)

    def _frames(self) -> Iterator[SourceFrame]:
        decoded = Decoded()
        for index, path in enumerate(self._paths):
            time = round(index / self.rate * 1e9)
            try:
                frame = open_image(path, self.camera, decoded)
            except DatasetError as error:
                self.refuse(error)
                continue
            yield SourceFrame(frame, time, time, printable(path.name), time)


def shared_parts(first: str, second: str) -> int:
    """How many parts two names of topics have in common from the left."""
    pairs = zip(first.split("/"), second.split("/"), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


class BagSource(FrameSource):
    """The images of one topic of a rosbag2 bag (MCAP or sqlite3), at their header stamps.

    bag: what else is in it. topic: of the images.
    """

    def __init__(
        self, path: Path, topic: str | None = None, camera: CameraSettings | None = None
    ) -> None:
        """Open a bag folder, or one of its files.

        Args:
            path: Folder of a bag, or an ``.mcap`` or ``.db3`` file.
            topic: Image topic; may be None where the bag holds exactly one.
            camera: None for the settings that were recorded with the images.

        Raises:
            DatasetError: Not a bag, no such image topic, or several and none was named.
            ImportError: The images are video, and PyAV is missing.
        """
        self.bag = Bag(path)
        try:
            self.topic = self._choose_topic(topic)
            if self.bag.topics[self.topic].type in map(TRANSPORTS.get, VIDEO_TRANSPORTS):
                require_video()
            camera = camera or self._recorded_camera()
        except BaseException:
            self.bag.close()
            raise
        super().__init__(path, self.bag.topics[self.topic].count, camera)

    def _choose_topic(self, topic: str | None) -> str:
        images, name = self.bag.of_type(*IMAGE_TYPES), self.bag.name
        counts = {key: found.count for key, found in images.items()}
        if topic is not None and topic not in counts:
            other = self.bag.topics.get(topic)
            kind = f" of {' or '.join(IMAGE_TYPES)}: it is {other.type}" if other else ""
            raise DatasetError(f"{name}: no image topic {topic!r}{kind}; it has {_listed(counts)}")
        found = [topic] if topic is not None else sorted(key for key, n in counts.items() if n)
        if not found:
            have = ", ".join(f"{t.name} ({t.type})" for t in self.bag.topics.values()) or "nothing"
            raise DatasetError(
                f"{name}: holds no image, a topic of {' or '.join(IMAGE_TYPES)}; it has {have}"
            )
        if len(found) != 1:
            raise DatasetError(f"{name}: name one image topic of {_listed(counts)}")
        if counts[found[0]] == 0:
            raise DatasetError(f"{name}: topic {found[0]!r} holds no image")
        if images[found[0]].problem:
            raise DatasetError(f"{name}: topic {found[0]!r}: {images[found[0]].problem}")
        return found[0]

    def _recorded_camera(self) -> CameraSettings | None:
        """The settings that were recorded with the images, the last ones if there are several."""
        topics = [
            name
            for name, topic in sorted(self.bag.of_type("std_msgs/msg/String").items())
            if name.rsplit("/", 1)[-1] == CAMERA_TOPIC and topic.count
        ]
        if not topics:
            return None
        topic = max(topics, key=lambda name: shared_parts(name, self.topic))
        found = None
        for message in self.bag.messages({topic}):
            try:
                found = CameraSettings.from_json(self.bag.decode(topic, message.data).data)
            except ValueError as error:
                self.bag.notes.append(f"topic {topic}: {error}")
        return found

    def _frames(self) -> Iterator[SourceFrame]:
        decoder, judge, index = Decoder(self.camera), StampJudge(), -1
        for index, message in enumerate(self.bag.messages({self.topic})):
            name = f"{self.topic}#{index}"
            about = (stamp_of(message.data), message.received, name)
            try:
                found = decoder.frames(self.bag.decode(self.topic, message.data), about)
            except (UnusableImageError, DatasetError) as error:
                judge.judge(*about[:2])
                self.refuse(error)
                continue
            for frame, (stamp, received, name) in found:
                yield SourceFrame(frame, stamp, judge.judge(stamp, received).time, name, received)
        for frame, (stamp, received, name) in decoder.flush():
            yield SourceFrame(frame, stamp, judge.judge(stamp, received).time, name, received)
        self._notes += judge.notes
        count = self.frame_count or 0
        if index + 1 < count:
            self.cut_short = True
            self._notes.append(f"only {index + 1} of {count} images can be read")

    @property
    def notes(self) -> list[str]:
        """What was wrong, with the bag and with its images."""
        return [*self.bag.notes, *super().notes]

    def close(self) -> None:
        """Close the bag."""
        self.bag.close()


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({n} images)" for name, n in sorted(counts.items())) or "none"


def open_source(
    path: str | Path,
    *,
    topic: str | None = None,
    rate: float = DEFAULT_RATE,
    camera: CameraSettings | None = None,
) -> FrameSource:
    """Open a video file, a folder of images, or a rosbag2 bag (folder, ``.mcap`` or ``.db3``).

    Args:
        path: What to open.
        topic: Image topic of a bag; may be None where it holds exactly one.
        rate: Frames a second of a folder of images.
        camera: How stored values become pictures. None: as recorded with them, else the default.

    Raises:
        DatasetError: Nothing there, or nothing that can be read; the path is named.
        FileNameError: A name that the library for videos cannot take.
    """
    path = Path(path)
    name = printable(path)
    if not path.exists():
        raise DatasetError(f"{name}: no such file or folder")
    if is_bag(path):
        return BagSource(path, topic, camera)
    if path.is_dir():
        return FolderSource(path, rate, camera)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise DatasetError(f"{name}: a single image; give the folder that holds the frames")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        kinds = ", ".join(sorted(VIDEO_SUFFIXES | BAG_SUFFIXES))
        raise DatasetError(f"{name}: not a folder and not one of {kinds}")
    return VideoSource(path, camera)
