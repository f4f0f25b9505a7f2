# SPDX-License-Identifier: Apache-2.0
"""An RTSP server (GStreamer's) that films a file of raw pictures. Not for our environment's Python.

    /usr/bin/python3 rtsp_server.py PICTURES WIDTH HEIGHT RATE PORT CODEC LOSS KEY_EVERY PUSHED

PICTURES: I420, one after the other, shown again and again. LOSS: share of the RTP packets that are
thrown away. PUSHED: a file to write down when each picture was filmed, and which. SIGUSR1: no
pictures from now on, with the connection still there; SIGUSR2: on again.
"""

from __future__ import annotations

import signal
import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

CODERS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max={key} bitrate={kbps} "
    "threads=1 ! video/x-h264,profile=baseline ! rtph264pay config-interval=-1 pt=96",
    "h265": "x265enc tune=zerolatency speed-preset=ultrafast key-int-max={key} bitrate={kbps} "
    "option-string=pools=1:frame-threads=1 ! rtph265pay config-interval=-1 pt=96",
}


class Film(GstRtspServer.RTSPMediaFactory):
    """One encoder for all who watch."""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__()
        name, self.width, self.height, self.rate, _, codec, loss, key, pushed = arguments
        size = int(self.width) * int(self.height) * 3 // 2
        with open(name, "rb") as file:
            content = file.read()
        self.pictures = [content[at : at + size] for at in range(0, len(content), size)]
        self.pushed = open(pushed, "a")  # noqa: SIM115
        self.count = 0
        self.stalled = False
        self.source = None
        coder = CODERS[codec].format(key=key, kbps=max(1000, size * int(self.rate) // 12000))
        self.payload = f"{coder} ! netsim drop-probability={loss}"
        self.set_shared(True)
        GLib.timeout_add(1000 // int(self.rate), self.push)

    def do_create_element(self, url: object) -> Gst.Element:
        """What is between the pictures and the network."""
        top = Gst.Bin.new("film")
        source = Gst.ElementFactory.make("appsrc", "source")
        caps = (
            f"video/x-raw,format=I420,width={self.width},height={self.height},"
            f"framerate={self.rate}/1"
        )
        source.set_property("caps", Gst.Caps.from_string(caps))
        for key, value in (("is-live", True), ("do-timestamp", True), ("format", 3)):
            source.set_property(key, value)
        pay = Gst.parse_bin_from_description(self.payload, True)
        pay.set_name("pay0")
        top.add(source)
        top.add(pay)
        source.link(pay)
        self.source = source
        return top

    def push(self) -> bool:
        """Film the next picture."""
        self.count += 1
        if self.source is not None and not self.stalled:
            index = self.count % len(self.pictures)
            data = self.pictures[index]
            print(time.time_ns(), index, file=self.pushed, flush=True)
            self.source.emit("push-buffer", Gst.Buffer.new_wrapped(data))
        return True

    def stall(self, stalled: bool) -> bool:
        """Film none, or go on."""
        self.stalled = stalled
        return True


def main() -> None:
    """Serve until killed."""
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_service(sys.argv[5])
    server.set_address("127.0.0.1")
    film = Film(sys.argv[1:])
    server.get_mount_points().add_factory("/night", film)
    if not server.attach(None):
        sys.exit(f"port {sys.argv[5]} is taken")
    GLib.unix_signal_add(GLib.PRIORITY_HIGH, signal.SIGUSR1, film.stall, True)
    GLib.unix_signal_add(GLib.PRIORITY_HIGH, signal.SIGUSR2, film.stall, False)
    print("serving", flush=True)
    GLib.MainLoop().run()


main()
