# SPDX-License-Identifier: Apache-2.0
"""A rendered night flight in place of the camera, and the tracker."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

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
    parameters: dict[str, object] = {
        "use_sim_time": given["use_sim_time"].lower() == "true",
    }
    if given["scenario"]:
        parameters["scenario"] = given["scenario"]
    if given["seed"]:
        parameters["seed"] = ParameterValue(LaunchConfiguration("seed"), value_type=int)
    return [
        Node(
            package="mlkd_ros",
            executable="night_camera",
            namespace=given["namespace"],
            parameters=[parameters],
            remappings=[("image", given["image_topic"])] if given["image_topic"] else [],
            ros_arguments=["--log-level", given["log_level"]],
            additional_env=fastdds_environment(),
            output="screen",
        )
    ]
