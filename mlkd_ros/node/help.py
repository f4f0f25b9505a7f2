# SPDX-License-Identifier: Apache-2.0
"""`--help` of the executables that take ROS parameters and nothing else."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence

from rclpy.utilities import remove_ros_args

__all__ = ["take_no_arguments"]

_WIDTH = 96


def take_no_arguments(
    name: str,
    description: str,
    parameters: Iterable[tuple[str, object, str]],
    args: Sequence[str] | None,
) -> None:
    """Answer `--help`, and refuse what is no ROS argument; ends the process for either.

    Args:
        name: Of the executable.
        description: What it does.
        parameters: Name, default and meaning of each.
        args: As given to `main`; None: those of the process.
    """
    given = list(sys.argv if args is None else [name, *args])
    parser = argparse.ArgumentParser(
        prog=name,
        description=description,
        usage=f"{name} [-h] [--ros-args -p NAME:=VALUE ... -r FROM:=TO ... --params-file FILE]",
        epilog="parameters, each with its default:\n" + "\n".join(map(_entry, parameters)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    try:
        others = remove_ros_args(given)[1:]
    except Exception:  # of rcl, which has no public name for it
        return  # `start_ros` says which one, and what would be right
    parser.parse_args(others)


def _entry(parameter: tuple[str, object, str]) -> str:
    name, default, meaning = parameter
    shown = str(default).lower() if isinstance(default, bool) else default
    head = f"  {name}:={shown}" if shown != "" else f"  {name}"
    return f"{head}\n{textwrap.indent(textwrap.fill(meaning, _WIDTH - 6), ' ' * 6)}"
