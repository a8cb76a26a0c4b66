"""Small files of users, read whole: settings in TOML, calibrations in JSON, structures."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from forcedelta.errors import ForceDeltaError

LARGEST = 10_000_000
"""Bytes; a file of settings has thousands."""


def check_regular(path: str | Path, give: str) -> None:
    """Whether a path is a file with an end, so that reading it cannot hang.

    A folder passes: some trajectories are folders, and readers say what is wrong with others.

    Args:
        path: as the user gave it.
        give: what to give instead, for the error.

    Raises:
        ForceDeltaError: it is missing, or a pipe, a device or a socket.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ForceDeltaError(f"{path} cannot be read ({reason}): {give}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "pipe" if stat.S_ISFIFO(mode) else "device or socket"
        raise ForceDeltaError(f"{path} is a {kind}, not a file: {give}")


def read_text(path: str | Path, give: str) -> str:
    """The text of a small file, without the byte-order mark that some editors put before it.

    Raises:
        ForceDeltaError: it cannot be read, is too large, or is not UTF-8.
    """
    check_regular(path, give)
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise ForceDeltaError(f"{path} cannot be read ({error.strerror}): {give}") from error
    if len(content) > LARGEST:
        raise ForceDeltaError(f"{path} has more than {LARGEST // 10**6} MB: {give}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ForceDeltaError(f"{path} is not UTF-8 text ({error.reason}): {give}") from error


def read_toml(path: str | Path, give: str) -> dict[str, Any]:
    """The table of a TOML file.

    Raises:
        ForceDeltaError: it cannot be read, or is not valid TOML.
    """
    try:
        return tomllib.loads(read_text(path, give))
    except tomllib.TOMLDecodeError as error:
        raise ForceDeltaError(f"{path} is not valid TOML: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ForceDeltaError(f"{path} is not valid TOML: {_reason(error)}") from error


def read_json(path: str | Path, give: str) -> Any:
    """What a JSON file holds.

    Raises:
        ForceDeltaError: it cannot be read, or is not valid JSON; NaN and Infinity are invalid.
    """
    try:
        return json.loads(read_text(path, give), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ForceDeltaError(f"{path} is not valid JSON ({_reason(error)}): {give}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _reason(error: Exception) -> str:
    """Python's words for the two limits of its parsers are about Python."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "a whole number with thousands of digits" if "digits" in str(error) else str(error)
