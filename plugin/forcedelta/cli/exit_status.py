"""Exit statuses, shared by all commands."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """What a command's exit status means; the docstrings of its values appear in ``--help``."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitStatus:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    DONE = 0, "done"
    BUG = 1, "a bug: an unforeseen error, with its traceback"
    BAD_INPUT = 2, "invalid input; one line on stderr explains the correction"
    STOPPED = 3, "stopped by the guard, or an audit or screen found frames at which it would stop"
    NOT_USABLE = 4, "check found a model that is not usable"
    UNLABELLED = (
        5,
        "recalc: some frames are not labelled, because their calculation failed or awaits VASP",
    )
    INTERRUPTED = 130, "interrupted by Ctrl-C or SIGTERM; the output can be continued"


def described(*statuses: ExitStatus) -> str:
    """Exit statuses in one sentence, for the end of a help text; all of them by default."""
    chosen = statuses or tuple(ExitStatus)
    return "Exit status: " + "; ".join(f"{status:d} {status.meaning}" for status in chosen) + "."
