#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A client of the tracker: designates a target on an image of the past, then follows it.

    python designate_and_follow.py --box 600 340 60 40 --ago 0.5

Two topics belong together: `detections` has the boxes for whoever speaks vision_msgs, `status` says
how sure the tracker is and why there is no box. Both carry the stamp of their image: that is how
they are paired, not by the time at which they arrive.
"""

from __future__ import annotations

import argparse
import sys

import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.time import Duration
from rclpy.time import Time as RclpyTime
from vision_msgs.msg import Detection2DArray

from mlkd_ros.msg import TrackStatus
from mlkd_ros.srv import InitTarget

STATES = {1: "TRACKING", 2: "UNCERTAIN", 3: "LOST", 4: "GIVEN UP"}


class Follower(Node):
    """Designates one target and prints what becomes of it, `count` times."""

    def __init__(self, box: list[float], ago: float, count: int) -> None:
        super().__init__("follower", namespace="mlkd")
        self.left = count
        self.code = 1
        self._box, self._ago = box, ago
        self._target = ""
        self._detections: dict[tuple[int, int], Detection2DArray] = {}
        self._init_target = self.create_client(InitTarget, "init_target")
        self.create_subscription(Detection2DArray, "detections", self._on_detections, 10)
        self.create_subscription(TrackStatus, "status", self._on_status, 10)

    def _on_detections(self, message: Detection2DArray) -> None:
        stamp = message.header.stamp
        self._detections[stamp.sec, stamp.nanosec] = message
        while len(self._detections) > 30:
            del self._detections[next(iter(self._detections))]

    def _on_status(self, status: TrackStatus) -> None:
        if self._init_target is not None:
            self._designate(status.header.stamp)
        if not self._target or status.target_id != self._target or not self.left:
            return
        self.left -= 1
        print(self._line(status))
        if self.left == 0:
            self.code = 0

    def _designate(self, newest: Time) -> None:
        """On the image of `ago` seconds before the newest: what the operator saw on a late link."""
        if not self._init_target.service_is_ready():
            return
        client, self._init_target = self._init_target, None  # once
        seen = RclpyTime.from_msg(newest) - Duration(seconds=self._ago)
        x, y, width, height = self._box
        request = InitTarget.Request(stamp=seen.to_msg(), x=x, y=y, width=width, height=height)
        client.call_async(request).add_done_callback(self._on_answer)

    def _on_answer(self, future: rclpy.task.Future) -> None:
        answer = future.result()
        if answer.code != InitTarget.Response.SUCCESS:
            print(f"refused ({answer.code}): {answer.message}", file=sys.stderr)
            self.left = 0
            return
        print(answer.message)
        self._target = answer.target_id

    def _line(self, status: TrackStatus) -> str:
        text = f"{status.header.stamp.sec}.{status.header.stamp.nanosec:09d}"
        text += f" {STATES[status.state]} after {status.latency * 1e3:.0f} ms"
        if status.state == TrackStatus.LOST:
            return f"{text}, for {status.seconds_lost:.1f} s, expected at " + (
                f"({status.expected_x:.0f}, {status.expected_y:.0f})"
            )
        stamp = status.header.stamp
        array = self._detections.get((stamp.sec, stamp.nanosec))
        for detection in array.detections if array else ():
            if detection.id == self._target:
                centre = detection.bbox.center.position
                score = detection.results[0].hypothesis.score
                return f"{text} at ({centre.x:.0f}, {centre.y:.0f}), {score:.2f}"
        return text


def main() -> int:
    """Run until `--count` images have been told of. 1 if the designation was refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--box", nargs=4, type=float, required=True, metavar=("X", "Y", "W", "H"))
    parser.add_argument("--ago", type=float, default=0.0, help="seconds (default 0)")
    parser.add_argument("--count", type=int, default=100, help="images to follow (default 100)")
    given = parser.parse_args(rclpy.utilities.remove_ros_args(sys.argv)[1:])
    rclpy.init()
    node = Follower(given.box, given.ago, given.count)
    try:
        while node.left:
            rclpy.spin_once(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        code = node.code
        node.destroy_node()
        rclpy.try_shutdown()
    return code


if __name__ == "__main__":
    sys.exit(main())
