# SPDX-License-Identifier: Apache-2.0
"""Executable `mavlink`: says what is missing where MAVLink's library is not installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run the executable. Returns the exit code: 2 without pymavlink."""
    try:
        from mlkd_ros.mavlink import node
    except ImportError as error:
        print(f"mavlink: {error}", file=sys.stderr)
        return 2
    return node.main(args)


if __name__ == "__main__":
    sys.exit(main())
