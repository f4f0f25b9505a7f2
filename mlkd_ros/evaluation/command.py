# SPDX-License-Identifier: Apache-2.0
"""``mlkd evaluate``: one-pass evaluation of trackers on annotated sequences."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mlkd_ros.data.sequences import Sequence
    from mlkd_ros.evaluation.metrics import Scores
    from mlkd_ros.evaluation.one_pass import OnePass

DATASETS = ("pairs", "otb")


def add_parser(subparsers: Any) -> None:
    """Add the ``evaluate`` command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="one-pass evaluation on annotated sequences",
        description="Initialise each tracker on the first frame of each sequence, track to its "
        "end, and print success AUC, precision at 20 pixels, normalised precision and speed. "
        "Results that exist are not computed again, unless the tracker's weights have changed.",
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
    parser.add_argument(
        "--noise-seed", type=int, default=0, help="seed of the darkening's noise (default: 0)"
    )
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
    if arguments.noise_seed < 0:
        raise ValueError(f"--noise-seed must be 0 or more, not {arguments.noise_seed}")
    trackers = {tracker_label(name): name for name in arguments.tracker or ["ours"]}
    sequences = _load(arguments.dataset, arguments.root, arguments.sequence)
    store = _Store(arguments.results, arguments.dataset, arguments.noise_seed)
    _compute(store, sequences, conditions, trackers, arguments.overwrite)
    for condition in conditions:
        _print_table(store, sequences, condition, list(trackers), arguments.per_sequence)
    return 0


def _load(dataset: str, root: Path, names: list[str] | None) -> list[Sequence]:
    from mlkd_ros.data.sequences import load_otb_folders, load_video_pairs

    if dataset == "pairs":
        sequences = load_video_pairs(root)
    else:
        sequences = load_otb_folders(root, allow_absent=True)
    if not names:
        return sequences
    found = {sequence.name: sequence for sequence in sequences}
    missing = sorted(set(names) - found.keys())
    if missing:
        raise ValueError(f"no sequence {missing[0]!r} in {root}; it has {', '.join(sorted(found))}")
    return [found[name] for name in names]


@dataclass(frozen=True)
class _Store:
    """Where the results of this run lie."""

    folder: Path
    dataset: str
    noise_seed: int

    def path(self, condition: str, tracker: str, sequence: str) -> Path:
        from mlkd_ros.evaluation.one_pass import result_file

        return result_file(self.folder, self.dataset, condition, tracker, sequence, self.noise_seed)

    def drop_outdated(self, condition: str, tracker: str, identity: str) -> None:
        """Remove results of the same tracker with other weights, and note the present ones."""
        folder = self.path(condition, tracker, "any").parent
        note = folder / "weights.sha256"
        if note.is_file() and note.read_text(encoding="utf-8").strip() != identity:
            for path in folder.glob("*.txt"):
                path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(identity + "\n", encoding="utf-8")


def _compute(
    store: _Store,
    sequences: list[Sequence],
    conditions: list[str],
    trackers: dict[str, str],
    overwrite: bool,
) -> None:
    """Run what has no result yet, all trackers side by side on each sequence."""
    from mlkd_ros.evaluation.one_pass import run_one_pass, write_result
    from mlkd_ros.evaluation.trackers import EvaluatedTracker, create_tracker, tracker_identity

    identities = {label: tracker_identity(name) for label, name in trackers.items()}
    work = []
    for condition in conditions:
        for label, identity in identities.items():
            store.drop_outdated(condition, label, identity)
        for sequence in sequences:
            paths = {label: store.path(condition, label, sequence.name) for label in trackers}
            todo = {label: path for label, path in paths.items() if overwrite or not path.is_file()}
            if todo:
                work.append((condition, sequence, todo))
    made: dict[str, EvaluatedTracker] = {}
    with _Progress(sum(len(sequence) for _, sequence, _ in work)) as advance:
        for condition, sequence, todo in work:
            for label in todo.keys() - made.keys():
                made[label] = create_tracker(trackers[label])
            running = {label: made[label] for label in todo}
            passes = run_one_pass(running, sequence, condition, store.noise_seed, advance)
            for label, result in passes.items():
                write_result(todo[label], result)


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
    store: _Store, sequences: list[Sequence], condition: str, trackers: list[str], detailed: bool
) -> None:
    from mlkd_ros.evaluation.metrics import average, score
    from mlkd_ros.evaluation.one_pass import read_result

    names = [*trackers, *("  " + sequence.name for sequence in sequences if detailed)]
    width = max(map(len, names)) + 2
    frames = sum(map(len, sequences))
    print(f"\n{store.dataset}, {condition}: {len(sequences)} sequences, {frames} frames")
    print(" " * width + "    AUC   P@20     NP    IoU  missed      ms  p99 ms")
    for tracker in trackers:
        results, scores = [], []
        for sequence in sequences:
            path = store.path(condition, tracker, sequence.name)
            results.append(read_result(path, len(sequence)))
            scores.append(score(results[-1].boxes, sequence.boxes))
        print(f"{tracker:{width}}{_row(average(scores), results)}")
        if detailed:
            for one, result, sequence in zip(scores, results, sequences, strict=True):
                print(f"{'  ' + sequence.name:{width}}{_row(one, [result])}")


def _row(one: Scores, results: list[OnePass]) -> str:
    """The figures of a line; times are those of the updates, without initialisation."""
    times = [result.seconds[np.isfinite(result.seconds)][1:] * 1e3 for result in results]
    together = np.concatenate(times)
    median, high = np.percentile(together, [50, 99]) if len(together) else (np.nan, np.nan)
    return (
        f"{one.success_auc:7.3f}{one.precision:7.3f}{one.normalised_precision:7.3f}"
        f"{one.mean_iou:7.3f}{one.missed:8d}{median:8.1f}{high:8.1f}"
    )
