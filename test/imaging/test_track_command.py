# SPDX-License-Identifier: Apache-2.0
"""``mlkd track`` on a tiny video, with a stand-in tracker."""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

import mlkd_ros.tracking as tracking
from mlkd_ros.cli import track as track_command
from mlkd_ros.imaging.frame import Frame
from mlkd_ros.tracking import TrackResult, TrackState


class Stub:
    """Moves the box by 2 pixels a frame, and loses it on the fourth update."""

    engine_name = "stub"

    def __init__(self) -> None:
        self.box = (0.0, 0.0, 0.0, 0.0)
        self.updates = 0

    def init(self, image: Frame, box: tuple[float, ...], stamp: float | None = None) -> None:
        if box[0] > image.width:
            raise ValueError("the box lies outside the image")
        self.box = (box[0], box[1], box[2], box[3])

    def update(self, image: Frame, stamp: float | None = None) -> TrackResult:
        self.updates += 1
        if self.updates == 4:
            return TrackResult(None, 0.1, TrackState.LOST)
        x, y, w, h = self.box
        self.box = (x + 2, y, w, h)
        return TrackResult(self.box, 0.9, TrackState.TRACKING)


@pytest.fixture
def video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tracking, "load_tracker", lambda *_, **__: Stub())
    path = tmp_path / "in.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (320, 240))
    for _ in range(7):
        writer.write(np.full((240, 320, 3), 12, np.uint8))
    writer.release()
    return path


def _track(*line: str) -> int:
    parser = argparse.ArgumentParser()
    track_command.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["track", *line])
    return int(arguments.run_command(arguments))


def test_video_and_table(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, table = video.parent / "out.mp4", video.parent / "boxes.csv"
    line = [str(video), "--init", "20,30,40,24", "--output", str(output), "--csv", str(table)]
    assert _track(*line) == 0
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 7 and rows[0]["state"] == "TRACKING"
    assert [rows[2][key] for key in "xywh"] == ["24.00", "30.00", "40.00", "24.00"]
    assert rows[4]["state"] == "LOST" and rows[4]["x"] == ""
    assert float(rows[3]["stamp"]) == pytest.approx(0.12)
    capture = cv2.VideoCapture(str(output))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(25.0)
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == 7 and frames[0].shape == (240, 320, 3)
    assert frames[0].max() > 150, "something is drawn on the dark picture"
    captured = capsys.readouterr()
    assert "6 frames: TRACKING 83%, LOST 17%" in captured.err and captured.out == ""


def test_without_files_the_table_goes_to_standard_output(
    video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _track(str(video), "--init", "20,30,40,24", "--start", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "frame,stamp,x,y,w,h,confidence,state"
    assert len(lines) == 5 and lines[1].startswith("3,0.120000,20.00,30.00,40.00,24.00,1.0000,")


def test_errors_name_what_is_wrong(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"--init on in\.mp4#0: the box lies outside"):
        _track(str(video), "--init", "900,30,40,24")
    with pytest.raises(ValueError, match="has 7 frames, --start asks for frame 7"):
        _track(str(video), "--init", "20,30,40,24", "--start", "7")
    with pytest.raises(OSError, match="its folder does not exist"):
        _track(str(video), "--init", "20,30,40,24", "--output", "/nowhere/at/all.mp4")
    with pytest.raises(ValueError, match=r"must be named \*\.mp4"):
        _track(str(video), "--init", "20,30,40,24", "--output", str(video.parent / "out.txt"))
    with pytest.raises(SystemExit):
        _track(str(video), "--init", "20,30,40")
    assert "four numbers x,y,w,h" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(240, 320), (720, 1280), (40, 60)])
def test_annotation_leaves_the_target_and_the_input_untouched(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 10, np.uint8)
    h, w = size
    box = (w * 0.4, h * 0.4, w * 0.2, h * 0.2)
    trail = [(w * 0.2, h * 0.2), None, (w * 0.3, h * 0.3), (w * 0.5, h * 0.5)]
    for result in (
        TrackResult(box, 0.8, TrackState.TRACKING),
        TrackResult(None, 0.1, TrackState.LOST),
        TrackResult((-5.0, -5.0, 20.0, 20.0), 0.4, TrackState.UNCERTAIN),
    ):
        canvas = track_command.annotate(image, result, trail, "frame 1")
        assert canvas.shape == image.shape and (image == 10).all() and canvas.max() > 150
