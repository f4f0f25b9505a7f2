# SPDX-License-Identifier: Apache-2.0
"""``mlkd init``, ``mlkd stop``, ``mlkd status``: a ground station in one line, over ROS 2.

Exit codes: 0 done, 1 refused by the node, 2 wrong usage, 3 no tracker heard within --timeout.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time

    from mlkd_ros.msg import TrackStatus

REFUSED, NOT_HEARD = 1, 3
_EXIT_CODES = (
    "Exit codes: 0 done, 1 refused by the tracker, 2 wrong usage, 3 no tracker heard in time."
)
#: Seconds between two lines of `mlkd status` while nothing changes.
_LINE_EVERY = 1.0


#: Seconds around the time of --ago at which an image is looked for, the nearest first.
_NEARBY = (0.0, *(sign * 0.05 * step for step in range(1, 7) for sign in (1, -1)))


class NotHeardError(Exception):
    """The tracker did not show itself in time; the message says what to check."""


def add_parser(subparsers: Any) -> None:
    """Add the commands ``init``, ``stop`` and ``status``."""
    _add_init(subparsers)
    stop = _add_command(
        subparsers, "stop", _stop, "stop following a target", "Stop following one target, or all."
    )
    stop.add_argument("--target-id", default="", metavar="ID", help="which one (default: all)")
    status = _add_command(
        subparsers,
        "status",
        _status,
        "print what the tracker says",
        "Print the state of every target: when it changes, and once a second.",
    )
    status.add_argument("--once", action="store_true", help="print the newest and end")


def _add_init(subparsers: Any) -> None:
    parser = _add_command(
        subparsers,
        "init",
        _init,
        "designate a target with a box",
        "Tell the tracker which target to follow. The box is drawn on an image of the past, as "
        "the operator's video is late: say which with --ago or --stamp; without, the newest.",
    )
    parser.add_argument(
        "--box",
        nargs=4,
        type=float,
        required=True,
        metavar=("X", "Y", "W", "H"),
        help="left, top, width, height in pixels of the image that was seen",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--ago",
        type=_seconds_ago,
        metavar="SECONDS",
        help="the box was seen this long ago. Counted back from the stamp of the image that the "
        "tracker processes right now (topic status), so that the camera's clock need not agree "
        "with this machine's; the nearest image is taken, at most 0.3 s away",
    )
    which.add_argument(
        "--stamp",
        type=parse_stamp,
        metavar="S.NS",
        help="header stamp of the image: 1764000000.123456789 (digits after the point are a "
        "decimal fraction)",
    )
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=_pixels,
        default=(0, 0),
        metavar=("W", "H"),
        help="size of the image that was seen, when it was scaled (default: the camera's)",
    )
    parser.add_argument(
        "--target-id",
        default="",
        metavar="ID",
        help="name of the target; that of one being followed designates it anew (default: the "
        "tracker chooses)",
    )


def _add_command(
    subparsers: Any,
    name: str,
    act: Callable[[argparse.Namespace], int],
    text: str,
    description: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=text, description=description, epilog=_EXIT_CODES
    )
    parser.add_argument("--namespace", default="/mlkd", help="of the tracker (default /mlkd)")
    parser.add_argument(
        "--timeout",
        type=_timeout,
        default=5.0,
        metavar="SECONDS",
        help="how long to wait for the tracker, and for its answer (default 5)",
    )
    parser.set_defaults(run_command=lambda arguments: _run(act, arguments))
    return parser


def parse_stamp(text: str) -> int:
    """Nanoseconds of `seconds.fraction`, exactly: a float has no nanoseconds at today's stamps."""
    match = re.fullmatch(r"(\d{1,10})(?:\.(\d{1,9}))?", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a stamp: seconds and up to nine digits after a point are expected"
        )
    stamp = int(match[1]) * 1_000_000_000 + int((match[2] or "0").ljust(9, "0"))
    if stamp >= 2**31 * 1_000_000_000:
        raise argparse.ArgumentTypeError(f"'{text}': the seconds of a stamp are below 2147483648")
    return stamp


def _seconds_ago(text: str) -> float:
    return _number(text, lambda value: value >= 0, "seconds, 0 or more")


def _timeout(text: str) -> float:
    return _number(text, lambda value: value > 0, "seconds, above 0")


def _pixels(text: str) -> int:
    return int(_number(text, lambda v: 1 <= v < 2**32 and v == int(v), "a whole number of pixels"))


def _number(text: str, good: Callable[[float], bool], expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not good(value):
        raise argparse.ArgumentTypeError(f"'{text}' is wrong: expected {expected}")
    return value


def _run(act: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    try:
        return act(arguments)
    except NotHeardError as error:
        print(f"mlkd {arguments.command}: {error}", file=sys.stderr)
        return NOT_HEARD


class _Operator:
    """A node for the time of one command, spun by the caller."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        from mlkd_ros.node.start import start_ros
        from mlkd_ros.station.calls import checked_namespace

        self.timeout: float = arguments.timeout
        namespace = checked_namespace(arguments.namespace)
        self._context = rclpy.Context()
        # Two commands at once must not be two nodes of one name.
        name = f"mlkd_{arguments.command}_{os.getpid()}"
        start_ros([], name, context=self._context)
        self.node = rclpy.create_node(name, namespace=namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def __enter__(self) -> _Operator:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def spin_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Take messages until the condition holds; False if it does not in `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left, 0.05))
        return True

    def client(self, kind: Any, name: str) -> Any:
        """A client of a service that is there, or NotHeardError."""
        from mlkd_ros.station.calls import discovery_hint

        client: Any = self.node.create_client(kind, name)
        if not self.spin_until(client.service_is_ready, self.timeout):
            service = self.node.resolve_service_name(name)
            hint = discovery_hint(self.node, name, f"mlkd_ros/srv/{kind.__name__}")
            raise NotHeardError(
                f"no service {service} within {self.timeout:g} s. Does the tracker run, in "
                f"namespace {self.node.get_namespace()} (--namespace)? {hint}"
            )
        return client

    def call(self, client: Any, request: Any) -> Any:
        """The answer, or NotHeardError."""
        future = client.call_async(request)
        if not self.spin_until(future.done, self.timeout):
            raise NotHeardError(
                f"{client.srv_name} did not answer within {self.timeout:g} s; its log may say why"
            )
        return future.result()


def _init(arguments: argparse.Namespace) -> int:
    from mlkd_ros.node.messages import time_message
    from mlkd_ros.srv import InitTarget

    with _Operator(arguments) as operator:
        clock = _CameraClock(operator) if arguments.ago is not None else None
        client = operator.client(InitTarget, "init_target")
        x, y, width, height = arguments.box
        request = InitTarget.Request(x=x, y=y, width=width, height=height)
        request.image_width, request.image_height = arguments.image_size
        request.target_id = arguments.target_id
        stamps = [arguments.stamp or 0] if clock is None else clock.stamps(arguments.ago)
        responses = []
        for stamp in stamps:
            request.stamp = time_message(stamp)
            responses.append(operator.call(client, request))
            if responses[-1].code != InitTarget.Response.STAMP_OUTSIDE_HISTORY:
                break
    response = responses[-1]
    if response.code == InitTarget.Response.SUCCESS:
        print(f"on the image of {stamp_text(response.stamp)}: {response.message}")
        print(status_line(response.status))
        return 0
    # Of several images that the tracker does not have, the one at the time that was asked for.
    return _refused(arguments, responses[0] if len(responses) == len(stamps) else response)


def _stop(arguments: argparse.Namespace) -> int:
    from mlkd_ros.srv import StopTarget

    with _Operator(arguments) as operator:
        client = operator.client(StopTarget, "stop")
        response = operator.call(client, StopTarget.Request(target_id=arguments.target_id))
    if response.code == StopTarget.Response.SUCCESS:
        print(response.message)
        return 0
    return _refused(arguments, response)


def _refused(arguments: argparse.Namespace, response: Any) -> int:
    from mlkd_ros.station.calls import constant_name

    text = f"refused, {constant_name(response, response.code)}: {response.message}"
    print(f"mlkd {arguments.command}: {text}", file=sys.stderr)
    return REFUSED


class _CameraClock:
    """The time by the camera's stamps, from the newest image that the tracker has processed."""

    def __init__(self, operator: _Operator) -> None:
        from mlkd_ros.msg import TrackStatus

        self._operator = operator
        self._newest: tuple[int, float] | None = None
        operator.node.create_subscription(TrackStatus, "status", self._on_status, 10)

    def _on_status(self, message: TrackStatus) -> None:
        from mlkd_ros.node.messages import nanoseconds

        self._newest = nanoseconds(message.header.stamp), time.monotonic()

    def stamps(self, ago: float) -> list[int]:
        """Stamps, nanoseconds, of `ago` seconds before now, then on both sides of that: where the
        camera left images out, the tracker has none of the time asked for. NotHeardError.
        """
        if not self._operator.spin_until(lambda: self._newest is not None, self._operator.timeout):
            raise _no_status(self._operator)
        assert self._newest is not None
        stamp, heard = self._newest
        asked = stamp + round((time.monotonic() - heard - ago) * 1e9)
        if asked <= 0:
            raise ValueError(
                f"--ago {ago:g} is before the camera's time began: its newest stamp is "
                f"{stamp * 1e-9:.3f} s"
            )
        nearby = [asked + round(offset * 1e9) for offset in _NEARBY]
        return [value for value in nearby if value > 0]


def _no_status(operator: _Operator) -> NotHeardError:
    topic = operator.node.resolve_topic_name("status")
    trackers = operator.node.count_publishers(topic)
    if trackers:
        return NotHeardError(
            f"nothing on {topic} within {operator.timeout:g} s, although a tracker is there: it "
            "speaks with every image that it processes. Does the camera publish?"
        )
    return NotHeardError(
        f"no tracker publishes {topic}. Does it run, in namespace "
        f"{operator.node.get_namespace()} (--namespace), ROS_DOMAIN_ID "
        f"{os.environ.get('ROS_DOMAIN_ID') or '0'}?"
    )


class _StatusPrinter:
    """Prints statuses: what changes at once, the rest once a second."""

    def __init__(self) -> None:
        self.heard = False
        self.next_image = False
        self._stamp = 0
        self._printed: dict[str, tuple[int, float]] = {}

    def one_image(self, message: TrackStatus) -> None:
        """Print the targets of the first image that is heard of, and note when it is over."""
        from mlkd_ros.node.messages import nanoseconds

        stamp = nanoseconds(message.header.stamp)
        if self.heard and stamp != self._stamp:
            self.next_image = True
        if self.next_image:
            return
        self.heard, self._stamp = True, stamp
        print(status_line(message), flush=True)

    def all(self, message: TrackStatus) -> None:
        """Print a status if it says something new, or has not been printed for a while."""
        self.heard = True
        state, when = self._printed.get(message.target_id, (-1, 0.0))
        now = time.monotonic()
        if message.state != state or now - when >= _LINE_EVERY:
            self._printed[message.target_id] = message.state, now
            print(status_line(message), flush=True)


def _status(arguments: argparse.Namespace) -> int:
    from mlkd_ros.msg import TrackStatus

    printer = _StatusPrinter()
    take = printer.one_image if arguments.once else printer.all
    with _Operator(arguments) as operator:
        operator.node.create_subscription(TrackStatus, "status", take, 50)
        while operator.spin_until(lambda: printer.heard, operator.timeout):
            if arguments.once:
                # The other targets of that image, until the next image shows that these were all.
                operator.spin_until(lambda: printer.next_image, 0.5)
                return 0
            printer.heard = False
        raise _no_status(operator)


def stamp_text(stamp: Time) -> str:
    """A stamp as `--stamp` takes it."""
    return f"{stamp.sec}.{stamp.nanosec:09d}"


def status_line(status: TrackStatus) -> str:
    """A status in one line."""
    from mlkd_ros.station.calls import constant_name

    state = constant_name(status, status.state)
    parts = [stamp_text(status.header.stamp), status.target_id or "-", state]
    if status.width > 0:
        parts.append(f"{status.confidence:.2f}")
        box = (status.x, status.y, status.width, status.height)
        parts.append("box " + " ".join(f"{value:.1f}" for value in box))
    parts.append(f"latency {status.latency * 1e3:.0f} ms")
    return "  ".join(parts)
