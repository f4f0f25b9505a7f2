# SPDX-License-Identifier: Apache-2.0
"""The tracker as the MAVLink component uses it, over its services and topics.

A rectangle is the service `init_target`. A point goes to the topic that the tracker's parameter
`point_topic` names, because the tracker then fits the box; nobody answers there, so the answer is
the first status of a new target, or what the tracker's diagnostics say of the click. Where that
parameter is empty a square is designated by `init_target` instead.

Everything here belongs to the executor's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PointStamped
from rcl_interfaces.srv import GetParameters
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.task import Future
from std_msgs.msg import Header

from mlkd_ros.mavlink.component import Done, Outcome
from mlkd_ros.mavlink.dialect import mavlink
from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import time_message
from mlkd_ros.srv import InitTarget, StopTarget
from mlkd_ros.tracking import TrackState

__all__ = ["TrackerClient"]

#: Side, in pixels, of the picture that shares of the image are turned into boxes of.
_PICTURE = 10000
#: Side of the square that stands for a point where no box is fitted, as a share of the height.
_POINT_SIDE = 0.08
#: Seconds until a click has become a target or has not.
_CLICK_DEADLINE = 5.0
#: Seconds for the tracker to find the publisher of clicks.
_MATCH_DEADLINE = 2.0
_LOOK_EVERY = 0.02

_RESULTS = {
    InitTarget.Response.SUCCESS: mavlink.MAV_RESULT_ACCEPTED,
    InitTarget.Response.NO_IMAGE: mavlink.MAV_RESULT_TEMPORARILY_REJECTED,
    InitTarget.Response.NOT_READY: mavlink.MAV_RESULT_TEMPORARILY_REJECTED,
    InitTarget.Response.TOO_MANY_TARGETS: mavlink.MAV_RESULT_TEMPORARILY_REJECTED,
    InitTarget.Response.INVALID_BOX: mavlink.MAV_RESULT_DENIED,
    InitTarget.Response.BOX_OUTSIDE_IMAGE: mavlink.MAV_RESULT_DENIED,
}


@dataclass
class _Click:
    """A click whose target has not shown up yet. `known`: the targets there were before."""

    x: float
    y: float
    stamp: int
    done: Done
    known: frozenset[str]
    deadline: float
    said: str
    match_deadline: float = 0.0
    scale: int = 0
    sent: bool = False


class TrackerClient:
    """A `component.TrackerPort` for a node in the tracker's namespace.

    tracker: name of its node. seen_at: gives the stamp, ns, of the image that an operator who sends
    a command now was looking at, 0 for the newest.
    """

    def __init__(self, node: Node, tracker: str, seen_at: Callable[[], int]) -> None:
        self._node = node
        self._seen_at = seen_at
        self._tracker = f"{node.get_namespace().rstrip('/')}/{tracker}"
        self._init: Any = node.create_client(InitTarget, "init_target")
        self._stop: Any = node.create_client(StopTarget, "stop")
        self._get: Any = node.create_client(GetParameters, f"{tracker}/get_parameters")
        self._clicks: list[_Click] = []
        self._publisher: Publisher[Any] | None = None
        self._topic = ""
        self._targets: dict[str, int] = {}
        self._stamp = -1
        self._size = (0, 0)
        self._said = ""
        self._told_of_squares = False
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        node.create_timer(_LOOK_EVERY, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    # --- requests -------------------------------------------------------------------------------

    def track_rectangle(self, x: float, y: float, w: float, h: float, done: Done) -> None:
        """See `component.TrackerPort`."""
        self._designate((x, y, w, h), self._seen_at(), done)

    def track_point(self, x: float, y: float, radius: float, done: Done) -> None:
        """See `component.TrackerPort`."""
        if not self._get.service_is_ready():
            done(self._absent())
            return
        now = time.monotonic()
        click = _Click(
            x, y, self._seen_at(), done, frozenset(self._targets), now + _CLICK_DEADLINE, self._said
        )
        request = GetParameters.Request(names=["point_topic", "click_image_width"])
        answer = self._get.call_async(request)
        answer.add_done_callback(lambda future: self._click(click, radius, future))

    def stop(self, done: Done) -> None:
        """See `component.TrackerPort`."""
        if not self._stop.service_is_ready():
            done(self._absent())
            return

        def finish(future: Future[Any]) -> None:
            response = future.result()
            good = response is not None and response.code == StopTarget.Response.SUCCESS
            done(
                Outcome(
                    mavlink.MAV_RESULT_ACCEPTED if good else mavlink.MAV_RESULT_FAILED,
                    response.message if response is not None else "the tracker did not answer",
                )
            )

        self._stop.call_async(StopTarget.Request()).add_done_callback(finish)

    def _absent(self) -> Outcome:
        return Outcome(
            mavlink.MAV_RESULT_TEMPORARILY_REJECTED, f"there is no tracker {self._tracker}"
        )

    def _designate(self, box: tuple[float, float, float, float], stamp: int, done: Done) -> None:
        if not self._init.service_is_ready():
            done(self._absent())
            return
        x, y, w, h = (float(_PICTURE * share) for share in box)
        request = InitTarget.Request(
            stamp=time_message(stamp),
            x=x,
            y=y,
            width=w,
            height=h,
            image_width=_PICTURE,
            image_height=_PICTURE,
        )

        def finish(future: Future[Any]) -> None:
            response = future.result()
            if response is None:
                done(Outcome(mavlink.MAV_RESULT_FAILED, "the tracker did not answer"))
                return
            result = _RESULTS.get(response.code, mavlink.MAV_RESULT_FAILED)
            done(Outcome(result, response.message, response.target_id))

        self._init.call_async(request).add_done_callback(finish)

    # --- clicks ---------------------------------------------------------------------------------

    def _click(self, click: _Click, radius: float, future: Future[Any]) -> None:
        response = future.result()
        values = response.values if response is not None else []
        topic = values[0].string_value if values else ""
        if not topic:
            self._designate_square(click, radius)
            return
        click.scale = int(values[1].integer_value) if len(values) > 1 else 0
        name = topic if topic.startswith("/") else f"{self._node.get_namespace()}/{topic}"
        if name != self._topic:
            if self._publisher is not None:
                self._node.destroy_publisher(self._publisher)
            self._publisher = self._node.create_publisher(PointStamped, name, 10)
            self._topic = name
        click.match_deadline = time.monotonic() + _MATCH_DEADLINE
        self._clicks.append(click)
        self._look()

    def _designate_square(self, click: _Click, radius: float) -> None:
        if not self._told_of_squares:
            self._told_of_squares = True
            self._node.get_logger().warning(
                f"parameter point_topic of {self._tracker} is empty: a point becomes a square "
                "instead of a box that is fitted to the target"
            )
        aspect = self._size[1] / self._size[0] if min(self._size) > 0 else 9 / 16
        height = 2 * radius / aspect if radius > 0 else _POINT_SIDE
        width = height * aspect
        left, top = max(click.x - width / 2, 0.0), max(click.y - height / 2, 0.0)
        right, bottom = min(click.x + width / 2, 1.0), min(click.y + height / 2, 1.0)
        self._designate((left, top, right - left, bottom - top), click.stamp, click.done)

    def _look(self) -> None:
        """Send clicks when somebody listens; give up those of which nothing came."""
        now = time.monotonic()
        for click in list(self._clicks):
            if not click.sent:
                self._send(click, now)
            elif now > click.deadline:
                self._conclude(
                    click, mavlink.MAV_RESULT_FAILED, "the tracker made no target of the point"
                )

    def _send(self, click: _Click, now: float) -> None:
        publisher = self._publisher
        if min(self._size) <= 0:
            self._conclude(
                click, mavlink.MAV_RESULT_TEMPORARILY_REJECTED, "the tracker has had no image yet"
            )
        elif publisher is not None and publisher.get_subscription_count() > 0:
            width = click.scale or self._size[0]
            message = PointStamped(header=Header(stamp=time_message(click.stamp)))
            message.point.x = click.x * width
            message.point.y = click.y * width * self._size[1] / self._size[0]
            publisher.publish(message)
            click.sent = True
        elif now > click.match_deadline:
            self._conclude(
                click, mavlink.MAV_RESULT_TEMPORARILY_REJECTED, f"nobody listens on {self._topic}"
            )

    def _conclude(self, click: _Click, result: int, message: str, target_id: str = "") -> None:
        self._clicks.remove(click)
        click.done(Outcome(int(result), message, target_id))

    # --- what the tracker says ------------------------------------------------------------------

    def heard(self, status: TrackStatus, stamp: int) -> None:
        """The tracker's status of one target on the image with that stamp, ns."""
        self._size = (status.image_width, status.image_height)
        if stamp != self._stamp:
            self._targets = {n: s for n, s in self._targets.items() if s == self._stamp}
            self._stamp = stamp
        if status.state == TrackState.IDLE:
            self._targets = {}
            return
        name = status.target_id
        self._targets[name] = stamp
        waiting = next((c for c in self._clicks if c.sent and name not in c.known), None)
        if waiting is not None:
            self._conclude(waiting, mavlink.MAV_RESULT_ACCEPTED, "", name)
            for other in self._clicks:  # that target is not what comes of theirs
                other.known |= {name}

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        """What the tracker says of the last click; it is the only answer of one that is refused."""
        for status in message.status:
            for pair in status.values:
                if pair.key != "designated by topic" or not status.name.startswith(
                    self._tracker.lstrip("/")
                ):
                    continue
                self._said = pair.value
                waiting = next((c for c in self._clicks if c.sent), None)
                if waiting and " refused: " in pair.value and pair.value != waiting.said:
                    reason = pair.value.partition(" refused: ")[2]
                    self._conclude(waiting, mavlink.MAV_RESULT_FAILED, reason)
