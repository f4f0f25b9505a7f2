# SPDX-License-Identifier: Apache-2.0
"""What the real node does under load: images over DDS at 30, 60 and 120 Hz.

    python benchmarks/node_load.py                     # 4 turns of 5 s at each rate
    python benchmarks/node_load.py --seconds 3 --turns 2 --rates 30

This process is the camera, the node runs in a process of its own with the package's DDS profile.
Transport is measured by a probe: a process that takes the images as the node does, keeps as many of
them (else each would be received into memory that the system has to provide anew, which takes
milliseconds) and does nothing with them. Node and probe listen in turns, never at once, because
they would compete for the cores and for the shared memory. The node's overhead is what is left of
its median time from stamp to publishing without the median transport of the probe and the median
update of the tracker; beside it stand the least and the most that a single turn gave. The last
table counts what the node's own code allocates for an image.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from scene import Scene
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from mlkd_ros.imaging.encode import image_message
from mlkd_ros.imaging.messages import Decoder
from mlkd_ros.msg import TrackStatus
from mlkd_ros.node import messages
from mlkd_ros.node.parameters import default_settings
from mlkd_ros.session.history import FrameHistory, HeldFrame
from mlkd_ros.session.targets import Designation, TargetSet
from mlkd_ros.share import share_directory, use_fastdds_profile
from mlkd_ros.srv import InitTarget
from mlkd_ros.tracking import load_tracker

QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
#: Seconds of images before those that count: until node or probe hold as many as they ever will.
SETTLING = 4.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Camera:
    """Publishes the images of a scene at a rate, and keeps what the node says about them."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.scene = Scene(size)
        self.node = rclpy.create_node("camera", namespace="mlkd")
        self._publisher = self.node.create_publisher(Image, "image", QOS)
        self._images = [image_message(image, Header(frame_id="c")) for image in self.scene.images]
        self.statuses: list[TrackStatus] = []
        self.node.create_subscription(TrackStatus, "status", self.statuses.append, 100)
        self.client = self.node.create_client(InitTarget, "init_target")
        self._lifecycle = self.node.create_client(ChangeState, "tracker/change_state")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        threading.Thread(target=self._spin, daemon=True).start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def wait(self, condition: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
        """Publish slowly until something is there."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"no {what} within {timeout:.0f} s")
            self.publish(0)
            time.sleep(0.1)

    def publish(self, step: int) -> None:
        """One image, stamped now."""
        message = self._images[self.scene.index(step)]
        message.header.stamp = messages.time_message(time.time_ns())
        self._publisher.publish(message)

    def stream(self, rate: float, seconds: float) -> int:
        """Publish at a steady rate; how many were sent."""
        begin, count = time.monotonic(), int(rate * seconds)
        for step in range(count):
            time.sleep(max(0.0, begin + step / rate - time.monotonic()))
            self.publish(step)
        return count

    def designate(self) -> None:
        """Start the node on the scene's target."""
        x, y, w, h = map(float, self.scene.boxes(0)[0])
        future = self.client.call_async(InitTarget.Request(x=x, y=y, width=w, height=h))
        self.wait(future.done, "answer of init_target")
        if future.result().code != InitTarget.Response.SUCCESS:
            raise RuntimeError(future.result().message)

    def ready(self) -> bool:
        """Whether the node is there in every way."""
        clients = (self.client, self._lifecycle)
        return bool(self.statuses) and all(client.service_is_ready() for client in clients)

    def transition(self, number: int) -> None:
        """Activate or deactivate the node."""
        request = ChangeState.Request(transition=Transition(id=number))
        future = self._lifecycle.call_async(request)
        self.wait(future.done, "answer of change_state")
        if not future.result().success:
            raise RuntimeError("the node refuses to change its state")


def start_tracker(arguments: argparse.Namespace) -> subprocess.Popen[bytes]:
    """The node, from where it is installed."""
    executable = share_directory().parents[1] / "lib" / "mlkd_ros" / "tracker"
    command = [str(executable), "--ros-args"]
    for name in ("checkpoint", "engine", "device"):
        if value := getattr(arguments, name):
            command += ["-p", f"{name}:={value}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def processor_seconds(pid: int) -> float:
    """User and system time of a process."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_megabytes(pid: int) -> float:
    """Memory of a process, without what it shares with others through DDS."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        values = dict(line.split(":", 1) for line in file)
    return int(values["RssAnon"].split()[0]) / 1024


@dataclass
class Turn:
    """What one turn at the images gave, in milliseconds."""

    transport: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)

    @property
    def overhead(self) -> float:
        """Of the node, without transport and update."""
        parts = (self.latency, self.transport, self.update)
        latency, transport, update = map(np.median, parts)
        return float(latency - transport - update)


@dataclass
class Account:
    """Counts over all turns of the node."""

    sent: int = 0
    received: int = 0
    processed: int = 0
    dropped: int = 0
    busy: float = 0.0
    seconds: float = 0.0


def load_row(camera: Camera, rate: float, arguments: argparse.Namespace) -> str:
    """One rate: a fresh node and a probe, which take turns; a line of the table."""
    process, probe = start_tracker(arguments), Probe()
    account, turns, states = Account(), [], set()
    try:
        camera.statuses.clear()
        camera.wait(camera.ready, "sign of the node")
        time.sleep(1.0)  # it finds this process a little later, and an answer would be lost
        for _ in range(arguments.turns):
            turn = Turn()
            camera.transition(Transition.TRANSITION_DEACTIVATE)
            probe.listen()
            camera.stream(rate, SETTLING)
            probe.arrivals()
            camera.stream(rate, arguments.seconds)
            turn.transport = probe.arrivals()
            probe.rest()
            camera.transition(Transition.TRANSITION_ACTIVATE)
            statuses = node_turn(camera, rate, arguments.seconds, process.pid, account)
            turn.latency = [status.latency * 1e3 for status in statuses]
            turn.update = [status.processing_time * 1e3 for status in statuses]
            states |= {status.state for status in statuses}
            turns.append(turn)
        memory = resident_megabytes(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        probe.stop()
    if not states <= {TrackStatus.TRACKING, TrackStatus.UNCERTAIN}:
        print(f"(the target was lost at {rate:g} Hz: figures are of the search)")
    every = Turn(*(sum((getattr(t, f.name) for t in turns), []) for f in fields(Turn)))
    each = [turn.overhead for turn in turns]
    return (
        f"| {rate:g} Hz | {account.sent} | {account.received} | {account.processed} "
        f"| {account.dropped} | {100 * account.busy / account.seconds:.0f}% | {memory:.0f} "
        f"| {np.median(every.latency):.1f} / {np.percentile(every.latency, 99):.1f} "
        f"| {np.median(every.transport):.1f} | {np.median(every.update):.1f} "
        f"| {every.overhead:.1f} ({min(each):.1f} to {max(each):.1f}) |"
    )


def node_turn(
    camera: Camera, rate: float, seconds: float, pid: int, account: Account
) -> list[TrackStatus]:
    """Stream images to the node, on a target; what it says about them, added to the account."""
    camera.statuses.clear()
    camera.wait(lambda: bool(camera.statuses), "status of the node")
    camera.designate()
    camera.stream(rate, SETTLING)
    time.sleep(0.3)
    before = camera.statuses[-1]
    camera.statuses.clear()
    busy, begin = processor_seconds(pid), time.monotonic()
    account.sent += camera.stream(rate, seconds)
    account.seconds += time.monotonic() - begin
    account.busy += processor_seconds(pid) - busy
    time.sleep(0.5)
    statuses = list(camera.statuses)
    account.received += statuses[-1].frames_received - before.frames_received
    account.processed += statuses[-1].frames_processed - before.frames_processed
    account.dropped += statuses[-1].frames_dropped - before.frames_dropped
    return statuses


class Probe:
    """A process that can subscribe to the images as the node does, and does nothing else."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_probe, args=(theirs,))
        self._process.start()

    def listen(self) -> None:
        """Subscribe."""
        self._ask("listen")

    def arrivals(self) -> list[float]:
        """Milliseconds from stamp to callback of the images since this was asked last."""
        found: list[float] = self._ask("arrivals")
        return found

    def rest(self) -> None:
        """Unsubscribe."""
        self._ask("rest")

    def stop(self) -> None:
        """End the process."""
        self._pipe.send("stop")
        self._process.join(20)

    def _ask(self, what: str) -> Any:
        self._pipe.send(what)
        if not self._pipe.poll(60.0):
            raise TimeoutError("the transport probe does not answer")
        return self._pipe.recv()


def _probe(connection: Connection) -> None:
    """The process of a Probe: an executor on a thread of its own, as in the node."""
    rclpy.init()
    node = rclpy.create_node("probe", namespace="mlkd")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    arrivals: list[float] = []
    defaults = default_settings()
    kept = FrameHistory(defaults.history_duration, defaults.history_megabytes << 20)

    def on_image(message: Image) -> None:
        stamp = messages.nanoseconds(message.header.stamp)
        arrivals.append((time.time_ns() - stamp) * 1e-6)
        kept.add(HeldFrame(message, stamp, len(arrivals), len(message.data)))

    def obey() -> None:
        subscription = None
        while (asked := connection.recv()) != "stop":
            answer = None
            if asked == "listen":
                subscription = node.create_subscription(Image, "image", on_image, QOS)
            elif asked == "rest":
                # In the thread that spins it: anywhere else it may end the executor.
                executor.create_task(node.destroy_subscription, subscription)
            else:
                answer = arrivals.copy()
                arrivals.clear()
            connection.send(answer)
        executor.shutdown()

    threading.Thread(target=obey).start()
    # As the node: the executor has the main thread.
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()
    rclpy.shutdown()


def table_allocations(size: tuple[int, int], arguments: argparse.Namespace) -> None:
    """Memory that the node's code asks for while one image goes through it."""
    tracker = load_tracker(arguments.checkpoint, arguments.device or "auto")
    scene = Scene(size)
    targets, history, decoder = TargetSet(tracker, 1), FrameHistory(1.0, 1 << 26), Decoder()
    images = [image_message(image, Header(frame_id="c")) for image in scene.images]
    peaks = []
    tracemalloc.start()
    for number in range(1, 121):
        message: Any = images[scene.index(number - 1)]
        tracemalloc.reset_peak()
        held_before = tracemalloc.get_traced_memory()[0]
        stamp = number * 33_000_000
        frame = decoder.decode(message)
        held = HeldFrame(frame, stamp, number, len(message.data), message.header)
        history.add(held)
        if number == 1:
            targets.designate(Designation(scene.boxes(0)[0]), history, 0.1)
        reports = targets.step(held)
        messages.detections(message.header, reports, "target")
        targets.settle()
        peaks.append(tracemalloc.get_traced_memory()[1] - held_before)
    tracemalloc.stop()
    steady, whole = peaks[20:], size[0] * size[1] * 3
    print(
        f"\nLargest allocation at once for one {size[0]}x{size[1]} image (100 images in steady "
        f"state): median {np.median(steady) / 1e3:.0f} kB, most {max(steady) / 1e3:.0f} kB; the "
        f"image has {whole / 1e3:.0f} kB"
    )


def main(argv: list[str] | None = None) -> None:
    """Run the rates asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", nargs="+", type=float, default=[30.0, 60.0, 120.0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of one turn")
    parser.add_argument("--turns", type=int, default=4, help="of the node and of the probe")
    parser.add_argument("--size", nargs=2, type=int, default=(1280, 720), metavar=("W", "H"))
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--engine", default="")
    parser.add_argument("--device", default="")
    arguments = parser.parse_args(argv)
    size = tuple(arguments.size)
    arguments.checkpoint = arguments.checkpoint and os.path.abspath(arguments.checkpoint)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    use_fastdds_profile()
    rclpy.init()
    camera = Camera(size)
    print(
        f"\n### {size[0]}x{size[1]} bgr8 over DDS, {os.cpu_count()} cores\n\n"
        "| rate | sent | received | processed | dropped | CPU of the node | memory MB "
        "| stamp to publish ms, median / p99 | transport | update "
        "| overhead of the node (per turn) |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for rate in arguments.rates:
        print(load_row(camera, rate, arguments), flush=True)
    rclpy.shutdown()
    arguments.checkpoint = arguments.checkpoint or None
    table_allocations(size, arguments)


if __name__ == "__main__":
    main()
