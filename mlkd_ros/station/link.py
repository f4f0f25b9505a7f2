# SPDX-License-Identifier: Apache-2.0
"""The ROS side of the web ground station: a node, and the thread that it lives in.

What the node learns goes to one callback, called in its thread, as an `Event`.
What is asked of it comes through `RosThread`, from the event loop of the server. Pictures are not
decoded here: each page is sent what its link takes (`clients`, `pace`, `picture`).

A picture is shown together with what the tracker says of that very image: the node holds images
back until the tracker's status of one arrives (it is some 20 ms behind), and shows that one. When
the tracker says nothing, images are shown as they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import rclpy
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

from mlkd_ros.imaging.camera import CameraSettings
from mlkd_ros.msg import OperatorView, TrackStatus
from mlkd_ros.node.messages import nanoseconds, time_message
from mlkd_ros.node.start import start_ros, warn_of_unknown
from mlkd_ros.srv import InitTarget, StopTarget
from mlkd_ros.station.calls import constant_name, discovery_hint
from mlkd_ros.station.camera_watch import CameraWatch, Video
from mlkd_ros.station.tracker_watch import MISSING, TrackerWatch

__all__ = ["CallError", "Event", "Link", "Picture", "RosThread", "StationNode", "Status"]

#: Seconds between two reports of who is there.
_TICK = 0.25
#: Seconds after which images no longer wait for a tracker that says nothing about them.
_PATIENCE = 1.0
#: Memory for images that wait for the tracker, bytes: a second and a half of 1280x720 bgr8.
_HELD_BYTES = 128 << 20
_HELD_IMAGES = 60
#: Seconds that rates are averages over.
_RATE_WINDOW = 2.0
_SHUTDOWN_S = 10.0
#: Seconds beyond which an age is not an age but two clocks.
_CLOCKS_DIFFER = 60.0


@dataclass(frozen=True)
class Picture:
    """A camera image to show, with what the tracker says of it.

    `age` is seconds from its stamp to `received` (steady clock, seconds), None where the clocks
    differ. `statuses` by target; those of the last targets may be added a moment later.
    """

    stamp: int
    message: Image | CompressedImage
    age: float | None
    received: float
    statuses: dict[str, Status]


@dataclass(frozen=True)
class Status:
    """What the tracker says of one target on the image with that stamp; state IDLE: no target.

    `box` is x, y, w, h in pixels of the camera image, None unless the target is seen. `expected` is
    where a target out of sight should be, as centre x, y in those pixels, and `covariance` of that
    place, row by row in pixels^2. None is what the tracker cannot know: JSON has no NaN.
    """

    stamp: int
    target_id: str
    state: str
    confidence: float
    box: tuple[float, float, float, float] | None
    image_size: tuple[int, int]
    latency: float | None
    reacquisitions: int
    expected: tuple[float, float] | None = None
    covariance: tuple[float, float, float, float] | None = None
    seconds_lost: float | None = None
    seconds_to_give_up: float | None = None


@dataclass(frozen=True)
class Link:
    """Who is there, and how fast. `silence`: seconds since the last image, None before the first.

    `tracker` is `missing` (never heard, or said good-bye), `gone` (was there, and is silent),
    `waiting` (there, but says nothing of images; `phase` says why not) or `live`. Rates in Hz;
    `drop_share` is the share of images that the tracker did not look at, 0 to 1. `problem` says
    what is wrong with the video, `conflict` who is there twice; empty if nothing is wrong.
    """

    namespace: str
    topic: str
    tracker: str
    phase: str
    publishers: int
    silence: float | None
    problem: str
    conflict: str
    hint: str
    camera_rate: float
    tracker_rate: float
    drop_share: float


#: Also the settings of the camera, when they come.
Event = Picture | Status | Link | CameraSettings


class CallError(Exception):
    """A service could not be called, or did not answer; the message says which and what to do."""


@dataclass
class _Rate:
    """How often something happened in the last seconds."""

    _times: deque[float] = field(default_factory=deque)

    def count(self) -> None:
        self._times.append(time.monotonic())
        self._forget()

    def hertz(self) -> float:
        self._forget()
        if len(self._times) < 2:
            return 0.0
        return (len(self._times) - 1) / (self._times[-1] - self._times[0] + 1e-9)

    def _forget(self) -> None:
        while self._times and self._times[0] < time.monotonic() - _RATE_WINDOW:
            self._times.popleft()


class StationNode(Node):
    """Listens to camera and tracker; tells `publish`, in the executor's thread.

    Images are subscribed to only while `watched` is true. Any thread may set it.
    """

    def __init__(self, publish: Callable[[Event], None], video: Video, **options: Any) -> None:
        super().__init__("ground_station", **options)
        self.watched = False
        self._publish = publish
        self._video = video
        self._held: OrderedDict[int, Image | CompressedImage] = OrderedDict()
        self._held_bytes = 0
        self._spoken_of: OrderedDict[int, dict[str, Status]] = OrderedDict()
        self._matched = -_PATIENCE
        self._shown = -1
        self._next_picture = 0.0
        self._camera_rate, self._tracker_rate = _Rate(), _Rate()
        self._counts: deque[tuple[float, int, int]] = deque()
        self._watch = TrackerWatch(self)
        self._camera = CameraWatch(self, video, self._on_image, publish)
        #: What cannot be shown, and why; set by who decodes the pictures.
        self.problem = ""
        self.create_subscription(TrackStatus, "status", self._on_status, 50)
        self._name = f"{self.get_fully_qualified_name()} {uuid.uuid4().hex[:8]}"
        self._views = self.create_publisher(OperatorView, "operator_view", 10)
        self.init_target: Any = self.create_client(InitTarget, "init_target")
        self.stop: Any = self.create_client(StopTarget, "stop")
        self.create_timer(_TICK, self._on_tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    # --- images and what is said of them --------------------------------------------------------

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._camera_rate.count()
        stamp = nanoseconds(message.header.stamp)
        self._hold(stamp, message)
        if stamp in self._spoken_of or time.monotonic() - self._matched > _PATIENCE:
            self._show(stamp)

    def _hold(self, stamp: int, message: Image | CompressedImage) -> None:
        self._release(stamp)
        self._held[stamp] = message
        self._held_bytes += len(message.data)
        while len(self._held) > 1 and (
            len(self._held) > _HELD_IMAGES or self._held_bytes > _HELD_BYTES
        ):
            self._release(next(iter(self._held)))

    def _release(self, stamp: int) -> Image | CompressedImage | None:
        message = self._held.pop(stamp, None)
        if message is not None:
            self._held_bytes -= len(message.data)
        return message

    def _on_status(self, message: TrackStatus) -> None:
        stamp = nanoseconds(message.header.stamp)
        status = _status(stamp, message)
        said = self._spoken_of.get(stamp)
        if said is None:
            said = self._spoken_of[stamp] = {}
            self._tracker_rate.count()
            self._count(message)
            while len(self._spoken_of) > _HELD_IMAGES:
                self._spoken_of.popitem(last=False)
        self._watch.heard(twice=status.target_id in said)
        said[status.target_id] = status
        self._publish(status)
        if stamp == self._shown or stamp in self._held:
            self._matched = time.monotonic()
        if stamp in self._held:
            self._show(stamp)

    def _count(self, message: TrackStatus) -> None:
        now = time.monotonic()
        self._counts.append((now, message.frames_received, message.frames_processed))
        while self._counts[0][0] < now - _RATE_WINDOW:
            self._counts.popleft()

    def _show(self, stamp: int) -> None:
        """Publish the picture of a held image, if one is due; forget it and those before it."""
        while next(iter(self._held)) != stamp:
            self._release(next(iter(self._held)))
        now = time.monotonic()
        if now < self._next_picture:
            return
        self._shown = stamp
        message = self._release(stamp)
        assert message is not None
        # A little early is better than an image too late: the rates of camera and page may match.
        self._next_picture = max(self._next_picture, now - 0.5 / self._video.rate)
        self._next_picture += 1.0 / self._video.rate
        age = (self.get_clock().now().nanoseconds - stamp) * 1e-9
        known = age if abs(age) < _CLOCKS_DIFFER else None
        said = self._spoken_of.get(stamp, {})
        self._publish(Picture(stamp, message, known, now, said))

    def tell_view(self, sent: Sequence[int], oldest: int | None) -> None:
        """Tell the tracker what is on screens. Executor's thread only."""
        message = OperatorView(station=self._name, oldest=time_message(oldest or 0))
        message.sent = [time_message(stamp) for stamp in sent]
        self._views.publish(message)

    # --- who is there ---------------------------------------------------------------------------

    def _on_tick(self) -> None:
        camera = self._camera
        if camera.look(self.watched):
            self._held.clear()
            self._held_bytes = 0
        silence = None if camera.last is None else time.monotonic() - camera.last
        state = self._watch.state(
            self.init_target.service_is_ready(), self._tracker_rate.hertz() > 0
        )
        self._publish(
            Link(
                namespace=self.get_namespace(),
                topic=camera.topic,
                tracker=state,
                phase=self._watch.phase,
                publishers=camera.publishers,
                silence=silence,
                problem=self.problem or camera.problem(),
                conflict=self._watch.conflict() or camera.conflict(),
                hint=self._hint() if state == MISSING else "",
                camera_rate=self._received_rate() or self._camera_rate.hertz(),
                tracker_rate=self._tracker_rate.hertz(),
                drop_share=self._drop_share(),
            )
        )

    def _received_rate(self) -> float:
        """The camera's rate as the tracker counts it: this node may have been sent fewer."""
        if len(self._counts) < 2 or self._tracker_rate.hertz() == 0.0:
            return 0.0
        (begin, first, _), (end, last, _) = self._counts[0], self._counts[-1]
        return max(0.0, (last - first) / (end - begin + 1e-9))

    def _drop_share(self) -> float:
        if len(self._counts) < 2:
            return 0.0
        received = self._counts[-1][1] - self._counts[0][1]
        processed = self._counts[-1][2] - self._counts[0][2]
        return min(max(1.0 - processed / received, 0.0), 1.0) if received > 0 else 0.0

    # --- what is asked of the tracker -----------------------------------------------------------

    def call(self, client: Client[Any, Any], request: Any, answered: Callable[[Any], None]) -> Any:
        """Call a service; `answered` gets the response or a CallError. Executor's thread only.

        Returns what `forget` takes.
        """
        if not client.service_is_ready():
            service = self.resolve_service_name(client.srv_name)
            answered(CallError(f"no service {service}: the tracker is not there. {self._hint()}"))
            return None
        future = client.call_async(request)
        future.add_done_callback(lambda done: answered(done.exception() or done.result()))
        return future

    def _hint(self) -> str:
        return discovery_hint(self, "init_target", "mlkd_ros/srv/InitTarget")


def _known(*values: float) -> tuple[float, ...] | None:
    return tuple(map(float, values)) if all(map(math.isfinite, values)) else None


def _status(stamp: int, message: TrackStatus) -> Status:
    seen = message.width > 0 and message.height > 0
    lost = message.state == TrackStatus.LOST
    expected: Any = _known(message.expected_x, message.expected_y)
    spread: Any = _known(*message.expected_covariance)
    since, left = _known(message.seconds_lost), _known(message.seconds_to_give_up)
    return Status(
        stamp=stamp,
        target_id=message.target_id,
        state=constant_name(message, message.state),
        confidence=float(message.confidence),
        box=(message.x, message.y, message.width, message.height) if seen else None,
        image_size=(message.image_width, message.image_height),
        latency=float(message.latency) if math.isfinite(message.latency) else None,
        reacquisitions=message.reacquisitions,
        expected=expected if lost else None,
        covariance=spread if lost and expected and any(spread or ()) else None,
        seconds_lost=since[0] if lost and since else None,
        seconds_to_give_up=left[0] if lost and left else None,
    )


class RosThread:
    """A StationNode on an executor in a thread of its own; a context manager.

    Raises ValueError, naming what is wrong, if the node cannot be made as asked.
    """

    def __init__(
        self,
        publish: Callable[[Event], None],
        video: Video,
        namespace: str,
        arguments: Sequence[str],
    ) -> None:
        self._context = rclpy.Context()
        # Ctrl-C is the server's: it ends first.
        start_ros(
            list(arguments),
            "ground_station",
            context=self._context,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self.node = StationNode(publish, video, namespace=namespace, context=self._context)
        warn_of_unknown(self.node)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name="ros", daemon=True)

    def __enter__(self) -> RosThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(timeout_sec=_SHUTDOWN_S)
        self._thread.join(_SHUTDOWN_S)
        self.node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def tell_view(self, sent: Sequence[int], oldest: int | None) -> None:
        """`StationNode.tell_view`, from any thread."""
        self._executor.create_task(self.node.tell_view, list(sent), oldest)

    async def call(self, client: Client[Any, Any], request: Any, timeout: float) -> Any:
        """Call a service of the tracker from the event loop. Raises CallError."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def deliver(result: Any) -> None:
            if not answer.done():
                answer.set_result(result)

        def answered(result: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(deliver, result)

        pending = self._executor.create_task(self.node.call, client, request, answered)
        try:
            result = await asyncio.wait_for(answer, timeout)
        except asyncio.TimeoutError:
            self._executor.create_task(_forget, client, pending)
            raise CallError(
                f"The tracker did not answer within {timeout:g} s: it has ended, or is stuck "
                f"(service {client.srv_name}; its log may say more)."
            ) from None
        if isinstance(result, Exception):
            raise result if isinstance(result, CallError) else CallError(str(result))
        return result


def _forget(client: Client[Any, Any], pending: Any) -> None:
    """Expect no answer any more. Executor's thread only."""
    if pending.done() and pending.result() is not None:
        client.remove_pending_request(pending.result())
