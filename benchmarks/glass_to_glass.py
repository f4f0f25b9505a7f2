# SPDX-License-Identifier: Apache-2.0
"""How old the video of the ground station's page is when it is seen, H.264 and JPEG; what it takes
of the link, and of the processor of the station.

    python benchmarks/glass_to_glass.py                      # 20 s each
    python benchmarks/glass_to_glass.py --tone off           # a browser without a graphics card

This process is the camera, of 1280x720 bgr8: each image of a rendered flight has the time
of its taking painted into it, as cells of black and white. Tracker and station are processes of
their own, the tracker follows a car, and the page is open in a headless browser. Whenever the page
has drawn another picture, the cells are read back from its canvas, coded, tone-mapped and scaled as
they are, and compared with the clock. What a screenshot shows says the same with the browser's
compositor in it: the age lies between that when it was asked for and that when it came. A screen
adds its own delay. Nothing that the page believes of ages is used, but for the column `sent at`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from node_load import QOS, processor_seconds
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from mlkd_ros.data.night_flight import NightFlight
from mlkd_ros.imaging.encode import image_message
from mlkd_ros.node.messages import time_message
from mlkd_ros.share import share_directory, use_fastdds_profile
from mlkd_ros.srv import InitTarget

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test"))
from browser import Browser, Page  # noqa: E402

SIZE, PICTURES = (1280, 720), 40
#: The time in milliseconds, modulo 2^BITS, as cells at the top left: one row, and below it the
#: opposite, so that what is half drawn or not there is not taken for a time.
BITS, CELL = 18, 32
#: Reads the cells of `pixels`, RGBA of `w` x `h` that are shown at [x, y, across] of them.
READ = (
    """(pixels, w, [x, y, across]) => {
  const cell = across * CELL / WIDTH;
  const at = (column, row) => pixels[4 * (Math.floor(y + (row + .5) * cell) * w
    + Math.floor(x + (column + .5) * cell)) + 1];
  let time = 0;
  for (let i = 0; i < BITS; i++) {
    const [a, b] = [at(i, 0), at(i, 1)];
    if (Math.abs(a - b) < 60) return null;
    time = 2 * time + (a > b ? 1 : 0);
  }
  return time;
}""".replace("CELL", str(CELL))
    .replace("WIDTH", str(SIZE[0]))
    .replace("BITS", str(BITS))
)
#: Reads them from the canvas after each picture that was drawn; counts the bytes that came.
WATCH = (
    "(() => { const read = "
    + READ
    + """;
  const strip = document.createElement("canvas");
  const pen = strip.getContext("2d", { willReadFrequently: true });
  const seen = window.seen = { ages: [], sent: [], missed: 0, bytes: 0, sizes: [], codec: "" };
  const take = station.wire.heard.picture;
  station.wire.heard.picture = (buffer) => { seen.bytes += buffer.byteLength; take(buffer); };
  let last = "";
  const look = () => {
    requestAnimationFrame(look);
    const { stamp } = stage.dataset;
    if (!stamp || stamp === last) return;
    last = stamp;
    const video = document.getElementById("video"), density = video.width / stage.clientWidth;
    const place = station.view.rect.slice(0, 3).map((one) => one * density);
    const w = Math.ceil(place[0] + place[2]);
    const h = Math.ceil(place[1] + 3 * place[2] * CELL / WIDTH);
    [strip.width, strip.height] = [w, h];
    pen.drawImage(video, 0, 0);
    const now = performance.timeOrigin + performance.now();
    const time = read(pen.getImageData(0, 0, w, h).data, w, place);
    if (time === null) { seen.missed++; return; }
    const span = 2 ** BITS;
    seen.ages.push(((now - time) % span + span) % span);
    seen.sent.push(1000 * station.scene.shown.age);
    seen.sizes.push(station.scene.shown.size[0]);
    seen.codec = station.scene.shown.codec;
  };
  requestAnimationFrame(look);
})()""".replace("CELL", str(CELL))
    .replace("WIDTH", str(SIZE[0]))
    .replace("BITS", str(BITS))
)


def paint(image: np.ndarray, milliseconds: int) -> None:
    """The time into the cells of an image."""
    bits = [(milliseconds >> (BITS - 1 - index)) & 1 for index in range(BITS)]
    cells = np.array([bits, [1 - bit for bit in bits]], np.uint8) * 255
    rows = np.kron(cells, np.ones((CELL, CELL), np.uint8))
    image[: rows.shape[0], : rows.shape[1]] = rows[:, :, None]


class Camera:
    """Publishes a flight, forwards and backwards, at so many images a second, until closed."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        flight = NightFlight("crossing", 1, SIZE, 30.0)
        rendered = [flight.render(150 + index) for index in range(PICTURES)]
        self._images = [picture.image for picture in rendered]
        self._boxes = [tuple(map(float, picture.targets[0][1])) for picture in rendered]
        self.node = rclpy.create_node("camera", namespace="mlkd")
        self._publisher = self.node.create_publisher(Image, "image", QOS)
        self._init = self.node.create_client(InitTarget, "init_target")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._ended = threading.Event()
        self._published: tuple[int, int] = (0, 0)
        self._threads = [threading.Thread(target=work) for work in (self._spin, self._stream)]
        for thread in self._threads:
            thread.start()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def _stream(self) -> None:
        begin, step = time.monotonic(), 0
        while not self._ended.is_set():
            time.sleep(max(0.0, begin + step / self._rate - time.monotonic()))
            index = step % (2 * PICTURES - 2)
            index = min(index, 2 * PICTURES - 2 - index)
            image = self._images[index].copy()
            now = time.time_ns()
            paint(image, now // 10**6 % (1 << BITS))
            message = image_message(image, Header(frame_id="camera", stamp=time_message(now)))
            self._publisher.publish(message)
            self._published = now, index
            step += 1

    def designate(self) -> None:
        """Have the tracker follow the flight's target."""
        end = time.monotonic() + 120.0
        while time.monotonic() < end:
            stamp, index = self._published
            x, y, w, h = self._boxes[index]
            request = InitTarget.Request(stamp=time_message(stamp), x=x, y=y, width=w, height=h)
            if self._init.wait_for_service(1.0):
                future = self._init.call_async(request)
                asked = time.monotonic()
                while not future.done() and time.monotonic() < asked + 5.0:
                    time.sleep(0.02)
                if future.done() and future.result().code == InitTarget.Response.SUCCESS:
                    return
            time.sleep(0.5)
        raise TimeoutError("the tracker does not take the target")

    def close(self) -> None:
        """End the stream."""
        self._ended.set()
        self._executor.shutdown()
        for thread in self._threads:
            thread.join()
        self.node.destroy_node()


def start(name: str, *arguments: str, log: Any = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """An executable of the package, from where it is installed."""
    executable = share_directory().parents[1] / "lib" / "mlkd_ros" / name
    return subprocess.Popen([str(executable), *arguments], stdout=log, stderr=subprocess.STDOUT)


@dataclass
class Seen:
    """What one run gave: ages in milliseconds when drawn, when the station sent them, and by
    screenshots (not before, not after); bytes and pictures a second; share of a core.
    """

    codec: str
    width: float
    ages: list[float]
    sent: list[float]
    shots: list[tuple[float, float]]
    rate: float
    bytes_a_second: float
    core: float
    missed: int

    def row(self) -> str:
        """As a row of the table."""
        late = sorted(self.ages)[int(0.95 * len(self.ages))]
        low, high = (max(statistics.median(ends), 0) for ends in zip(*self.shots, strict=True))
        kind = "JPEG" if self.codec == "jpeg" else "H.264"
        return (
            f"| {kind}, {self.width:.0f} px | {self.rate:.1f} Hz"
            f" | {self.bytes_a_second / 1e3:.0f} kB/s"
            f" | {statistics.median(self.sent):.0f} ms | {statistics.median(self.ages):.0f} ms"
            f" | {late:.0f} ms | {low:.0f} to {high:.0f} ms | {self.core:.2f} |"
        )


async def watch(address: str, station: int, seconds: float, tone: str) -> Seen:
    """One run with a station that is there, by its address and process id."""
    async with Browser() as browser:
        page = await browser.open(address)
        await page.resize(1440, 900)
        await page.wait_for("window.station?.scene.shown && stage.dataset.stamp")
        await page.evaluate(f"document.querySelector('#tone input[value={tone}]').click()")
        await page.wait_for("station.scene.targets.size > 0")
        await asyncio.sleep(8.0)  # until the pace has found what this browser takes
        await page.evaluate(WATCH)
        begin, used = time.monotonic(), processor_seconds(station)
        await asyncio.sleep(seconds)
        took = time.monotonic() - begin
        used = processor_seconds(station) - used
        seen = await page.evaluate("window.seen")
        shots = [one for _ in range(15) if (one := await screenshot(page)) is not None]
        return Seen(
            seen["codec"],
            statistics.median(seen["sizes"]),
            seen["ages"],
            seen["sent"],
            shots,
            len(seen["ages"]) / took,
            seen["bytes"] / took,
            used / took,
            seen["missed"],
        )


async def screenshot(page: Page) -> tuple[float, float] | None:
    """Age in milliseconds of the picture on a screenshot, when asked for and when it came."""
    x, y, across = await page.evaluate(
        "(() => { const r = stage.getBoundingClientRect(), [x, y, w] = station.view.rect;"
        " return [r.x + x, r.y + y, w]; })()"
    )
    clip = {"x": x, "y": y, "width": across, "height": 3 * across * CELL / SIZE[0], "scale": 1}
    asked = time.time() * 1e3
    result = await page.send("Page.captureScreenshot", format="png", clip=clip)
    came = time.time() * 1e3
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(result["data"]), np.uint8), 1)
    cell = across * CELL / SIZE[0]
    columns = ((np.arange(BITS) + 0.5) * cell).astype(int)
    first, second = (picture[int((row + 0.5) * cell), columns, 1].astype(int) for row in (0, 1))
    if (np.abs(first - second) < 60).any():
        return None
    painted = int("".join("1" if one else "0" for one in first > second), 2)
    # It may have been taken after it was asked for.
    span = 1 << BITS
    return (asked - painted + span / 2) % span - span / 2, (came - painted) % span


def measure(video: str, tone: str, seconds: float) -> Seen:
    """A station that sends such video."""
    with tempfile.NamedTemporaryFile("r+") as log:
        station = start("ground_station", "--port", "0", "--video", video, log=log)
        try:
            end = time.monotonic() + 60.0
            while (found := re.search(r"http://\S+", Path(log.name).read_text())) is None:
                if time.monotonic() > end:
                    raise TimeoutError(f"no ground station: {Path(log.name).read_text()}")
                time.sleep(0.1)
            return asyncio.run(watch(found[0], station.pid, seconds, tone))
        finally:
            station.terminate()
            station.wait(20.0)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=" ".join(__doc__.split("\n\n")[0].split()))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run (default 20)")
    parser.add_argument("--rate", type=float, default=30.0, help="of the camera (default 30 Hz)")
    parser.add_argument("--video", choices=("auto", "jpeg"), help="only one (default: both)")
    parser.add_argument("--tone", choices=("auto", "strong", "off"), default="auto")
    given = parser.parse_args()
    use_fastdds_profile()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    print(f"load before it began: {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores\n", flush=True)
    rclpy.init()
    camera = Camera(given.rate)
    tracker = start("tracker")
    try:
        camera.designate()
        print("| video | shown | link | sent at | drawn, median | 95 % | on a screenshot | cores |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
        for video in (given.video,) if given.video else ("auto", "jpeg"):
            seen = measure(video, given.tone, given.seconds)
            print(seen.row(), flush=True)
            if seen.missed:
                print(f"(not legible: {seen.missed})")
    finally:
        camera.close()
        tracker.terminate()
        tracker.wait(20.0)
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
