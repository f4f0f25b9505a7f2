# SPDX-License-Identifier: Apache-2.0
"""Streams as they are: RTSP of a real server that loses, stalls and restarts; MPEG-TS; files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from stream_support import (
    COUNT,
    PATIENCE,
    RATE,
    RtspServer,
    TsSender,
    watching,
    why_no_server,
    write_video,
)

from mlkd_ros.camera.access_units import StreamError
from mlkd_ros.camera.stream import StreamSettings, VideoStream
from mlkd_ros.imaging.packets import PacketDecoder

WHY_NO_SERVER = why_no_server()
needs_server = pytest.mark.skipif(WHY_NO_SERVER != "", reason=WHY_NO_SERVER)


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RtspServer]:
    server = RtspServer(tmp_path, *getattr(request, "param", ()))
    yield server
    server.stop()


# --- RTSP ---------------------------------------------------------------------------------------


@needs_server
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rtsp_shows_what_is_filmed_when_it_was_filmed(server: RtspServer, transport: str) -> None:
    with watching(server.url, transport=transport) as watcher:
        watcher.until(lambda: watcher.report.by_sender, "report of the sender's clock")
        watcher.seen.clear()
        watcher.see(2 * RATE)
    filmed = server.pushed()
    errors = [min(abs(stamp - pushed) for pushed in filmed[index]) for stamp, index in watcher.seen]
    # The sender's clock has no way to be late; 5 ms are this machine's.
    assert np.median(errors) < 5e6, errors


@needs_server
def test_without_the_senders_clock_stamps_are_of_arrival(server: RtspServer) -> None:
    with watching(server.url, sender_clock=False) as watcher:
        watcher.see(RATE)
        assert not watcher.report.by_sender
    filmed = server.pushed()
    for stamp, index in watcher.seen:
        assert any(stamp > pushed for pushed in filmed[index])


@needs_server
@pytest.mark.parametrize("server", [("h264", 0.03), ("h265", 0.03)], indirect=True)
def test_lost_packets_never_show(server: RtspServer) -> None:
    """`Watcher` looks at every picture."""
    with watching(server.url, transport="udp") as watcher:
        watcher.until(lambda: watcher.report.unusable["lost"] >= 4, "four losses")
        watcher.see(5)
        assert watcher.report.unusable["joining"] > 0
        assert watcher.report.reconnects == 0


@needs_server
def test_a_server_that_is_restarted_is_connected_to_again(server: RtspServer) -> None:
    with watching(server.url) as watcher:
        watcher.see(3)
        server.stop()
        watcher.until(lambda: not watcher.report.connected, "end of the connection")
        assert watcher.report.problem
        server.start()
        watcher.see(3)
        assert watcher.report.reconnects == 1
        assert watcher.report.problem == ""


@needs_server
def test_a_stall_is_seen_and_connected_again(server: RtspServer) -> None:
    with watching(server.url, stall_timeout=1.0) as watcher:
        watcher.see(3)
        server.stall()
        watcher.until(lambda: "nothing came for 1 s" in watcher.report.problem, "stall")
        server.go_on()
        watcher.see(3)
        assert watcher.report.reconnects >= 1


@needs_server
def test_who_is_slow_gets_the_newest(server: RtspServer) -> None:
    with watching(server.url) as watcher:
        watcher.until(lambda: watcher.report.by_sender, "report of the sender's clock")
        for _ in range(4):
            time.sleep(1.0)
            before = time.time_ns()
            picture = watcher.stream.newest(5.0)
            assert picture is not None
            # One interval to be whole, and what this machine takes: not the second that was slept.
            assert before - picture.stamp < 0.5e9
        assert watcher.report.replaced > RATE


def test_who_is_not_there_is_asked_less_and_less_often() -> None:
    with watching("rtsp://127.0.0.1:9/none") as watcher:
        watcher.until(lambda: "refused" in watcher.report.problem, "refusal")
        # The same news once only.
        time.sleep(2.0)
        assert len([text for text in watcher.said if "refused" in text]) == 1


def test_the_password_is_not_told() -> None:
    with watching("rtsp://pilot:secret@127.0.0.1:9/none") as watcher:
        watcher.until(lambda: bool(watcher.said), "word")
    assert "rtsp://127.0.0.1:9/none" in watcher.said[0]
    assert "secret" not in "".join(watcher.said)


# --- MPEG-TS ------------------------------------------------------------------------------------


def test_datagrams_that_are_lost_never_show(tmp_path: Path) -> None:
    """`Watcher` looks at every picture. All kinds at once: most of it is waiting."""
    kinds = [("libx264", 0), ("libx264", 2), ("libx265", 0), ("libx265", 2)]
    with ThreadPoolExecutor(len(kinds)) as pool:
        for one in [pool.submit(_lose_datagrams, tmp_path / f"{e}{b}.ts", e, b) for e, b in kinds]:
            one.result()


def _lose_datagrams(path: Path, encoder: str, b_frames: int) -> None:
    write_video(path, encoder, b_frames, times=4)
    sender = TsSender(path, duration=4 * COUNT / 60, loss=0.05)
    with watching(sender.url, stall_timeout=30.0) as watcher:
        over = threading.Event()

        def send() -> None:
            while not over.is_set():
                sender.send(seed=sender.dropped)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            watcher.until(lambda: watcher.report.unusable["lost"] >= 5, "five losses")
            watcher.see(5)
        finally:
            over.set()
            thread.join(PATIENCE)
    assert sender.dropped >= 3


def test_silence_on_udp_is_waited_out(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.ts", times=2)
    sender = TsSender(path, duration=2 * COUNT / 60)
    with watching(sender.url, stall_timeout=0.5) as watcher:
        watcher.until(lambda: "nothing came" in watcher.report.problem, "silence")
        end = time.monotonic() + PATIENCE
        while not watcher.seen and time.monotonic() < end:
            sender.send()
            for _ in range(3):
                picture = watcher.stream.newest(0.05)
                if picture is not None:
                    watcher.take(picture)
        assert watcher.seen, watcher.said


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "encoder", "b_frames"),
    [
        ("film.mp4", "libx264", 0),
        ("film.mp4", "libx264", 2),
        ("film.mkv", "libx265", 2),
        ("film.mp4", "libsvtav1", 0),
        ("film.avi", "mjpeg", 0),
        ("film.ts", "libx264", 2),
    ],
)
def test_a_file_is_shown_once_at_its_pace(
    tmp_path: Path, name: str, encoder: str, b_frames: int
) -> None:
    path = write_video(tmp_path / name, encoder, b_frames)
    begin = time.monotonic()
    with watching(str(path)) as watcher:
        watcher.to_the_end()
    took = time.monotonic() - begin
    assert took > (COUNT - 5) / RATE
    assert watcher.report.decoded == COUNT
    assert not watcher.report.unusable
    stamps, indices = zip(*watcher.seen, strict=True)
    assert list(indices) == sorted(set(indices)) and indices[-1] == COUNT - 1
    # Where none was replaced by a newer one, stamps are as far apart as the pictures were.
    steps = np.diff(stamps) / np.diff(indices) * RATE / 1e9
    assert np.median(steps) == pytest.approx(1, abs=0.2)


def test_a_file_begins_again_if_asked_to(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4")
    with watching(str(path), loop=True) as watcher:
        watcher.until(lambda: watcher.report.decoded > COUNT + 3, "second round")
        watcher.see(1)
    indices = [index for _, index in watcher.seen]
    assert indices != sorted(indices)
    assert watcher.report.reconnects == 0


def test_a_clock_that_is_set_back_stops_nothing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4")
    back = 0
    stream = VideoStream(StreamSettings(str(path), loop=True), now=lambda: time.time_ns() - back)
    stream.start()
    try:
        before = stream.newest(PATIENCE)
        back = 3600 * 10**9
        stream.newest(PATIENCE)  # may be of before
        after = stream.newest(PATIENCE)
    finally:
        stream.close()
    assert before is not None and after is not None
    assert (before.stamp - after.stamp) / 1e9 == pytest.approx(3600, abs=PATIENCE)


def test_a_file_that_is_none_ends_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"no film" * 100)
    with watching(str(path)) as watcher:
        watcher.to_the_end()
    assert watcher.seen == []
    assert "Invalid data" in watcher.report.problem
    assert watcher.said == [f"{path}: {watcher.report.problem}"]


def test_a_codec_that_is_not_taken_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.avi", "mpeg4")
    with watching(str(path)) as watcher:
        watcher.to_the_end()
    assert "its codec is mpeg4; use one of H.264" in watcher.report.problem


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("", "'url' is empty, it must say"),
        ("http://camera/video", "http:// is not known, use rtsp://"),
        ("udp://127.0.0.1", "without a port"),
        ("rtsp://:554/video", "names no host"),
        ("rtsp://camera:70000/video", "Port out of range"),
        ("/no/such/film.mp4", "No such file"),
        ("/tmp", "neither a file nor a device"),
        ("film\0.mp4", "null"),
    ],
)
def test_addresses_that_cannot_be(url: str, wrong: str) -> None:
    with pytest.raises(StreamError, match="parameter 'url'") as caught:
        VideoStream(StreamSettings(url=url))
    assert wrong in str(caught.value)


def test_an_error_of_our_own_is_not_taken_for_a_bad_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(PacketDecoder, "decode", broken)
    with (
        watching(str(write_video(tmp_path / "film.mp4"))) as watcher,
        pytest.raises(ZeroDivisionError, match="broken"),
    ):
        watcher.to_the_end()
    with watching(str(tmp_path / "film.mp4")) as watcher:
        # It failed before anybody took a picture: no end of the stream either.
        end = time.monotonic() + PATIENCE
        with pytest.raises(ZeroDivisionError):
            while time.monotonic() < end and not watcher.stream.ended:
                time.sleep(0.01)


def test_a_device_that_is_not_there_may_come_yet() -> None:
    with watching("/dev/video99") as watcher:
        watcher.until(lambda: "No such file" in watcher.report.problem, "reason")
        assert not watcher.stream.ended
