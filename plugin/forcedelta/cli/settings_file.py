"""Settings file of ``forcedelta run --config``: TOML whose keys are the names of the flags."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import get_type_hints

from md_hooks.text import shortened

from ..errors import ForceDeltaError
from ..limits import check_type, check_value, setting
from ..reading_files import read_toml
from ..simulation.settings import RunSettings

_WORDS = ("stop_above", "flag_above", "patience", "every")
"""Settings given as text that the command line parses, such as "auto"."""


def load_toml(path: Path, known: Iterable[str]) -> dict[str, str]:
    """The settings in a file; ``-`` and ``_`` are equivalent in keys.

    Raises:
        ForceDeltaError: the file cannot be read, or has an unknown or duplicate key or a value of
            the wrong type.
    """
    found = read_toml(path, "give a TOML file of settings")
    names = {name.replace("-", "_") for name in known}
    types = get_type_hints(RunSettings) | dict.fromkeys(_WORDS, str | None) | {"json": bool}
    settings: dict[str, str] = {}
    for key, value in found.items():
        name = setting(key)
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), n=1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"valid keys are {', '.join(sorted(names))}"
            )
            raise ForceDeltaError(f"{path} has the unknown key {shortened(repr(key), 80)}: {hint}")
        if name in settings:
            raise ForceDeltaError(
                f"{path} has {name.replace('_', '-')} and {name}, which are the same key: give only one of them"
            )
        if isinstance(value, dict | list):
            raise ForceDeltaError(f"{path}: {key} must be one value, not a table or a list")
        check_type(name, value, types[name], f"{path}: {key}")
        check_value(name, value, f"{path}: {key}")
        settings[name] = str(value)  # parsed and checked like a flag
    return settings
