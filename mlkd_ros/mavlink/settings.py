# SPDX-License-Identifier: Apache-2.0
"""The parameters of executable `mavlink`, each declared once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from mlkd_ros.node.parameters import Change, ParameterError, declaration, descriptor_of
from mlkd_ros.node.start import warn_of_unknown

__all__ = ["MavlinkParameters", "MavlinkSettings"]


@dataclasses.dataclass(frozen=True)
class MavlinkSettings:
    """The value of every parameter at one moment."""

    connections: str = declaration(
        "",
        "Links to vehicle and ground stations, separated by commas: udpin:ADDRESS:PORT (listens), "
        "udpout:HOST:PORT (speaks first), tcp:HOST:PORT, tcpin:ADDRESS:PORT, serial:DEVICE:BAUD.",
        change=Change.AT_START,
    )
    system_id: int = declaration(
        0,
        "System id of the vehicle that the camera is on. 0: that of the first autopilot that is "
        "heard; the camera is silent until then.",
        low=0,
        high=255,
        change=Change.AT_START,
    )
    component_id: int = declaration(
        100,
        "Component id of this camera: 100 to 105 (MAV_COMP_ID_CAMERA to CAMERA6) are for cameras.",
        low=1,
        high=255,
        change=Change.AT_START,
    )
    signing_key_file: str = declaration(
        "",
        "File with the passphrase for message signing, the one that the ground station has. "
        "Unsigned messages are then ignored. Empty: no signing.",
        change=Change.AT_START,
    )
    tracker: str = declaration(
        "tracker", "Name of the tracker's node, in this node's namespace.", change=Change.AT_START
    )
    video_delay: float = declaration(
        0.0,
        "Seconds by which the operator's picture is late, from exposure to the command's arrival "
        "here. A designation is taken to mean the image of so long ago. 0: the newest.",
        low=0.0,
        high=30.0,
        change=Change.ANY_TIME,
    )
    default_rate: float = declaration(
        5.0,
        "How often a second the tracking status is sent to who asks for its default interval.",
        low=0.1,
        high=50.0,
        change=Change.AT_START,
    )
    camera_name: str = declaration(
        "night tracker", "Name that ground stations show for this camera.", change=Change.AT_START
    )
    video_uri: str = declaration(
        "",
        "Address of the camera's video for ground stations, such as "
        "rtsp://192.168.1.10:8554/night. Empty: none is announced.",
        change=Change.AT_START,
    )
    gimbal: bool = declaration(
        False,
        "Whether to hand the rates on topic gimbal_rate on to the vehicle's gimbal manager: see "
        "executable gimbal.",
        change=Change.AT_START,
    )
    gimbal_device_id: int = declaration(
        0,
        "Component id of the gimbal that the camera is on, or 1 to 6 for one that the autopilot "
        "drives. 0: the first that is heard, else none.",
        low=0,
        high=255,
        change=Change.AT_START,
    )
    mount_roll: float = declaration(
        0.0,
        "Roll of a camera without a gimbal against the vehicle, degrees.",
        low=-180.0,
        high=180.0,
        change=Change.AT_START,
    )
    mount_pitch: float = declaration(
        0.0,
        "Pitch of a camera without a gimbal against the vehicle, degrees; -90 looks down.",
        low=-180.0,
        high=180.0,
        change=Change.AT_START,
    )
    mount_yaw: float = declaration(
        0.0,
        "Yaw of a camera without a gimbal against the vehicle, degrees, positive to the right.",
        low=-180.0,
        high=180.0,
        change=Change.AT_START,
    )
    attitude_error: float = declaration(
        1.5,
        "Standard deviation of attitude and mounting together, degrees, for the accuracy of a "
        "target's place on the ground.",
        low=0.0,
        high=45.0,
        change=Change.AT_START,
    )


class MavlinkParameters:
    """Declares the parameters on a node and keeps `settings` up to date.

    Raises ParameterError, naming the parameter, for values that cannot be used. changed: called
    after a change in flight.
    """

    def __init__(self, node: Node, changed: Callable[[], None] = lambda: None) -> None:
        values: dict[str, Any] = {}
        for field in dataclasses.fields(MavlinkSettings):
            parameter = node.declare_parameter(field.name, field.default, descriptor_of(field))
            values[field.name] = parameter.value
        warn_of_unknown(node)
        self.settings = MavlinkSettings(**values)
        self._changed = changed
        if not self.settings.connections.strip():
            raise ParameterError(
                "parameter 'connections' is empty, it must say where vehicle and ground stations "
                "are, for example udpin:0.0.0.0:14550 or serial:/dev/ttyTHS1:921600"
            )
        node.add_on_set_parameters_callback(self._set)

    def _set(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        # Ranges and read-only ones are checked by rclpy before.
        names = {field.name for field in dataclasses.fields(MavlinkSettings)}
        changes = {p.name: p.value for p in parameters if p.name in names}
        self.settings = dataclasses.replace(self.settings, **changes)
        self._changed()
        return SetParametersResult(successful=True)
