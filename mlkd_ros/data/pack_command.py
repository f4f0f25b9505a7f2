# SPDX-License-Identifier: Apache-2.0
"""``mlkd pack`` and ``mlkd unpack``: training windows in one file of a given size, and back."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlkd_ros.files import unused


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``pack`` and ``unpack`` to the ``mlkd`` command."""
    pack = subparsers.add_parser("pack", help="training windows in one file, for another machine")
    pack.add_argument("cache", type=Path, help="folder of the pair cache (`mlkd train --cache`)")
    pack.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    pack.add_argument(
        "--limit", type=float, default=40.0, metavar="MB",
        help="largest size; windows are left out evenly (default: 40)",
    )  # fmt: skip
    pack.add_argument("--side", type=int, default=256, help="of the windows, px (default: 256)")
    pack.add_argument("--quality", type=int, default=80, help="of JPEG (default: 80)")
    pack.add_argument("--force", action="store_true", help="overwrite files that exist")
    pack.set_defaults(run_command=run_pack)
    unpack = subparsers.add_parser("unpack", help="the pair cache of a packed file")
    unpack.add_argument("file", type=Path, help="written by `mlkd pack`")
    unpack.add_argument("cache", type=Path, help="folder to make, for `mlkd train --cache`")
    unpack.set_defaults(run_command=run_unpack)


def run_pack(arguments: argparse.Namespace) -> int:
    """Run ``mlkd pack``."""
    from .cache import PairCache
    from .packed import pack_cache

    unused(arguments.output, arguments.force)
    cache = PairCache.open(arguments.cache)
    limit = round(arguments.limit * 1e6)
    count = pack_cache(cache, arguments.output, limit, arguments.side, arguments.quality)
    size = arguments.output.stat().st_size / 1e6
    print(f"wrote {arguments.output}: {count} of {len(cache)} windows, {size:.1f} MB")
    return 0


def run_unpack(arguments: argparse.Namespace) -> int:
    """Run ``mlkd unpack``."""
    from .packed import unpack_cache

    print(f"{arguments.cache}: {len(unpack_cache(arguments.file, arguments.cache))} windows")
    return 0
