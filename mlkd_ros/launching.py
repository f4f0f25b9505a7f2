# SPDX-License-Identifier: Apache-2.0
"""What our launch files share: their arguments, and the tracker and recorder that these start.

No default of a parameter stands here: an argument that was not given leaves the parameter to
`params_file`, and describes itself with the words of its declaration.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from ament_index_python import PackageNotFoundError, get_package_prefix
from launch.actions import DeclareLaunchArgument
from launch_ros.actions import Node

from mlkd_ros.node.parameters import Settings
from mlkd_ros.share import fastdds_environment, share_directory

__all__ = [
    "BOOLEAN",
    "COMMON",
    "MAVLINK",
    "RECORD",
    "argument",
    "beside",
    "image_remappings",
    "is_true",
    "parameter_argument",
    "recorder",
    "require_package",
    "tracker",
    "typed",
]

#: How people write booleans on a command line.
BOOLEAN = ["true", "false", "True", "False"]


def argument(
    name: str, description: str, default: str = "", choices: list[str] | None = None
) -> DeclareLaunchArgument:
    """A launch argument with a default."""
    return DeclareLaunchArgument(
        name, default_value=default, description=description, choices=choices
    )


def parameter_argument(name: str) -> DeclareLaunchArgument:
    """The argument that sets the tracker's parameter of that name. KeyError if it has none."""
    declared = {field.name: field for field in dataclasses.fields(Settings)}[name]
    choices = list(declared.metadata["choices"])
    if isinstance(declared.default, bool):
        choices = BOOLEAN
    return argument(
        name,
        f"{declared.metadata['description']} Not given: as in params_file.",
        choices=["", *choices] if choices else None,
    )


#: Arguments of every launch file that starts a tracker.
COMMON = (
    argument("namespace", "Namespace of the nodes; one per camera on the aircraft.", "mlkd"),
    argument(
        "params_file",
        "Parameters of the tracker (YAML). Arguments that name a parameter take precedence.",
        str(share_directory() / "config" / "tracker.yaml"),
    ),
    parameter_argument("image_topic"),
    parameter_argument("student"),
    parameter_argument("device"),
    argument("use_sim_time", "Take the time from the topic /clock.", "false", BOOLEAN),
    argument(
        "log_level",
        "Least severity that is logged.",
        "info",
        ["debug", "info", "warn", "error", "fatal"],
    ),
)

RECORD = argument(
    "record",
    "Bag to record images, detections, status and bearing into; a folder that exists, or a name "
    "that ends with a slash, gets a bag in it that is named after the time. Empty: no recording.",
)

#: For launch files that can start the MAVLink camera.
MAVLINK = (
    argument(
        "mavlink",
        "Links of a MAVLink camera to start too (executable mavlink, extra `mavlink`), separated "
        "by commas: udpin:ADDRESS:PORT, udpout:HOST:PORT, tcp:HOST:PORT, tcpin:ADDRESS:PORT, "
        "serial:DEVICE:BAUD. Empty: none.",
    ),
    argument("video_uri", "With mavlink: address of the video that ground stations are told."),
    argument(
        "gimbal",
        "Follow the target with the camera's gimbal. ros: executable gimbal publishes rates on "
        "gimbal_rate. mavlink: they go to the vehicle's gimbal manager as well; needs mavlink. "
        "none: nothing is moved.",
        "none",
        ["none", "ros", "mavlink"],
    ),
    argument(
        "point_topic",
        "Topic of clicks of the tracker. Empty: as in params_file, or `point` with mavlink, whose "
        "points a box is then fitted to.",
    ),
)


def is_true(text: str) -> bool:
    """Whether a boolean argument says so."""
    return text.lower() == "true"


def tracker(given: dict[str, str], kind: type[Node] = Node, **options: Any) -> Node:
    """The tracker as the arguments `given` ask for it; `options` are those of the action.

    RuntimeError for a file of parameters that is not there: launch itself only warns of that, and
    the tracker would fly with defaults.
    """
    if not os.path.isfile(given["params_file"]):
        raise RuntimeError(f"params_file:={given['params_file']} is not a file")
    overrides: dict[str, Any] = options.pop("overrides", {})
    if given.get("mavlink") and not given["point_topic"]:
        overrides["point_topic"] = "point"
    for field in dataclasses.fields(Settings):
        if text := given.get(field.name):
            overrides[field.name] = typed(field.name, text, field.default)
    if is_true(given["use_sim_time"]):
        overrides["use_sim_time"] = True
    return kind(
        package="mlkd_ros",
        executable="tracker",
        exec_name="tracker",  # in launch's log, also behind a prefix
        name="tracker",
        namespace=given["namespace"],
        parameters=[given["params_file"], overrides],
        ros_arguments=["--log-level", given["log_level"]],
        additional_env=fastdds_environment(),
        output="screen",
        **options,
    )


def typed(name: str, text: str, like: Any) -> Any:
    """The text of argument `name` as a value of the type of `like`. RuntimeError if it is none."""
    if isinstance(like, bool):
        return is_true(text)
    try:
        return type(like)(text)
    except ValueError:
        raise RuntimeError(f"{name}:={text} is not a number as {like!r} is") from None


def recorder(given: dict[str, str], *arguments: str) -> Node:
    """The recorder of what that tracker sees and says, into the bag `record`."""
    return Node(
        package="mlkd_ros",
        executable="recorder",
        name="recorder",
        namespace=given["namespace"],
        arguments=[given["record"], *arguments],
        parameters=[{"use_sim_time": is_true(given["use_sim_time"])}],
        remappings=image_remappings(given),
        ros_arguments=["--log-level", given["log_level"]],
        output="screen",
    )


def mavlink(given: dict[str, str]) -> Node:
    """The MAVLink camera that the tracker is for vehicle and ground stations."""
    parameters: dict[str, Any] = {
        "connections": given["mavlink"],
        "video_uri": given["video_uri"],
        "gimbal": given["gimbal"] == "mavlink",
        "use_sim_time": is_true(given["use_sim_time"]),
    }
    return Node(
        package="mlkd_ros",
        executable="mavlink",
        name="mavlink",
        namespace=given["namespace"],
        parameters=[parameters],
        ros_arguments=["--log-level", given["log_level"]],
        output="screen",
    )


def beside(given: dict[str, str]) -> list[Node]:
    """The MAVLink camera and the gimbal's follower, if asked for."""
    if given["gimbal"] == "mavlink" and not given["mavlink"]:
        raise RuntimeError("gimbal:=mavlink needs mavlink:=..., which says where the vehicle is")
    nodes = [mavlink(given)] if given["mavlink"] else []
    if given["gimbal"] != "none":
        nodes.append(gimbal(given))
    return nodes


def gimbal(given: dict[str, str]) -> Node:
    """Who follows with the gimbal."""
    return Node(
        package="mlkd_ros",
        executable="gimbal",
        name="gimbal",
        namespace=given["namespace"],
        parameters=[{"use_sim_time": is_true(given["use_sim_time"])}],
        ros_arguments=["--log-level", given["log_level"]],
        output="screen",
    )


def image_remappings(given: dict[str, str]) -> list[tuple[str, str]]:
    """For a node whose own topic is `image`: to the one that the tracker is told to take."""
    return [("image", given["image_topic"])] if given["image_topic"] else []


def require_package(package: str, asked_by: str) -> None:
    """RuntimeError, saying how to install it, if what `asked_by` needs is not there."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        distribution = os.environ.get("ROS_DISTRO", "<distribution>")
        raise RuntimeError(
            f"{asked_by} needs the ROS package {package}, which is not installed: "
            f"sudo apt install ros-{distribution}-{package.replace('_', '-')}"
        ) from None
