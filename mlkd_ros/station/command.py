# SPDX-License-Identifier: Apache-2.0
"""Executable `ground_station` and ``mlkd station``: the web ground station.

ros2 run mlkd_ros ground_station --port 8080 --ros-args -r __ns:=/uav1
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlkd_ros.station.access import Access
    from mlkd_ros.station.camera_watch import Video
    from mlkd_ros.station.link import Event

__all__ = ["add_parser", "main"]

_DESCRIPTION = (
    "A ground station as a web page: live video, designate a target with a drag, see its state, "
    "stop. Open the address that is printed. On this machine only, unless --bind says otherwise; "
    "then a token is needed, and it is part of the address."
)


def add_parser(subparsers: Any) -> None:
    """Add the ``station`` command."""
    parser = subparsers.add_parser(
        "station", help="web ground station on this machine", description=_DESCRIPTION
    )
    _add_arguments(parser)
    parser.set_defaults(run_command=run, ros_arguments=[])


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    page = parser.add_argument_group("web server")
    page.add_argument(
        "--bind",
        type=_address,
        default="127.0.0.1",
        metavar="ADDRESS",
        help="IP address to listen on; 0.0.0.0: all of this machine's (default 127.0.0.1)",
    )
    page.add_argument(
        "--port",
        type=lambda text: _whole(text, 0, 65535),
        default=8080,
        help="0: any that is free (default 8080)",
    )
    page.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with the token to ask for, readable by its owner only. Else the environment "
        "variable MLKD_STATION_TOKEN, else a new one, where --bind makes one necessary",
    )
    page.add_argument(
        "--allow-host",
        type=_host,
        action="append",
        default=[],
        metavar="NAME",
        help="another name that this server is reached by; may be given several times",
    )
    page.add_argument(
        "--max-clients",
        type=lambda text: _whole(text, 1, 64),
        default=4,
        metavar="N",
        help="pages that may be open at once (default 4)",
    )
    video = parser.add_argument_group("video")
    video.add_argument("--namespace", default="/mlkd", help="of the tracker (default /mlkd)")
    video.add_argument(
        "--image",
        default="image",
        metavar="TOPIC",
        help="image topic, relative to the namespace or absolute; the one that the tracker reads "
        "(default image)",
    )
    video.add_argument(
        "--image-transport",
        choices=("raw", "compressed"),
        default="raw",
        help="compressed: TOPIC/compressed with JPEG or PNG, for a camera behind a radio link "
        "(default raw)",
    )
    video.add_argument(
        "--reliability",
        choices=("auto", "reliable", "best_effort"),
        default="auto",
        help="asked of the image topic; auto: reliable where every publisher offers it",
    )
    video.add_argument(
        "--rate",
        type=lambda text: _real(text, 0.5, 60.0),
        default=15.0,
        metavar="HZ",
        help="most pictures a second in the page (default 15)",
    )
    video.add_argument(
        "--width",
        type=lambda text: _whole(text, 160, 3840),
        default=1280,
        metavar="PIXELS",
        help="greatest width of the pictures in the page; a page is sent no larger ones than it "
        "shows, and smaller ones on a slow link (default 1280)",
    )
    video.add_argument(
        "--quality",
        type=lambda text: _whole(text, 10, 95),
        default=70,
        help="of the pictures in the page where they are JPEGs, 10 to 95 (default 70)",
    )
    video.add_argument(
        "--video",
        choices=("auto", "jpeg"),
        default="auto",
        help="auto: H.264 for browsers that can, where PyAV is installed (pip install "
        "'mlkd-ros[video]'), else JPEG (default auto)",
    )
    files = parser.add_argument_group("recording")
    files.add_argument(
        "--recordings",
        type=str,
        default="flights",
        metavar="FOLDER",
        help="where recordings and snapshots that the page asks for are kept on this machine; "
        "empty: neither can be made (default flights)",
    )


def _whole(text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"\d{1,9}", text) or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {low} to {high}")
    return int(text)


def _real(text: str, low: float, high: float) -> float:
    with contextlib.suppress(ValueError):
        if low <= float(text) <= high:
            return float(text)
    raise argparse.ArgumentTypeError(f"'{text}' is not a number from {low:g} to {high:g}")


def _address(text: str) -> str:
    if text == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not an IP address of this machine, such as 127.0.0.1 or 0.0.0.0"
        ) from None


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a host name (without scheme and port)")
    return text


def run(options: argparse.Namespace) -> int:
    """Serve until told to end. Returns what a shell makes of the signal that told it.

    ValueError, OSError or ImportError say what cannot be done.
    """
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the web ground station needs aiohttp: pip install 'mlkd-ros[station]', or "
            "apt install python3-aiohttp"
        ) from error
    from mlkd_ros.station.access import Access, choose_token, is_loopback

    token, source = "", ""
    if options.token_file is not None or not is_loopback(options.bind):
        token, source = choose_token(options.token_file)
    access = Access.rules(options.bind, token, tuple(options.allow_host))
    return asyncio.run(_serve(options, access, source))


def _video(options: argparse.Namespace) -> Video:
    from rclpy.exceptions import InvalidTopicNameException
    from rclpy.validate_topic_name import validate_topic_name

    from mlkd_ros.station.camera_watch import Video

    compressed = options.image_transport == "compressed"
    topic = options.image
    if compressed and not topic.endswith("/compressed"):
        topic += "/compressed"
    try:
        validate_topic_name(topic)
    except InvalidTopicNameException as error:
        raise ValueError(f"--image '{options.image}' is not a topic: {error}") from error
    return Video(topic, compressed, options.reliability, options.rate)


def _recorder_arguments(options: argparse.Namespace, namespace: str) -> list[str]:
    """Of the executable `recorder`: the same camera and tracker as the page's."""
    compressed = ["--compressed"] if options.image_transport == "compressed" else []
    return [
        *compressed,
        *("--ros-args", "-r", f"__ns:={namespace}"),
        *("-r", f"image:={options.image.removesuffix('/compressed')}"),
    ]


async def _serve(options: argparse.Namespace, access: Access, token_source: str) -> int:
    from aiohttp import web

    from mlkd_ros.station.calls import checked_namespace
    from mlkd_ros.station.clients import Clients
    from mlkd_ros.station.link import RosThread
    from mlkd_ros.station.server import Server

    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    told: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        told.append(number)
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)

    def watched(value: bool) -> None:
        ros.node.watched = value

    def unusable(text: str) -> None:
        ros.node.problem = f"unusable image: {text}" if text else ""

    clients = Clients(
        options.max_clients,
        (options.width, options.rate, options.quality),
        watched,
        lambda sent, oldest: ros.tell_view(sent, oldest),
        unusable,
        h264=options.video == "auto",
    )

    def publish(event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before the node
            loop.call_soon_threadsafe(clients.tell, event)

    namespace = checked_namespace(options.namespace)
    ros = RosThread(publish, _video(options), namespace, options.ros_arguments)
    with ros:
        listening = _listen(options.bind, options.port)
        port = listening.getsockname()[1]
        server = Server(
            ros,
            access,
            clients,
            f"mlkd_station_{port}",
            Path(options.recordings) if options.recordings else None,
            _recorder_arguments(options, ros.node.get_namespace()),
        )
        # No access log: it would have the token of the first visit in it.
        runner = web.AppRunner(server.application, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        try:
            await web.SockSite(runner, listening).start()
            _announce(options.bind, port, access, token_source)
            await ended.wait()
        finally:
            await runner.cleanup()
    return 128 + told[0]


def _listen(bind: str, port: int) -> socket.socket:
    """A socket that listens; OSError in words."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((bind, port))
    except OSError as error:
        listening.close()
        raise OSError(
            f"cannot listen on {bind}, port {port}: {error.strerror}. Another --port or --bind?"
        ) from error
    return listening


def _announce(bind: str, port: int, access: Access, token_source: str) -> None:
    """Print where the page is. A token that somebody chose is not printed."""
    address = ipaddress.ip_address(bind)
    host = _own_address(address.version) if address.is_unspecified else bind
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    if token_source == "generated":
        url += f"?token={access.token}"
    elif access.token:
        url += f"  (token: {token_source})"
    print(f"ground station: {url}", flush=True)
    if not address.is_loopback:
        print(
            "ground station: other machines can reach it, without encryption: use it in a network "
            "that you trust, or through a tunnel",
            flush=True,
        )


def _own_address(version: int) -> str:
    """The address of this machine that faces the network."""
    family, elsewhere = (
        (socket.AF_INET6, "2001:db8::1") if version == 6 else (socket.AF_INET, "192.0.2.1")
    )
    with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect((elsewhere, 9))  # sends nothing: only asks for the route
        return str(probe.getsockname()[0])
    return socket.gethostname()


def main(args: Sequence[str] | None = None) -> int:
    """Run the executable. Returns the exit code: 2 for options that cannot be used; 0 when it was
    told to end, as every node.
    """
    from mlkd_ros.node.start import own_arguments

    given = list(sys.argv if args is None else ["ground_station", *args])
    parser = argparse.ArgumentParser(prog="ground_station", description=_DESCRIPTION)
    _add_arguments(parser)
    try:
        options = parser.parse_args(own_arguments(given, "ground_station"))
        options.ros_arguments = given[1:]
        run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"ground_station: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
