#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How often a target that was hidden or out of view is found again, on rendered night flights.

    python benchmarks/reacquisition.py [--flights 26] [--jobs 2]

Flights of `occlusion` and `out_of_view`, seeds 200 and up (training and night-flights-v1 use
others), 270 images each, the loss 50 to 80 images after the start. Prints means: success AUC (an
image without a box counts as IoU 0), *found*, the share of the last 25 images with the target that
have a box with an IoU above 0.3, and the boxes in images without the target. Takes about ten
seconds a flight.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import cv2
import numpy as np

from mlkd_ros.data.flights import FlightFrames, target_boxes
from mlkd_ros.data.night_flight import NightFlight
from mlkd_ros.data.sequences import Sequence
from mlkd_ros.evaluation.metrics import Scores, score
from mlkd_ros.evaluation.night_flights import VISIBLE_FROM
from mlkd_ros.evaluation.one_pass import run_one_pass
from mlkd_ros.evaluation.trackers import OursTracker
from mlkd_ros.tracking.geometry import iou

SCENARIOS = ("occlusion", "out_of_view")
FIRST_SEED, IMAGES = 200, 270
#: Images at the end that tell whether the target was found, and from which IoU on it was.
LAST, FOUND_ABOVE = 25, 0.3


def start_of(flight: NightFlight) -> int | None:
    """Image 50 to 80 images before a loss, another one for each seed; `None` without any."""
    first = 90 + 300 * (flight.seed % 4)
    for i in range(first + 42, flight.frame_count - IMAGES, 6):
        if flight.render(i).targets[0][2] <= VISIBLE_FROM:
            return i - int(np.random.default_rng(flight.seed).integers(50, 80))
    return None


def fly(scenario: str, seed: int) -> tuple[Scores, float] | None:
    """One flight with the shipped student: its scores, and *found*."""
    cv2.setNumThreads(1)
    flight = NightFlight(scenario, seed)
    start = start_of(flight)
    if start is None:
        return None
    truth = target_boxes(flight, IMAGES, start, VISIBLE_FROM)
    sequence = Sequence(f"{scenario}_{seed}", FlightFrames(flight, IMAGES, start), truth, "flights")
    boxes = run_one_pass({"ours": OursTracker(device="cpu")}, sequence)["ours"].boxes
    last = np.flatnonzero(np.isfinite(truth).all(axis=1))[-LAST:]
    reported = np.isfinite(boxes[last]).all(axis=1)
    found = reported & (iou(boxes[last], truth[last]) > FOUND_ABOVE)
    return score(boxes, truth), float(found.mean())


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
            scores, found = [one for one, _ in flown], [found for _, found in flown]
            print(
                f"{scenario:12} {len(flown)} flights: success AUC "
                f"{np.mean([one.success_auc for one in scores]):.3f}, found {np.mean(found):.1%}, "
                f"false boxes {sum(one.false_positives for one in scores)} "
                f"of {sum(one.absent for one in scores)}"
            )


if __name__ == "__main__":
    main()
