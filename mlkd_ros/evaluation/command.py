# SPDX-License-Identifier: Apache-2.0
"""``mlkd evaluate``: one-pass evaluation of trackers on annotated sequences."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

DATASETS = ("pairs", "otb")


def add_parser(subparsers: Any) -> None:
    """Add the ``evaluate`` command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="one-pass evaluation on annotated sequences",
        description="Initialise each tracker on the first frame of each sequence, track to its "
        "end, and print success AUC, precision at 20 pixels, normalised precision and speed. "
        "Results that exist are not computed again.",
        epilog="Trackers: ours[=CHECKPOINT], csrt, kcf, mil, opencv-nano=BACKBONE.onnx,HEAD.onnx "
        "(NanoTrack v1, v2), nanotrack=BACKBONE.onnx,HEAD.onnx (v3, in a plain loop).",
    )
    parser.add_argument(
        "--dataset",
        required=True,
        choices=DATASETS,
        help="layout of the data set: "
        "pairs = NAME.mp4 + NAME.txt, otb = NAME/img/*.jpg + NAME/groundtruth_rect.txt",
    )
    parser.add_argument("--root", required=True, type=Path, help="folder of the data set")
    parser.add_argument(
        "--tracker", action="append", help="tracker to run, repeatable (default: ours)"
    )
    parser.add_argument(
        "--condition",
        action="append",
        help="day (default), dusk, street, dark or very_dark: darken "
        "the frames by the low-light camera, the same for every tracker; repeatable",
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of results (default: results)"
    )
    parser.add_argument("--sequence", action="append", help="run only this sequence, repeatable")
    parser.add_argument("--overwrite", action="store_true", help="compute again what is there")
    parser.add_argument(
        "--per-sequence", action="store_true", help="also print a line for every sequence"
    )
    parser.set_defaults(run_command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, or an error that names what is wrong."""
    from mlkd_ros.evaluation.one_pass import CONDITIONS
    from mlkd_ros.evaluation.trackers import tracker_label

    conditions = arguments.condition or ["day"]
    unknown = sorted(set(conditions) - set(CONDITIONS))
    if unknown:
        raise ValueError(f"--condition must be one of {', '.join(CONDITIONS)}, not {unknown[0]!r}")
    trackers = {tracker_label(name): name for name in arguments.tracker or ["ours"]}
    sequences = _load(arguments.dataset, arguments.root, arguments.sequence)
    _compute(arguments, sequences, conditions, trackers)
    for condition in conditions:
        _print_table(arguments, sequences, condition, list(trackers))
    return 0


def _load(dataset: str, root: Path, names: list[str] | None) -> list[Any]:
    from mlkd_ros.data.sequences import load_otb_folders, load_video_pairs

    sequences = (
        load_video_pairs(root) if dataset == "pairs" else load_otb_folders(root, allow_absent=True)
    )
    if not names:
        return sequences
    found = {sequence.name: sequence for sequence in sequences}
    missing = sorted(set(names) - found.keys())
    if missing:
        raise ValueError(f"no sequence {missing[0]!r} in {root}; it has {', '.join(sorted(found))}")
    return [found[name] for name in names]


def _compute(
    arguments: argparse.Namespace,
    sequences: list[Any],
    conditions: list[str],
    trackers: dict[str, str],
) -> None:
    """Run what has no result yet, all trackers side by side on each sequence."""
    from mlkd_ros.evaluation.one_pass import result_file, run_one_pass, write_result
    from mlkd_ros.evaluation.trackers import EvaluatedTracker, create_tracker

    def path(condition: str, tracker: str, sequence: Any) -> Path:
        return result_file(arguments.results, arguments.dataset, condition, tracker, sequence.name)

    work = [
        (
            condition,
            sequence,
            [
                t
                for t in trackers
                if arguments.overwrite or not path(condition, t, sequence).is_file()
            ],
        )
        for condition in conditions
        for sequence in sequences
    ]
    work = [item for item in work if item[2]]
    made: dict[str, EvaluatedTracker] = {}
    with _Progress(sum(len(sequence) for _, sequence, _ in work)) as advance:
        for condition, sequence, names in work:
            for name in names:
                if name not in made:
                    made[name] = create_tracker(trackers[name])
            passes = run_one_pass(
                {name: made[name] for name in names}, sequence, condition, advance
            )
            for name, result in passes.items():
                write_result(path(condition, name, sequence), result)


class _Progress:
    """A progress bar that counts frames; silent where tqdm is not installed."""

    def __init__(self, total: int) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            self._bar: Any = nullcontext()
        else:
            self._bar = tqdm(total=total, unit="frame", disable=None if total else True)

    def __enter__(self) -> Callable[[int], object]:
        bar = self._bar.__enter__()
        return (lambda _: None) if bar is None else (lambda _: bar.update())

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)


def _print_table(
    arguments: argparse.Namespace, sequences: list[Any], condition: str, trackers: list[str]
) -> None:
    from mlkd_ros.evaluation.metrics import average, score
    from mlkd_ros.evaluation.one_pass import read_result, result_file

    frames = sum(len(sequence) for sequence in sequences)
    print(f"\n{arguments.dataset}, {condition}: {len(sequences)} sequences, {frames} frames")
    width = (
        max(
            len(name)
            for name in [*trackers, *(s.name for s in sequences if arguments.per_sequence)]
        )
        + 2
    )
    print(
        f"{'':{width}}{'AUC':>7}{'P@20':>7}{'NP':>7}{'IoU':>7}{'missed':>8}{'ms':>8}{'p99 ms':>8}"
    )
    for tracker in trackers:
        results = [
            read_result(
                result_file(
                    arguments.results, arguments.dataset, condition, tracker, sequence.name
                ),
                len(sequence),
            )
            for sequence in sequences
        ]
        scores = [
            score(r.boxes, sequence.boxes) for r, sequence in zip(results, sequences, strict=True)
        ]
        times = np.concatenate([_updates(result) for result in results])
        print(f"{tracker:{width}}{_row(average(scores), times)}")
        if arguments.per_sequence:
            for one, result, sequence in zip(scores, results, sequences, strict=True):
                print(f"  {sequence.name:{width - 2}}{_row(one, _updates(result))}")


def _updates(result: Any) -> np.ndarray:
    """Milliseconds of the updates, without initialisation."""
    return result.seconds[np.isfinite(result.seconds)][1:] * 1e3


def _row(one: Any, milliseconds: np.ndarray) -> str:
    times = np.percentile(milliseconds, [50, 99]) if len(milliseconds) else (float("nan"),) * 2
    return (
        f"{one.success_auc:7.3f}{one.precision:7.3f}{one.normalised_precision:7.3f}{one.mean_iou:7.3f}"
        f"{one.missed:8d}{times[0]:8.1f}{times[1]:8.1f}"
    )
