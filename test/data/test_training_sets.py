# SPDX-License-Identifier: Apache-2.0
"""Tiny trees in the layouts of published training sets."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mlkd_ros.data.sequences import DatasetError
from mlkd_ros.data.training_sets import TRAINING_LAYOUTS, load_material, parse_source


def _frames(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        assert cv2.imwrite(str(folder / f"{number:08d}.jpg"), np.zeros((24, 32, 3), np.uint8))


def _got10k(root: Path) -> Path:
    folder = root / "train" / "GOT-10k_Train_000001"
    _frames(folder, 3)
    (folder / "groundtruth.txt").write_text("1,2,3,4\n2,2,3,4\n3,2,3,4\n")
    (folder / "absence.label").write_text("0\n1\n0\n")
    return folder


def _lasot(root: Path) -> Path:
    folder = root / "airplane" / "airplane-1"
    _frames(folder / "img", 3)
    (folder / "groundtruth.txt").write_text("1,2,3,4\n2,2,3,4\n3,2,3,4\n")
    (folder / "full_occlusion.txt").write_text("0,1,0")
    (folder / "out_of_view.txt").write_text("0,0,1")
    return folder


def _coco(root: Path) -> Path:
    _frames(root / "train2017", 2)
    (root / "annotations").mkdir()
    file = root / "annotations" / "instances_train2017.json"
    images = [{"id": i, "file_name": f"{i:08d}.jpg", "width": 32, "height": 24} for i in (1, 2)]
    boxes = [{"id": 7, "image_id": 2, "bbox": [1, 2, 10, 12], "iscrowd": 0}]
    file.write_text(json.dumps({"images": images, "annotations": boxes}))
    return file


def test_got10k_marks_absent_frames(tmp_path: Path) -> None:
    folder = _got10k(tmp_path)
    (sequence,) = load_material([f"got10k={tmp_path}"]).sequences
    assert (sequence.name, len(sequence.frames), sequence.night) == (folder.name, 3, False)
    assert np.isfinite(sequence.boxes).all(axis=1).tolist() == [True, False, True]
    (folder / "absence.label").write_text("0\n1\n")
    with pytest.raises(DatasetError, match="absence.label has 2 flags for 3 frames"):
        load_material([f"got10k={tmp_path}"])
    (folder / "absence.label").write_text("0\n1\nno\n")
    with pytest.raises(DatasetError, match=r"absence\.label: flags 0 or 1"):
        load_material([f"got10k={tmp_path}"])


def test_lasot_leaves_out_hidden_and_out_of_view_frames(tmp_path: Path) -> None:
    folder = _lasot(tmp_path)
    (sequence,) = load_material([f"lasot={tmp_path}"]).sequences
    assert np.isfinite(sequence.boxes).all(axis=1).tolist() == [True, False, False]
    (folder / "groundtruth.txt").write_text("1,2,3,4\n2,2,3,4\n")
    with pytest.raises(DatasetError, match=r"groundtruth\.txt: 2 lines"):
        load_material([f"lasot={tmp_path}"])


@pytest.mark.parametrize("roboflow", [False, True])
def test_coco_in_both_arrangements(tmp_path: Path, roboflow: bool) -> None:
    file = _coco(tmp_path)
    if roboflow:
        file.rename(tmp_path / "train2017" / "_annotations.coco.json")
    (still,) = load_material([f"coco={tmp_path}"]).stills
    assert still.boxes.tolist() == [[1, 2, 10, 12]] and still.size == (32, 24)


def test_night_benchmarks_are_of_the_night_group(tmp_path: Path) -> None:
    _frames(tmp_path / "data_seq" / "car_1", 2)
    (tmp_path / "anno").mkdir()
    (tmp_path / "anno" / "car_1.txt").write_text("1,2,3,4\n2,2,3,4\n")
    (sequence,) = load_material([f"NAT2021-train={tmp_path}"]).sequences
    assert (sequence.group, sequence.night) == ("night", True)


def test_several_sources_keep_their_names_apart(tmp_path: Path) -> None:
    _got10k(tmp_path / "a")
    _got10k(tmp_path / "b")
    _coco(tmp_path / "c")
    material = load_material(
        [*(f"got10k={tmp_path / name}" for name in "ab"), f"coco={tmp_path / 'c'}"]
    )
    assert [sequence.name for sequence in material.sequences] == [
        "1-got10k/GOT-10k_Train_000001",
        "2-got10k/GOT-10k_Train_000001",
    ]
    assert [still.name for still in material.stills] == ["3-coco/00000002"]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    assert parse_source("data/own") == ("own", Path("data/own"))
    with pytest.raises(ValueError, match="unknown layout 'vot'.*got10k, lasot, coco"):
        parse_source("vot=x")
    with pytest.raises(ValueError, match="no training material"):
        load_material([])
    for layout in TRAINING_LAYOUTS:
        with pytest.raises(DatasetError, match=str(tmp_path)):
            load_material([f"{layout}={tmp_path}"])
