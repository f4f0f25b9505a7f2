# SPDX-License-Identifier: Apache-2.0
"""``mlkd repair``: make a recording readable that was cut off, by a crash or the battery.

An MCAP file is written front to back, in chunks of about a megabyte, and what readers look for is
put at its end. A recording that was cut off lacks that end; all but its last chunk is there.
"""

from __future__ import annotations

import argparse
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from mlkd_ros.data.sequences import DatasetError

_MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _CHUNK, _DATA_END = 0x02, 0x06, 0x0F
#: Operation, length of what follows.
_HEAD = struct.Struct("<BQ")
#: End of data without a checksum; a footer that says "no summary": readers scan the file then.
_END = (
    _HEAD.pack(_DATA_END, 4) + struct.pack("<I", 0) + _HEAD.pack(_FOOTER, 20) + bytes(20) + _MAGIC
)


def add_parser(subparsers: Any) -> None:
    """Add the ``repair`` command."""
    parser = subparsers.add_parser(
        "repair",
        help="make a recording readable that was cut off",
        description="Completes an MCAP recording that was cut off before its end was written. What "
        "is broken off at the end is removed, everything before stays as it is. A complete "
        "recording is left alone.",
    )
    parser.add_argument("bag", type=Path, help="folder of the bag, or its .mcap file")
    parser.set_defaults(run_command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    file = _file_of(arguments.bag)
    removed = repair(file)
    if removed is None:
        print(f"{file} is complete")
    else:
        print(f"{file} is readable again; {removed} bytes were broken off at its end")
        if not (file.parent / "metadata.yaml").exists():
            print(
                f"its folder has no metadata.yaml: name the file itself, or `ros2 bag reindex "
                f"{file.parent} -s mcap`"
            )
    return 0


def repair(file: Path) -> int | None:
    """Complete an MCAP file in place. The bytes removed from its end; None if it was complete.

    Raises:
        DatasetError: It is not an MCAP file, or holds no whole chunk.
        OSError: It cannot be read or written.
    """
    with open(file, "r+b") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise DatasetError(f"{file}: not an MCAP file")
        size = os.fstat(stream.fileno()).st_size
        end, chunks, complete = _scan(stream, size)
        if complete:
            return None
        if not chunks:
            raise DatasetError(f"{file}: cut off before the first megabyte: nothing to rescue")
        stream.seek(end)
        stream.truncate()
        stream.write(_END)
        return size - end


def _scan(stream: BinaryIO, size: int) -> tuple[int, int, bool]:
    """Where the last whole record of the data ends, how many chunks there are, and whether the
    file has its end.
    """
    end, chunks = stream.tell(), 0
    while len(head := stream.read(_HEAD.size)) == _HEAD.size:
        operation, length = _HEAD.unpack(head)
        following = stream.tell() + length
        if operation == 0 or following > size:
            break
        if operation in (_DATA_END, _FOOTER):
            stream.seek(size - len(_MAGIC))
            return end, chunks, stream.read() == _MAGIC
        chunks += operation == _CHUNK
        stream.seek(following)
        end = following
    return end, chunks, False


def _file_of(bag: Path) -> Path:
    files = sorted(bag.glob("*.mcap")) if bag.is_dir() else [bag]
    if len(files) != 1:
        raise DatasetError(f"{bag}: holds {len(files)} .mcap files; name one")
    return files[0]
