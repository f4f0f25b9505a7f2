# SPDX-License-Identifier: Apache-2.0
"""A launch file of yours that includes ours: a camera driver, the tracker on its topic, the page.

ros2 launch camera_and_tracker.launch.py camera:=/front/image_raw
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from mlkd_ros.share import share_directory


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    camera = LaunchConfiguration("camera")
    tracker = Path(share_directory()) / "launch" / "tracker.launch.py"
    return LaunchDescription(
        [
            DeclareLaunchArgument("camera", default_value="/front/image_raw"),
            # In the place of your camera driver: a rendered night flight on that topic.
            Node(
                package="mlkd_ros",
                executable="night_camera",
                namespace="front",
                remappings=[("image", camera)],
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(tracker)),
                launch_arguments={"image_topic": camera, "namespace": "front"}.items(),
            ),
            Node(
                package="mlkd_ros",
                executable="ground_station",
                arguments=["--namespace", "/front", "--image", camera],
            ),
        ]
    )
