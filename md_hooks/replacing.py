"""Files that appear completely or not at all: written beside the target, then renamed over it.

A process that is killed while it writes leaves the old file, and a full disk leaves nothing new.
What is renamed over a file would drop a link, a mode and an owner, and what is written to a name
that anybody can guess would follow a link that lies there; so neither happens here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import HookError

_LONGEST = 200  # bytes of a name, so that the ending still fits into 255


@contextmanager
def replacing(
    path: str | Path, fix: str = "choose another file", error: type[Exception] = HookError
) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` once the block has ended without an error.

    It lies in the same folder under a name of its own, has the mode and, as far as allowed, the
    owner of the file that it replaces, and is on disk before it is moved. Where ``path`` is a link,
    the file that it points to is replaced.

    Args:
        path: a regular file, or a name that is free in a folder that exists.
        fix: the end of the message of an error: what the user can do.
        error: its class.

    Raises:
        HookError: (or ``error``) the file cannot be written; nothing was changed then, and nothing
            is left behind.
    """
    try:
        target = _target(path)
        file, beside = _create(target)
    except OSError as problem:
        raise error(_message(path, problem, fix)) from problem
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException as problem:
        with contextlib.suppress(OSError):
            beside.unlink()
        if isinstance(problem, OSError):
            raise error(_message(path, problem, fix)) from problem
        raise
    _sync_folder(target.parent)


def replace_file(
    path: str | Path,
    data: bytes | memoryview,
    fix: str = "choose another file",
    error: type[Exception] = HookError,
) -> None:
    """Write a whole file; see `replacing`."""
    with replacing(path, fix, error) as file:
        file.write(data)


def replace_files(
    files: Iterable[tuple[str | Path, bytes, str]],
    error: type[Exception] = HookError,
) -> None:
    """Write whole files that belong together: all of them, or none where one does not fit.

    Args:
        files: each with its path, content, and what the user can do where it cannot be written.
        error: see `replacing`.
    """
    with contextlib.ExitStack() as stack:
        for path, data, fix in files:
            file = stack.enter_context(replacing(path, fix, error))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # on leaving nothing is left to fail but the moves


def _target(path: str | Path) -> Path:
    """The file behind all links; one that may be replaced, or a free name."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no folder {target.parent}")
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "it is read-only")
    return target


def _create(target: Path) -> tuple[BinaryIO, Path]:
    """A new file beside the target, under a name that nobody can have prepared."""
    name = os.fsdecode(os.fsencode(target.name)[:_LONGEST])
    beside = target.with_name(f"{name}.{secrets.token_hex(8)}.part")
    # 0o666: less the umask, as for any new file
    handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _like(target, handle)
        return os.fdopen(handle, "wb"), beside
    except BaseException:
        os.close(handle)
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _like(target: Path, handle: int) -> None:
    """Give a new file owner and mode of the one that it will replace."""
    try:
        there = target.stat()
    except FileNotFoundError:
        return
    mine = os.fstat(handle)
    if (there.st_uid, there.st_gid) != (mine.st_uid, mine.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(handle, there.st_uid, there.st_gid)
    os.fchmod(handle, stat.S_IMODE(there.st_mode))


def _sync_folder(folder: Path) -> None:
    """The new name on disk too; file systems that cannot do it have their own ways."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _message(path: str | Path, problem: OSError, fix: str) -> str:
    return f"{path} cannot be written ({problem.strerror or problem}): {fix}"
