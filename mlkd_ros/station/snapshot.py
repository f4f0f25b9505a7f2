# SPDX-License-Identifier: Apache-2.0
"""A picture as a file, at full resolution, with the boxes and the time written on it."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import cv2

from mlkd_ros.imaging import drawing
from mlkd_ros.station.link import Picture
from mlkd_ros.station.picture import Pictures
from mlkd_ros.tracking import TrackState

__all__ = ["save_snapshot"]

_QUALITY = 95


def save_snapshot(picture: Picture, pictures: Pictures, folder: Path) -> Path:
    """Write `snapshot_<UTC>.jpg`, and what it shows as JSON beside it; the path of the picture.

    The picture is as the camera took it, with the marks on it; the JSON has the boxes in its
    pixels. Raises UnusableImageError, and OSError where the file cannot be written.
    """
    frame = pictures.frame(picture.message)
    canvas = frame.window(0, 0, frame.width, frame.height).copy()
    taken = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(picture.stamp // 10**9))
    lines = [f"{taken}.{picture.stamp % 10**9 // 10**6:03d} UTC  stamp {_seconds(picture.stamp)}"]
    for status in picture.statuses.values():
        if status.state == "IDLE":
            continue
        text = f"{status.target_id} {status.state.replace('_', ' ')}"
        colour = drawing.STATE_COLOURS[TrackState[status.state]]
        if status.box is None:
            lines.append(text)
            continue
        x, y, w, h = status.box
        drawing.draw_corners(canvas, (x - 2, y - 2, w + 4, h + 4), colour)
        drawing.draw_label(canvas, f"{text} {status.confidence:.2f}", x, y - 8, colour)
    for row, line in enumerate(reversed(lines)):
        drawing.draw_label(canvas, line, 8, canvas.shape[0] - 10 - 28 * row)
    folder.mkdir(parents=True, exist_ok=True)
    path = _free(folder / time.strftime("snapshot_%Y%m%d_%H%M%S.jpg", time.gmtime()))
    done, data = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise OSError(f"{path}: the picture cannot become a JPEG")
    path.write_bytes(data.tobytes())
    about = {
        "stamp": str(picture.stamp),
        "image_size": [frame.width, frame.height],
        "frame_id": picture.message.header.frame_id,
        "targets": [
            {**dataclasses.asdict(status), "stamp": str(status.stamp)}
            for status in picture.statuses.values()
            if status.state != "IDLE"
        ],
    }
    path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return path


def _seconds(stamp: int) -> str:
    return f"{stamp // 10**9}.{stamp % 10**9:09d}"


def _free(path: Path) -> Path:
    """The path, with a number where there is a file already."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}_{number}")
    return free
