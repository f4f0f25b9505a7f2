# SPDX-License-Identifier: Apache-2.0
"""Videos play in browsers, at the right pace; what cannot be written or read is said."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from bag_support import SECOND, START, compressed, image, write_bag
from browser import EXECUTABLE, Browser

from mlkd_ros.cli import main
from mlkd_ros.files import FileNameError
from mlkd_ros.imaging.errors import DatasetError
from mlkd_ros.imaging.sources import open_source
from mlkd_ros.imaging.video import VideoError, VideoWriter
from mlkd_ros.interrupt import ended_by_signals

#: A folder of this name crashed OpenCV.
NOT_UTF8 = os.fsdecode(b"caf\xe9")


def picture(index: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), (20 + 2 * index % 200, 90, 60), np.uint8)


def written(path: Path, times: list[int], size: tuple[int, int] = (48, 64)) -> list[float]:
    """The times of the frames of a video, in seconds, as a player has them."""
    with VideoWriter(path) as video:
        for index, moment in enumerate(times):
            video.write(picture(index, size), moment)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        return [float(frame.time) for frame in container.decode(stream)]


@pytest.mark.parametrize("rate", [1, 15, 29.97, 90, 240])
def test_any_rate(tmp_path: Path, rate: float) -> None:
    times = [START + round(index * SECOND / rate) for index in range(20)]
    found = written(tmp_path / "a.mp4", times)
    assert found == pytest.approx([index / rate for index in range(20)], abs=2e-5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.duration is not None
        assert container.duration * 1e-6 == pytest.approx(20 / rate, rel=0.01)


def test_pauses_odd_sides_and_times_that_stand_still(tmp_path: Path) -> None:
    times = [0, SECOND // 30, 10 * SECOND, 10 * SECOND, 9 * SECOND, 11 * SECOND]
    found = written(tmp_path / "a.mp4", times, (49, 65))
    assert found[2] == pytest.approx(10.0) and found[5] == pytest.approx(11.0, abs=1e-3)
    assert len(found) == 6 and (np.diff(found) > 0).all()
    assert [one.name for one in tmp_path.iterdir()] == ["a.mp4"]


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    code = (
        "import resource, sys; import numpy as np;"
        "from mlkd_ros.imaging.video import VideoError, VideoWriter;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000));"
        "rng = np.random.default_rng(1); video = VideoWriter(sys.argv[1]);\n"
        "try:\n"
        "  for index in range(300):\n"
        "    video.write(rng.integers(0, 255, (240, 320, 3)).astype(np.uint8), index * 10**7)\n"
        "  video.close()\n"
        "except VideoError as error: sys.exit(f'said: {error}')"
    )
    path = tmp_path / "full.mp4"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "full.mp4: cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "nothing is left that nobody can read"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"nowhere/a\.mp4: cannot be written: No such file"):
        VideoWriter(tmp_path / "nowhere" / "a.mp4").write(picture(0), 0)


@pytest.mark.skipif(EXECUTABLE is None, reason="no browser")
def test_it_plays_in_a_browser(tmp_path: Path) -> None:
    written(tmp_path / "a.mp4", [START + index * SECOND // 30 for index in range(45)], (240, 320))
    page = tmp_path / "page.html"
    page.write_text('<video id="v" muted src="a.mp4"></video>')

    async def act() -> dict[str, float]:
        async with Browser() as browser:
            tab = await browser.open(page.as_uri())
            await tab.evaluate("document.querySelector('#v').play()")
            await tab.wait_for("document.querySelector('#v').ended")
            await tab.screenshot(tmp_path / "seen.png")
            return await tab.evaluate(
                "(() => { const v = document.querySelector('#v');"
                " return {duration: v.duration, width: v.videoWidth}; })()"
            )

    seen = asyncio.run(act())
    assert seen["width"] == 320 and seen["duration"] == pytest.approx(1.5, abs=0.02)
    shown = cv2.imread(str(tmp_path / "seen.png"))[100, 100]
    assert np.abs(shown.astype(int) - picture(44)[0, 0]).max() < 12, "the last picture is shown"


# --- mlkd track ---------------------------------------------------------------------------------


def mpeg4(path: Path, count: int, name: str = "in.avi") -> Path:
    """A video whose index is at the end, and whose frames can be told apart."""
    file = path / name
    noise = np.random.default_rng(1).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (320, 240))
    for index in range(count):
        writer.write(np.roll(noise, index, 1))
    writer.release()
    return file


def track(*arguments: str | Path) -> int:
    return main(["track", *map(str, arguments), "--init", "20,30,40,24", "--device", "cpu"])


def test_a_video_that_was_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = mpeg4(tmp_path, 30)
    with video.open("r+b") as stream:
        stream.truncate(video.stat().st_size // 2)
    assert track(video, "--csv", tmp_path / "a.csv") == 1
    said = capsys.readouterr().err
    assert "of 30 frames can be read: the file is cut off or damaged" in said
    assert len((tmp_path / "a.csv").read_text().splitlines()) > 10


def test_a_video_with_a_hole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.mp4"
    with VideoWriter(path) as video:
        rng = np.random.default_rng(1)
        for index in range(40):
            noise = rng.integers(0, 255, (120, 160, 3)).astype(np.uint8)
            video.write(noise, index * SECOND // 25)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 5] = bytes(len(data) // 5)
    path.write_bytes(data)
    with open_source(path) as source:
        found = len(list(source))
        assert 15 < found < 40 and source.cut_short
    assert track(path, "--csv", tmp_path / "a.csv") == 1
    assert f"only {found} of 40 frames can be read" in capsys.readouterr().err
    assert len((tmp_path / "a.csv").read_text().splitlines()) == found + 1


def test_a_stretch_of_images_in_a_long_bag(tmp_path: Path) -> None:
    messages = [("/talk", START, image(START, picture(0), "bgr8", 64, 48))]
    messages += [
        (
            "/nose/image",
            START + 30 * SECOND + index * SECOND // 90,
            image(START + 30 * SECOND + index * SECOND // 90, picture(index), "bgr8", 64, 48),
        )
        for index in range(30)
    ]
    messages.append(("/talk", START + 60 * SECOND, messages[0][2]))
    bag = write_bag(tmp_path / "bag", messages)
    output = tmp_path / "out.mp4"
    assert track(bag, "--topic", "/nose/image", "--output", output) == 0
    with av.open(str(output)) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(90, rel=0.05)


def test_damaged_images_are_left_out_and_the_summary_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = cv2.imencode(".jpg", np.full((120, 160, 3), 60, np.uint8))[1].tobytes()
    data = [good, good, b"", good[:-30], good]
    messages = [
        (
            "/nose/image/compressed",
            START + i * SECOND // 30,
            compressed(START + i * SECOND // 30, d),
        )
        for i, d in enumerate(data)
    ]
    bag = write_bag(tmp_path / "bag", messages)
    assert track(bag, "--csv", tmp_path / "a.csv") == 0
    assert "2 images could not be used and were left out" in capsys.readouterr().err
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 4


def test_names_that_are_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / NOT_UTF8
    folder.mkdir()
    video = mpeg4(tmp_path, 6)
    video.rename(folder / "in.avi")
    with pytest.raises(FileNameError, match=r"caf\\xe9.*not UTF-8"):
        open_source(folder / "in.avi")
    assert track(folder / "in.avi") == 2
    assert "is not UTF-8 text: rename" in capsys.readouterr().err
    # Images, bags and what is written go through memory: any name will do.
    images = folder / "images"
    images.mkdir()
    for index in range(4):
        coded = cv2.imencode(".png", np.full((120, 160, 3), 60, np.uint8))[1]
        (images / f"{index}.png").write_bytes(coded.tobytes())
    assert track(images, "--output", folder / "out.mp4", "--csv", folder / "out.csv") == 0
    assert (folder / "out.mp4").stat().st_size > 500
    bag = write_bag(
        tmp_path / "bag", [("/image", START, image(START, picture(0), "bgr8", 64, 48))] * 3
    )
    bag.rename(folder / "bag")
    assert track(folder / "bag") == 0
    (folder / "bag.db3").write_bytes(b"no database")
    with pytest.raises(DatasetError, match=r"caf\\xe9/bag\.db3: cannot be read"):
        open_source(folder / "bag.db3")


def test_nothing_is_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = mpeg4(tmp_path, 4)
    (tmp_path / "a.csv").write_text("precious")
    (tmp_path / "a.mp4").write_text("precious")
    assert track(video, "--csv", tmp_path / "a.csv") == 2
    assert "a.csv exists already: --force overwrites it" in capsys.readouterr().err
    assert track(video, "--output", tmp_path / "a.mp4") == 2
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "a.mp4").read_text() == "precious"
    assert track(video, "--csv", tmp_path / "a.csv", "--force") == 0
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 5


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mlkd_ros.cli", "track", *map(str, arguments)]
    return subprocess.Popen(
        [*command, "--init", "20,30,40,24", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("what", ["--output", "--csv"])
def test_a_disk_that_fills_up_under_it(tmp_path: Path, what: str, small_disk: Path | None) -> None:
    """A clear error, and no video that nobody can read; the table keeps its rows."""
    video = mpeg4(tmp_path, 160)
    folder = small_disk or tmp_path / "disk"
    written = folder / ("out.mp4" if what == "--output" else "out.csv")
    limit = 200_000 if what == "--output" else 4096
    if small_disk is not None:
        with (folder / "flights").open("wb") as full:
            full.write(bytes(os.statvfs(folder).f_bavail * 4096 - limit))
    process = start(video, what, written)
    if small_disk is None:  # none can be made here
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    _, said = process.communicate(timeout=200)
    assert process.returncode == 2, said
    assert re.search(rf"mlkd track: .*{written.name}: cannot be written: (No space|File too)", said)
    assert "Traceback" not in said
    left = {one.name for one in folder.iterdir()} - {"flights"}
    assert left == (set() if what == "--output" else {"out.csv"})
    if what == "--csv":
        assert len(written.read_text().splitlines()) > 30


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_told_to_end_it_leaves_a_video_that_plays(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    video = mpeg4(tmp_path, 2000)
    output = tmp_path / "out.mp4"
    process = start(video, "--output", output, "--csv", tmp_path / "a.csv")
    end = time.monotonic() + 120
    while not (list(tmp_path.glob(".out.mp4.*")) and (tmp_path / "a.csv").stat().st_size > 500):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "Traceback" not in said
    with av.open(str(output)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    rows = len((tmp_path / "a.csv").read_text().splitlines()) - 1
    assert 5 < rows <= frames <= rows + 1
    told = re.search(r"(\d+) frames: ", said)
    assert told is not None and rows - 1 <= int(told[1]) <= rows


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_at_any_moment_the_video_is_whole(
    tmp_path: Path, number: signal.Signals
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    for attempt in range(12):
        path, count = tmp_path / f"{attempt}.mp4", 0
        alarm = threading.Timer(0.05 + 0.013 * attempt, os.kill, (os.getpid(), number))
        with pytest.raises(KeyboardInterrupt), ended_by_signals(), VideoWriter(path) as video:
            alarm.start()
            for index in range(1000):
                video.write(np.roll(noise, index, 1), index * SECOND // 30)
                count += 1
        with av.open(str(path)) as container:
            frames = sum(1 for _ in container.decode(video=0))
        assert count <= frames <= count + 1
    assert len(list(tmp_path.iterdir())) == 12


def test_the_reader_of_the_output_has_gone(tmp_path: Path) -> None:
    video = mpeg4(tmp_path, 600)
    process = start(video)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith("frame,")
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(120) == 141
    assert "Traceback" not in said and "Broken" not in said
