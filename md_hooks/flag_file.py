"""The file behind a FlagStore: whole frames only, and nothing in it is ever lost to a repair.

Extended XYZ has no checksum and no end mark. What tells a flag store from any other file is that
it consists of frames, one after the other, each with the header that `FlagStore` writes. Anything
else in it is refused by its line: a reader would stop there, and what follows would not be found.
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
    """Where a frame lies in the file, in bytes, and its second line."""

    start: int
    end: int
    comment: bytes

    def header(self) -> dict[str, Any]:
        """What its second line says."""
        return _header(self.comment)


@lru_cache(maxsize=1)
def _header(comment: bytes) -> dict[str, Any]:
    try:
        return header_values(comment)
    except ValueError:  # of somebody's own making: then it is no frame of a run that we know
        return {}


class _CutOffError(Exception):
    """The last frame is not complete, but it is one of ours."""

    def __init__(self, start: int) -> None:
        self.start = start


class FlagFile:
    """A file of flagged frames, which several processes may append to.

    Args:
        path: of a file, there or not.

    Raises:
        HookError: (all methods) it cannot be used, or is no flag store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        """Device, inode and length of the file when it was last seen to be whole frames."""

    def check(self) -> None:
        """Whether flagged frames can be appended; changes nothing."""
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
        """Drop a last frame of ours that a kill or a full disk left half written."""
        if not self._exists():
            return
        with self._locked("r+b") as file:
            try:
                for _ in self._scan(file):
                    pass
            except _CutOffError as cut:
                file.truncate(cut.start)

    def drop(self, unwanted: Callable[[StoredFlag], bool]) -> None:
        """Take frames out, where there are such."""
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
        """Add a frame: all of it, or nothing."""
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
        """Where the next frame goes: behind the last whole one.

        Another run that was killed in the middle of a frame may have left the beginning of it.

        Raises:
            HookError: another program has written something else.
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
                    self.check()  # from the start, for the number of the line
                    raise
        except _CutOffError as cut:
            return cut.start
        return found.st_size

    # --- the file ------------------------------------------------------------------------------

    def _exists(self) -> bool:
        linked = Path(os.path.realpath(self.path)).parent  # of what a link leads to
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
                f"{self.path} cannot be written: it is no regular file, give another for flagged frames"
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
        """Each complete frame from a place where one begins; lines are counted from there.

        Raises:
            HookError: there is something else.
            _CutOffError: after the last complete one there is the beginning of one of ours.
        """
        number = 1
        file.seek(start)
        while head := file.readline(_LONGEST_COUNT):
            comment = b""
            if not (head.strip().isdigit() and int(head)) or len(head) == _LONGEST_COUNT:
                raise self._no_store(number, "there should be a number of atoms")
            if head.endswith(b"\n"):
                comment = file.readline(_LONGEST_LINE)
            if not comment.endswith(b"\n"):
                if start and len(comment) < _LONGEST_LINE and _may_begin_a_header(comment):
                    raise _CutOffError(start)
                raise self._no_store(number + 1, "there should be the header of a flagged frame")
            if not _is_flagged(comment):
                raise self._no_store(number + 1, "this is not the header of a flagged frame")
            n_atoms = int(head)
            for atom in range(n_atoms):
                line = file.readline(_LONGEST_LINE)
                if (line and not line[:1].isalpha()) or len(line) == _LONGEST_LINE:
                    raise self._no_store(number + 2 + atom, "there should be an atom")
                if not line.endswith(b"\n"):
                    raise _CutOffError(start)
            number += 2 + n_atoms
            end = file.tell()
            yield StoredFlag(start, end, comment)
            start = end

    def _no_store(self, line: int, what: str) -> HookError:
        return HookError(
            f"{self.path} is no file of flagged frames (line {line}: {what}): choose another file, or put "
            "that line right; nothing was changed"
        )


def _is_flagged(comment: bytes) -> bool:
    """Whether this is a header of ours; a labelled frame has a reference's forces too."""
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
            raise OSError(errno.EIO, "it became shorter while it was read")
        target.write(block)
        left -= len(block)
