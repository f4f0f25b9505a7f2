# SPDX-License-Identifier: Apache-2.0
"""``mlkd evaluate``: one-pass evaluation of trackers on annotated sequences."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkd_ros.files import printable

if TYPE_CHECKING:
    from mlkd_ros.data.sequences import Sequence
    from mlkd_ros.evaluation.results import TrackerResults

#: The same as `datasets.DATASETS`, which is slow to import (a test compares them).
DATASETS = (
    "pairs",
    "otb",
    "NAT2021-test",
    "NAT2021-L-test",
    "UAVDark135",
    "DarkTrack2021",
    "UAV123",
    "night-flights",
)


def add_parser(subparsers: Any) -> None:
    """Add the ``evaluate`` command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="one-pass evaluation on annotated sequences",
        description="Initialise each tracker on the first frame of each sequence, track to its "
        "end, and print success AUC, precision at 20 pixels, normalised precision, share of the "
        "frames missed, share of false boxes while the target is absent, and speed. "
        "Results that exist are not computed again, unless the tracker's weights have changed. "
        "What is wrong with a sequence is named at the end, and the others are scored.",
        epilog="Trackers: ours[=fast|accurate|CHECKPOINT], csrt, kcf, mil, "
        "opencv-nano=BACKBONE.onnx,HEAD.onnx (NanoTrack v1, v2), "
        "nanotrack=BACKBONE.onnx,HEAD.onnx (v3, in a plain loop), "
        "lightfc=TEMPLATE.onnx,SEARCH.onnx (in its authors' plain loop), vittrack=NETWORK.onnx; "
        "any of these behind an enhancer of whole frames as TRACKER@gamma or TRACKER@NETWORK.pth; "
        "teacher=CHECKPOINT@ENHANCER, which enhances its patches only.",
    )
    parser.add_argument(
        "--dataset",
        required=True,
        choices=DATASETS,
        help="pairs = NAME.mp4 + NAME.txt, otb = NAME/img/*.jpg + NAME/groundtruth_rect.txt, "
        "night-flights = rendered, no download; the others in the layout they are published in",
    )
    parser.add_argument("--root", type=Path, help="folder of the data set")
    parser.add_argument(
        "--tracker", action="append", help="tracker to run, repeatable (default: ours)"
    )
    parser.add_argument(
        "--others",
        type=Path,
        metavar="DIR",
        help="results of other trackers to score beside: DIR/TRACKER/SEQUENCE.txt",
    )
    parser.add_argument(
        "--condition",
        action="append",
        help="day (default: the frames as they are), dusk, street, dark, very_dark or high_gain: "
        "darken the frames by the low-light camera, the same for every tracker; codec: and "
        "denoise, sharpen and code them (H.264 at 1.5 Mbit/s for 720p); repeatable",
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of results (default: results)"
    )
    parser.add_argument("--sequence", action="append", help="run only this sequence, repeatable")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="sequences at a time (default: 1)"
    )
    parser.add_argument(
        "--noise-seed", type=int, default=0, help="seed of the darkening's noise (default: 0)"
    )
    parser.add_argument(
        "--starts", type=int, default=1, metavar="N",
        help="fly every sequence from N frames, evenly spaced, each time to its end; prints means "
        "with standard errors over sequences, runs that end lost, seconds until the target is "
        "found again, and how well the confidence is calibrated (default: 1, one-pass evaluation)",
    )  # fmt: skip
    parser.add_argument(
        "--noise-seeds", type=int, nargs="+", metavar="N",
        help="with --starts: darken every sequence once with each of these",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="compute again what is there")
    parser.add_argument(
        "--per-sequence", action="store_true", help="also print a line for every sequence"
    )
    parser.set_defaults(run_command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, or 1 if a sequence could not be used, which is named."""
    from mlkd_ros.evaluation.datasets import dataset_label
    from mlkd_ros.evaluation.trackers import tracker_label

    conditions = _conditions(arguments)
    trackers = {tracker_label(name): name for name in arguments.tracker or ["ours"]}
    store = Store(arguments.results, dataset_label(arguments.dataset), arguments.noise_seed)
    problems: list[str] = []
    sequences = _load(arguments, store, problems)
    if arguments.starts > 1 or arguments.noise_seeds:
        return _evaluate_starts(arguments, sequences, conditions, trackers, problems)
    _compute(store, sequences, conditions, trackers, arguments, problems)
    for condition in conditions:
        scored = _score(store, sequences, condition, trackers, arguments.others, problems)
        _print_tables(store, sequences, condition, scored, arguments.per_sequence)
    for problem in problems:
        print(f"mlkd evaluate: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _evaluate_starts(
    arguments: argparse.Namespace, sequences: list[Sequence], conditions: list[str],
    trackers: dict[str, str], problems: list[str],
) -> int:  # fmt: skip
    """Several starts and draws of the noise: fly, print, and keep the figures as JSON."""
    import json

    from mlkd_ros.evaluation.datasets import dataset_label
    from mlkd_ros.evaluation.robust import fly_all, summarise, table
    from mlkd_ros.tracking.checkpoint import load_checkpoint

    path = arguments.results / f"{dataset_label(arguments.dataset)}-starts{arguments.starts}.json"
    if path.exists() and not arguments.overwrite:
        raise FileExistsError(f"{printable(path)} exists already: --overwrite computes it again")
    seeds = arguments.noise_seeds or [arguments.noise_seed]
    runs = list(
        fly_all(
            list(trackers.values()), sequences, conditions, seeds, arguments.starts,
            arguments.jobs, problems,
        )
    )  # fmt: skip
    above = load_checkpoint().settings.presence.tracking_above
    kept = {}
    for condition in conditions:
        own = [run for run in runs if run.condition == condition]
        summaries = {
            label: summarise([run for run in own if run.tracker == name], above)
            for label, name in trackers.items()
            if any(run.tracker == name for run in own)
        }
        print(f"\n{dataset_label(arguments.dataset)}, {condition}: {len(sequences)} sequences, "
              f"{arguments.starts} starts, wrong boxes from {above:.2f} on")  # fmt: skip
        print("\n".join(table(summaries)))
        kept[condition] = {label: one.to_dict() for label, one in summaries.items()}
    arguments.results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    for problem in problems:
        print(f"mlkd evaluate: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _conditions(arguments: argparse.Namespace) -> list[str]:
    """The conditions asked for, after a look at the other arguments."""
    from mlkd_ros.evaluation.one_pass import CONDITIONS, DAY

    conditions = arguments.condition or [DAY]
    unknown = sorted(set(conditions) - set(CONDITIONS))
    if unknown:
        raise ValueError(f"--condition must be one of {', '.join(CONDITIONS)}, not {unknown[0]!r}")
    if arguments.dataset == "night-flights" and conditions != [DAY]:
        raise ValueError("--condition has no meaning for night-flights, which are dark already")
    if arguments.noise_seed < 0:
        raise ValueError(f"--noise-seed must be 0 or more, not {arguments.noise_seed}")
    if arguments.starts < 1:
        raise ValueError(f"--starts must be 1 or more, not {arguments.starts}")
    if arguments.noise_seeds and min(arguments.noise_seeds) < 0:
        raise ValueError(f"--noise-seeds must be 0 or more, not {min(arguments.noise_seeds)}")
    if arguments.jobs < 1:
        raise ValueError(f"--jobs must be 1 or more, not {arguments.jobs}")
    if arguments.others is not None and not arguments.others.is_dir():
        raise ValueError(f"{arguments.others}: no such folder of results, named by --others")
    return conditions


def _load(arguments: argparse.Namespace, store: Store, problems: list[str]) -> list[Sequence]:
    from mlkd_ros.evaluation import night_flights
    from mlkd_ros.evaluation.datasets import load_dataset
    from mlkd_ros.evaluation.results import ANNOTATIONS
    from mlkd_ros.evaluation.running import progress

    annotations = store.folder / store.dataset / ANNOTATIONS
    missing = 0
    if arguments.dataset == "night-flights":
        missing = night_flights.frames_to_render(annotations, arguments.sequence)
        if missing:
            print(f"rendering {missing} frames once for their annotation", file=sys.stderr)
    with progress(missing) as advance:
        return load_dataset(
            arguments.dataset,
            arguments.root,
            problems,
            annotations=annotations,
            jobs=arguments.jobs,
            on_frames=advance,
            names=arguments.sequence,
        )


@dataclass(frozen=True)
class Store:
    """Where the results of this run lie."""

    folder: Path
    dataset: str
    noise_seed: int

    def path(self, condition: str, tracker: str, sequence: str) -> Path:
        """File of a tracker's result."""
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
    store: Store,
    sequences: list[Sequence],
    conditions: list[str],
    trackers: dict[str, str],
    arguments: argparse.Namespace,
    problems: list[str],
) -> None:
    """Run what has no result yet, all trackers side by side on each sequence."""
    from mlkd_ros.evaluation.results import write_manifest
    from mlkd_ros.evaluation.running import Work, run_works
    from mlkd_ros.evaluation.trackers import tracker_identity

    identities = {label: tracker_identity(name) for label, name in trackers.items()}
    if arguments.dataset == "night-flights":
        from mlkd_ros.evaluation.night_flights import renderer_version

        identities = {label: f"{one} {renderer_version()}" for label, one in identities.items()}
    works = []
    for condition in conditions:
        for label, identity in identities.items():
            store.drop_outdated(condition, label, identity)
        folder = store.path(condition, "any", "any").parents[1]
        write_manifest(folder, store.dataset, condition, sequences)
        for sequence in sequences:
            paths = {
                name: store.path(condition, label, sequence.name)
                for label, name in trackers.items()
            }
            todo = {n: p for n, p in paths.items() if arguments.overwrite or not p.is_file()}
            if todo:
                works.append(Work(sequence, condition, store.noise_seed, todo))
    run_works(works, arguments.jobs, problems)


def _score(
    store: Store,
    sequences: list[Sequence],
    condition: str,
    trackers: dict[str, str],
    others: Path | None,
    problems: list[str],
) -> list[TrackerResults]:
    from mlkd_ros.evaluation.results import score_folder, tracker_folders

    folders = [store.path(condition, label, "any").parent for label in trackers]
    if others is not None:
        folders += tracker_folders(others)
    return [score_folder(folder, sequences, problems) for folder in folders]


def _print_tables(
    store: Store,
    sequences: list[Sequence],
    condition: str,
    scored: list[TrackerResults],
    detailed: bool,
) -> None:
    from mlkd_ros.evaluation.tables import attribute_table, main_table

    frames = sum(map(len, sequences))
    print(f"\n{store.dataset}, {condition}: {len(sequences)} sequences, {frames} frames")
    print("\n".join(main_table(scored, sequences, detailed)))
    lines = attribute_table(scored, sequences)
    if lines:
        print("\n" + "\n".join(lines))
