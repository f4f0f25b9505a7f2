# SPDX-License-Identifier: Apache-2.0
"""The tracker alone, for a camera that is already there."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from mlkd_ros.share import fastdds_environment, share_directory

ARGUMENTS = (
    DeclareLaunchArgument(
        "namespace",
        default_value="mlkd",
        description="Namespace of the nodes; one per camera on the aircraft.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(share_directory() / "config" / "tracker.yaml"),
        description="Parameters of the tracker (YAML). The arguments below take precedence.",
    ),
    DeclareLaunchArgument(
        "image_topic",
        default_value="",
        description="Topic of the camera images, relative to the namespace unless it begins with "
        "a slash. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "device",
        default_value="",
        description="Where the network runs: auto, cpu, cuda or cuda:N. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=["true", "false", "True", "False"],
        description="Take the time from the topic /clock.",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Least severity that is logged.",
    ),
)


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=tracker)])


def tracker(context: LaunchContext) -> list[Node]:
    """The node, once the arguments are known: what was not given is left to the file."""
    given = context.launch_configurations
    overrides: dict[str, str | bool] = {
        name: given[name] for name in ("image_topic", "device") if given[name]
    }
    if given["use_sim_time"].lower() == "true":
        overrides["use_sim_time"] = True
    return [
        Node(
            package="mlkd_ros",
            executable="tracker",
            namespace=given["namespace"],
            parameters=[given["params_file"], overrides],
            ros_arguments=["--log-level", given["log_level"]],
            additional_env=fastdds_environment(),
            output="screen",
        )
    ]
