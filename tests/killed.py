"""Kills a piece of work at each of its file operations, one after the other.

For scripts that tests run in a process of their own: the work runs in a fork of it, so that what
takes long to import is imported once.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator

_CHANGES = {
    "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod",
}  # fmt: skip


def at_each_operation(work: Callable[[], object], most: int = 200) -> Iterator[int]:
    """Run the work again and again, killed before its first, second, ... operation that changes files.

    Yields:
        the number of the operation, after each kill and before the next attempt. The last attempt
        is not killed, and nothing is yielded after it.
    """
    for number in range(most):
        if _fork(work, lambda number=number: _kill_at(number)):
            return
        yield number
    raise AssertionError(f"more than {most} operations: is there no end?")


def at_sizes(work: Callable[[], object], sizes: list[int]) -> Iterator[int]:
    """Run the work again and again, killed when a file that it writes grows beyond a size in bytes."""
    for size in sizes:
        _fork(work, lambda size=size: _kill_beyond(size))
        yield size


def _fork(work: Callable[[], object], prepare: Callable[[], None]) -> bool:
    """Whether the work came to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            prepare()
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status):
        raise AssertionError("the work failed by itself")
    return True


def _kill_at(number: int) -> None:
    left = [number]
    fsync = os.fsync

    def count() -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    def watch(event: str, details: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(details[2], int) and details[2] & (
            os.O_WRONLY | os.O_RDWR
        )  # fmt: skip
        if writes or event in _CHANGES:
            count()

    def counted(handle: int) -> None:
        count()
        fsync(handle)

    os.fsync = counted  # it is no audit event
    sys.addaudithook(watch)


def _kill_beyond(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
