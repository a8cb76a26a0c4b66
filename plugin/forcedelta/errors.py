"""The error that users see."""


class ForceDeltaError(Exception):
    """What was wrong, where, and what to do about it, in one line for the user."""
