# SPDX-License-Identifier: Apache-2.0
"""``mlkd fit``: estimate what a tracker believes of targets and clutter on annotated sequences."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from mlkd_ros.evaluation.one_pass import CONDITIONS
from mlkd_ros.files import unused

#: By day, in two kinds of night and behind a codec.
DEFAULT_CONDITIONS = ("day", "street", "high_gain", "codec")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``fit`` to the ``mlkd`` command."""
    parser = subparsers.add_parser(
        "fit",
        help="fit the densities and thresholds of a student's tracker on annotated sequences",
        description="Look with a student where the target is and where it is not, along annotated "
        "sequences in several conditions, and along rendered night flights; estimate from that the "
        "densities of scores, places and sizes, how targets move, how long they hide, and the "
        "calibration of the published confidence; and write them into a checkpoint.",
    )
    parser.add_argument("student", type=Path, help="checkpoint to read")
    parser.add_argument("--root", type=Path, required=True, help="folder of the sequences")
    parser.add_argument(
        "--dataset", default="pairs", help="layout of the sequences, as of `mlkd evaluate`"
    )
    parser.add_argument("--sequence", action="append", help="only this sequence, repeatable")
    parser.add_argument(
        "--condition", action="append", choices=CONDITIONS,
        help=f"repeatable (default: {', '.join(DEFAULT_CONDITIONS)})",
    )  # fmt: skip
    parser.add_argument(
        "--frames", type=int, default=0, metavar="N",
        help="only the first N frames of each sequence (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--flights", type=int, default=8, metavar="N",
        help="rendered night flights to look along as well; with seeds that no benchmark uses "
        "(default: 8)",
    )  # fmt: skip
    parser.add_argument("--noise-seed", type=int, default=7, help="of the darkening (default: 7)")
    parser.add_argument(
        "--confidence-only", action="store_true",
        help="keep the densities; fit the confidence and its thresholds alone, in one pass",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="sequences at a time (default: 1)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    parser.set_defaults(run_command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ..distillation.fit import fit_belief
    from ..distillation.selection import make_trials
    from ..evaluation.datasets import choose, load_dataset, shortened
    from ..evaluation.running import progress
    from ..tracking.checkpoint import load_checkpoint, save_checkpoint, sha256

    if arguments.jobs < 1:
        raise ValueError(f"--jobs must be 1 or more, not {arguments.jobs}")
    if arguments.frames < 0:
        raise ValueError(f"--frames must be 0 or more, not {arguments.frames}")
    unused(arguments.output, arguments.force)
    checkpoint = load_checkpoint(arguments.student)
    problems: list[str] = []
    sequences = load_dataset(arguments.dataset, arguments.root, problems, annotations=Path())
    sequences = choose(sequences, arguments.sequence)
    if arguments.frames:
        sequences = [shortened(sequence, arguments.frames) for sequence in sequences]
    conditions = arguments.condition or list(DEFAULT_CONDITIONS)
    trials = make_trials(sequences, conditions, [arguments.noise_seed], arguments.flights)
    densities = not arguments.confidence_only
    passes = 2 if densities else 1
    with progress(passes * sum(len(trial.sequence) for trial in trials)) as on_frames:
        fit = fit_belief(checkpoint, trials, arguments.jobs, on_frames, densities)
    source = {**fit.source, "dataset": arguments.dataset, "noise_seed": arguments.noise_seed,
              "frames": arguments.frames, "flights": arguments.flights,
              "student": sha256(arguments.student)}  # fmt: skip
    name = "fit" if densities else "confidence_fit"
    provenance = {**checkpoint.provenance, name: source}
    save_checkpoint(
        replace(checkpoint, settings=fit.settings, provenance=provenance), arguments.output
    )
    print(json.dumps(fit.settings.to_dict(), indent=2))
    for problem in problems:
        print(f"mlkd fit: {problem}", file=sys.stderr)
    print(f"wrote {arguments.output}", file=sys.stderr)
    return 0
