# SPDX-License-Identifier: Apache-2.0
"""``mlkd``: everything that is not a node. Each command is a module with ``add_parser``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from mlkd_ros.interrupt import Ended, ended_at_once, ended_by_signals

__all__ = ["COMMANDS", "build_parser", "main"]

#: Modules that add a command. They import what is heavy only when they run.
COMMANDS = (
    "mlkd_ros.cli.track",
    "mlkd_ros.cli.fly",
    "mlkd_ros.station.command",
    "mlkd_ros.cli.repair",
    "mlkd_ros.cli.evaluate",
    "mlkd_ros.cli.score",
    "mlkd_ros.cli.report",
    "mlkd_ros.cli.train",
    "mlkd_ros.data.pack_command",
    "mlkd_ros.cli.average",
    "mlkd_ros.cli.select",
    "mlkd_ros.cli.fit",
    "mlkd_ros.cli.export",
)
#: What a shell reports of a program that wrote into a pipe which nobody reads any more.
_BROKEN_PIPE = 141


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
    """Run one command. Returns the exit code.

    2 for errors that a user can mend, which are printed without a traceback; 130 for Ctrl-C, 143
    and 129 for SIGTERM and SIGHUP, after what was written until then is whole; 141, in silence,
    when the reader of the output has gone.
    """
    with ended_at_once():
        parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        with ended_by_signals():
            code = int(arguments.run_command(arguments) or 0)
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # Python would flush once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (ValueError, OSError, ImportError) as error:
        print(f"mlkd {arguments.command}: {_printable(error)}", file=sys.stderr)
        return 2
    except Ended as ended:
        return ended.exit_code
    except KeyboardInterrupt:
        return 130


def _printable(error: Exception) -> str:
    """The error's text; names of files in it may be anything that the disk allows."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error)
    return text.encode("utf-8", "backslashreplace").decode()
