# SPDX-License-Identifier: Apache-2.0
"""A recording in place of the camera, and the tracker. The tracker stays when it is over."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch_ros.actions import Node

from mlkd_ros.share import fastdds_environment, share_directory

ARGUMENTS = (
    DeclareLaunchArgument(
        "input", description="What to play: a video file, a folder of images, or a rosbag2 bag."
    ),
    DeclareLaunchArgument(
        "bag_topic",
        default_value="",
        description="Image topic in the bag. Empty: the only one it has.",
    ),
    DeclareLaunchArgument("rate", default_value="1.0", description="2.0 plays twice as fast."),
    DeclareLaunchArgument(
        "loop",
        default_value="false",
        choices=["true", "false", "True", "False"],
        description="Begin again at the end.",
    ),
)


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    tracker = str(share_directory() / "launch" / "tracker.launch.py")
    return LaunchDescription(
        [*ARGUMENTS, IncludeLaunchDescription(tracker), OpaqueFunction(function=replay)]
    )


def replay(context: LaunchContext) -> list[Node]:
    """The node that plays; it and the tracker agree on topic and clock."""
    given = context.launch_configurations
    options = [given["input"], "--rate", given["rate"]]
    if given["bag_topic"]:
        options += ["--bag-topic", given["bag_topic"]]
    if given["loop"].lower() == "true":
        options += ["--loop"]
    if given["use_sim_time"].lower() == "true":
        options += ["--clock"]
    return [
        Node(
            package="mlkd_ros",
            executable="replay",
            namespace=given["namespace"],
            arguments=options,
            remappings=[("image", given["image_topic"])] if given["image_topic"] else [],
            ros_arguments=["--log-level", given["log_level"]],
            additional_env=fastdds_environment(),
            output="screen",
        )
    ]
