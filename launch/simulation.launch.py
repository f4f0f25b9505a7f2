# SPDX-License-Identifier: Apache-2.0
"""A simulated camera, and the tracker: a rendered night flight, or a camera of Gazebo's.

Gazebo itself is started elsewhere; with it, time is the simulator's.
"""

import os

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction
from launch_ros.actions import Node

from mlkd_ros import launching
from mlkd_ros.data.night_flight import SCENARIOS
from mlkd_ros.share import fastdds_environment

ARGUMENTS = (
    launching.argument(
        "simulator",
        "night_camera: a night flight rendered by this package, with ground truth. gazebo: a "
        "camera of a Gazebo that runs already, through ros_gz_bridge.",
        "night_camera",
        ["night_camera", "gazebo"],
    ),
    launching.argument(
        "scenario",
        "What happens in the flight of night_camera. Empty: as night_camera has it.",
        choices=["", *SCENARIOS],
    ),
    launching.argument(
        "seed",
        "Chooses town, traffic and noise of night_camera (a whole number). Empty: as night_camera "
        "has it.",
    ),
    launching.argument(
        "gz_image_topic",
        "With gazebo: Gazebo's topic of the camera (gz topic --list).",
        "/camera",
    ),
    launching.argument(
        "gz_camera_info_topic",
        "With gazebo: Gazebo's topic of the calibration.",
        "/camera_info",
    ),
    launching.RECORD,
    *launching.MAVLINK,
)


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    return LaunchDescription([*ARGUMENTS, *launching.COMMON, OpaqueFunction(function=nodes)])


def nodes(context: LaunchContext) -> list[Node]:
    """Camera, tracker and recorder; they agree on topic and clock."""
    given = context.launch_configurations
    if given["simulator"] == "gazebo":
        given["use_sim_time"] = "true"  # its images bear simulated time
        camera = gazebo_bridge(given)
    else:
        camera = night_camera(given)
    recorder = [launching.recorder(given)] if given["record"] else []
    return [launching.tracker(given), *recorder, *launching.beside(given), camera]


def night_camera(given: dict[str, str]) -> Node:
    """The rendered flight."""
    options = ["--log-level", given["log_level"]]
    for name in ("scenario", "seed", "use_sim_time"):
        if given[name]:
            options += ["-p", f"{name}:={given[name]}"]
    if given["gimbal"] != "none":
        options += ["-p", "gimbal:=true"]
    return Node(
        package="mlkd_ros",
        executable="night_camera",
        namespace=given["namespace"],
        remappings=launching.image_remappings(given),
        ros_arguments=options,
        additional_env=fastdds_environment(),
        output="screen",
    )


def gazebo_bridge(given: dict[str, str]) -> Node:
    """Images, calibration and clock from Gazebo to ROS."""
    launching.require_package("ros_gz_bridge", "simulator:=gazebo")
    # Humble goes with Gazebo Fortress, which had its old name.
    messages = "ignition.msgs" if os.environ.get("ROS_DISTRO") == "humble" else "gz.msgs"
    image, info = given["gz_image_topic"], given["gz_camera_info_topic"]
    return Node(
        package="ros_gz_bridge",
        executable="parameter_bridge",
        namespace=given["namespace"],
        arguments=[
            f"{image}@sensor_msgs/msg/Image[{messages}.Image",
            f"{info}@sensor_msgs/msg/CameraInfo[{messages}.CameraInfo",
            f"/clock@rosgraph_msgs/msg/Clock[{messages}.Clock",
        ],
        remappings=[(image, given["image_topic"] or "image"), (info, "camera_info")],
        additional_env=fastdds_environment(),
        output="screen",
    )
