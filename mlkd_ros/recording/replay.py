# SPDX-License-Identifier: Apache-2.0
"""Executable `replay`: a recording on the image topic, as if its camera were there.

    replay flight.mp4
    replay flight_bag --bag-topic /camera/image_raw --rate 0.5 --loop --ros-args -r __ns:=/mlkd
    replay demo/bag --init ground_truth

Images come at the recording's own intervals: those of their stamps, or of their receipt where a
clock was set meanwhile. Their stamps are the time of sending, so that every node runs on its own
clock as with a camera; with --clock they are the recording's own, and /clock tells the time to
nodes that have use_sim_time set. With the images of a bag go its ground_truth and camera_info, if
it has some. 16-bit values become pictures as they were recorded to, or as the options say.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.client import Client
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from mlkd_ros.files import printable
from mlkd_ros.imaging.camera import add_options, from_options
from mlkd_ros.imaging.encode import frame_message
from mlkd_ros.imaging.encodings import ENCODINGS, UnusableImageError
from mlkd_ros.imaging.errors import DatasetError
from mlkd_ros.imaging.sources import DEFAULT_RATE, BagSource, FrameSource, SourceFrame, open_source
from mlkd_ros.node.messages import box_from_message
from mlkd_ros.node.start import (
    USAGE,
    StartError,
    own_arguments,
    run_node,
    warn_of_unknown,
)
from mlkd_ros.recording.beside import KINDS, Beside
from mlkd_ros.session.parsing import parse_box
from mlkd_ros.share import use_fastdds_profile
from mlkd_ros.srv import InitTarget

__all__ = ["Replay", "ReplayError", "main"]

Box = tuple[float, float, float, float]

#: Seconds between two /clock messages.
_CLOCK_PERIOD = 0.01
#: Longest sleep: a signal is noticed after that.
_LONGEST_SLEEP = 0.05
#: Seconds without a new subscriber to anything before the first image.
_SETTLING_TIME = 0.5
#: Messages kept for reliable subscribers that are held up: images, and the small ones beside them.
_IMAGES_KEPT, _SMALL_KEPT = 10, 100
#: Seconds between two attempts to designate the target.
_RETRY_TIME = 0.5
#: Visible share of a target from which on it can be designated.
_VISIBLE = 0.5
#: A recording that begins at zero would have stamps that mean "no time" to ROS; nanoseconds.
_EARLIEST_STAMP = 10**9


class ReplayError(RuntimeError):
    """The tracker does not do what it was asked for; the message says why."""


class Replay(Node):
    """Publishes the frames of a source at their times.

    rate: 2 plays twice as fast. clock: publish the recording's own stamps and /clock.
    beside: what is played with the frames. init: designate this box on the first frame, or the
    target of the ground truth on the first frame that shows it; time stands still meanwhile.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        rate: float = 1.0,
        clock: bool = False,
        encoding: str = "bgr8",
        frame_id: str = "camera_optical",
        beside: Beside | None = None,
        init: Box | str = "",
        answer_time: float = 60.0,
    ) -> None:
        super().__init__("replay", namespace="mlkd")
        self._source = source
        self._rate = rate
        self._encoding = encoding
        self._frame_id = frame_id
        self._images = self.create_publisher(
            Image,
            "image",
            QoSProfile(depth=_IMAGES_KEPT, reliability=ReliabilityPolicy.RELIABLE),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._clock_topic: Publisher[Clock] | None = None
        if clock:
            self._clock_topic = self.create_publisher(Clock, "/clock", _SMALL_KEPT)
        self._beside = beside
        self._companions: dict[str, Publisher[Any]] = {
            kind: self.create_publisher(
                KINDS[kind],
                kind,
                _SMALL_KEPT,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for kind in (beside.topics if beside else ())
        }
        self._init = init
        self._answer_time = answer_time
        self._designate: Client[Any, Any] | None = None
        if init:
            self._designate = self.create_client(InitTarget, "init_target")
        self._noted: set[str] = set()
        self.published = 0

    def wait_for_subscribers(self, count: int, timeout: float) -> bool:
        """Wait until so many want the images, so that the first ones are not lost."""
        end = time.monotonic() + timeout
        while self.subscribers < count:
            if time.monotonic() > end or not self.context.ok():
                return False
            time.sleep(_LONGEST_SLEEP)
        self._settle()
        return True

    def _settle(self) -> None:
        """Wait until nobody new has come for a moment.

        They may know of a publisher a little later than it of them, and who wants the ground truth
        may come later than who wants the images.
        """
        publishers = [self._images, *self._companions.values()]
        known: list[int] = []
        since = time.monotonic()
        while self.context.ok() and time.monotonic() - since < _SETTLING_TIME:
            there = [publisher.get_subscription_count() for publisher in publishers]
            if there != known:
                known, since = there, time.monotonic()
            time.sleep(_LONGEST_SLEEP)

    @property
    def subscribers(self) -> int:
        """How many want the images now."""
        return self._images.get_subscription_count()

    def play(self) -> None:
        """Play the source once, from its beginning. Returns early when the node is told to end."""
        begin, first = 0.0, 0
        for index, (frame, message) in enumerate(self._messages()):
            if index == 0:
                begin, first = time.monotonic(), frame.time
            if not self._wait_until(begin, first, frame.time):
                return
            self._publish(message, first, frame)
            if self._init and (box := self._box_on(frame)):
                began = time.monotonic()
                self._start_tracker(message, first, frame, box)
                begin += time.monotonic() - began
        for note in [*self._source.notes, *(self._beside.notes if self._beside else ())]:
            if note not in self._noted:
                self.get_logger().warning(f"{self._source.name}: {note}")
                self._noted.add(note)

    def flush(self) -> None:
        """Wait a moment until what was said last has reached reliable subscribers."""
        for publisher in (self._images, *self._companions.values()):
            if self.context.ok():
                publisher.wait_for_all_acked(Duration(seconds=1.0))

    def _messages(self) -> Iterator[tuple[SourceFrame, Image]]:
        """The recording's frames and its images, made before they are due.

        Time never goes back. What cannot be decoded is counted and left out.
        """
        for frame in self._source:
            header = Header(frame_id=self._frame_id)
            try:
                message = frame_message(frame.frame, header, self._encoding)
            except UnusableImageError as error:
                self._source.refuse(error)
                continue
            yield frame, message

    def _wait_until(self, begin: float, first: int, stamp: int) -> bool:
        """Sleep until an image is due, telling the time meanwhile. False if told to end."""
        due = begin + (stamp - first) * 1e-9 / self._rate
        longest = _CLOCK_PERIOD / self._rate if self._clock_topic else _LONGEST_SLEEP
        while self.context.ok():
            now = time.monotonic()
            if now >= due:
                late = now - due
                if late > 0.5:
                    self.get_logger().warning(
                        f"{late:.1f} s late: this machine cannot decode and send the recording at "
                        f"rate {self._rate:g}",
                        throttle_duration_sec=5.0,
                    )
                return True
            self._tell_time(first, first + round((now - begin) * self._rate * 1e9))
            time.sleep(min(due - now, longest))
        return False

    def _tell_time(self, first: int, stamp: int) -> None:
        if self._clock_topic is not None:
            self._clock_topic.publish(Clock(clock=_recorded(first, stamp)))

    def _publish(self, message: Image, first: int, frame: SourceFrame) -> None:
        if self._clock_topic is None:
            message.header.stamp = self.get_clock().now().to_msg()
        else:
            message.header.stamp = _recorded(first, frame.time)
            self._tell_time(first, frame.time)
        self._images.publish(message)
        self.published += 1
        for kind, publisher in self._companions.items():
            companion = self._beside.at(kind, frame) if self._beside else None
            if companion is not None:
                companion.header = message.header
                for detection in getattr(companion, "detections", ()):
                    detection.header = message.header
                publisher.publish(companion)

    # --- designating the target -----------------------------------------------------------------

    def _box_on(self, frame: SourceFrame) -> Box | None:
        """What to designate on that frame; None if the target is not in sight there."""
        if not isinstance(self._init, str):
            return self._init
        truth = self._beside.at("ground_truth", frame) if self._beside else None
        if truth is None or not truth.detections:
            return None
        target = truth.detections[0]
        visible = target.results[0].hypothesis.score if target.results else 1.0
        return box_from_message(target.bbox) if visible >= _VISIBLE else None

    def _start_tracker(self, message: Image, first: int, frame: SourceFrame, box: Box) -> None:
        """Have the tracker follow the box on this image; publish it again until it is there."""
        client, answer = self._designate, InitTarget.Response
        assert client is not None
        passing = (answer.NO_IMAGE, answer.STAMP_OUTSIDE_HISTORY, answer.NOT_READY)
        said = f"no service {self.resolve_service_name(client.srv_name)}"
        end = time.monotonic() + self._answer_time
        while self.context.ok() and time.monotonic() < end:
            x, y, width, height = box
            request = InitTarget.Request(
                stamp=message.header.stamp, x=x, y=y, width=width, height=height
            )
            response = self._ask(request, end)
            if response is not None:
                said = response.message
                if response.code == answer.SUCCESS:
                    self.get_logger().info(said)
                    self._init = ""
                    return
                if response.code not in passing:
                    break
            time.sleep(_RETRY_TIME)
            self._publish(message, first, frame)
            self.published -= 1
        if self.context.ok():
            raise ReplayError(f"the target cannot be designated: {said}")

    def _ask(self, request: InitTarget.Request, end: float) -> InitTarget.Response | None:
        """The answer of the tracker, None if it does not come by then."""
        client = self._designate
        assert client is not None
        if not client.wait_for_service(_RETRY_TIME):
            return None
        future = client.call_async(request)
        rclpy.spin_until_future_complete(self, future, timeout_sec=end - time.monotonic())
        return future.result() if future.done() else None


def _recorded(first: int, stamp: int) -> Time:
    """The stamp to publish for one of the recording: moved up if the recording begins at zero."""
    nanoseconds = stamp + max(_EARLIEST_STAMP - first, 0)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="replay",
        description="Plays a video file, a folder of images or a rosbag2 bag on the topic image.",
        epilog="ROS arguments follow --ros-args, for example -r image:=/camera/image_raw.",
    )
    parser.add_argument("input", help="video file, folder of images, or rosbag2 bag")
    parser.add_argument("--bag-topic", help="image topic in the bag, if it has several")
    parser.add_argument(
        "--rate", type=_positive, default=1.0, help="speed: 2 is twice as fast (default 1)"
    )
    parser.add_argument(
        "--frame-rate",
        type=_positive,
        default=DEFAULT_RATE,
        help=f"images a second in a folder (default {DEFAULT_RATE:g})",
    )
    parser.add_argument("--loop", action="store_true", help="begin again at the end")
    parser.add_argument(
        "--clock", action="store_true", help="use the recording's stamps and publish /clock"
    )
    parser.add_argument(
        "--encoding",
        choices=ENCODINGS,
        default="bgr8",
        metavar="NAME",
        help=f"encoding to publish: {', '.join(ENCODINGS)} (default bgr8)",
    )
    parser.add_argument(
        "--init",
        type=_box,
        default="",
        metavar="X,Y,W,H",
        help="designate this box, in pixels, on the first image; or `ground_truth`: what the bag's "
        "ground truth tells, on the first image that shows the target",
    )
    parser.add_argument(
        "--answer-time",
        type=_positive,
        default=60.0,
        metavar="SECONDS",
        help="time for the tracker to start and answer to that (default 60)",
    )
    parser.add_argument("--frame-id", default="camera_optical", help="frame_id of the images")
    parser.add_argument(
        "--wait",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="time to wait for subscribers before beginning (default 5)",
    )
    parser.add_argument(
        "--subscribers", type=int, default=1, metavar="N", help="so many of them (default 1)"
    )
    add_options(parser)
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _box(text: str) -> Box | str:
    if text in ("", "ground_truth"):
        return text
    return parse_box(text)


def _beside(source: FrameSource, init: Box | str) -> Beside | None:
    """What is played with the images; DatasetError if `init` needs more than there is."""
    beside = Beside(source.bag, source.topic) if isinstance(source, BagSource) else None
    if init == "ground_truth" and not (beside and "ground_truth" in beside.topics):
        raise DatasetError(
            f"{source.name}: --init ground_truth needs a bag with a topic ground_truth of "
            "vision_msgs/msg/Detection2DArray"
        )
    return beside


def main(args: Sequence[str] | None = None) -> int:
    """Run the executable. Returns the exit code."""
    arguments = list(sys.argv if args is None else ["replay", *args])
    try:
        options = _parser().parse_args(own_arguments(arguments, "replay"))
    except StartError as error:
        print(f"replay: {error}", file=sys.stderr)
        return USAGE
    try:
        source = open_source(
            options.input,
            topic=options.bag_topic,
            rate=options.frame_rate,
            camera=from_options(options),
        )
        beside = _beside(source, options.init)
    except (ValueError, OSError, ImportError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 1
    use_fastdds_profile()
    try:
        return run_node("replay", arguments, partial(_play, source, beside, options))
    finally:
        source.close()


def _play(source: FrameSource, beside: Beside | None, options: argparse.Namespace) -> int:
    node = None
    try:
        node = Replay(
            source,
            rate=options.rate,
            clock=options.clock,
            encoding=options.encoding,
            frame_id=options.frame_id,
            beside=beside,
            init=options.init,
            answer_time=options.answer_time,
        )
        _run(node, options)
    except (DatasetError, ReplayError, ValueError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 1
    finally:
        if node is not None:
            node.destroy_node()
    return 0


def _run(node: Replay, options: argparse.Namespace) -> None:
    warn_of_unknown(node)
    topic = node.resolve_topic_name("image")
    found = node.wait_for_subscribers(options.subscribers, options.wait)
    if not node.context.ok():
        return
    if not found:
        there = f"{node.subscribers} of {options.subscribers} subscribe"
        if node.subscribers == 0:
            there = "nobody subscribes"
        node.get_logger().warning(f"{there} to {topic}, playing anyway")
    node.get_logger().info(f"playing {printable(options.input)} on {topic}")
    node.play()
    while options.loop and node.context.ok():
        node.play()
    node.flush()
    node.get_logger().info(f"{node.published} images played")


if __name__ == "__main__":
    sys.exit(main())
