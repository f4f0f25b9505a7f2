# SPDX-License-Identifier: Apache-2.0
"""Servers and senders of video, real ones, and a look at whether what comes out is whole."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mlkd_ros.camera.stream import Picture, Report, StreamSettings, VideoStream

av = pytest.importorskip("av")

from video_support import own_priority  # noqa: E402

WIDTH, HEIGHT, COUNT, RATE, KEY_EVERY = 320, 240, 40, 15, 10
PATIENCE = 60.0
#: Of Debian, which has what the server is made with; our environment's Python has not.
_PYTHON = "/usr/bin/python3"
_NEEDED = (
    "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0'); "
    "from gi.repository import Gst, GstRtspServer; Gst.init(None); "
    "assert all(map(Gst.ElementFactory.find, "
    "('appsrc', 'x264enc', 'rtph264pay', 'x265enc', 'rtph265pay', 'netsim')))"
)
#: Mean difference of a whole picture from what was filmed, and that of its worst 16x16 pixels.
_WHOLE, _WORST_BLOCK = 8.0, 45.0


def pictures() -> list[np.ndarray]:
    """What is filmed: a ground that moves to the left under a target, each picture another one."""
    rng = np.random.default_rng(3)
    ground = cv2.resize(rng.integers(20, 200, (15, 60, 3)).astype(np.uint8), (WIDTH * 3, HEIGHT))
    target = cv2.resize(rng.integers(60, 255, (5, 6, 3)).astype(np.uint8), (48, 40))
    found = []
    for index in range(COUNT):
        picture = ground[:, 8 * index : 8 * index + WIDTH].copy()
        picture[100:140, 20 + 6 * index : 68 + 6 * index] = target
        found.append(picture)
    return found


PICTURES = pictures()


class Witness:
    """Says which of the pictures an image is; AssertionError if it is none of them, whole."""

    def __init__(self) -> None:
        self._small = np.stack([_blocks(picture) for picture in PICTURES])

    def index(self, image: np.ndarray) -> int:
        assert image.shape == (HEIGHT, WIDTH, 3)
        differences = abs(self._small - _blocks(image)).mean(axis=(1, 2, 3))
        index = int(differences.argmin())
        difference = abs(PICTURES[index].astype(np.float32) - image)
        worst = _blocks(difference).max()
        assert difference.mean() < _WHOLE and worst < _WORST_BLOCK, (
            f"picture {index} is off by {difference.mean():.1f}, at its worst {worst:.0f}"
        )
        return index


def _blocks(picture: np.ndarray) -> np.ndarray:
    """Means of 16x16 pixels."""
    blocks = picture.astype(np.float32).reshape(HEIGHT // 16, 16, WIDTH // 16, 16, 3)
    return blocks.mean(axis=(1, 3))


def free_port(kind: int) -> int:
    with closing(socket.socket(socket.AF_INET, kind)) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def why_no_server() -> str:
    """Why there is no RTSP server; empty if there is."""
    if not os.access(_PYTHON, os.X_OK):
        return f"no {_PYTHON}"
    done = subprocess.run(
        [_PYTHON, "-c", _NEEDED], capture_output=True, text=True, check=False, env=_environment()
    )
    if done.returncode == 0:
        return ""
    return f"GStreamer's RTSP server is not installed: {done.stderr.strip().splitlines()[-1]}"


def _environment() -> dict[str, str]:
    """Without the libraries of our own environment."""
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


class RtspServer:
    """GStreamer's, as a process; films PICTURES at RATE."""

    def __init__(self, folder: Path, codec: str = "h264", loss: float = 0.0) -> None:
        self._film = folder / "pictures.i420"
        self._pushed = folder / "pushed.txt"
        planes = [cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420) for picture in PICTURES]
        self._film.write_bytes(np.stack(planes).tobytes())
        self._codec, self._loss = codec, loss
        self._port = free_port(socket.SOCK_STREAM)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"rtsp://127.0.0.1:{self._port}/night"
        self.start()

    def start(self) -> None:
        values = (WIDTH, HEIGHT, RATE, self._port, self._codec, self._loss, KEY_EVERY)
        script = Path(__file__).parents[2] / "benchmarks/rtsp_server.py"
        self._process = subprocess.Popen(
            [_PYTHON, str(script), str(self._film), *map(str, values), str(self._pushed)],
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"serving\n"

    def stall(self) -> None:
        """No pictures from now on, with the connection still there."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR2)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def pushed(self) -> dict[int, list[int]]:
        """When each picture was filmed, nanoseconds since 1970, by its index."""
        found: dict[int, list[int]] = {}
        for line in self._pushed.read_text().splitlines():
            time_ns, index = map(int, line.split())
            found.setdefault(index, []).append(time_ns)
        return found


@contextmanager
def watching(url: str, **settings: Any) -> Iterator[Watcher]:
    """Connect to a stream."""
    watcher = Watcher(StreamSettings(url=url, **settings))
    watcher.stream.start()
    try:
        yield watcher
    finally:
        watcher.stream.close()


class Watcher:
    """Takes pictures of a stream; each has to be whole, and later than the one before."""

    def __init__(self, settings: StreamSettings) -> None:
        self.said: list[str] = []
        self.stream = VideoStream(settings, say=lambda bad, text: self.said.append(text))
        self.seen: list[tuple[int, int]] = []
        """Stamp and index of each picture."""
        self._witness = Witness()

    @property
    def report(self) -> Report:
        return self.stream.report

    def take(self, picture: Picture) -> None:
        assert not self.seen or picture.stamp > self.seen[-1][0]
        frame = picture.frame
        image = frame.window(0, 0, frame.width, frame.height)
        self.seen.append((picture.stamp, self._witness.index(image)))

    def see(self, count: int) -> None:
        """Take that many more."""
        wanted = len(self.seen) + count
        self.until(lambda: len(self.seen) >= wanted, f"{count} pictures")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Take what comes until something is true."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"no {what}: {self.report} {self.said}"
            picture = self.stream.newest(0.05)
            if picture is not None:
                self.take(picture)

    def to_the_end(self) -> None:
        self.until(lambda: self.stream.ended, "end")


@own_priority()
def write_video(path: Path, encoder: str = "libx264", b_frames: int = 0, times: int = 1) -> Path:
    """PICTURES as a file of the kind that its name says."""
    options = {"libx264": {"preset": "veryfast"}, "mjpeg": {}}.get(encoder, {"preset": "ultrafast"})
    if encoder == "libx265":
        keys = f"keyint={KEY_EVERY}:bframes={b_frames}:repeat-headers=1:log-level=none"
        options = options | {"x265-params": keys}
    if encoder == "libsvtav1":
        options = {"preset": "12", "crf": "20", "svtav1-params": "pred-struct=1"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=RATE)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = KEY_EVERY
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.options = options
        stream.codec_context.time_base = Fraction(1, RATE)
        for count in range(COUNT * times):
            picture = av.VideoFrame.from_ndarray(PICTURES[count % COUNT], format="bgr24")
            picture.pts = count
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


class TsSender:
    """Sends a file of MPEG-TS over UDP, at the pace that it was filmed, without some datagrams."""

    DATAGRAM = 7 * 188

    def __init__(self, path: Path, duration: float, loss: float = 0.0) -> None:
        content = path.read_bytes()
        size = self.DATAGRAM
        self._datagrams = [content[at : at + size] for at in range(0, len(content), size)]
        self._interval = duration / len(self._datagrams)
        self._loss = loss
        self.port = free_port(socket.SOCK_DGRAM)
        self.url = f"udp://0.0.0.0:{self.port}"
        self.dropped = 0

    def send(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            for datagram in self._datagrams:
                if rng.random() < self._loss:
                    self.dropped += 1
                else:
                    sender.sendto(datagram, ("127.0.0.1", self.port))
                time.sleep(self._interval)
