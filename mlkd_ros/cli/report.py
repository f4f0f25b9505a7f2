# SPDX-License-Identifier: Apache-2.0
"""``mlkd report``: plots, tables and the worst sequences as one HTML file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mlkd_ros.files import unused


def add_parser(subparsers: Any) -> None:
    """Add the ``report`` command."""
    parser = subparsers.add_parser(
        "report",
        help="an HTML report of results of mlkd evaluate",
        description="Write success and precision plots, tables by tracker, attribute and sequence, "
        "and the worst sequences with contact sheets as one self-contained HTML file, and the "
        "pictures as PNG files in a folder beside it.",
    )
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS",
        help="folder of results of a data set, such as results/night-flights-v1",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="HTML file to write")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    parser.add_argument(
        "--tracker",
        action="append",
        help="show only this tracker, repeatable; the first one's worst sequences are shown "
        "(default: all, ours first)",
    )
    parser.add_argument(
        "--others",
        type=Path,
        metavar="DIR",
        help="results of other trackers to show beside: DIR/TRACKER/SEQUENCE.txt",
    )
    parser.add_argument(
        "--worst", type=int, default=3, metavar="N", help="worst sequences to show (default: 3)"
    )
    parser.set_defaults(run_command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, or 1 if a result is missing or wrong, which is named."""
    from mlkd_ros.evaluation.report import picture_folder, read_section, write_report

    output: Path = arguments.output
    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{output}: the report must be named *.html")
    unused(output, arguments.force)
    for picture in picture_folder(output).glob("*.png"):
        unused(picture, arguments.force)
    if arguments.others is not None and not arguments.others.is_dir():
        raise ValueError(f"{arguments.others}: no such folder of results, named by --others")
    sections = [
        read_section(folder, arguments.others, arguments.tracker) for folder in arguments.results
    ]
    files = write_report(sections, output, max(arguments.worst, 0))
    print(f"{output} ({output.stat().st_size / 1e6:.1f} MB), {len(files) - 1} PNG files beside it")
    problems = [problem for section in sections for problem in section.problems]
    for problem in problems:
        print(f"mlkd report: {problem}", file=sys.stderr)
    return 1 if problems else 0
