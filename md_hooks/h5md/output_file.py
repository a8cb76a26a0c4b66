"""The place of a file that is written for hours: locked, replaced as a whole, and watched.

A new file is begun beside its place, under a name of its own, and gets its name when it is
complete, so that whoever looks at the place sees the old file or the new one, whenever the process
is killed. What a killed process left beside it is removed by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Literal

from ..errors import HookError
from ..locking import LockHeldError, lock_to_write, warn_unlocked

_SUFFIX = ".part"
_NAME_BYTES = 100
"""So much of the name of a file is in the name of what is begun beside it; 255 is the most."""


class OutputFile:
    """A file that this process, and no other one, writes to.

    Args:
        path: where it is, or is to be; links are followed.
        mode: "create" a file that is not there yet, "append" to one, or "replace" one.

    Attributes:
        fd: the open file, for reading and writing.
        published: whether it is at its place; a new one gets there by `publish`.

    Raises:
        HookError: another process writes to the file, or it is none that can be written.
        FileExistsError: on "create", there is one.
    """

    def __init__(self, path: Path, mode: Literal["create", "append", "replace"]) -> None:
        self.path = path
        self._real = Path(os.path.realpath(path))
        self._old: int | None = None
        self._leftovers: list[tuple[int, Path]] = []
        self.published = mode == "append"
        if mode == "append":
            self.fd = _open_locked(path, self._real)
            self._name = self._real
            return
        if not self._real.parent.is_dir():
            raise HookError(
                f"{path} cannot be created: make the directory {self._real.parent} first"
            )
        if mode == "create" and os.path.lexists(self._real):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        permissions = None
        if mode == "replace":
            self._old = _open_locked(path, self._real)
            permissions = stat.S_IMODE(os.fstat(self._old).st_mode)
        try:
            self._leftovers = _lock_leftovers(self._real)
            self.fd, self._name, problem = _begin_beside(path, self._real)
            if mode == "create":
                warn_unlocked(path, problem)
            if permissions is not None:
                with contextlib.suppress(OSError):  # file systems without permissions
                    os.fchmod(self.fd, permissions)
        except BaseException:
            self._release()
            raise

    # --- what others left ----------------------------------------------------------------------

    @property
    def old(self) -> int | None:
        """The open file whose place is taken; None where there is none."""
        return self._old

    @property
    def leftovers(self) -> list[int]:
        """The open files that killed processes began beside this one."""
        return [fd for fd, _ in self._leftovers]

    def remove_leftovers(self) -> None:
        """Remove them, once the new file holds what it takes from them."""
        for _, name in self._leftovers:
            with contextlib.suppress(OSError):
                os.unlink(name)
        self._release_leftovers()

    def _release_leftovers(self) -> None:
        while self._leftovers:
            os.close(self._leftovers.pop()[0])

    # --- taking the place ----------------------------------------------------------------------

    def publish(self) -> None:
        """Put a new file at its place.

        Raises:
            HookError: another file has come to be there in the meantime; it is left alone.
            OSError: the file system failed.
        """
        os.fsync(self.fd)
        if self._old is None:
            self._take_free_place()
        else:
            there = _stat(self._real)
            if there is not None and not os.path.samestat(there, os.fstat(self._old)):
                raise HookError(
                    f"{self.path} was replaced by another program while the run that was to "
                    "overwrite it began; it is left as it is: choose another file"
                )
            os.replace(self._name, self._real)
        self._name = self._real
        self.published = True
        self._release()

    def _take_free_place(self) -> None:
        try:
            os.link(self._name, self._real)  # unlike a rename, it never replaces
        except FileExistsError:
            raise HookError(
                f"{self.path} is in use: another run created it just now; choose another file"
            ) from None
        except OSError:  # a file system without hard links
            if os.path.lexists(self._real):
                raise HookError(
                    f"{self.path} is in use: another run created it just now; choose another file"
                ) from None
            os.rename(self._name, self._real)
        else:
            os.unlink(self._name)
            self._open_by_its_name()

    def _open_by_its_name(self) -> None:
        """Let the system know the open file by its new name, not by the one that was removed."""
        again = os.open(self._real, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(again, self.fd, inheritable=False)
        os.close(again)
        _lock(self.fd, self.path, quiet=True)

    def discard(self) -> None:
        """Remove a new file that did not get to its place; close it."""
        if not self.published:
            with contextlib.suppress(OSError):
                os.unlink(self._name)
        self.close()

    def _release(self) -> None:
        self._release_leftovers()
        if self._old is not None:
            os.close(self._old)
            self._old = None

    def close(self) -> None:
        """Close the file, and let others write to it; harmless when closed already.

        Raises:
            OSError: a network file system reports only now that it could not write.
        """
        self._release()
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    # --- watching over it ----------------------------------------------------------------------

    def whereabouts(self) -> Literal["here", "moved", "replaced", "deleted"]:
        """Whether the open file is still the one that its name stands for."""
        own, there = os.fstat(self.fd), _stat(self._name)
        if there is not None and os.path.samestat(own, there):
            return "here"
        if own.st_nlink > 0 and not self._nameless():
            return "moved"
        return "deleted" if there is None else "replaced"

    def _nameless(self) -> bool:
        """Whether NFS keeps a deleted file under a name that ends with the last who has it open."""
        name = self.name_now()
        return name is not None and os.path.basename(name).startswith(".nfs")

    def name_now(self) -> str | None:
        """The name that another program gave to the open file, where the system tells."""
        try:
            name = os.readlink(f"/proc/self/fd/{self.fd}")
            return name if os.path.samestat(os.stat(name), os.fstat(self.fd)) else None
        except OSError:
            return None

    def save_copy(self, size: int) -> Path | None:
        """Save the first ``size`` bytes of a file that has no name any more, beside its place.

        Where its folder is gone, too, the copy goes into the folder above.

        Returns:
            The copy; None where it could not be made.
        """
        folder = next(parent for parent in self._real.parents if parent.is_dir())
        for number in range(100):
            extra = "" if number == 0 else f"-{number}"
            copy = folder / f"{self._real.stem}-saved{extra}{self._real.suffix}"
            try:
                out = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except FileExistsError:
                continue
            except OSError:
                return None
            try:
                with open(out, "wb") as file:
                    at = 0
                    while at < size and (part := os.pread(self.fd, min(1 << 20, size - at), at)):
                        at += file.write(part)
                return copy
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(copy)
                return None
        return None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _open_locked(path: Path, real: Path) -> int:
    """Open the file that is at a place now, and lock it."""
    while True:
        there = _stat(real)
        if there is not None and not stat.S_ISREG(there.st_mode):
            raise HookError(f"{path} is {kind_of(there)}, not a file: choose another file")
        try:
            fd = os.open(real, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise HookError(
                f"{path} cannot be opened for writing ({error.strerror}): choose another file"
            ) from error
        try:
            _lock(fd, path)
            now = _stat(real)
            if now is not None and os.path.samestat(now, os.fstat(fd)):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # it was replaced between opening and locking: look again


def _lock(fd: int, path: Path, quiet: bool = False) -> None:
    try:
        problem = lock_to_write(fd)
    except LockHeldError as error:
        raise HookError(
            f"{path} is in use: another run writes to it, or another program keeps it open for "
            "writing; wait for it, or choose another file"
        ) from error
    if not quiet:
        warn_unlocked(path, problem)


def _begin_beside(path: Path, real: Path) -> tuple[int, Path, OSError | None]:
    """A new, empty file in the same folder, its name, and why it could not be locked."""
    while True:
        name = real.with_name(f"{_prefix(real)}{secrets.token_hex(4)}{_SUFFIX}")
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(name, flags, 0o666)
        except FileExistsError:
            continue
        except OSError as error:
            raise HookError(
                f"{path} cannot be created ({error.strerror}): choose a file in a folder of yours"
            ) from error
        try:
            problem = lock_to_write(fd)
            if os.fstat(fd).st_nlink:
                return fd, name, problem
        except LockHeldError:
            pass  # another process took it for a leftover and removes it
        os.close(fd)


def _lock_leftovers(real: Path) -> list[tuple[int, Path]]:
    """What killed processes began beside this file: open and locked, with its name."""
    prefix = _prefix(real)
    found = []
    for name in os.listdir(real.parent):
        if not (name.startswith(prefix) and name.endswith(_SUFFIX)):
            continue
        if len(name) != len(prefix) + 8 + len(_SUFFIX):
            continue
        with contextlib.suppress(OSError):
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(real.parent / name, flags)
            if _is_left_over(fd):
                found.append((fd, real.parent / name))
            else:
                os.close(fd)
    return found


def _is_left_over(fd: int) -> bool:
    """Whether nobody writes to a file that was begun beside another; it is locked then."""
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and lock_to_write(fd) is None
    except LockHeldError:
        return False


def _prefix(real: Path) -> str:
    return f".{os.fsdecode(os.fsencode(real.name)[:_NAME_BYTES])}."


def kind_of(found: os.stat_result) -> str:
    """What stands at a place where a file was expected, in words."""
    kinds = (
        (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
    )  # fmt: skip
    return next((name for test, name in kinds if test(found.st_mode)), "a special file")
