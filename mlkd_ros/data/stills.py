# SPDX-License-Identifier: Apache-2.0
"""Still images with boxes: training pairs are made of them by augmenting one object twice.

Two formats: JSON lines (one object a line with ``file``, ``width``, ``height``, ``boxes`` and
optionally ``night``) and COCO detection json. Boxes are ``x, y, w, h`` in pixels of the stored
image.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlkd_ros.data.sequences import DatasetError, text_lines


@dataclass(frozen=True)
class Still:
    """One image with boxes.

    Attributes:
        name: Unique in its data set (the path of the image without suffix, as the annotation gives
            it).
        path: The image file.
        size: ``(width, height)`` in pixels that the annotation states.
        boxes: float64 ``(N, 4)``, ``x, y, w, h`` in pixels, all finite with a positive area.
        group: What kind of material it is; the pair sampler weighs groups.
        night: Taken in the dark, so that it must not be darkened again.
    """

    name: str
    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    group: str = "stills"
    night: bool = False


def load_jsonl_stills(
    annotations: Path, *, group: str = "stills", night_group: str = "night"
) -> list[Still]:
    """Load stills from JSON lines; image paths are relative to the annotation file.

    Args:
        annotations: File with one JSON object a line: ``file``, ``width``, ``height``, ``boxes``
            and optionally ``night`` (bool).
        group: Group of the day images.
        night_group: Group of the images with ``night: true``.

    Raises:
        DatasetError: The file or an image is missing, or a line is wrong; the message gives the
            line number.
    """
    lines = text_lines(annotations)
    stills = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{annotations}, line {number}"
            stills.append(
                _still_from_record(
                    annotations.parent, _parse_record(line, where), where, group, night_group
                )
            )
    if not stills:
        raise DatasetError(f"{annotations}: the annotation file is empty")
    return stills


def _parse_record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{where}: not valid JSON ({error.msg})") from None
    if not isinstance(record, dict):
        raise DatasetError(f"{where}: a JSON object is expected, not {type(record).__name__}")
    missing = {"file", "width", "height", "boxes"} - record.keys()
    if missing:
        raise DatasetError(f"{where}: lacks {', '.join(sorted(missing))}")
    return record


def _still_from_record(
    root: Path, record: dict[str, Any], where: str, group: str, night_group: str
) -> Still:
    night = bool(record.get("night", False))
    path = root / record["file"]
    if not path.is_file():
        raise DatasetError(f"{path}: missing image, named in {where}")
    boxes = np.array([_check_box(box, where) for box in record["boxes"]], np.float64).reshape(-1, 4)
    return Still(
        name=str(Path(record["file"]).with_suffix("")),
        path=path,
        size=(int(record["width"]), int(record["height"])),
        boxes=boxes,
        group=night_group if night else group,
        night=night,
    )


def _check_box(box: Any, where: str) -> list[float]:
    if not isinstance(box, list) or len(box) != 4:
        raise DatasetError(f"{where}: {box!r} is no box [x, y, w, h]")
    try:
        values = [float(value) for value in box]
    except (TypeError, ValueError):
        raise DatasetError(f"{where}: {box!r} is no box [x, y, w, h] of numbers") from None
    if not all(map(math.isfinite, values)) or values[2] <= 0 or values[3] <= 0:
        raise DatasetError(f"{where}: box {box!r} needs finite numbers and a positive area")
    return values


def load_coco_stills(
    annotations: Path, images: Path, *, group: str = "stills", night: bool = False
) -> list[Still]:
    """Load stills from a COCO detection json; crowd regions and images without boxes are left out.

    Args:
        annotations: The json with ``images`` and ``annotations``.
        images: Folder that the json's ``file_name`` are relative to.
        group: Group of these stills.
        night: All these stills were taken in the dark.

    Raises:
        DatasetError: A file is missing or wrong; the message names it and the annotation.
    """
    try:
        document = json.loads(annotations.read_text(encoding="utf-8"))
        records = {image["id"]: image for image in document["images"]}
        boxes: dict[Any, list[list[float]]] = defaultdict(list)
        for item in document["annotations"]:
            if not item.get("iscrowd", 0):
                boxes[item["image_id"]].append(
                    _check_box(item["bbox"], f"{annotations}, annotation {item.get('id')}")
                )
    except FileNotFoundError:
        raise DatasetError(f"{annotations}: no such annotation file") from None
    except json.JSONDecodeError as error:
        raise DatasetError(f"{annotations}: not valid JSON ({error})") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{annotations}: not a COCO detection file ({error!r})") from None
    return [
        _coco_still(annotations, images, records, key, boxes[key], group, night)
        for key in sorted(boxes)
    ]


def _coco_still(
    annotations: Path,
    images: Path,
    records: dict[Any, dict[str, Any]],
    key: Any,
    boxes: list[list[float]],
    group: str,
    night: bool,
) -> Still:
    if key not in records:
        raise DatasetError(
            f"{annotations}: an annotation names image {key!r}, which is not in 'images'"
        )
    record = records[key]
    path = images / record["file_name"]
    if not path.is_file():
        raise DatasetError(f"{path}: missing image, named in {annotations}")
    name = str(Path(record["file_name"]).with_suffix(""))
    return Still(
        name, path, (int(record["width"]), int(record["height"])), np.array(boxes), group, night
    )
