# SPDX-License-Identifier: Apache-2.0
"""The tracker alone, for a camera that is already there."""

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction
from launch_ros.actions import Node

from mlkd_ros import launching


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    return LaunchDescription([*launching.COMMON, OpaqueFunction(function=nodes)])


def nodes(context: LaunchContext) -> list[Node]:
    """The node, once the arguments are known."""
    return [launching.tracker(context.launch_configurations)]
