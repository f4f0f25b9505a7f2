# SPDX-License-Identifier: Apache-2.0
"""Our tracker and its peers on the same frames, interleaved: accuracy, time, and the ratios.

    python benchmarks/peers.py --dataset night-flights --frames 90 \\
        --nano-v2 nanotrackv2_backbone.onnx,nanotrackv2_head.onnx --enhancer gamma --results peers

Runs ours, OpenCV's CSRT, KCF and MIL, and NanoTrack where its networks are given, one after the
other on each frame, so that all of them share what else the machine does. With --enhancer, each
of them once more behind that enhancer: what the field does at night, and what a student that was
taught by such a tracker does without. CSRT and KCF need opencv-contrib-python-headless instead of
opencv-python-headless; what is not installed is left out and said.

For figures of speed the machine should do nothing else; all run on one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np

from mlkd_ros.cli.evaluate import DATASETS
from mlkd_ros.data.sequences import Sequence
from mlkd_ros.evaluation.datasets import choose, dataset_label, load_dataset, shortened
from mlkd_ros.evaluation.metrics import score
from mlkd_ros.evaluation.one_pass import run_one_pass, write_result
from mlkd_ros.evaluation.results import ANNOTATIONS, TrackerResults, write_manifest
from mlkd_ros.evaluation.running import progress
from mlkd_ros.evaluation.trackers import EvaluatedTracker, create_tracker, tracker_label

OPENCV = ("csrt", "kcf", "mil")


def main() -> int:
    """Run and print; 0, or 1 if something had to be left out."""
    options = _parser().parse_args()
    cv2.setNumThreads(1)
    problems: list[str] = []
    trackers = _create(_specifications(options), problems)
    folder = options.results / dataset_label(options.dataset)
    sequences = load_dataset(
        options.dataset, options.root, problems, annotations=folder / ANNOTATIONS
    )
    sequences = choose(sequences, options.sequence)
    if options.frames:
        sequences = [shortened(sequence, options.frames) for sequence in sequences]
        folder = folder.with_name(f"{folder.name}-first{options.frames}")
    results = _run(trackers, sequences, options.condition, folder)
    print(f"\n{folder.name}, {options.condition}, {sum(map(len, sequences))} frames, 1 thread")
    print("\n".join(table(results)))
    for problem in problems:
        print(f"peers: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", choices=DATASETS, default="night-flights")
    parser.add_argument("--root", type=Path, help="folder of the data set")
    parser.add_argument("--condition", default="day", help="darken the frames, see mlkd evaluate")
    parser.add_argument("--sequence", action="append", help="only this sequence, repeatable")
    parser.add_argument("--frames", type=int, metavar="N", help="only the first N of a sequence")
    parser.add_argument("--checkpoint", help="our student (default: the shipped one)")
    networks = "BACKBONE.onnx,HEAD.onnx"
    parser.add_argument("--nano-v2", metavar=networks, help="NanoTrack v1 or v2, in OpenCV")
    parser.add_argument("--nano-v3", metavar=networks, help="NanoTrack v3, in a plain loop")
    parser.add_argument(
        "--without", action="append", default=[], choices=OPENCV, help="leave out, repeatable"
    )
    parser.add_argument(
        "--enhancer", action="append", default=[], help="gamma, gamma:0.4 or a file, repeatable"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results/peers"), help="folder of results"
    )
    return parser


def _specifications(options: argparse.Namespace) -> list[str]:
    plain = [f"ours={options.checkpoint}" if options.checkpoint else "ours"]
    plain += [name for name in OPENCV if name not in options.without]
    if options.nano_v2:
        plain.append(f"opencv-nano={options.nano_v2}")
    if options.nano_v3:
        plain.append(f"nanotrack={options.nano_v3}")
    return plain + [f"{name}@{enhancer}" for enhancer in options.enhancer for name in plain]


def _create(specifications: list[str], problems: list[str]) -> dict[str, EvaluatedTracker]:
    trackers = {}
    for specification in specifications:
        try:
            trackers[tracker_label(specification)] = create_tracker(specification)
        except ImportError as error:
            problems.append(f"without {specification}: {error}")
    return trackers


def _run(
    trackers: dict[str, EvaluatedTracker],
    sequences: list[Sequence],
    condition: str,
    folder: Path,
) -> list[TrackerResults]:
    results = [TrackerResults(label, {}, {}) for label in trackers]
    write_manifest(folder, folder.name, condition, sequences)
    with progress(sum(map(len, sequences))) as advance:
        for sequence in sequences:
            passes = run_one_pass(trackers, sequence, condition, on_frame=lambda _: advance(1))
            for one in results:
                found = passes[one.label]
                write_result(folder / one.label / f"{sequence.name}.txt", found)
                one.passes[sequence.name] = found
                one.scores[sequence.name] = score(found.boxes, sequence.boxes)
    return results


def table(results: list[TrackerResults]) -> list[str]:
    """A line for each tracker; ratios are to the first one: times as slow, share of its AUC."""
    width = max(len(one.label) for one in results) + 2
    lines = [
        f"{'':{width}}    AUC   P@20     NP  missed  false  median ms   p99 ms   time   AUC ratio"
    ]
    first, first_time = results[0].mean(), float(np.median(results[0].milliseconds()))
    for one in results:
        mean, times = one.mean(), one.milliseconds()
        if mean is None or first is None:
            continue
        median, high = np.percentile(times, [50, 99])
        false = "      -" if not mean.absent else f"{100 * mean.false_positive_rate:6.1f}%"
        lines.append(
            f"{one.label:{width}}{mean.success_auc:7.3f}{mean.precision:7.3f}"
            f"{mean.normalised_precision:7.3f}{100 * mean.miss_rate:7.1f}%{false}"
            f"{median:11.2f}{high:9.2f}{median / first_time:6.1f}x"
            f"{mean.success_auc / first.success_auc:11.2f}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
