# SPDX-License-Identifier: Apache-2.0
"""The examples do what they say, as a user runs them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import rclpy
from geometry_msgs.msg import TwistStamped
from rclpy.executors import SingleThreadedExecutor
from ros_support import wait_until
from vision_msgs.msg import Detection2DArray

from mlkd_ros.msg import TargetBearing
from mlkd_ros.node.messages import box_from_message

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CAMERA = ("-p", "width:=640", "-p", "height:=360", "-p", "rate:=8.0")

pytestmark = pytest.mark.timeout(300)


def python(name: str, *arguments: object) -> list[str]:
    return [sys.executable, str(EXAMPLES / name), *map(str, arguments)]


def test_a_client_designates_in_the_past_and_follows(start_node: Callable) -> None:
    """And a node turns to the target by its bearing."""
    start_node("tracker", "--ros-args", "-p", "history_duration:=30.0")
    start_node("night_camera", "--ros-args", *CAMERA)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("observer", namespace="mlkd", context=context)
    boxes: list[tuple[float, float, float, float]] = []
    turns: list[TwistStamped] = []
    bearings: list[TargetBearing] = []
    node.create_subscription(
        Detection2DArray,
        "ground_truth",
        lambda message: boxes.append(box_from_message(message.detections[0].bbox)),
        10,
    )
    node.create_subscription(TwistStamped, "cmd_vel", turns.append, 10)
    node.create_subscription(TargetBearing, "bearing", bearings.append, 10)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    follower = subprocess.Popen(python("follow_by_bearing.py"))
    try:
        wait_until(lambda: len(boxes) > 10, 60, "images")
        made = subprocess.run(
            python("designate_and_follow.py", "--ago", 0.6, "--count", 12, "--box", *boxes[-6]),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert made.returncode == 0, made.stderr
        designated, *lines = made.stdout.splitlines()
        assert re.match(r"target 1 designated, then followed through \d+ images", designated)
        assert len(lines) == 12
        assert any(re.search(r"TRACKING after -?\d+ ms at \(\d+, \d+\), 0\.\d\d", x) for x in lines)
        wait_until(lambda: len(turns) > 3, 60, "turns")
        # It turns to where the target is.
        by_stamp = {(b.header.stamp.sec, b.header.stamp.nanosec): b for b in bearings}
        pairs = [
            (by_stamp[stamp], turn)
            for turn in turns
            if (stamp := (turn.header.stamp.sec, turn.header.stamp.nanosec)) in by_stamp
        ]
        assert pairs
        for bearing, turn in pairs:
            assert turn.twist.angular.y * bearing.azimuth >= 0
            assert turn.twist.angular.x * bearing.elevation_down <= 0
    finally:
        follower.send_signal(signal.SIGINT)
        assert follower.wait(60) == 0
        executor.shutdown()
        thread.join(5)
        node.destroy_node()
        context.try_shutdown()


def test_a_first_look(tmp_path: Path) -> None:
    made = subprocess.run(
        python("first_look.py", 40), capture_output=True, text=True, cwd=tmp_path, timeout=200
    )
    assert made.returncode == 0, made.stderr
    score = re.search(r"mean IoU in sight ([\d.]+)", made.stdout)
    assert score and float(score[1]) > 0.4, made.stdout
    assert (tmp_path / "first_look.png").stat().st_size > 10_000


def test_a_launch_file_includes_ours() -> None:
    """With ROS 2's launch, where it is installed; it is not on PyPI."""
    pytest.importorskip("launch_ros", reason="launch_ros is not installed")
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    source = PythonLaunchDescriptionSource(str(EXAMPLES / "camera_and_tracker.launch.py"))
    description = source.get_launch_description(LaunchContext())
    assert len(description.entities) == 4
