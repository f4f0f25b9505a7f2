# SPDX-License-Identifier: Apache-2.0
"""``mlkd``: everything that is not a node. Each command is a module with ``add_parser``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

#: Modules that add a command. They import what is heavy only when they run.
COMMANDS = (
    "mlkd_ros.track_command",
    "mlkd_ros.station.operator_commands",
    "mlkd_ros.station.command",
    "mlkd_ros.data.repair_command",
    "mlkd_ros.data.pack_command",
    "mlkd_ros.evaluation.command",
    "mlkd_ros.evaluation.score_command",
    "mlkd_ros.evaluation.report_command",
    "mlkd_ros.distillation.train_command",
    "mlkd_ros.distillation.average_command",
    "mlkd_ros.distillation.select_command",
    "mlkd_ros.distillation.export_command",
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="mlkd", description="Night-time UAV tracking: track, fly, evaluate, train."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(name).add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors that a user can mend are printed without a traceback, with exit code
    2.
    """
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.run_command(arguments) or 0)
    except (ValueError, OSError, ImportError) as error:
        print(f"mlkd {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
