"""Reading of small input files: settings in TOML, calibrations in JSON."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from forcedelta.errors import ForceDeltaError

LARGEST = 10_000_000
"""Bytes; files of settings have a few thousand."""


def check_regular(path: str | Path, give: str) -> None:
    """Refuse pipes and devices, whose reading could hang.

    Folders pass: some trajectories are folders, and the readers refuse the others.

    Args:
        path: as the user gave it.
        give: the advice at the end of the error message.

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
    """The text of a small file, without the byte-order mark of some editors.

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
        ForceDeltaError: it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(read_text(path, give))
    except tomllib.TOMLDecodeError as error:
        raise ForceDeltaError(f"{path} is not valid TOML: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ForceDeltaError(f"{path} is not valid TOML: {_reason(error)}") from error


def read_json(path: str | Path, give: str) -> Any:
    """The content of a JSON file.

    Raises:
        ForceDeltaError: it cannot be read or is not JSON, which excludes NaN and Infinity.
    """
    try:
        return json.loads(read_text(path, give), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ForceDeltaError(f"{path} is not JSON ({_reason(error)}): {give}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _reason(error: Exception) -> str:
    """The error of a parser, with Python's internal limits put in a user's terms."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "a whole number with thousands of digits" if "digits" in str(error) else str(error)
