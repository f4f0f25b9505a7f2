# SPDX-License-Identifier: Apache-2.0
"""Message types for reading and writing bags without ROS, and what older ones called otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

__all__ = ["box_of", "identity_of", "known_types", "message_types", "score_of"]

Box = tuple[float, float, float, float]

#: The message of video in a package.
VIDEO_MESSAGES = {
    "foxglove_msgs": "CompressedVideo",
    "ffmpeg_image_transport_msgs": "FFMPEGPacket",
}
_DETECTIONS = "std_msgs/Header header\nvision_msgs/Detection2D[] detections"
_BOX = "geometry_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y"
_OLD_HYPOTHESIS = "string id\nfloat64 score\ngeometry_msgs/PoseWithCovariance pose"
_OLD_DETECTION = (
    "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox2D bbox\nsensor_msgs/Image source_img"
)
#: vision_msgs before Humble, as far as detections need them: with the box's centre as
#: geometry_msgs/Pose2D; then with the pixels, with the fields for tracking or without.
_BEFORE_HUMBLE = (
    {
        "ObjectHypothesis": "string class_id\nfloat64 score",
        "ObjectHypothesisWithPose": (
            "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose"
        ),
        "Detection2D": (
            "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
            "vision_msgs/BoundingBox2D bbox\nstring id"
        ),
    },
    {"ObjectHypothesisWithPose": _OLD_HYPOTHESIS, "Detection2D": _OLD_DETECTION},
    {
        "ObjectHypothesisWithPose": _OLD_HYPOTHESIS,
        "Detection2D": f"{_OLD_DETECTION}\nbool is_tracking\nstring tracking_id",
    },
)


def message_types() -> Typestore:
    """The types that rosbags knows, and ours and other people's from their definitions."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    from mlkd_ros.share import share_directory

    store = get_typestore(Stores.ROS2_HUMBLE)
    share = share_directory().parent
    for package in ("vision_msgs", "foxglove_msgs", "ffmpeg_image_transport_msgs", "mlkd_ros"):
        folder = share / package / "msg"
        wanted = VIDEO_MESSAGES.get(package, "*")  # of a distribution's packages no more than that
        for path in sorted(folder.glob(f"{wanted}.msg")):
            definition = path.read_text(encoding="utf-8")
            store.register(get_types_from_msg(definition, f"{package}/msg/{path.stem}"))
    return store


def known_types() -> Iterator[Typestore]:
    """What a type may look like for which a bag has no definition, the likeliest first."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    yield message_types()
    for layout in _BEFORE_HUMBLE:
        store = get_typestore(Stores.ROS2_FOXY)
        definitions = {**layout, "BoundingBox2D": _BOX, "Detection2DArray": _DETECTIONS}
        types: dict[str, Any] = {}
        for name, text in definitions.items():
            types.update(get_types_from_msg(text, f"vision_msgs/msg/{name}"))
        store.register(types)
        yield store


def box_of(bbox: Any) -> Box:
    """A BoundingBox2D, of any distribution, as x, y, w, h in pixels with the top-left corner."""
    centre = getattr(bbox.center, "position", bbox.center)
    x, y = centre.x - bbox.size_x / 2, centre.y - bbox.size_y / 2
    return float(x), float(y), float(bbox.size_x), float(bbox.size_y)


def score_of(detection: Any, default: float = 1.0) -> float:
    """The score of a Detection2D's first hypothesis, of any distribution."""
    if not len(detection.results):
        return default
    first = detection.results[0]
    return float(getattr(first, "hypothesis", first).score)


def identity_of(detection: Any) -> str:
    """The stable id of a Detection2D, of any distribution; empty where it has none."""
    return str(getattr(detection, "id", None) or getattr(detection, "tracking_id", ""))
