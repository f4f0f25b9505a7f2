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

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter import Parameter

__all__ = ["Change", "ParameterError", "Parameters", "Settings", "declaration", "default_settings"]

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
    reliability: str = declaration(
        "best_effort",
        "Reliability asked of the image topic. best_effort works with every camera; reliable loses "
        "fewer images of a camera that offers it and whose DDS settings are not tuned for images. "
        "qos_overrides.<topic>.subscription.* goes further.",
        choices=("best_effort", "reliable"),
        # The overrides that are declared with the subscription cannot be declared anew.
        change=Change.AT_START,
    )
    checkpoint: str = declaration(
        "", "File of the student to fly (.safetensors). Empty: the one that comes with the package."
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
    )
    history_duration: float = declaration(
        3.0,
        "Seconds of images kept for starting on an image of the past. As long as the operator's "
        "video is late, and a little more.",
        low=0.0,
        high=60.0,
    )
    history_megabytes: int = declaration(
        256,
        "Memory for those images, in 2^20 bytes. 1280x720 bgr8 at 30 Hz takes 79 a second.",
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


def _check(settings: Settings) -> None:
    """What no single range can say. Raises ParameterError."""
    for field in dataclasses.fields(settings):
        choices, value = field.metadata["choices"], getattr(settings, field.name)
        if choices and value not in choices:
            raise ParameterError(
                f"parameter '{field.name}' is '{value}', it must be one of {', '.join(choices)}"
            )
    if settings.mono16_black >= settings.mono16_white:
        raise ParameterError(
            f"parameter 'mono16_black' ({settings.mono16_black}) must be below 'mono16_white' "
            f"({settings.mono16_white})"
        )
    if not settings.image_topic:
        raise ParameterError("parameter 'image_topic' is empty, it must name a topic")


def default_settings() -> Settings:
    """Every parameter at its default."""
    return Settings()


class Parameters:
    """Declares the parameters on a node and keeps `settings` up to date.

    configured: whether the node is past its configure transition.

    A change is first validated as a whole and applied only if all of it is good: `settings` is
    replaced, never altered, so that any thread may read it.
    """

    def __init__(self, node: Node, configured: Callable[[], bool]) -> None:
        self._configured = configured
        self._fields = {field.name: field for field in dataclasses.fields(Settings)}
        values = {}
        for field in self._fields.values():
            parameter = node.declare_parameter(field.name, field.default, _descriptor(field))
            values[field.name] = parameter.value
        self.settings = Settings(**values)
        _check(self.settings)
        self._applied_later = hasattr(node, "add_post_set_parameters_callback")
        node.add_on_set_parameters_callback(self._validate)
        if self._applied_later:
            node.add_post_set_parameters_callback(self._apply)

    def _changed(self, parameters: list[Parameter[Any]]) -> Settings:
        changes = {item.name: item.value for item in parameters if item.name in self._fields}
        return dataclasses.replace(self.settings, **changes)

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
            _check(self._changed(parameters))
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not self._applied_later:
            # Humble has only this one callback. It is the node's last check, so applying is safe.
            self._apply(parameters)
        return SetParametersResult(successful=True)

    def _apply(self, parameters: list[Parameter[Any]]) -> None:
        self.settings = self._changed(parameters)


def _descriptor(field: dataclasses.Field[Any]) -> ParameterDescriptor:
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
