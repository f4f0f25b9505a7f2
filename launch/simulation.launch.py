# SPDX-License-Identifier: Apache-2.0
"""A rendered night flight in place of the camera, and the tracker."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch_ros.actions import Node

from mlkd_ros.data.night_flight import SCENARIOS
from mlkd_ros.share import fastdds_environment, share_directory

ARGUMENTS = (
    DeclareLaunchArgument(
        "scenario",
        default_value="",
        choices=["", *SCENARIOS],
        description="What happens in the flight. Empty: as night_camera has it.",
    ),
    DeclareLaunchArgument(
        "seed",
        default_value="",
        description="Chooses town, traffic and noise (a whole number). Empty: as night_camera has "
        "it.",
    ),
)


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    tracker = str(share_directory() / "launch" / "tracker.launch.py")
    return LaunchDescription(
        [*ARGUMENTS, IncludeLaunchDescription(tracker), OpaqueFunction(function=night_camera)]
    )


def night_camera(context: LaunchContext) -> list[Node]:
    """The camera; it and the tracker agree on topic and clock."""
    given = context.launch_configurations
    options = ["--log-level", given["log_level"]]
    for name in ("scenario", "seed", "use_sim_time"):
        if given[name]:
            options += ["-p", f"{name}:={given[name]}"]
    return [
        Node(
            package="mlkd_ros",
            executable="night_camera",
            namespace=given["namespace"],
            remappings=[("image", given["image_topic"])] if given["image_topic"] else [],
            ros_arguments=options,
            additional_env=fastdds_environment(),
            output="screen",
        )
    ]
