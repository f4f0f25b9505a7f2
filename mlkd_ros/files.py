# SPDX-License-Identifier: Apache-2.0
"""Files by name: given to C++ libraries, written in one step, never overwritten unasked.

Imports nothing of this package.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

__all__ = ["FileNameError", "library_name", "naming", "printable", "replacing", "unused"]


class FileNameError(ValueError):
    """A file name that cannot be used; the message shows it and says why."""


def printable(path: str | Path) -> str:
    """A name as it can be printed anywhere: what is not UTF-8 in it stands as ``\\xNN``."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def library_name(path: str | Path) -> str:
    """The name of a file for a C++ library: absolute, so that nothing in it is an option, a
    protocol or a pattern.

    Raises:
        FileNameError: The name is not UTF-8 (such libraries crash on it), or has a NUL in it.
    """
    name = os.path.abspath(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise FileNameError(
            f"{printable(path)}: the name is not UTF-8 text: rename the file or its folder"
        ) from None
    if "\0" in name:
        raise FileNameError(f"{name!r}: a file name has no NUL character")
    return name


def unused(path: Path, force: bool, *, makes_folder: bool = False) -> Path:
    """``path`` if it may be written: nothing is there, or ``force`` was said.

    Raises:
        FileExistsError: There is a file, and nobody said that it may go.
        IsADirectoryError: It is a folder.
        FileNotFoundError: The folder to write into is not there, and nobody makes it.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{printable(path)} is a folder, not a file to write")
    if path.exists() and not force:
        raise FileExistsError(f"{printable(path)} exists already: --force overwrites it")
    if not makes_folder and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{printable(path)}: its folder does not exist")
    return path


@contextlib.contextmanager
def replacing(
    path: Path, mode: str = "wb", *, sync: bool = True, private: bool = False
) -> Iterator[IO[Any]]:
    """Open a file beside ``path`` that takes its place when the block ends well.

    A reader sees the old content or all of the new one, with ``sync`` also after a power cut. After
    an error the old content is still there, and nothing beside it. ``private``: readable by nobody
    else, whatever the umask says.

    Raises:
        OSError: It cannot be written; the message names ``path``.
    """
    encoding = None if "b" in mode else "utf-8"
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _named(error, path) from error
    try:
        with os.fdopen(handle, mode, encoding=encoding) as file:
            if not private:  # mkstemp's are; this is as a file opened by that name would have it
                os.chmod(temporary, 0o666 & ~_umask())
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise _named(error, path) from error
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an OSError of the block, in which ``path`` is written, name it."""
    try:
        yield
    except OSError as error:
        raise _named(error, path) from error


def _named(error: OSError, path: Path) -> OSError:
    reason = error.strerror or str(error)
    return OSError(error.errno, f"{printable(path)}: cannot be written: {reason}")


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
