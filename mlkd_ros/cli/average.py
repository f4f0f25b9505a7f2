# SPDX-License-Identifier: Apache-2.0
"""``mlkd average``: the weighted mean of several students' weights, as a checkpoint of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlkd_ros.files import unused


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``average`` to the ``mlkd`` command."""
    parser = subparsers.add_parser(
        "average",
        help="average the weights of a student and its start (needs mlkd_ros[train])",
        description="Write the weighted mean of students of one architecture, before batch norms "
        "are folded. Half way between a fine-tuned student and its start it keeps most of what "
        "both know (arXiv 2109.01903). `mlkd select` calibrates it.",
    )
    parser.add_argument(
        "students", type=Path, nargs="+", metavar="STUDENT",
        help="student checkpoints, or a published nanotrackv3.pth",
    )  # fmt: skip
    parser.add_argument(
        "--weights", type=float, nargs="+", metavar="W",
        help="of each, normalised to a sum of 1 (default: all alike)",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    parser.set_defaults(run_command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ..distillation.export import check_exporter
    from ..distillation.student import average_files

    check_exporter()
    unused(arguments.output, arguments.force)
    average_files(arguments.students, arguments.output, arguments.weights)
    print(f"wrote {arguments.output}")
    return 0
