# SPDX-License-Identifier: Apache-2.0
"""How long an update takes along whole sequences, ours against peers: each frame goes to all of
them in turn, just decoded and darkened, so that caches are as cold as in flight.

    python benchmarks/whole_sequences.py --root SEQUENCES --condition high_gain \\
        --tracker ours --tracker opencv-nano=BACKBONE.onnx,HEAD.onnx

Prints the median of each along each sequence, in milliseconds, and the first one's ratio to the
others. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path

import cv2
import numpy as np

from mlkd_ros.data.sequences import Sequence
from mlkd_ros.evaluation.datasets import choose, load_dataset
from mlkd_ros.evaluation.one_pass import CONDITIONS, darkened_frames
from mlkd_ros.evaluation.trackers import create_tracker, tracker_label


def medians(sequence: Sequence, condition: str, trackers: list[str], frames: int) -> np.ndarray:
    """Of each tracker along the first ``frames`` of a sequence, in milliseconds."""
    start = int(np.flatnonzero(np.isfinite(sequence.boxes).all(axis=1))[0])
    made = [create_tracker(specification) for specification in trackers]
    times: list[list[float]] = [[] for _ in made]
    images = itertools.islice(darkened_frames(sequence, condition), start, start + frames)
    for number, image in enumerate(images):
        for tracker, own in zip(made, times, strict=True):
            begin = time.perf_counter()
            if number:
                tracker.update(image)
                own.append(1e3 * (time.perf_counter() - begin))
            else:
                tracker.init(image, tuple(sequence.boxes[start].tolist()))
    return np.median(times, axis=1)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=" ".join(__doc__.split("\n\n", maxsplit=1)[0].split())
    )
    parser.add_argument("--root", required=True, help="folder of the sequences")
    parser.add_argument("--dataset", default="pairs", help="their layout, as of `mlkd evaluate`")
    parser.add_argument("--sequence", action="append", help="only this one, repeatable")
    parser.add_argument("--condition", choices=CONDITIONS, default="day")
    parser.add_argument("--tracker", action="append", help="as of `mlkd evaluate`, repeatable")
    parser.add_argument("--frames", type=int, default=200, help="of each sequence (default 200)")
    given = parser.parse_args(argv)
    cv2.setNumThreads(1)
    trackers = given.tracker or ["ours"]
    sequences = choose(
        load_dataset(given.dataset, Path(given.root), [], annotations=Path()), given.sequence
    )
    print(f"{given.condition}, load {os.getloadavg()[0]:.1f} before; median ms of an update\n")
    print(f"| sequence | {' | '.join(map(tracker_label, trackers))} | against the first |")
    print("| --- " * (len(trackers) + 2) + "|")
    ratios = []
    for sequence in sequences:
        row = medians(sequence, given.condition, trackers, given.frames)
        ratios.append(row[1:] / row[0])
        cells = [sequence.name, *(f"{value:.2f}" for value in row)]
        print(
            f"| {' | '.join(cells)} | {', '.join(f'{one:.2f}' for one in ratios[-1])} |", flush=True
        )
    print(f"\nmean of the ratios: {np.mean(ratios, axis=0).round(2).tolist()}")
    print(f"load {os.getloadavg()[0]:.1f} after")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
