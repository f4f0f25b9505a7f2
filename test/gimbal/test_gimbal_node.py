# SPDX-License-Identifier: Apache-2.0
"""Executable `gimbal` closes its loop: real tracker, rendered flight, camera on a gimbal.

Time is the test's, on /clock: it waits for every image and for what the tracker says of it, so that
a slow machine sees the same flight.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from geometry_msgs.msg import TwistStamped
from rcl_interfaces.srv import SetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from ros_support import PATIENCE, destroy, introduce, wait_until
from rosgraph_msgs.msg import Clock
from vision_msgs.msg import Detection2DArray

from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import box_from_message, nanoseconds, time_message
from mlkd_ros.srv import InitTarget, StopTarget

SIZE = (480, 270)
SIM = ("-p", "use_sim_time:=true")
STEP = 0.02
CAMERA = (*SIM, "-p", f"width:={SIZE[0]}", "-p", f"height:={SIZE[1]}", "-p", "rate:=10.0")
TRACKER = (*SIM, "-p", "history_duration:=60.0", "-p", "catch_up_duration:=2.0")


class Eye:
    """Hears the truth, the tracker and the rates; calls the services."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("eye", namespace="mlkd", context=self.context)
        self.truth: list[tuple[int, Any]] = []
        self.statuses: list[TrackStatus] = []
        self.rates: list[TwistStamped] = []
        subscribe = self.node.create_subscription
        subscribe(Detection2DArray, "ground_truth", self._on_truth, 50)
        subscribe(TrackStatus, "status", self.statuses.append, 50)
        subscribe(TwistStamped, "gimbal_rate", self.rates.append, 50)
        self.override = self.node.create_publisher(TwistStamped, "gimbal_override", 10)
        self._clock = self.node.create_publisher(Clock, "/clock", 10)
        self._flying = True
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self._ticking = threading.Thread(target=self._tick, daemon=True)
        self._ticking.start()

    def _tick(self) -> None:
        """Time goes on when the image that is due is there and the tracker has spoken of it."""
        now, waited = 100.0, 0.0
        while self._flying:
            time.sleep(STEP)
            last = self.truth[-1][0] if self.truth else None
            spoken = nanoseconds(self.statuses[-1].header.stamp) if self.statuses else None
            early = last is not None and (spoken != last or now > last * 1e-9 + 0.1 + STEP)
            waited = waited + STEP if early else 0.0
            if not early or waited > 3.0:  # what got lost is not waited for
                now += STEP
            self._clock.publish(Clock(clock=time_message(round(now * 1e9))))

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_truth(self, message: Detection2DArray) -> None:
        stamp = nanoseconds(message.header.stamp)
        self.truth.append((stamp, box_from_message(message.detections[0].bbox)))

    @property
    def steady(self) -> bool:
        """Whether the last two images are of one period: where time begins the scene jumps."""
        stamps = [stamp for stamp, _ in self.truth[-2:]]
        return len(stamps) == 2 and 0 < stamps[1] - stamps[0] <= 120_000_000

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(PATIENCE), name
        answer = client.call_async(request)
        wait_until(answer.done, PATIENCE, name)
        destroy(self.node, client)
        return answer.result()

    def designate(self) -> None:
        stamp, (x, y, w, h) = self.truth[-1]
        request = InitTarget.Request(stamp=time_message(stamp), x=x, y=y, width=w, height=h)
        answer = self.call(InitTarget, "init_target", request)
        assert answer.code == InitTarget.Response.SUCCESS, answer.message

    def close(self) -> None:
        self._flying = False
        self._ticking.join(5.0)
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def eye(start_node: Callable[..., Any]) -> Iterator[Eye]:
    start_node("night_camera", "--ros-args", *CAMERA, "-p", "gimbal:=true", "-p", "sway:=25.0")
    start_node("tracker", "--ros-args", *TRACKER)
    start_node("gimbal", "--ros-args", *SIM)
    eye = Eye()
    for name in ("night_camera", "tracker", "gimbal"):
        introduce(eye.node, f"/mlkd/{name}")
    wait_until(lambda: bool(eye.statuses) and eye.steady, PATIENCE, "images at the camera's rate")
    yield eye
    eye.close()


def test_it_follows_makes_way_and_stops(eye: Eye) -> None:
    assert not eye.rates  # nothing is moved before there is a target
    eye.designate()
    first = len(eye.truth)
    # The sway takes the target from the middle within seconds; the gimbal brings it back.
    wait_until(lambda: len(eye.truth) >= first + 60, PATIENCE, "60 images")
    boxes = [box for _, box in eye.truth[first + 20 : first + 60]]
    offsets = [
        max(abs((x + w / 2) / SIZE[0] - 0.5), abs((y + h / 2) / SIZE[1] - 0.5))
        for x, y, w, h in boxes
    ]
    assert sum(offset < 1 / 6 for offset in offsets) >= 0.9 * len(offsets), offsets
    assert all(math.isfinite(m.twist.angular.y) and abs(m.twist.angular.y) < 1.1 for m in eye.rates)

    # Somebody else moves it: nothing is commanded meanwhile.
    eye.override.publish(TwistStamped())
    wait_until(lambda: eye.override.get_subscription_count() > 0, PATIENCE, "the follower")
    eye.override.publish(TwistStamped())
    quiet = threading.Event()
    quiet.wait(0.3)
    before = len(eye.rates)
    quiet.wait(0.4)
    assert len(eye.rates) == before
    wait_until(lambda: len(eye.rates) > before, PATIENCE, "the follower to go on")

    # A stop is one command of zero and then silence.
    eye.call(StopTarget, "stop", StopTarget.Request())
    wait_until(lambda: eye.statuses[-1].state == TrackStatus.IDLE, PATIENCE, "IDLE")
    last = lambda: eye.rates[-1].twist.angular  # noqa: E731
    wait_until(lambda: (last().x, last().y) == (0.0, 0.0), PATIENCE, "a command of zero")
    quiet.wait(0.3)
    before = len(eye.rates)
    quiet.wait(0.4)
    assert len(eye.rates) == before

    # It can be turned off.
    parameter = Parameter("follow", value=False).to_parameter_msg()
    answer = eye.call(
        SetParameters, "gimbal/set_parameters", SetParameters.Request(parameters=[parameter])
    )
    assert answer.results[0].successful
    eye.designate()
    quiet.wait(0.5)
    assert len(eye.rates) == before
