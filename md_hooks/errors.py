"""Errors that hooks raise for the user."""


class HookError(Exception):
    """An error that the user can fix; the message is one sentence that names the fix."""


class RunStoppedError(HookError):
    """A run was continued after a hook had stopped it."""
