"""The file behind a FlagStore: complete frames only, and a repair never loses one.

Extended XYZ has no checksum and no end marker. A flag store is recognised by its frames, one after
the other, each with the header that `FlagStore` writes. Any other content is refused with its line
number: a reader would stop there and miss the frames that follow.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, BinaryIO

from .errors import HookError
from .extxyz import header_values
from .replacing import replacing

_LONGEST_COUNT = 24
_LONGEST_LINE = 1 << 20  # bytes; a file without line breaks is not read into memory
_BLOCK = 1 << 20
_OPENING = (b"Lattice=", b"Properties=")


@dataclass(frozen=True)
class StoredFlag:
    """Byte range of a frame in the file, and its second line."""

    start: int
    end: int
    comment: bytes

    def header(self) -> dict[str, Any]:
        """The fields of its second line."""
        return _header(self.comment)


@lru_cache(maxsize=1)
def _header(comment: bytes) -> dict[str, Any]:
    try:
        return header_values(comment)
    except ValueError:  # not written by a FlagStore, so not a frame of a known run
        return {}


class _CutOffError(Exception):
    """The last frame is incomplete, but was written by a FlagStore."""

    def __init__(self, start: int) -> None:
        self.start = start


class FlagFile:
    """A file of flagged frames, which several processes may append to.

    Args:
        path: the file, which need not exist.

    Raises:
        HookError: (all methods) the file cannot be used, or is not a flag store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        """Device, inode and length of the file when it was last known to hold complete frames."""

    def check(self) -> None:
        """Refuse a file to which flagged frames cannot be appended; changes nothing."""
        for _ in self.frames():
            pass

    def frames(self) -> Iterator[StoredFlag]:
        """The complete frames."""
        if not self._exists():
            return
        try:
            with open(self.path, "r+b") as file:
                yield from self._scan(file)
        except _CutOffError:
            return
        except OSError as error:
            raise self._cannot(error) from error

    def repair(self) -> None:
        """Drop a last frame that a kill or a full disk left incomplete."""
        if not self._exists():
            return
        with self._locked("r+b") as file:
            try:
                for _ in self._scan(file):
                    pass
            except _CutOffError as cut:
                file.truncate(cut.start)

    def drop(self, unwanted: Callable[[StoredFlag], bool]) -> None:
        """Remove the unwanted frames, if any."""
        if not self._exists():
            return
        with self._locked("r+b") as file:
            kept: list[tuple[int, int]] = []
            end = 0
            with contextlib.suppress(_CutOffError):
                for stored in self._scan(file):
                    end = stored.end
                    if not unwanted(stored):
                        kept.append((stored.start, stored.end))
            if sum(stop - start for start, stop in kept) == end:
                return
            with replacing(self.path) as copy:
                for start, stop in kept:
                    _copy(file, copy, start, stop)

    def append(self, text: bytes) -> None:
        """Append a frame, as a whole or not at all."""
        with self._locked("a+b") as file:
            end = self._end_of_frames(file)
            left = memoryview(text)
            try:
                if os.fstat(file.fileno()).st_size > end:
                    os.ftruncate(file.fileno(), end)
                while left:
                    left = left[file.write(left) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), end)
                raise
            found = os.fstat(file.fileno())
            self._seen = (found.st_dev, found.st_ino, found.st_size)

    def _end_of_frames(self, file: BinaryIO) -> int:
        """Offset of the next frame, after the last complete one.

        Another run, killed while it wrote a frame, may have left the beginning of that frame.

        Raises:
            HookError: another program has written to the file.
        """
        found = os.fstat(file.fileno())
        begin = 0
        if self._seen is not None and self._seen[:2] == (found.st_dev, found.st_ino):
            begin = self._seen[2] if self._seen[2] <= found.st_size else 0
        if begin == found.st_size:
            return begin
        try:
            with open(self.path, "rb") as reader:
                try:
                    for _ in self._scan(reader, begin):
                        pass
                except HookError:
                    self.check()  # from the start, for the line number
                    raise
        except _CutOffError as cut:
            return cut.start
        return found.st_size

    # --- the file ------------------------------------------------------------------------------

    def _exists(self) -> bool:
        linked = Path(os.path.realpath(self.path)).parent  # of the target of a link
        folder = linked if os.path.islink(self.path) else self.path.parent
        if not folder.is_dir():
            raise HookError(f"{self.path} cannot be written: make the folder {folder} first")
        try:
            mode = os.stat(self.path).st_mode
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._cannot(error) from error
        if not stat.S_ISREG(mode):
            raise HookError(
                f"{self.path} cannot be written: it is not a regular file; pass another file for flagged frames"
            )
        return True

    @contextmanager
    def _locked(self, mode: str) -> Iterator[BinaryIO]:
        """The file, while no other run changes it."""
        try:
            while True:
                with open(self.path, mode, buffering=0 if mode == "a+b" else -1) as file:
                    with contextlib.suppress(OSError):  # where the file system has no locks
                        fcntl.flock(file, fcntl.LOCK_EX)
                    if _is_still(self.path, file):
                        yield file  # type: ignore[misc]
                        return
        except OSError as error:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> HookError:
        cure = "free some space or choose another file"
        if isinstance(error, FileNotFoundError):  # removed while a run wrote to it
            cure = f"make the folder {self.path.parent} again, or choose another file"
        return HookError(f"{self.path} cannot be written to ({error.strerror or error}): {cure}")

    # --- its frames ----------------------------------------------------------------------------

    def _scan(self, file: BinaryIO, start: int = 0) -> Iterator[StoredFlag]:
        """Each complete frame from the offset of a frame on; lines are counted from there.

        Raises:
            HookError: the file has other content.
            _CutOffError: the last frame, written by a FlagStore, is incomplete.
        """
        number = 1
        file.seek(start)
        while head := file.readline(_LONGEST_COUNT):
            comment = b""
            if not (head.strip().isdigit() and int(head)) or len(head) == _LONGEST_COUNT:
                raise self._no_store(number, "expected a number of atoms")
            if head.endswith(b"\n"):
                comment = file.readline(_LONGEST_LINE)
            if not comment.endswith(b"\n"):
                if start and len(comment) < _LONGEST_LINE and _may_begin_a_header(comment):
                    raise _CutOffError(start)
                raise self._no_store(number + 1, "expected the header of a flagged frame")
            if not _is_flagged(comment):
                raise self._no_store(number + 1, "not the header of a flagged frame")
            n_atoms = int(head)
            for atom in range(n_atoms):
                line = file.readline(_LONGEST_LINE)
                if (line and not line[:1].isalpha()) or len(line) == _LONGEST_LINE:
                    raise self._no_store(number + 2 + atom, "expected an atom")
                if not line.endswith(b"\n"):
                    raise _CutOffError(start)
            number += 2 + n_atoms
            end = file.tell()
            yield StoredFlag(start, end, comment)
            start = end

    def _no_store(self, line: int, what: str) -> HookError:
        return HookError(
            f"{self.path} is not a file of flagged frames (line {line}: {what}): choose another file, "
            "or correct that line; nothing was changed"
        )


def _is_flagged(comment: bytes) -> bool:
    """Whether a FlagStore wrote this header; a labelled frame also has the forces of a reference."""
    return (
        b"Properties=" in comment and b"model_energy=" in comment and b":forces:R:3" not in comment
    )


def _may_begin_a_header(comment: bytes) -> bool:
    return any(name.startswith(comment[: len(name)]) for name in _OPENING)


def _is_still(path: Path, file: IO[bytes]) -> bool:
    """Whether the path leads to the open file; another run may have replaced it."""
    here = os.fstat(file.fileno())
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _copy(source: BinaryIO, target: BinaryIO, start: int, stop: int) -> None:
    source.seek(start)
    left = stop - start
    while left:
        block = source.read(min(left, _BLOCK))
        if not block:
            raise OSError(errno.EIO, "the file was truncated while it was read")
        target.write(block)
        left -= len(block)
