# SPDX-License-Identifier: Apache-2.0
"""What coding the video of the ground station costs: bytes a second and processor time, H.264 and
JPEG, by the levels that a page is sent. How old it is on the screen: `glass_to_glass.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np

from mlkd_ros.data.night_flight import NightFlight
from mlkd_ros.station.pace import levels
from mlkd_ros.station.picture import Coded, H264Stream, Level, jpeg

SIZE = (1280, 720)


def frames(scenario: str, count: int, rate: float) -> list[np.ndarray]:
    """Pictures of a night flight as a page would be sent them."""
    flight = NightFlight(scenario, 1, SIZE, rate)
    return [flight.render(150 + index).image for index in range(count)]


def measured(
    code: Callable[[np.ndarray], Coded], pictures: list[np.ndarray]
) -> tuple[float, float]:
    """Mean bytes and mean milliseconds of processor time a picture, the first one left out."""
    code(pictures[0])
    begin, nbytes = time.process_time(), 0
    for picture in pictures[1:]:
        nbytes += len(code(picture).data)
    count = len(pictures) - 1
    return nbytes / count, (time.process_time() - begin) * 1e3 / count


def coding(scenario: str, count: int) -> None:
    """A table of what each level takes."""
    print("| pictures | JPEG | | H.264 | |\n| --- | --- | --- | --- | --- |")
    for level in levels(SIZE[0], 15.0, 70):
        if level.rate < 8:
            break
        height = round(level.width * SIZE[1] / SIZE[0] / 2) * 2
        pictures = [
            cv2.resize(one, (level.width, height), interpolation=cv2.INTER_AREA)
            for one in frames(scenario, count, level.rate)
        ]
        cells = [f"{level.width}x{height}, {level.rate:g} Hz"]
        for code in (_jpeg(level), _h264(level)):
            size, milliseconds = measured(code, pictures)
            cells += [f"{size * level.rate / 1e3:.0f} kB/s", f"{milliseconds:.1f} ms"]
        print(f"| {' | '.join(cells)} |", flush=True)


def _jpeg(level: Level) -> Callable[[np.ndarray], Coded]:
    return lambda pixels: jpeg(pixels, SIZE, level.quality)


def _h264(level: Level) -> Callable[[np.ndarray], Coded]:
    stream = H264Stream()
    return lambda pixels: stream.encode(pixels, SIZE, level)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=" ".join(__doc__.split()))
    parser.add_argument("--scenario", default="crossing")
    parser.add_argument("--pictures", type=int, default=60, help="a level (default 60)")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    coding(given.scenario, given.pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
