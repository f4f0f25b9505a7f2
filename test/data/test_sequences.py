# SPDX-License-Identifier: Apache-2.0
"""Annotated sequences: what is read, and how errors name the file."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mlkd_ros.data.sequences import (
    DatasetError,
    Sequence,
    VideoFrames,
    load_otb_folders,
    load_video_pairs,
    read_boxes,
    read_image,
)


def _write_otb(root: Path, name: str, frames: int, boxes: str) -> Path:
    folder = root / name
    (folder / "img").mkdir(parents=True)
    for number in range(1, frames + 1):
        image = np.full((24, 32, 3), 10 * number, np.uint8)
        cv2.imwrite(str(folder / "img" / f"{number:04d}.jpg"), image)
    (folder / "groundtruth_rect.txt").write_text(boxes)
    return folder


RATE = 25.0


def _write_video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), RATE, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()


@pytest.mark.parametrize("separator", [",", "\t", " ", ", ", ";"])
def test_boxes_are_read_with_every_separator(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(separator.join(["1", "2.5", "3", "4"]) + "\n" + separator.join("5678") + "\n\n")
    assert read_boxes(path).tolist() == [[1, 2.5, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize("line", ["NaN,NaN,NaN,NaN", "0,0,0,0", "5 5 0 3", "nan,1,2,3"])
def test_absent_targets_are_nan_rows_where_allowed_and_errors_elsewhere(
    tmp_path: Path, line: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"1,2,3,4\n{line}\n")
    boxes = read_boxes(path, allow_absent=True)
    assert np.isnan(boxes[1]).all() and boxes[0].tolist() == [1, 2, 3, 4]
    with pytest.raises(DatasetError, match=r"a\.txt, line 2: "):
        read_boxes(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n", "line 1: 3 numbers"),
        ("1,2,3,4\n\n5,6,7,8\n", "line 2"),
        ("1,2,3,car\n", "not four numbers"),
        ("", "empty"),
    ],
)
def test_a_wrong_annotation_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.txt"
    path.write_text(text)
    with pytest.raises(DatasetError, match=f"wrong.txt.*{message}"):
        read_boxes(path)


def test_otb_folders_are_loaded_in_order(tmp_path: Path) -> None:
    _write_otb(tmp_path, "b", 3, "1,1,5,5\n2,1,5,5\n3,1,5,5\n")
    _write_otb(tmp_path, "a", 2, "1 1 5 5\n2 1 5 5\n")
    first, second = load_otb_folders(tmp_path, group="night", night=True)
    assert (first.name, second.name, len(first), len(second)) == ("a", "b", 2, 3)
    assert second.night and second.group == "night"
    means = [round(float(frame.mean()) / 10) for frame in second.frames]
    assert means == [1, 2, 3]


def test_a_wrong_count_of_lines_is_named(tmp_path: Path) -> None:
    _write_otb(tmp_path, "a", 3, "1,1,5,5\n2,1,5,5\n")
    with pytest.raises(DatasetError, match=r"groundtruth_rect.txt: 2 lines, but .* 3 frames"):
        load_otb_folders(tmp_path)


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    folder = _write_otb(tmp_path, "a", 5, "1,1,5,5\n" * 4)
    (folder / "img" / "0003.jpg").unlink()
    with pytest.raises(DatasetError, match=r"0003\.jpg: missing frame"):
        load_otb_folders(tmp_path)


def test_frames_with_a_regular_stride_are_no_gap(tmp_path: Path) -> None:
    folder = _write_otb(tmp_path, "a", 6, "1,1,5,5\n" * 3)
    for number in (2, 4, 6):
        (folder / "img" / f"{number:04d}.jpg").unlink()
    assert len(load_otb_folders(tmp_path)[0]) == 3


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8 no image")
    with pytest.raises(DatasetError, match=r"broken\.jpg: cannot be decoded"):
        read_image(path)


def test_video_pairs(tmp_path: Path) -> None:
    _write_video(tmp_path / "one.mp4", 4)
    (tmp_path / "one.txt").write_text("1,1,5,5\nNaN,NaN,NaN,NaN\n2,1,5,5\n3,1,5,5\n")
    (sequence,) = load_video_pairs(tmp_path)
    assert sequence.name == "one" and len(sequence.frames) == 4 and sequence.rate == RATE
    assert np.isnan(sequence.boxes[1]).all()
    assert [frame.shape for frame in sequence.frames] == [(48, 64, 3)] * 4


def test_video_pairs_name_what_is_wrong(tmp_path: Path) -> None:
    _write_video(tmp_path / "one.mp4", 3)
    with pytest.raises(DatasetError, match=r"one\.txt: no such annotation"):
        load_video_pairs(tmp_path)
    (tmp_path / "one.txt").write_text("1,1,5,5\n")
    with pytest.raises(DatasetError, match=r"one\.txt: 1 lines, but .*one\.mp4 holds 3 frames"):
        load_video_pairs(tmp_path)
    (tmp_path / "one.mp4").write_bytes(b"no video")
    with pytest.raises(DatasetError, match=r"one\.mp4: cannot be opened"):
        VideoFrames.open(tmp_path / "one.mp4")


def test_a_sequence_checks_its_boxes() -> None:
    frames = [np.zeros((4, 4, 3), np.uint8)] * 2
    with pytest.raises(DatasetError, match="3 annotations for 2 frames"):
        Sequence("x", frames, np.zeros((3, 4)))
    with pytest.raises(DatasetError, match=r"must be \(N, 4\)"):
        Sequence("x", frames, np.zeros((2, 5)))


TWO = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf1,2,3,4\n5,6,7,8\n",
        b"1,2,3,4,\n5,6,7,8,\n",
        b"1,2,3,4\r\n5,6,7,8\r\n\x1a",
        b"1,2,3,4\n5,6,7,8\n\x00\x00",
        "\ufeff1,2,3,4\n5,6,7,8\n".encode("utf-16-le"),
        "\ufeff1,2,3,4\n5,6,7,8\n".encode("utf-16-be"),
        b"x,y,w,h\n1,2,3,4\n5,6,7,8\n",
        b"\xef\xbb\xbfx1 y1 width height\r\n1 2 3 4\r\n5 6 7 8\r\n",
    ],
)
@pytest.mark.parametrize("absent", [False, True])
def test_annotations_as_other_programs_write_them(
    tmp_path: Path, data: bytes, absent: bool
) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert read_boxes(tmp_path / "a.txt", allow_absent=absent).tolist() == TWO


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x,y,w,h\n1,2,3\n", r"line 2: 3 numbers where four .* '1,2,3'$"),
        (b"x,y,w,h\n", "the annotation file is empty"),
        (b"nan,nan,nan,nan\n", r"line 1: 'nan,nan,nan,nan' is no box"),
        (b"1,2,3,4,,\n1,,3,4\n", r"line 2: '1,,3,4' is not four numbers"),
        (b"1,2,3,4\n" + b"7," * 5000 + b"\n", r"line 2: 5000 numbers .{90,140}\.\.\.$"),
        (b"1,2,3,4\n\x1a\n5,6,7,8\n", r"line 2: '\\x1a' is not four numbers"),
        (b"\x89PNG\r\n\xff\xfe\x00", "not a text file"),
    ],
)
def test_an_annotation_of_more_than_one_meaning_is_shown(
    tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DatasetError, match=rf"a\.txt.*{message}") as caught:
        read_boxes(tmp_path / "a.txt")
    assert len(str(caught.value)) < len(str(tmp_path)) + 200
