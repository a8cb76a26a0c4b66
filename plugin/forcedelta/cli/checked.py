"""Validation of all command-line options against `forcedelta.limits` before a command runs."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from typer.core import TyperCommand

from ..errors import ForceDeltaError
from ..limits import LIMITS, check_value, flag

_FREE = ("set_",)
"""Options that are not checked: KEY=VALUE settings of a calculator."""

_FILES = ("flags", "report", "plot")
"""Files to write, besides ``out``, which may be a folder in ``audit``."""


class CheckedCommand(TyperCommand):
    """A command that validates its options before it runs and lists their limits in its help."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for parameter in self.params:
            limits = LIMITS.get(str(parameter.name))
            text = getattr(parameter, "help", None)
            if limits is None or not text or not limits.unit:
                continue
            span = f"({limits.low:g} to {limits.high:g} {limits.unit})"
            if span not in text:
                parameter.help = f"{text} {span}"  # type: ignore[attr-defined]

    def invoke(self, ctx: Any) -> Any:
        """Validate the options, then run."""
        for parameter in self.params:
            name = str(parameter.name)
            if name in _FREE or name not in ctx.params:
                continue
            value = ctx.params[name]
            if isinstance(value, float):
                value = ctx.params[name] = value + 0.0  # no -0
            check_value(name, value, _label(ctx, parameter))
            if value is not None and (
                name in _FILES or (name == "out" and ctx.info_name != "audit")
            ):
                _check_output(os.fspath(value), _label(ctx, parameter), folder=name == "out")
        return super().invoke(ctx)


def _label(ctx: Any, parameter: Any) -> str:
    """The name by which the user gave it: a flag, an argument, or a key of the settings file."""
    name = str(parameter.name)
    source = ctx.get_parameter_source(name)
    if source is not None and source.name == "DEFAULT_MAP":
        return f"{ctx.params.get('config')}: {name}"
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or name.upper())
    return flag(name)


def _check_output(path: str, label: str, folder: bool) -> None:
    """Check that a file can be written.

    Raises:
        ForceDeltaError: its folder is missing or not writable, or the path is a circular link, a
            folder, a device or a pipe.
    """
    parent = os.path.dirname(path) or "."
    if not os.path.isdir(parent):
        raise ForceDeltaError(f"{path} cannot be written: make the folder {parent} first")
    if os.path.isdir(path) and not folder:  # the command itself handles a folder in --out
        raise ForceDeltaError(f"{label} is the folder {path}: give the name of a file")
    if os.path.islink(path):
        try:
            os.stat(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ForceDeltaError(
                f"{path} cannot be written ({error.strerror}): give another {label}"
            ) from error
    if os.path.exists(path):
        if not os.path.isfile(path) and not os.path.isdir(path):
            raise ForceDeltaError(
                f"{path} cannot be written: it is not a regular file, give another {label}"
            )
        return
    try:  # the only reliable test: permissions, quotas and file systems all matter
        with tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path))):
            pass
    except OSError as error:
        raise ForceDeltaError(
            f"{path} cannot be written ({error.strerror}): give another {label}"
        ) from error
