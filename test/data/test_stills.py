# SPDX-License-Identifier: Apache-2.0
"""Still images with boxes, in both formats."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mlkd_ros.data.sequences import DatasetError
from mlkd_ros.data.stills import load_coco_stills, load_jsonl_stills


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / "images" / name), np.zeros((30, 40, 3), np.uint8))
    return tmp_path


def _record(**changes: Any) -> dict[str, Any]:
    return {"file": "images/a.jpg", "width": 40, "height": 30, "boxes": [[1, 2, 10, 8]], **changes}


def _write(root: Path, *records: dict[str, Any]) -> Path:
    path = root / "annotations.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


def test_json_lines(root: Path) -> None:
    path = _write(root, _record(), _record(file="images/b.jpg", night=True, source="x"))
    day, night = load_jsonl_stills(path)
    assert (day.name, day.group, day.night, day.size) == ("images/a", "stills", False, (40, 30))
    assert (night.group, night.night) == ("night", True)
    assert day.boxes.tolist() == [[1, 2, 10, 8]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": [[1, 2, 3]]}, "is no box"),
        ({"boxes": [[1, 2, float("nan"), 3]]}, "finite numbers"),
        ({"boxes": [[1, 2, 0, 3]]}, "positive area"),
        ({"boxes": [[1, 2, "w", 3]]}, "of numbers"),
        ({"file": "images/c.jpg"}, r"c\.jpg: missing image"),
    ],
)
def test_a_wrong_line_is_named(root: Path, changes: dict[str, Any], message: str) -> None:
    path = _write(root, _record(), _record(**changes))
    with pytest.raises(DatasetError, match=message) as error:
        load_jsonl_stills(path)
    assert "annotations.jsonl, line 2" in str(error.value)


def test_a_line_lacking_a_field_or_no_json(root: Path) -> None:
    record = _record()
    del record["boxes"]
    with pytest.raises(DatasetError, match="line 1: lacks boxes"):
        load_jsonl_stills(_write(root, record))
    (root / "annotations.jsonl").write_text("{oops")
    with pytest.raises(DatasetError, match="line 1: not valid JSON"):
        load_jsonl_stills(root / "annotations.jsonl")


def test_coco(root: Path) -> None:
    path = root / "coco.json"
    path.write_text(
        json.dumps(
            {
                "images": [
                    {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30},
                    {"id": 8, "file_name": "b.jpg", "width": 40, "height": 30},
                ],
                "annotations": [
                    {"id": 1, "image_id": 7, "bbox": [1, 2, 3, 4]},
                    {"id": 2, "image_id": 7, "bbox": [5, 6, 7, 8], "iscrowd": 1},
                    {"id": 3, "image_id": 7, "bbox": [9, 9, 9, 9]},
                ],
            }
        )
    )
    (still,) = load_coco_stills(path, root / "images")
    assert still.boxes.tolist() == [[1, 2, 3, 4], [9, 9, 9, 9]]
    path.write_text(
        json.dumps({"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]})
    )
    with pytest.raises(DatasetError, match="names image 1"):
        load_coco_stills(path, root / "images")
    path.write_text("[]")
    with pytest.raises(DatasetError, match=r"coco\.json: not a COCO"):
        load_coco_stills(path, root / "images")
