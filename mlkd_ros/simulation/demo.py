# SPDX-License-Identifier: Apache-2.0
"""The demo: a night flight, a tracker, an operator whose video is a second late, and the figures.

    python -m mlkd_ros.simulation.demo --output demo

Starts `night_camera` and `tracker` as processes of their own, designates the target on an image
that is one second old, follows it for 20 s, and writes bag, video, contact sheet and plot.
The exit code is 1 if the target was lost, 2 if something went wrong before that could be known.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.serialization import deserialize_message
from vision_msgs.msg import Detection2DArray

from mlkd_ros.data.night_flight import SCENARIOS
from mlkd_ros.data.sequences import DatasetError
from mlkd_ros.evaluation.streaming import score_bag
from mlkd_ros.files import printable
from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import box_from_message, nanoseconds, time_message
from mlkd_ros.node.start import start_ros
from mlkd_ros.recording.recorder import Options, Recorder
from mlkd_ros.share import fastdds_environment, share_directory, use_fastdds_profile
from mlkd_ros.simulation.demo_report import Flight, evaluate, write_report
from mlkd_ros.srv import InitTarget

__all__ = ["main"]

_NAMESPACE = "mlkd"
#: Files and folders that a demo leaves in its output folder, and that the next one replaces.
_OUTPUTS = (
    "bag",
    "flight.mp4",
    "contact_sheet.png",
    "plot.png",
    "camera.log",
    "tracker.log",
    "log",
)


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


class FlightRecorder(Recorder):
    """A recorder that also keeps what it hears, for the report.

    `truth`, `detections` and `statuses` map an image's stamp in nanoseconds to the messages about
    it, since the recorder started.
    """

    def __init__(self, bag: Path, image_every: int) -> None:
        super().__init__(bag, Options(image_every=image_every), namespace=_NAMESPACE)
        self.truth: dict[int, Detection2DArray] = {}
        self.detections: dict[int, Detection2DArray] = {}
        self.statuses: dict[int, TrackStatus] = {}

    def heard(self, name: str, topic: str, raw: bytes) -> None:
        """Also keep it."""
        super().heard(name, topic, raw)
        kept: dict[int, Any] | None = {
            "ground_truth": self.truth,
            "detections": self.detections,
            "status": self.statuses,
        }.get(name)
        if kept is not None:
            kind = TrackStatus if name == "status" else Detection2DArray
            message: Any = deserialize_message(raw, kind)
            kept[nanoseconds(message.header.stamp)] = message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo. Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (DemoError, ImportError, OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mlkd_ros.simulation.demo",
        description="Track a target through a rendered night flight, with all of ROS in between.",
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder to write to")
    parser.add_argument(
        "--force", action="store_true", help="remove what an earlier demo left in that folder"
    )
    parser.add_argument("--scenario", choices=tuple(SCENARIOS), default="crossing")
    parser.add_argument("--seed", type=int, default=0, help="of the flight (default 0)")
    parser.add_argument(
        "--duration", type=float, default=20.0, metavar="S", help="time to track (default 20)"
    )
    parser.add_argument(
        "--late",
        type=float,
        default=1.0,
        metavar="S",
        help="how old the image is that the operator marks the target on (default 1)",
    )
    parser.add_argument(
        "--image-every",
        type=int,
        default=2,
        metavar="N",
        help="record every Nth image; compressing them costs the tracker time (default 2)",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    output: Path = options.output
    _clear(output, options.force)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_LOG_DIR", str(output / "log"))
    use_fastdds_profile()
    with contextlib.ExitStack() as stack:
        recorder = stack.enter_context(_recorder(output / "bag", options.image_every))
        camera = stack.enter_context(
            _process(
                "night_camera",
                output / "camera.log",
                scenario=options.scenario,
                seed=options.seed,
                duration=options.duration + 60.0,
            )
        )
        tracker = stack.enter_context(_process("tracker", output / "tracker.log"))
        begin = _designate(recorder, options.late, (camera, tracker))
        _follow(recorder, begin, options.duration, (camera, tracker))
        flight = Flight(
            truth=dict(recorder.truth),
            detections=dict(recorder.detections),
            statuses=dict(recorder.statuses),
            begin=begin,
        )
    figures = evaluate(flight)
    print(figures.table())
    print("\n" + "\n".join(_as_a_subscriber_saw_it(output / "bag")))
    write_report(flight, figures, output, f"/{_NAMESPACE}")
    print(f"\nwritten to {output}{os.sep}: bag, flight.mp4, contact_sheet.png, plot.png")
    if figures.lost:
        print(f"the target was lost: {figures.lost}", file=sys.stderr)
        return 1
    return 0


def _as_a_subscriber_saw_it(bag: Path) -> list[str]:
    """Latency-aware scores of the bag, as `mlkd score` prints them."""
    try:
        return score_bag(bag).lines()
    except DatasetError as error:
        return [f"no latency-aware scores: {error}"]


def _clear(output: Path, force: bool) -> None:
    """Make the output folder, and with `force` remove what an earlier demo left there."""
    output.mkdir(parents=True, exist_ok=True)
    paths = [output / name for name in _OUTPUTS]
    if not force and (there := [path for path in paths if path.exists()]):
        raise FileExistsError(f"{printable(there[0])} exists already: --force overwrites it")
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _recorder(bag: Path, image_every: int) -> Iterator[FlightRecorder]:
    """A recorder that listens on a thread of its own."""
    start_ros([], "demo")
    recorder = FlightRecorder(bag, image_every)
    executor = SingleThreadedExecutor()
    executor.add_node(recorder)
    thread = threading.Thread(target=_spin, args=(executor,), daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        # Python must not end while that thread is inside rclpy: the process would abort.
        executor.shutdown(timeout_sec=10.0)
        thread.join(10.0)
        recorder.close()
        rclpy.try_shutdown()


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


@contextlib.contextmanager
def _process(executable: str, log: Path, **parameters: object) -> Iterator[subprocess.Popen[bytes]]:
    """An executable of this package as a process, with its output in a file; ended at the end."""
    # Where `ros2 run` takes it from, in an installation of either kind.
    path = share_directory().parents[1] / "lib" / "mlkd_ros" / executable
    command = [str(path), "--ros-args", "-r", f"__ns:=/{_NAMESPACE}"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    environment = {**os.environ, **fastdds_environment()}
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(
    condition: Callable[[], bool],
    timeout_s: float,
    what: str,
    processes: Sequence[subprocess.Popen[bytes]],
) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        for process in processes:
            if process.poll() is not None:
                raise DemoError(
                    f"a process ended with {process.returncode}; its log is in the output folder"
                )
        if time.monotonic() > end:
            raise DemoError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.02)


def _designate(
    recorder: FlightRecorder, late_s: float, processes: Sequence[subprocess.Popen[bytes]]
) -> int:
    """Mark the target on an image of the past; the stamp that tracking began on, nanoseconds."""
    client: Client[Any, Any] = recorder.create_client(InitTarget, "init_target")
    _wait(lambda: bool(recorder.truth), 60.0, "images of night_camera", processes)
    _wait(client.service_is_ready, 60.0, "the service init_target", processes)
    # The tracker looks at images also while it has no target: by its status we know what it holds.
    _wait(lambda: bool(recorder.statuses), 60.0, "the tracker to take images", processes)
    _check_alone(recorder)
    first = min(recorder.statuses)
    now = recorder.get_clock().now
    age_ns = int(late_s * 1e9)
    _wait(lambda: now().nanoseconds - first > age_ns + 500_000_000, 30.0, "some flight", processes)
    _wait(lambda: _marked(recorder, first, age_ns) is not None, 30.0, "a clear view", processes)
    marked = _marked(recorder, first, age_ns)
    assert marked is not None
    stamp, (x, y, width, height) = marked
    request = InitTarget.Request(
        stamp=time_message(stamp), x=x, y=y, width=width, height=height, target_id="demo"
    )
    asked = now().nanoseconds
    recorder.record()
    answer = client.call_async(request)
    _wait(answer.done, 30.0, "the answer of init_target", processes)
    response = answer.result()
    if response is None or response.code != InitTarget.Response.SUCCESS:
        raise DemoError(f"init_target: {response.message if response else answer.exception()}")
    print(
        f"designated on an image {(asked - stamp) * 1e-9:.2f} s old; answered in "
        f"{(now().nanoseconds - asked) * 1e-6:.0f} ms, {response.frames_caught_up} images caught up"
    )
    return now().nanoseconds


def _check_alone(recorder: FlightRecorder) -> None:
    """Another camera or tracker of the same name would be answered for."""
    for topic in ("image", "status"):
        name = recorder.resolve_topic_name(topic)
        if recorder.count_publishers(name) > 1:
            raise DemoError(
                f"somebody else publishes {name} too; set ROS_DOMAIN_ID to a number that nobody "
                "on this network uses"
            )


def _marked(
    recorder: FlightRecorder, first: int, age_ns: int
) -> tuple[int, tuple[float, float, float, float]] | None:
    """Stamp and box of the target on the newest image of at least that age, if it is in sight."""
    newest = recorder.get_clock().now().nanoseconds - age_ns
    stamps = [stamp for stamp in list(recorder.truth) if first <= stamp <= newest]
    if not stamps:
        return None
    target = recorder.truth[max(stamps)].detections[0]
    if target.results[0].hypothesis.score < 0.95:
        return None
    return max(stamps), box_from_message(target.bbox)


def _follow(
    recorder: FlightRecorder,
    begin: int,
    duration_s: float,
    processes: Sequence[subprocess.Popen[bytes]],
) -> None:
    """Let the tracker work, and say now and then how it goes."""
    end = begin + int(duration_s * 1e9)
    next_line = begin
    while (now := recorder.get_clock().now().nanoseconds) < end:
        left = min(0.25, (end - now) * 1e-9)
        time.sleep(max(left, 0.0))
        _wait(lambda: True, 0.0, "", processes)
        if now >= next_line and recorder.statuses:
            status = recorder.statuses[max(recorder.statuses)]
            print(
                f"{(now - begin) * 1e-9:5.1f} s  confidence {status.confidence:.2f}  "
                f"latency {status.latency * 1e3:.0f} ms",
                flush=True,
            )
            next_line += 5_000_000_000
    time.sleep(0.3)  # the last answers are under way
    recorder.pause()


if __name__ == "__main__":
    sys.exit(main())
