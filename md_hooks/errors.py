"""The error that every hook raises for its user."""


class HookError(Exception):
    """Something a user can put right: one readable sentence that names the fix."""


class RunStoppedError(HookError):
    """A dynamics was driven on after a hook had stopped it."""
