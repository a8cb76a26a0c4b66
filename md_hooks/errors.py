"""Errors that hooks raise for the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run_info import RunResult


class HookError(Exception):
    """An error that the user can fix; the message is one sentence that names the fix."""


class RunStoppedError(HookError):
    """A hook or a signal ended a run, or a run was continued after a hook had stopped it.

    Args:
        message: one readable line.
        result: how the run ended; None if that is not known yet.

    Attributes:
        result: as given.
    """

    def __init__(self, message: str, result: RunResult | None = None) -> None:
        super().__init__(message)
        self.result = result
