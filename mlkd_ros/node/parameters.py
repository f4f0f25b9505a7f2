# SPDX-License-Identifier: Apache-2.0
"""The parameters of the tracker node, each declared once: name, default, description, range.

`config/tracker.yaml` lists the same defaults for people to copy; a test keeps the two equal.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException

from mlkd_ros.imaging.camera import BAYER_PATTERNS, ORIENTATIONS, CameraSettings
from mlkd_ros.imaging.messages import TRANSPORTS, VIDEO_TRANSPORTS
from mlkd_ros.imaging.packets import require_video
from mlkd_ros.node.graph import message_class
from mlkd_ros.node.start import StartError, check_topic, warn_of_unknown
from mlkd_ros.tracking import PresenceSettings

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter import Parameter

__all__ = [
    "PRESENCE",
    "Change",
    "ParameterError",
    "Parameters",
    "Settings",
    "declaration",
    "default_settings",
    "described",
    "described_parameters",
    "descriptor_of",
]

#: Said of a parameter that `Change.UNCONFIGURED` marks, by `ros2 param describe`.
_ONLY_UNCONFIGURED = "set at the start or while the node is unconfigured"


class Change(enum.Enum):
    """When a parameter may be set."""

    ANY_TIME = enum.auto()
    UNCONFIGURED = enum.auto()
    AT_START = enum.auto()


class ParameterError(ValueError):
    """A parameter value that cannot be used; the message names it and what would be right."""


def declaration(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    change: Change = Change.UNCONFIGURED,
) -> Any:
    """A field of `Settings`: default, description, inclusive range or choices, when to set it."""
    metadata = {
        "description": description,
        "low": low,
        "high": high,
        "choices": choices,
        "change": change,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The value of every parameter at one moment."""

    autostart: bool = declaration(
        True,
        "Whether the node configures and activates itself at its start, and ends with exit code 1 "
        "if it cannot. false: it waits for `ros2 lifecycle set` or a lifecycle manager.",
        change=Change.AT_START,
    )
    image_topic: str = declaration(
        "image",
        "Topic of the images to track in, relative to the namespace unless it begins with /.",
    )
    image_transport: str = declaration(
        "raw",
        "How the images come: raw (sensor_msgs/Image on image_topic), compressed (JPEG or PNG as "
        "sensor_msgs/CompressedImage on <image_topic>/compressed), or as video in H.264, H.265 or "
        "AV1 (extra `video`): ffmpeg (ffmpeg_image_transport_msgs/FFMPEGPacket on "
        "<image_topic>/ffmpeg) or foxglove (foxglove_msgs/CompressedVideo on "
        "<image_topic>/foxglove).",
        choices=tuple(TRANSPORTS),
    )
    reliability: str = declaration(
        "best_effort",
        "Reliability asked of the image topic. best_effort works with every camera; reliable loses "
        "fewer images of a camera that offers it and whose DDS settings are not tuned for images. "
        "qos_overrides.<topic>.subscription.* goes further.",
        choices=("best_effort", "reliable"),
        # The overrides that are declared with the subscription cannot be declared anew.
        change=Change.AT_START,
    )
    camera_info_topic: str = declaration(
        "",
        "Topic of the camera's calibration (sensor_msgs/CameraInfo), for bearings. Empty: "
        "camera_info beside the image topic.",
    )
    image_rectified: bool = declaration(
        False,
        "Whether image_proc or the camera has removed the distortion from the images: bearings "
        "then go by P and R of the calibration instead of K and D.",
    )
    point_topic: str = declaration(
        "",
        "Topic of clicks that designate a target, as geometry_msgs/PointStamped in pixels "
        "(Foxglove). A stamp chooses the image; one that is later than all images, or zero, the "
        "newest. Empty: none.",
    )
    mouse_topic: str = declaration(
        "",
        "Topic of clicks as geometry_msgs/Point in pixels, on the newest image: what "
        "rqt_image_view publishes on <its topic>_mouse_left. Empty: none.",
    )
    rectangle_topic: str = declaration(
        "",
        "Topic of boxes that designate a target, as sensor_msgs/RegionOfInterest in pixels, on the "
        "newest image. Empty: none.",
    )
    click_size: float = declaration(
        0.0,
        "Side in pixels of the camera's image of the square that a click designates. 0: the box is "
        "fitted to what is there.",
        low=0.0,
        high=4096.0,
        change=Change.ANY_TIME,
    )
    click_image_width: int = declaration(
        0,
        "Width of the pictures that clicks and rectangles count the pixels of, such as "
        "overlay_width. 0: the camera's images.",
        low=0,
        high=65536,
        change=Change.ANY_TIME,
    )
    student: str = declaration(
        "auto",
        "The student to fly: fast or accurate, which come with the package, or the path of a "
        ".safetensors file. auto takes accurate on CUDA, fast on a CPU.",
    )
    checkpoint: str = declaration(
        "", "Older name of student: if it is not empty, the file to fly, whatever student says."
    )
    device: str = declaration("auto", "Where the network runs: auto, cpu, cuda or cuda:N.")
    engine: str = declaration(
        "auto",
        "What runs the network: auto, onnxruntime, openvino, tensorrt or torch. auto takes torch "
        "on CUDA, onnxruntime on a CPU.",
    )
    threads: int = declaration(1, "CPU threads of the network.", low=1, high=64)
    max_targets: int = declaration(
        1,
        "Targets followed at once. With 1, a new target replaces the old one; with more, the "
        "service refuses one too many. The network runs on all of them in one batch.",
        low=1,
        high=16,
    )
    search_budget: float = declaration(
        0.02,
        "Seconds that looking for lost targets may take in one image, all of them together. What "
        "does not fit is looked at in the images after it.",
        low=0.001,
        high=1.0,
        change=Change.ANY_TIME,
    )
    resume: bool = declaration(
        False,
        "Whether to save the targets while they are followed and, when the node comes back after "
        "a crash, to look for those saved shortly before.",
    )
    resume_file: str = declaration(
        "",
        "File that parameter resume saves the targets in; nothing else is ever written. Empty: "
        "named after the node in $XDG_STATE_HOME/mlkd_ros (~/.local/state/mlkd_ros).",
        change=Change.AT_START,
    )
    resume_within: float = declaration(
        30.0,
        "Seconds after which saved targets are no longer looked for.",
        low=0.0,
        high=86400.0,
    )
    history_duration: float = declaration(
        3.0,
        "Seconds of images kept for starting on an image of the past. What operators at a ground "
        "station look at is kept for longer where their link is later than that, up to 30 s.",
        low=0.0,
        high=60.0,
    )
    history_megabytes: int = declaration(
        256,
        "Memory for those images, in 2^20 bytes. 1280x720 bgr8 at 30 Hz takes 79 a second. Where "
        "it is short, images that no operator was sent are dropped first.",
        low=1,
        high=65536,
    )
    mono16_black: int = declaration(0, "Value of a mono16 image that is black.", low=0, high=65534)
    mono16_white: int = declaration(
        65535,
        "Value of a mono16 image that is white: 4095 for a camera with 12 bits at the low end.",
        low=1,
        high=65535,
    )
    bayer_pattern: str = declaration(
        "",
        "Colour mosaic that 8-bit grey images lie under although their encoding does not say so.",
        choices=("", *BAYER_PATTERNS),
    )
    orientation: str = declaration(
        "stored",
        "Which way up compressed images are: stored, as their pixels lie in the file; or exif, "
        "turned as their EXIF tag asks. Boxes count the pixels of the result.",
        choices=ORIENTATIONS,
    )
    catch_up_duration: float = declaration(
        0.5,
        "Seconds that init_target may spend on running from the operator's image to the present. "
        "Images are skipped evenly to keep to it.",
        low=0.05,
        high=5.0,
        change=Change.ANY_TIME,
    )
    class_id: str = declaration(
        "target", "hypothesis.class_id of published detections.", change=Change.ANY_TIME
    )
    silence_timeout: float = declaration(
        2.0,
        "Seconds without an image after which diagnostics and log report silence.",
        low=0.1,
        high=3600.0,
        change=Change.ANY_TIME,
    )
    overlay_width: int = declaration(
        640,
        "Greatest width of overlay images in pixels.",
        low=64,
        high=7680,
        change=Change.ANY_TIME,
    )
    overlay_rate: float = declaration(
        10.0, "Greatest rate of overlay images in Hz.", low=0.1, high=240.0, change=Change.ANY_TIME
    )
    overlay_quality: int = declaration(
        80, "JPEG quality of overlay/compressed.", low=1, high=100, change=Change.ANY_TIME
    )
    overlay_video: str = declaration(
        "none",
        "Whether the overlay leaves as H.264, too (extra `video`): ffmpeg "
        "(ffmpeg_image_transport_msgs/FFMPEGPacket on overlay/ffmpeg) or foxglove "
        "(foxglove_msgs/CompressedVideo on overlay/foxglove).",
        choices=("none", *VIDEO_TRANSPORTS),
    )
    overlay_bitrate: int = declaration(
        1000,
        "Thousand bits a second of the overlay's H.264 at the most.",
        low=50,
        high=50000,
        change=Change.ANY_TIME,
    )
    health_rate: float = declaration(
        1.0,
        "How often a second light, noise and sharpness of the images are judged, for diagnostics. "
        "0: never.",
        low=0.0,
        high=30.0,
        change=Change.ANY_TIME,
    )

    @property
    def camera(self) -> CameraSettings:
        """How the camera's stored values become pictures."""
        return CameraSettings(
            self.mono16_black, self.mono16_white, self.bayer_pattern, self.orientation
        )


@dataclasses.dataclass(frozen=True)
class _Threshold:
    """A field of `PresenceSettings` that is a parameter while the node is configured."""

    description: str
    high: float


#: Parameter `presence.<name>` for each. Their defaults come from the student that was loaded.
PRESENCE = {
    "tracking_above": _Threshold("Confidence from which an UNCERTAIN target is TRACKING again.", 1),
    "uncertain_below": _Threshold("Confidence below which a target is UNCERTAIN.", 1),
    "lost_below": _Threshold(
        "Probability that the target is visible below which it is LOST and searched for.", 1
    ),
    "shown_above": _Threshold(
        "Probability, by one image alone, that it shows the target, below which no box is reported "
        "for that image. Nor is one where, by all that is believed, it rather does not show it.",
        1,
    ),
    "reacquire_above": _Threshold(
        "Probability from which on something seen within reach is a LOST target found again.", 1
    ),
    "give_up_after": _Threshold(
        "Seconds after which a LOST target is GIVEN_UP: no longer searched for.", 86400
    ),
}
_PREFIX = "presence."


def _check(settings: Settings) -> None:
    """What no single range can say. Raises ParameterError."""
    for field in dataclasses.fields(settings):
        choices, value = field.metadata["choices"], getattr(settings, field.name)
        if choices and value not in choices:
            raise ParameterError(
                f"parameter '{field.name}' is '{value}', it must be one of {', '.join(choices)}"
            )
    try:
        _ = settings.camera
    except ValueError as error:
        raise ParameterError(f"parameter {error}") from error
    for name in ("image_transport", "overlay_video"):
        transport = getattr(settings, name)
        if transport not in VIDEO_TRANSPORTS:
            continue
        try:
            require_video()
            message_class(TRANSPORTS[transport])
        except ImportError as error:
            raise ParameterError(f"parameter '{name}' is '{transport}': {error}") from error
    if not settings.image_topic:
        raise ParameterError("parameter 'image_topic' is empty, it must name a topic")
    for name in (field.name for field in dataclasses.fields(settings)):
        if name.endswith("_topic") and getattr(settings, name):
            try:
                check_topic(name, getattr(settings, name))
            except StartError as error:
                raise ParameterError(str(error)) from error


def default_settings() -> Settings:
    """Every parameter at its default."""
    return Settings()


def described(settings: type[Any]) -> list[tuple[str, object, str]]:
    """Name, default and meaning of the parameters that are the fields of a data class."""
    return [(f.name, f.default, f.metadata["description"]) for f in dataclasses.fields(settings)]


def described_parameters() -> list[tuple[str, object, str]]:
    """Name, default and meaning of every parameter; thresholds have those of the student."""
    return described(Settings) + [
        (_PREFIX + name, getattr(PresenceSettings(), name), one.description)
        for name, one in PRESENCE.items()
    ]


class Parameters:
    """Declares the parameters on a node and keeps `settings` and `presence` up to date.

    configured: whether the node is past its configure transition.
    changed: called after every change of `settings` or `presence`.

    A change is first validated as a whole and applied only if all of it is good: the values are
    replaced, never altered, so that any thread may read them.
    """

    def __init__(
        self, node: Node, configured: Callable[[], bool], changed: Callable[[], None]
    ) -> None:
        self._node = node
        self._configured = configured
        self._tell = changed
        self._fields = {field.name: field for field in dataclasses.fields(Settings)}
        values = {}
        for field in self._fields.values():
            parameter = node.declare_parameter(field.name, field.default, descriptor_of(field))
            values[field.name] = parameter.value
        self.settings = Settings(**values)
        #: None while the node is unconfigured: there is no student to have thresholds for.
        self.presence: PresenceSettings | None = None
        _check(self.settings)
        warn_of_unknown(node, (_PREFIX,))
        self._applied_later = hasattr(node, "add_post_set_parameters_callback")
        node.add_on_set_parameters_callback(self._validate)
        if self._applied_later:
            node.add_post_set_parameters_callback(self._apply)

    def declare_presence(self, calibrated: PresenceSettings) -> None:
        """Declare the thresholds of presence. Those of the student are their defaults.

        Raises ParameterError when values given at the start make no sense.
        """
        values: dict[str, Any] = {}
        try:
            for name, threshold in PRESENCE.items():
                descriptor = _threshold_descriptor(name, threshold)
                default = float(getattr(calibrated, name))
                values[name] = self._node.declare_parameter(
                    descriptor.name, default, descriptor
                ).value
            self.presence = dataclasses.replace(calibrated, **values)
        except (ValueError, ParameterException) as error:
            self.undeclare_presence()
            raise ParameterError(f"parameters {_PREFIX}*: {error}") from error

    def undeclare_presence(self) -> None:
        """The student has gone, and its thresholds with it."""
        self.presence = None
        for name in PRESENCE:
            if self._node.has_parameter(_PREFIX + name):
                self._node.undeclare_parameter(_PREFIX + name)

    def _changed(
        self, parameters: list[Parameter[Any]]
    ) -> tuple[Settings, PresenceSettings | None]:
        """What the values would be with these parameters. Raises ParameterError."""
        changes = {item.name: item.value for item in parameters if item.name in self._fields}
        settings = dataclasses.replace(self.settings, **changes)
        _check(settings)
        thresholds = {item.name.removeprefix(_PREFIX): item.value for item in parameters}
        changes = {name: value for name, value in thresholds.items() if name in PRESENCE}
        if self.presence is None or not changes:
            return settings, self.presence
        try:
            return settings, dataclasses.replace(self.presence, **changes)
        except ValueError as error:
            raise ParameterError(f"parameters {_PREFIX}*: {error}") from error

    def _check_moment(self, parameters: list[Parameter[Any]]) -> None:
        """Raises ParameterError for another value of what only an unconfigured node can change."""
        for item in parameters:
            field = self._fields.get(item.name)
            if field is None or field.metadata["change"] is not Change.UNCONFIGURED:
                continue
            if self._configured() and item.value != getattr(self.settings, item.name):
                raise ParameterError(
                    f"parameter '{item.name}' can be {_ONLY_UNCONFIGURED}: deactivate it and clean "
                    "it up first (ros2 lifecycle set)"
                )

    def _validate(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        try:
            self._check_moment(parameters)
            self._changed(parameters)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not self._applied_later:
            # Humble has only this one callback. It is the node's last check, so applying is safe.
            self._apply(parameters)
        return SetParametersResult(successful=True)

    def _apply(self, parameters: list[Parameter[Any]]) -> None:
        before = self.settings, self.presence
        self.settings, self.presence = self._changed(parameters)
        if (self.settings, self.presence) != before:
            self._tell()


def _threshold_descriptor(name: str, threshold: _Threshold) -> ParameterDescriptor:
    span = FloatingPointRange(from_value=0.0, to_value=float(threshold.high), step=0.0)
    return ParameterDescriptor(
        name=_PREFIX + name,
        description=f"{threshold.description} Calibrated with the student, whose own value is the "
        "default.",
        additional_constraints="lost_below <= uncertain_below <= tracking_above, so set several "
        "of them together; there only while the node is configured",
        floating_point_range=[span],
    )


def descriptor_of(field: dataclasses.Field[Any]) -> ParameterDescriptor:
    """What ROS is told of a parameter that was declared with `declaration`."""
    meta = field.metadata
    constraints = ["one of " + ", ".join(meta["choices"])] if meta["choices"] else []
    if meta["change"] is Change.UNCONFIGURED:
        constraints.append(_ONLY_UNCONFIGURED)
    descriptor = ParameterDescriptor(
        name=field.name,
        description=meta["description"],
        read_only=meta["change"] is Change.AT_START,
        additional_constraints="; ".join(constraints),
    )
    if meta["low"] is not None:
        if isinstance(field.default, int):
            descriptor.integer_range = [
                IntegerRange(from_value=int(meta["low"]), to_value=int(meta["high"]), step=0)
            ]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=float(meta["low"]), to_value=float(meta["high"]), step=0.0
                )
            ]
    return descriptor
