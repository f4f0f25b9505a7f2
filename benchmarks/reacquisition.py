#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How often a target that was hidden or out of view is found again, on rendered night flights.

    python benchmarks/reacquisition.py [--flights 26] [--jobs 2]

Flights of `occlusion` and `out_of_view`, seeds 200 and up (training and night-flights-v1 use
others), 270 images each, the loss 50 to 80 images after the start. Prints means: success AUC over
the images that show the target (one without a box counts as IoU 0), *found*, the share of the last
25 of them with a box of IoU above 0.3, and the boxes in images without the target. Takes about ten
seconds a flight.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from mlkd_ros.data.night_flight import NightFlight
from mlkd_ros.tracking import load_tracker
from mlkd_ros.tracking.geometry import iou

SCENARIOS = ("occlusion", "out_of_view")
FIRST_SEED, IMAGES, VISIBLE_FROM = 200, 270, 0.1


@dataclass(frozen=True)
class Outcome:
    """One flight: success AUC, found, and of the images without the target those with a box."""

    auc: float
    found: float
    absent: int
    false: int


def start_of(flight: NightFlight) -> int | None:
    """Image 50 to 80 images before a loss, another one for each seed; `None` without any."""
    first = 90 + 300 * (flight.seed % 4)
    for i in range(first, flight.frame_count - IMAGES, 6):
        if i > first + 40 and flight.render(i).targets[0][2] <= VISIBLE_FROM:
            return max(0, i - int(np.random.default_rng(flight.seed).integers(50, 80)))
    return None


def fly(scenario: str, seed: int) -> Outcome | None:
    """One flight with the shipped student."""
    cv2.setNumThreads(1)
    flight = NightFlight(scenario, seed)
    start = start_of(flight)
    if start is None:
        return None
    tracker = load_tracker(device="cpu")
    overlaps: list[float] = []
    absent = false = 0
    for i in range(IMAGES):
        picture = flight.render(start + i)
        _, box, visible, _ = picture.targets[0]
        if i == 0:
            tracker.init(picture.image, box)
            continue
        seen = tracker.update(picture.image).box
        if visible <= VISIBLE_FROM:
            absent += 1
            false += seen is not None
        else:
            overlaps.append(0.0 if seen is None else float(iou(seen, box)))
    values = np.array(overlaps)
    auc = float(np.mean([(values > t).mean() for t in np.linspace(0, 1, 21)]))
    return Outcome(auc, float((values[-25:] > 0.3).mean()), absent, false)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--flights", type=int, default=26, help="of each scenario (default: 26)")
    parser.add_argument("--jobs", type=int, default=1, help="flights at a time (default: 1)")
    args = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + args.flights)
    with ProcessPoolExecutor(args.jobs) as pool:
        for scenario in SCENARIOS:
            flown = [one for one in pool.map(partial(fly, scenario), seeds) if one is not None]
            false, absent = sum(one.false for one in flown), sum(one.absent for one in flown)
            print(
                f"{scenario:12} {len(flown)} flights: success AUC "
                f"{np.mean([one.auc for one in flown]):.3f}, found "
                f"{np.mean([one.found for one in flown]):.1%}, false boxes {false} of {absent}"
            )


if __name__ == "__main__":
    main()
