# SPDX-License-Identifier: Apache-2.0
"""``mlkd score``: latency-aware scores of what a tracker published in a recorded flight."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mlkd_ros.files import printable, replacing, unused


def add_parser(subparsers: Any) -> None:
    """Add the ``score`` command."""
    parser = subparsers.add_parser(
        "score",
        help="latency-aware scores of a bag with detections and ground truth",
        description="At the stamp of every image in the bag, score the newest detection that had "
        "been published by then, and beside it each image's own detection (offline); also latency, "
        "drops, losses and false boxes while the target is absent. Topics are found by type and "
        "name (image, detections, ground_truth, status) unless they are given.",
    )
    parser.add_argument("bag", type=Path, help="rosbag2 bag: folder, .mcap or .db3")
    parser.add_argument("--image", metavar="TOPIC", help="images")
    parser.add_argument("--detections", metavar="TOPIC", help="what the tracker published")
    parser.add_argument("--ground-truth", metavar="TOPIC", help="truth, for every image")
    parser.add_argument("--status", metavar="TOPIC", help="the tracker's status")
    parser.add_argument("--target", metavar="ID", help="id of the detection to score")
    parser.add_argument(
        "--published",
        default="auto",
        choices=("auto", "received", "status"),
        help="what tells when detections were published: when the recorder received them, or the "
        "latency in the status (default: the first where stamps and recorder share a clock)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    parser.set_defaults(run_command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; what the bag lacks is said on standard error."""
    from mlkd_ros.evaluation.streaming import score_bag

    if arguments.json is not None:
        unused(arguments.json, arguments.force)
    scores = score_bag(
        arguments.bag,
        image=arguments.image,
        detections=arguments.detections,
        ground_truth=arguments.ground_truth,
        status=arguments.status,
        target=arguments.target,
        published=arguments.published,
    )
    for note in scores.notes:
        print(f"mlkd score: {printable(arguments.bag)}: {note}", file=sys.stderr)
    print("\n".join(scores.lines()))
    if arguments.json is not None:
        with replacing(arguments.json, "w") as file:
            file.write(json.dumps(scores.as_json(), indent=1) + "\n")
    return 0
