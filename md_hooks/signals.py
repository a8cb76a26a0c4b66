"""Ctrl-C and SIGTERM end a run after a complete step; waiting for futures that signals can end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
NOTICE_SECONDS = 0.5


@contextmanager
def end_after_the_step(interrupt: Callable[[str], None]) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a request; a second one raises KeyboardInterrupt.

    Outside the main thread, where Python allows no signal handlers, this does nothing.

    Args:
        interrupt: called with the reason; the run ends after the current step.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        interrupt(f"received {signal.Signals(number).name}")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def first_completed(futures: Collection[Future[T]]) -> set[Future[T]]:
    """Wait until one or more futures have completed, and return these.

    It waits in short intervals: Python handles a signal that arrives just as a wait begins only
    when that wait ends, which may be hours later.
    """
    done: set[Future[T]] = set()
    while futures and not done:
        done = wait(futures, timeout=NOTICE_SECONDS, return_when=FIRST_COMPLETED).done
    return done


def completed(futures: Collection[Future[T]]) -> Iterator[Future[T]]:
    """Futures as they complete; signals are handled meanwhile."""
    waiting = set(futures)
    while waiting:
        done = first_completed(waiting)
        waiting -= done
        yield from done
