"""What all text formats share: lines of a frame, and where a file is cut off."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ase.io.formats import get_compression

from forcedelta.errors import ForceDeltaError

DAMAGED = (EOFError, zlib.error, lzma.LZMAError)
"""Errors of a compressed file that is cut off or damaged."""

_OPENERS: dict[str | None, Any] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open, None: open}


def open_text(path: Path) -> IO[bytes]:
    """The decompressed bytes of a file."""
    return _OPENERS[get_compression(str(path))[1]](path, "rb")


def next_lines(file: IO[Any], count: int) -> Iterator[bytes]:
    """The next ``count`` lines; if the file ends earlier, the last one is empty."""
    for _ in range(count):
        line = file.readline()
        yield line
        if not line:
            return


def check_complete(lines: list[bytes], count: int, what: str = "atoms") -> None:
    """Check that the lines of all atoms are there and the last one has its line break or full width.

    Args:
        lines: of atoms.
        count: the number announced in the file.
        what: the lines are.

    Raises:
        ForceDeltaError: the file ends before.
    """
    found = len(lines) - (bool(lines) and not lines[-1])
    if found < count:
        raise ForceDeltaError(
            f"the file is cut off in the middle of this frame, which has {found} of {count} {what}"
        )
    if lines and not lines[-1].endswith(b"\n") and not full_width(lines):
        raise ForceDeltaError("the file is cut off in the middle of the last line of this frame")


def full_width(lines: list[bytes]) -> bool:
    """Whether the last line, which lacks a line break, is as long as those of the other atoms.

    A truncated number is still a number; a file typed by hand may merely lack the last line break.
    """
    others = {len(line.rstrip()) for line in lines[:-1]}
    return not others or len(lines[-1].rstrip()) >= min(others)
