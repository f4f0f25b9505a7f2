# SPDX-License-Identifier: Apache-2.0
"""How tight a student's boxes are on clean pictures, target by target.

    python benchmarks/box_quality.py                       # the shipped student
    python benchmarks/box_quality.py start.safetensors --write test/distillation/start_boxes.json

Rendered flights without sensor noise; each target is designated in one picture and found in one
twelve frames later, its search region about where it was. Prints the mean IoU of the targets that
are found (IoU above 0.5). ``--write`` keeps the IoU of each: what a test compares the shipped
student with. Its start is `mlkd average nanotrackv3.pth -o start.safetensors`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlkd_ros.data.night_flight import SCENARIOS, NightFlight
from mlkd_ros.data.night_flight.sensor import NightSensor
from mlkd_ros.imaging.frame import BgrFrame
from mlkd_ros.tracking.checkpoint import load_checkpoint
from mlkd_ros.tracking.engine import Engine, Region, create_engine
from mlkd_ros.tracking.geometry import Box, CropWindow, crop, iou

FOUND_ABOVE = 0.5
SIZE, LATER, SEED = (640, 360), 12, 7
FRAMES = (30, 200)


def clean_pairs() -> Iterator[tuple[np.ndarray, Box, np.ndarray, Box]]:
    """Picture and box of a target, a later picture, and its box there."""
    for scenario in SCENARIOS:
        flight = NightFlight(scenario, SEED, SIZE)
        quiet = replace(
            flight._settings.sensor, full_well=1e9, read_noise=0.0, row_noise=0.0,
            column_pattern=0.0,
        )  # fmt: skip
        flight._sensor = NightSensor(quiet, SIZE, SEED)
        for number in FRAMES:
            first, later = flight.render(number), flight.render(number + LATER)
            after = {target[0]: target for target in later.targets}
            for identity, box, visible, _ in first.targets[:6]:
                there = after.get(identity)
                if there and min(visible, there[2]) > 0.9 and min(box[2:]) > 8:
                    yield first.image, box, later.image, there[1]


def overlaps(engine: Engine) -> list[float]:
    """IoU of the box that is found with the true one, of each of ``clean_pairs``."""
    return [_overlap(engine, *pair) for pair in clean_pairs()]


def _overlap(engine: Engine, image: np.ndarray, box: Box, later: np.ndarray, truth: Box) -> float:
    shape, settings = engine.shape, engine.settings
    x, y, w, h = box

    def window(size: int) -> CropWindow:
        side = shape.context_side(w, h, settings.context_amount, size)
        return CropWindow.around(x + w / 2, y + h / 2, side, size)

    template = engine.template(crop(BgrFrame(image), window(shape.template_size))[None])
    region = Region(window(shape.search_size), template, w, h, settings.window_influence)
    cx, cy, pw, ph = engine.locate(BgrFrame(later), [region])[0, :4]
    x0, y0 = region.window.to_image(cx - pw / 2, cy - ph / 2)
    scale = region.window.scale
    return float(iou(np.array([x0, y0, pw * scale, ph * scale]), np.array(truth)))


def main() -> int:
    """Measure; 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student", type=Path, nargs="?", help="default: the shipped one")
    parser.add_argument("--write", type=Path, help="keep the IoU of each target")
    options = parser.parse_args()
    values = overlaps(create_engine(load_checkpoint(options.student), "cpu"))
    found = [value for value in values if value > FOUND_ABOVE]
    print(f"found {len(found)} of {len(values)}, mean IoU {np.mean(found):.4f}")
    if options.write:
        options.write.write_text(json.dumps([round(v, 4) for v in values]) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
