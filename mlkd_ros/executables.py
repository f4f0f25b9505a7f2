# SPDX-License-Identifier: Apache-2.0
"""The executables by name, as `ros2 run` and launch files start them.

What each needs is imported here, when it is started: that takes a second, on a small computer
several, and Ctrl-C meanwhile ends it like any program that has not begun yet.
"""

from __future__ import annotations

import importlib

from mlkd_ros.interrupt import ended_at_once

__all__ = [
    "camera",
    "gimbal",
    "ground_station",
    "mavlink",
    "night_camera",
    "recorder",
    "replay",
    "tracker",
]


def _run(module: str) -> int:
    with ended_at_once():
        main = importlib.import_module(module).main
    try:
        return int(main())
    except KeyboardInterrupt:  # before it has a way of its own to end
        return 130


def tracker() -> int:
    """The tracker node."""
    return _run("mlkd_ros.node.tracker_node")


def recorder() -> int:
    """Records a flight into a bag."""
    return _run("mlkd_ros.recording.recorder")


def replay() -> int:
    """Plays a recording on the image topic."""
    return _run("mlkd_ros.recording.replay")


def camera() -> int:
    """Publishes a video stream."""
    return _run("mlkd_ros.camera.command")


def night_camera() -> int:
    """Publishes a rendered night flight."""
    return _run("mlkd_ros.simulation.night_camera")


def ground_station() -> int:
    """The web ground station."""
    return _run("mlkd_ros.station.command")


def mavlink() -> int:
    """The tracker as a MAVLink camera."""
    return _run("mlkd_ros.mavlink.command")


def gimbal() -> int:
    """Keeps the target in the middle of the picture."""
    return _run("mlkd_ros.gimbal.node")
