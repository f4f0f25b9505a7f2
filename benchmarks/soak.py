# SPDX-License-Identifier: Apache-2.0
"""Half an hour in the air: does the node's memory grow, or its latency?

    python benchmarks/soak.py                          # 30 minutes at 30 Hz, 640x360
    python benchmarks/soak.py --minutes 2 --interval 2 --size 1280 720
    python benchmarks/soak.py --ahead 5                # where rendering takes too much of the CPU

The real tracker and the rendered camera, each in a process of its own; this one is the ground
station, which watches the overlay and designates the target once a minute. Every sample goes to a
CSV file. Exit code 0: flat; 1: not flat, or the node ended; 2: it could not be started.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from mlkd_ros.data.night_flight import NightFlight
from mlkd_ros.imaging.encode import image_message
from mlkd_ros.msg import TrackStatus
from mlkd_ros.node import messages
from mlkd_ros.share import share_directory, use_fastdds_profile
from mlkd_ros.simulation.night_camera import ground_truth
from mlkd_ros.srv import InitTarget

NAMESPACE = "soak"
#: Seconds between two designations.
_DESIGNATE_EVERY = 60.0
#: Longest part of the run, in seconds, that is left out of the verdict while caches fill.
_WARM_UP = 60.0


@dataclass(frozen=True)
class Sample:
    """One interval: memory in MiB and what else the process holds at its end, latencies in
    milliseconds and counts of images in it. load: of the machine, which the latency depends on.
    """

    seconds: float
    rss: float
    rss_anonymous: float
    threads: int
    files: int
    latency_p50: float
    latency_p95: float
    received: int
    processed: int
    dropped: int
    load: float


@dataclass(frozen=True)
class Limit:
    """How much higher (or lower) a column's median may be in the last third than in the first."""

    column: str
    unit: str
    factor: float
    margin: float

    def kept(self, first: float, last: float) -> bool:
        """Whether the last third's median is within the limit."""
        bound = first * self.factor + self.margin
        return last <= bound if self.factor >= 1.0 else last >= bound


LIMITS = (
    Limit("rss", "MiB", 1.02, 6.0),
    Limit("threads", "", 1.0, 1.0),
    Limit("files", "", 1.0, 2.0),
    Limit("latency_p50", "ms", 1.2, 2.0),
    Limit("latency_p95", "ms", 1.5, 10.0),
    Limit("processed", "images", 0.9, -1.0),
)


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Change an hour: the median over all pairs of samples, which outliers do not move."""
    t, v = np.asarray(times, float), np.asarray(values, float)
    earlier, later = np.triu_indices(len(t), 1)
    return float(np.median((v[later] - v[earlier]) / (t[later] - t[earlier]))) * 3600.0


def judge(samples: Sequence[Sample]) -> tuple[list[str], list[str]]:
    """A table of first third, last third and slope, and the names of the columns that are not flat.

    ValueError for fewer than six samples after the warm-up.
    """
    warm_up = min(_WARM_UP, samples[-1].seconds / 6 if samples else 0.0)
    used = [sample for sample in samples if sample.seconds > warm_up]
    third = len(used) // 3
    if third < 2:
        raise ValueError(f"{len(used)} samples are too few for a verdict: run it longer")
    lines = ["| | first third | last third | change an hour | |", "| --- " * 5 + "|"]
    steep = []
    times = [sample.seconds for sample in used]
    for limit in LIMITS:
        values = [float(getattr(sample, limit.column)) for sample in used]
        first, last = float(np.median(values[:third])), float(np.median(values[-third:]))
        kept = limit.kept(first, last)
        if not kept:
            steep.append(limit.column)
        lines.append(
            f"| {limit.column} {limit.unit} | {first:.1f} | {last:.1f} "
            f"| {slope(times, values):+.1f} | {'flat' if kept else 'NOT FLAT'} |"
        )
    return lines, steep


class Station:
    """Designates what the camera says the target is, and keeps what the node says."""

    def __init__(self, overlay: bool) -> None:
        self._node = rclpy.create_node("station", namespace=NAMESPACE)
        self._statuses: list[TrackStatus] = []
        self._truth = Detection2DArray()
        self._lock = threading.Lock()
        subscribe = self._node.create_subscription
        subscribe(TrackStatus, "status", self._on_status, 100)
        subscribe(Detection2DArray, "ground_truth", self._on_truth, 10)
        if overlay:
            subscribe(CompressedImage, "overlay/compressed", lambda message: None, 1)
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

    def _on_truth(self, message: Detection2DArray) -> None:
        self._truth = message

    def take(self) -> list[TrackStatus]:
        """The statuses since the last call."""
        with self._lock:
            taken, self._statuses = self._statuses, []
        return taken

    def designate(self) -> bool:
        """Ask for the main target, where it is in sight; nobody waits for the answer."""
        truth = self._truth
        if not truth.detections or truth.detections[0].results[0].hypothesis.score < 0.5:
            return False
        x, y, w, h = messages.box_from_message(truth.detections[0].bbox)
        request = InitTarget.Request(stamp=truth.header.stamp, x=x, y=y, width=w, height=h)
        self._client.call_async(request)
        return True

    def close(self) -> None:
        """Stop listening."""
        self._executor.shutdown()
        self._thread.join(5.0)
        self._node.destroy_node()


class AheadCamera:
    """A few seconds of flight, rendered before the start and published to and fro at a rate."""

    def __init__(self, scenario: str, size: tuple[int, int], rate: float, seconds: float) -> None:
        flight = NightFlight(scenario, 0, size, rate, seconds)
        frames = [flight.render(index) for index in range(flight.frame_count)]
        self._frames = [(image_message(f.image, Header(frame_id="camera")), f) for f in frames]
        self._rate = rate
        self._node = rclpy.create_node("camera", namespace=NAMESPACE)
        self._images = self._node.create_publisher(Image, "image", 4)
        self._truth = self._node.create_publisher(Detection2DArray, "ground_truth", 10)
        self._landed = threading.Event()
        self._thread = threading.Thread(target=self._fly, daemon=True)

    def __enter__(self) -> AheadCamera:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._landed.set()
        self._thread.join()
        self._node.destroy_node()

    def _fly(self) -> None:
        begin, last = time.monotonic(), len(self._frames) - 1
        for step in itertools.count():
            if self._landed.wait(max(0.0, begin + step / self._rate - time.monotonic())):
                return
            place = step % max(1, 2 * last)
            image, frame = self._frames[min(place, 2 * last - place)]
            image.header.stamp = messages.time_message(time.time_ns())
            self._images.publish(image)
            self._truth.publish(ground_truth(frame, image.header))


@contextlib.contextmanager
def executable(name: str, **parameters: object) -> Iterator[subprocess.Popen[bytes]]:
    """A node of the package, from where it is installed; ended when the block is left."""
    path = share_directory().parents[1] / "lib" / "mlkd_ros" / name
    command = [str(path), "--ros-args", "-r", f"__ns:=/{NAMESPACE}"]
    for key, value in parameters.items():
        command += ["-p", f"{key}:={value}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def camera_of(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """What the arguments say is to fly."""
    (width, height), rate, scenario = arguments.size, arguments.rate, arguments.scenario
    if arguments.ahead > 0:
        return AheadCamera(scenario, (width, height), rate, arguments.ahead)
    parameters = {"scenario": scenario, "rate": rate, "width": width, "height": height}
    return executable("night_camera", **parameters)


def history_of(arguments: argparse.Namespace) -> dict[str, object]:
    """Parameters for a history of about three seconds that is bounded by its bytes: by time, the
    memory would go up and down with the images that a busy machine lets through.
    """
    nbytes = arguments.size[0] * arguments.size[1] * 3 * arguments.rate * 3
    return {"history_duration": 60.0, "history_megabytes": max(1, int(nbytes) >> 20)}


def sample(pid: int, seconds: float, statuses: Sequence[TrackStatus]) -> Sample:
    """What a process holds now, and the interval that `statuses`, at least two, are of."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        values = dict(line.split(":", 1) for line in file)
    latency = np.array([status.latency for status in statuses]) * 1e3
    p50, p95 = np.nanpercentile(latency, [50, 95])
    first, last = statuses[0], statuses[-1]
    return Sample(
        seconds=round(seconds, 1),
        rss=round(int(values["VmRSS"].split()[0]) / 1024, 2),
        rss_anonymous=round(int(values["RssAnon"].split()[0]) / 1024, 2),
        threads=int(values["Threads"]),
        files=len(os.listdir(f"/proc/{pid}/fd")),
        latency_p50=round(float(p50), 2),
        latency_p95=round(float(p95), 2),
        received=last.frames_received - first.frames_received,
        processed=last.frames_processed - first.frames_processed,
        dropped=last.frames_dropped - first.frames_dropped,
        load=os.getloadavg()[0],
    )


def run(arguments: argparse.Namespace, station: Station, tracker: subprocess.Popen[bytes]) -> bool:
    """Sample until the time is over; False if the node ended or fell silent before."""
    wait_for_target(station, tracker)
    with open(arguments.csv, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in dataclasses.fields(Sample)])
        begin = due = time.monotonic()
        designate_at = begin + _DESIGNATE_EVERY
        while due - begin < arguments.minutes * 60:
            due += arguments.interval
            while (now := time.monotonic()) < due:
                time.sleep(min(0.5, due - now))
                if now > designate_at and station.designate():
                    designate_at = now + _DESIGNATE_EVERY
            elapsed = time.monotonic() - begin
            statuses = station.take()
            if tracker.poll() is not None or len(statuses) < 2:
                what = "is silent" if tracker.poll() is None else "has ended"
                print(f"after {elapsed:.0f} s the node {what}")
                return False
            taken = sample(tracker.pid, elapsed, statuses)
            writer.writerow(dataclasses.astuple(taken))
            file.flush()
    return True


def wait_for_target(station: Station, tracker: subprocess.Popen[bytes]) -> None:
    """Designate until the node follows something. TimeoutError if it does not within a minute."""
    end = time.monotonic() + 60.0
    while not any(status.target_id for status in station.take()):
        if tracker.poll() is not None:
            raise RuntimeError(f"the tracker ended with exit code {tracker.returncode}")
        if time.monotonic() > end:
            raise TimeoutError("no target is being followed after 60 s")
        station.designate()
        time.sleep(1.0)


def read(path: Path) -> list[Sample]:
    """The samples in a CSV file."""
    kinds = {"threads", "files", "received", "processed", "dropped"}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        Sample(**{key: int(v) if key in kinds else float(v) for key, v in row.items()})  # type: ignore[arg-type]
        for row in rows
    ]


def report(samples: Sequence[Sample]) -> bool:
    """Print the table and the verdict; whether everything is flat."""
    lines, steep = judge(samples)
    third = max(1, len(samples) // 3)
    loads = [np.median([s.load for s in part]) for part in (samples[:third], samples[-third:])]
    received, processed = (sum(getattr(s, n) for s in samples) for n in ("received", "processed"))
    print(f"\n{samples[-1].seconds / 60:.1f} minutes, {received} images, {processed} processed")
    print(f"Load of the machine: {loads[0]:.1f} in the first third, {loads[1]:.1f} in the last\n")
    print("\n".join(lines))
    print(f"\nVerdict: {'flat' if not steep else 'NOT FLAT: ' + ', '.join(steep)}")
    return not steep


def main(argv: Sequence[str] | None = None) -> int:
    """Fly, sample, judge. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=30.0, help="images a second")
    parser.add_argument("--size", nargs=2, type=int, default=(640, 360), metavar=("W", "H"))
    parser.add_argument("--interval", type=float, default=10.0, help="seconds a sample")
    parser.add_argument("--scenario", default="crossing", help="of night_camera")
    parser.add_argument(
        "--ahead",
        type=float,
        default=0.0,
        help="seconds of flight that are rendered before the start and flown to and fro, instead "
        "of a night_camera that renders beside the tracker",
    )
    parser.add_argument("--device", default="auto", help="of the tracker")
    parser.add_argument("--no-overlay", action="store_true", help="nobody looks at the overlay")
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"), help="where samples go")
    parser.add_argument("--judge", action="store_true", help="only judge the samples in --csv")
    arguments = parser.parse_args(argv)
    if arguments.judge:
        return 0 if report(read(arguments.csv)) else 1
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    use_fastdds_profile()
    rclpy.init()
    station = Station(not arguments.no_overlay)
    try:
        camera = camera_of(arguments)
        history = history_of(arguments)
        with executable("tracker", device=arguments.device, **history) as tracker, camera:
            alive = run(arguments, station, tracker)
    except (RuntimeError, TimeoutError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    finally:
        station.close()
        rclpy.try_shutdown()
    return 0 if report(read(arguments.csv)) and alive else 1


if __name__ == "__main__":
    sys.exit(main())
