# SPDX-License-Identifier: Apache-2.0
"""Video streams: from packet to detection, what it costs, and whether the delay stays what it is.

    python benchmarks/stream.py                        # codecs and sizes, some minutes
    python benchmarks/stream.py --soak 30              # minutes of RTSP with losses and reconnects

Tables: H.264, H.265 and AV1 as foxglove_msgs/CompressedVideo to the real tracker, stamped when they
are published; and H.264 by RTSP through executable `camera`, stamped by the server's clock when it
is filmed, so that coding counts too. The soak takes RTSP over UDP, with lost packets, restarts the
server after a third and two thirds of the time, and designates the target every 20 s.

RTSP needs GStreamer's server (see rtsp_server.py); without it that part is left out. Every process
shares the machine with server and station: leave it alone otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
import soak
from foxglove_msgs.msg import CompressedVideo
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from scene import Scene

from mlkd_ros.imaging.packets import PacketDecoder, require_video
from mlkd_ros.msg import TrackStatus
from mlkd_ros.node.messages import nanoseconds, time_message
from mlkd_ros.share import use_fastdds_profile
from mlkd_ros.srv import InitTarget

SIZES = ((1280, 720), (1920, 1080))
#: Encoder and its options; without pictures that wait for later ones.
ENCODERS = {
    "h264": ("libx264", {"preset": "veryfast", "tune": "zerolatency"}),
    "h265": ("libx265", {"preset": "ultrafast", "x265-params": "bframes=0:log-level=none"}),
    "av1": ("libsvtav1", {"preset": "12", "svtav1-params": "pred-struct=1"}),
}
#: Pictures that are coded, and shown again and again; the first is a key frame.
PICTURES = 30
#: Seconds before the images that count.
SETTLING = 3.0
DESIGNATE_EVERY = 20.0
#: Share of lost RTP packets in the soak, and seconds that the server is gone.
LOSS, GONE = 0.002, 3.0
_PYTHON = "/usr/bin/python3"
_TICKS = os.sysconf("SC_CLK_TCK")


class Station:
    """Publishes packets, designates, and keeps what the tracker says."""

    def __init__(self) -> None:
        self._node = rclpy.create_node("station", namespace=soak.NAMESPACE)
        self._statuses: list[TrackStatus] = []
        self._lock = threading.Lock()
        self.newest: TrackStatus | None = None
        self.packets = self._node.create_publisher(CompressedVideo, "image/foxglove", 30)
        self._node.create_subscription(TrackStatus, "status", self._on_status, 100)
        self._client = self._node.create_client(InitTarget, "init_target")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_status(self, message: TrackStatus) -> None:
        with self._lock:
            self._statuses.append(message)
            self.newest = message

    def take(self) -> list[TrackStatus]:
        """The statuses since the last call."""
        with self._lock:
            taken, self._statuses = self._statuses, []
        return taken

    def designate(self, stamp: int, box: Sequence[float]) -> Any:
        """A future of the answer."""
        x, y, w, h = map(float, box)
        request = InitTarget.Request(x=x, y=y, width=w, height=h, target_id="target")
        request.stamp = time_message(stamp)
        return self._client.call_async(request)

    def close(self) -> None:
        """Stop listening."""
        self._executor.shutdown()
        self._thread.join(5.0)
        self._node.destroy_node()


def cpu_seconds(pid: int) -> float:
    """What a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def coded(codec: str, scene: Scene) -> list[bytes]:
    """PICTURES of a scene as packets, the first a key frame."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        return _coded(codec, scene)
    finally:
        # SVT-AV1, where root runs it, makes this thread a real-time one and leaves it so; the
        # tracker that is started next would inherit it.
        os.sched_setscheduler(0, *before)


def _coded(codec: str, scene: Scene) -> list[bytes]:
    av = require_video()
    name, options = ENCODERS[codec]
    context = av.CodecContext.create(name, "w")
    context.height, context.width = scene.images[0].shape[:2]
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 30), 30
    context.gop_size, context.max_b_frames, context.options = PICTURES, 0, dict(options)
    packets: list[Any] = []
    for index in range(PICTURES):
        picture = av.VideoFrame.from_ndarray(scene.image(index), format="bgr24")
        picture.pts = index
        packets += context.encode(picture)
    packets += context.encode(None)
    return [bytes(packet) for packet in packets]


def decoding(codec: str, packets: list[bytes]) -> float:
    """Median milliseconds that a packet takes to be decoded, alone in this process."""
    decoder = PacketDecoder({"h265": "hevc"}.get(codec, codec))
    times = []
    for _ in range(2):
        for packet in packets:
            begin = time.perf_counter()
            decoder.decode(packet)
            times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e3


def wait_for(condition: Any, timeout: float, what: str) -> None:
    """Poll. TimeoutError."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} in {timeout:g} s")
        time.sleep(0.02)


def packet_row(codec: str, size: tuple[int, int], rate: float, seconds: float) -> str:
    """One row of the first table."""
    scene = Scene(size)
    packets = coded(codec, scene)
    alone = decoding(codec, packets)
    station = Station()
    try:
        with soak.executable("tracker", image_transport="foxglove", device="cpu") as tracker:
            wait_for(lambda: station.packets.get_subscription_count() > 0, 60, "tracker")
            begin, step, follows = time.monotonic(), 0, False
            cpu = 0.0
            while time.monotonic() - begin < SETTLING + seconds:
                stamp = time.time_ns()
                station.packets.publish(
                    CompressedVideo(
                        timestamp=time_message(stamp),
                        frame_id="camera",
                        data=packets[step % PICTURES],
                        format=codec,
                    )
                )
                if step == PICTURES // 2:
                    station.designate(stamp, scene.boxes(scene.index(step % PICTURES))[0])
                step += 1
                if not cpu and time.monotonic() - begin > SETTLING:
                    cpu, counted = cpu_seconds(tracker.pid), time.monotonic()
                    station.take()
                time.sleep(max(0.0, begin + step / rate - time.monotonic()))
            used = (cpu_seconds(tracker.pid) - cpu) / (time.monotonic() - counted)
            statuses = station.take()
            follows = any(status.target_id for status in statuses)
    finally:
        station.close()
    if not follows:
        raise RuntimeError(f"{codec} {size}: no target was followed")
    latency = np.array([status.latency for status in statuses]) * 1e3
    p50, p95 = np.percentile(latency, [50, 95])
    return (
        f"| {codec} | {size[0]}x{size[1]} | {alone:.1f} | {p50:.1f} / {p95:.1f} "
        f"| {100 * used:.0f}% | {len(statuses)} |"
    )


class Server:
    """GStreamer's RTSP server with a scene."""

    def __init__(self, folder: Path, scene: Scene, rate: int, loss: float) -> None:
        self.scene = scene
        shown = [scene.image(step) for step in range(2 * (scene.images_held - 1))]
        self._order = [scene.index(step) for step in range(len(shown))]
        planes = [cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420) for image in shown]
        self._film = folder / "film.i420"
        self._film.write_bytes(np.stack(planes).tobytes())
        self._pushed = folder / "pushed.txt"
        height, width = shown[0].shape[:2]
        with contextlib.closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"rtsp://127.0.0.1:{port}/night"
        self._values = [width, height, rate, port, "h264", loss, rate]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Serve."""
        script = str(Path(__file__).with_name("rtsp_server.py"))
        self._process = subprocess.Popen(
            [_PYTHON, script, str(self._film), *map(str, self._values), str(self._pushed)],
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"]},
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"serving\n":
            raise RuntimeError("the RTSP server does not start: see above")

    def stop(self) -> None:
        """Be gone, without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def box(self, stamp: int) -> tuple[float, float, float, float]:
        """Where the target was at that time."""
        lines = self._pushed.read_text(encoding="ascii").splitlines()[-400:]
        times = [tuple(map(int, line.split())) for line in lines if len(line.split()) == 2]
        index = min(times, key=lambda one: abs(one[0] - stamp))[1]
        return self.scene.boxes(self._order[index])[0]


@contextlib.contextmanager
def flying(
    size: tuple[int, int], rate: int, loss: float = 0.0, **camera_parameters: object
) -> Iterator[tuple[Server, Station, Any, Any]]:
    """Server, station, and the processes camera and tracker, with a target that is followed."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        server = Server(Path(folder), Scene(size), rate, loss)
        server.start()
        stack.callback(server.stop)
        station = Station()
        stack.callback(station.close)
        history = soak.history_of(argparse.Namespace(size=size, rate=rate))
        tracker = stack.enter_context(soak.executable("tracker", device="cpu", **history))
        camera = stack.enter_context(soak.executable("camera", url=server.url, **camera_parameters))
        wait_for(lambda: station.newest is not None, 60, "image of the stream")
        time.sleep(SETTLING)  # until the server's reports tell its clock
        wait_for(lambda: designated(server, station) == "", 60, "target that is followed")
        yield server, station, camera, tracker


def designated(server: Server, station: Station) -> str:
    """Designate the target on the newest image; why it was refused, empty if it was not."""
    assert station.newest is not None
    stamp = nanoseconds(station.newest.header.stamp)
    answer = station.designate(stamp, server.box(stamp))
    try:
        wait_for(answer.done, 10, "answer")
    except TimeoutError as error:
        return str(error)
    response = answer.result()
    return "" if response.code == InitTarget.Response.SUCCESS else response.message


def stream_row(size: tuple[int, int], rate: int, seconds: float) -> str:
    """One row of the second table."""
    with flying(size, rate) as (_, station, camera, tracker):
        station.take()
        processes = (camera.pid, tracker.pid)
        begin, before = time.monotonic(), [cpu_seconds(pid) for pid in processes]
        time.sleep(seconds)
        took = time.monotonic() - begin
        shares = [
            100 * (cpu_seconds(pid) - one) / took
            for pid, one in zip(processes, before, strict=True)
        ]
        statuses = station.take()
    p50, p95 = np.percentile(np.array([status.latency for status in statuses]) * 1e3, [50, 95])
    return (
        f"| {size[0]}x{size[1]} | {p50:.0f} / {p95:.0f} | {shares[0]:.0f}% | {shares[1]:.0f}% "
        f"| {len(statuses) / took:.1f} |"
    )


def fly_long(arguments: argparse.Namespace) -> bool:
    """The soak; whether all was flat and every designation answered."""
    size, seconds = tuple(arguments.size), arguments.soak * 60
    samples: dict[str, list[soak.Sample]] = {"camera": [], "tracker": []}
    refused: list[str] = []
    asked = 0
    restarts = [seconds / 3, 2 * seconds / 3]
    parameters = {"rtsp_transport": "udp"}
    with flying(size, arguments.rate, LOSS, **parameters) as (server, station, camera, tracker):
        processes = {"camera": camera, "tracker": tracker}
        station.take()
        begin = time.monotonic()
        due, designate_at = begin + arguments.interval, begin + DESIGNATE_EVERY
        before = {name: cpu_seconds(one.pid) for name, one in processes.items()}
        while (now := time.monotonic()) < begin + seconds:
            time.sleep(0.2)
            if restarts and now > begin + restarts[0]:
                restarts.pop(0)
                server.stop()
                time.sleep(GONE)
                server.start()
            if now > designate_at:
                designate_at = now + DESIGNATE_EVERY
                asked += 1
                if why := designated(server, station):
                    refused.append(f"after {now - begin:.0f} s: {why}")
            if now > due:
                due += arguments.interval
                statuses = station.take()
                for name, one in processes.items():
                    if one.poll() is not None:
                        raise RuntimeError(f"the {name} ended with exit code {one.returncode}")
                if len(statuses) > 1:
                    for name, one in processes.items():
                        samples[name].append(soak.sample(one.pid, now - begin, statuses))
        took = time.monotonic() - begin
        used = {name: cpu_seconds(one.pid) - before[name] for name, one in processes.items()}
    flat = True
    for name, taken in samples.items():
        print(f"\n{name}: {100 * used[name] / took:.0f}% of a core", end="")
        flat = soak.report(taken) and flat
    print(f"\n{asked - len(refused)} of {asked} designations answered with success")
    print("\n".join(refused))
    return flat and not refused


def tables(arguments: argparse.Namespace) -> None:
    """Print both."""
    print(f"Load of the machine: {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n")
    print(
        f"Packets at {arguments.rate} Hz\n\n| codec | size | decoding alone, ms | packet to "
        "detection p50 / p95, ms | CPU of tracker | images |"
    )
    print("| --- " * 6 + "|")
    for size in SIZES:
        for codec in ENCODERS:
            print(packet_row(codec, size, arguments.rate, arguments.seconds), flush=True)
    print(
        f"\nH.264 by RTSP (TCP) at {arguments.rate} Hz\n\n| size | filmed to detection p50 / p95, "
        "ms | CPU of camera | CPU of tracker | images/s |"
    )
    print("| --- " * 5 + "|")
    for size in SIZES:
        print(stream_row(size, arguments.rate, arguments.seconds), flush=True)
    print(f"\nLoad of the machine: {os.getloadavg()[0]:.1f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES")
    parser.add_argument("--rate", type=int, default=30, help="images a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row")
    parser.add_argument("--size", nargs=2, type=int, default=(640, 360), help="of the soak")
    parser.add_argument("--interval", type=float, default=10.0, help="of the soak's samples, s")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    use_fastdds_profile()
    cv2.setNumThreads(1)
    rclpy.init()
    try:
        if arguments.soak:
            return 0 if fly_long(arguments) else 1
        tables(arguments)
    except (RuntimeError, TimeoutError) as error:
        print(f"stream: {error}", file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
