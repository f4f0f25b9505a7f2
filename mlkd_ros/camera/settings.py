# SPDX-License-Identifier: Apache-2.0
"""The parameters of executable `camera`, each declared once."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from rclpy.node import Node

from mlkd_ros.camera.stream import StreamSettings
from mlkd_ros.node.parameters import Change, ParameterError, declaration, descriptor_of

__all__ = ["CameraParameters", "declared"]


def _at_start(default: Any, description: str, **options: Any) -> Any:
    return declaration(default, description, change=Change.AT_START, **options)


@dataclasses.dataclass(frozen=True)
class CameraParameters:
    """The parameters of the node."""

    url: str = _at_start(
        "",
        "Where the video is: rtsp://HOST:PORT/PATH; udp://ADDRESS:PORT, where MPEG-TS comes to; a "
        "V4L2 device such as /dev/video0; or a file. H.264, H.265, AV1, MJPEG or raw pictures.",
    )
    rtsp_transport: str = _at_start(
        "tcp",
        "How RTSP's packets come. tcp: none is lost, on a bad link they are late. udp: late ones "
        "are lost, and with them all images up to the next key frame.",
        choices=("tcp", "udp"),
    )
    sender_clock: bool = _at_start(
        True,
        "Whether to stamp images by the sender's clock where it sends that (RTCP) and it is within "
        "5 s of ours. Else, and without, by the time of arrival.",
    )
    stall_timeout: float = _at_start(
        2.0,
        "Seconds without a packet after which the stream is taken for dead and connected again.",
        low=0.2,
        high=60.0,
    )
    loop: bool = _at_start(
        False, "Begin a file again at its end; otherwise the camera ends there, with exit code 0."
    )
    size: str = _at_start(
        "", "Of a V4L2 device: what it is asked for, WIDTHxHEIGHT. Empty: what it is set to."
    )
    rate: float = _at_start(
        0.0,
        "Of a V4L2 device: images a second that it is asked for. 0: what it is set to.",
        low=0.0,
        high=1000.0,
    )
    calibration_file: str = _at_start(
        "",
        "Calibration (YAML of camera_calibration), published as camera_info with every image. "
        "Empty: no camera_info, and so no bearings.",
    )
    frame_id: str = _at_start("camera_optical", "frame_id of images and camera_info.")

    def stream(self) -> StreamSettings:
        """For the stream. Raises ParameterError."""
        if self.size and not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", self.size):
            raise ParameterError(
                f"parameter 'size' is '{self.size}', it must be WIDTHxHEIGHT such as 1280x720"
            )
        return StreamSettings(
            url=self.url,
            transport=self.rtsp_transport,
            stall_timeout=self.stall_timeout,
            sender_clock=self.sender_clock,
            loop=self.loop,
            size=self.size,
            rate=self.rate,
        )


def declared(node: Node) -> CameraParameters:
    """Declare the parameters on a node. Raises ParameterError, naming the parameter."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(CameraParameters):
        value = node.declare_parameter(field.name, field.default, descriptor_of(field)).value
        choices = field.metadata["choices"]
        if choices and value not in choices:
            raise ParameterError(
                f"parameter '{field.name}' is '{value}', it must be one of {', '.join(choices)}"
            )
        values[field.name] = value
    return CameraParameters(**values)
