# SPDX-License-Identifier: Apache-2.0
"""What a bag holds beside its images, to be played with them: ground truth and calibration."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from mlkd_ros.imaging.bag_types import box_of, identity_of, score_of
from mlkd_ros.imaging.bags import Bag, stamp_of
from mlkd_ros.imaging.errors import DatasetError
from mlkd_ros.imaging.sources import SourceFrame, shared_parts
from mlkd_ros.node.messages import box_to_message

__all__ = ["KINDS", "Beside"]

#: Type by name; topics of a bag are found by both.
KINDS: dict[str, type] = {"ground_truth": Detection2DArray, "camera_info": CameraInfo}
#: How far the stamp of a message may be off that of its image: drivers stamp the two one after the
#: other. Less than half the interval at 240 Hz.
_SAME_IMAGE = 2_000_000
#: The same for the times at which the recorder got them, where stamps tell nothing.
_RECEIVED_WITH = 15_000_000


class Beside:
    """Messages of a bag that belong to one of its images.

    All of them are held in memory, serialised: some 20 MB for an hour at 30 Hz. `topics` tells
    where they came from, by kind; `notes` what could not be read.
    """

    def __init__(self, bag: Bag, image_topic: str) -> None:
        self._bag = bag
        self.topics = _choose(bag, image_topic)
        self.notes: list[str] = []
        self._lists = {kind: _Messages(bag, topic) for kind, topic in self.topics.items()}

    def at(self, kind: str, frame: SourceFrame) -> Any:
        """The message of that kind about an image; None without one.

        A calibration holds until there is another, also for the images before the first: a camera
        may send it once, or late.
        """
        if kind not in self._lists:
            return None
        messages = self._lists[kind]
        raw = messages.about(frame)
        if raw is None and kind == "camera_info":
            raw = messages.latest(frame)
        if raw is None:
            return None
        try:
            message = self._bag.decode(self.topics[kind], raw)
        except DatasetError as error:
            if str(error) not in self.notes:
                self.notes.append(str(error))
            return None
        return _calibration(message) if kind == "camera_info" else _detections(message)


class _Messages:
    """The messages of a topic by stamp, and by when they were received."""

    def __init__(self, bag: Bag, topic: str) -> None:
        self._messages = [(m.received, stamp_of(m.data), m.data) for m in bag.messages({topic})]
        self._by_receipt = sorted(range(len(self._messages)), key=lambda i: self._messages[i][0])
        self._receipts = [self._messages[i][0] for i in self._by_receipt]
        self._by_stamp = sorted(
            (stamp, index)
            for index, (_, stamp, _) in enumerate(self._messages)
            if stamp is not None
        )

    def about(self, frame: SourceFrame) -> bytes | None:
        """The message with the image's stamp, or nearly; of several the one received with it."""
        if frame.stamp is None:
            return self._received_with(frame)
        low = bisect.bisect_left(self._by_stamp, (frame.stamp - _SAME_IMAGE, -1))
        high = bisect.bisect_right(self._by_stamp, (frame.stamp + _SAME_IMAGE, len(self._messages)))
        near = self._by_stamp[low:high]
        if not near:
            return None

        taken = frame.stamp

        def distance(one: tuple[int, int]) -> tuple[int, int]:
            stamp, index = one
            return abs(stamp - taken), abs(self._messages[index][0] - frame.received)

        return self._messages[min(near, key=distance)[1]][2]

    def _received_with(self, frame: SourceFrame) -> bytes | None:
        index = bisect.bisect_left(self._receipts, frame.received)
        near = self._by_receipt[max(index - 1, 0) : index + 1]
        found = min(near, key=lambda i: abs(self._messages[i][0] - frame.received), default=None)
        if found is None or abs(self._messages[found][0] - frame.received) > _RECEIVED_WITH:
            return None
        return self._messages[found][2]

    def latest(self, frame: SourceFrame) -> bytes | None:
        """The message received last before the image, else the first one."""
        if not self._messages:
            return None
        index = bisect.bisect_right(self._receipts, frame.received)
        return self._messages[self._by_receipt[max(index - 1, 0)]][2]


def _choose(bag: Bag, image_topic: str) -> dict[str, str]:
    """The topic of each kind: the one that shares most of its name with that of the images."""
    chosen = {}
    for kind, message in KINDS.items():
        package = message.__module__.split(".")[0]
        candidates = {
            topic.name
            for topic in bag.of_type(f"{package}/msg/{message.__name__}").values()
            if topic.count and not topic.problem and topic.name.rsplit("/", 1)[-1] == kind
        }
        if candidates:
            chosen[kind] = max(sorted(candidates), key=lambda name: shared_parts(name, image_topic))
    return chosen


def _detections(found: Any) -> Detection2DArray:
    """A Detection2DArray of any distribution as today's; the caller gives it a header."""
    message = Detection2DArray()
    for one in found.detections:
        detection = Detection2D(id=identity_of(one), bbox=box_to_message(box_of(one.bbox)))
        if len(one.results):
            result = ObjectHypothesisWithPose()
            first = getattr(one.results[0], "hypothesis", one.results[0])
            result.hypothesis.class_id = str(getattr(first, "class_id", getattr(first, "id", "")))
            result.hypothesis.score = score_of(one)
            detection.results.append(result)
        message.detections.append(detection)
    return message


def _calibration(found: Any) -> CameraInfo:
    roi = found.roi
    return CameraInfo(
        height=int(found.height),
        width=int(found.width),
        distortion_model=str(found.distortion_model),
        d=[float(value) for value in found.d],
        k=np.asarray(found.k, np.float64),
        r=np.asarray(found.r, np.float64),
        p=np.asarray(found.p, np.float64),
        binning_x=int(found.binning_x),
        binning_y=int(found.binning_y),
        roi=RegionOfInterest(
            x_offset=int(roi.x_offset),
            y_offset=int(roi.y_offset),
            height=int(roi.height),
            width=int(roi.width),
            do_rectify=bool(roi.do_rectify),
        ),
    )
