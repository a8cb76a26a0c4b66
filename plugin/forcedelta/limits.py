"""Valid values of every setting: one table for flags, TOML files, stored runs and functions.

The upper bounds are far beyond anything physical: they catch wrong units and typing errors
before a model is loaded or a file is written, and prevent arithmetic overflow.
"""

from __future__ import annotations

import math
import numbers
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forcedelta.errors import ForceDeltaError
from md_hooks.text import one_line, printable, shortened


@dataclass(frozen=True)
class Limits:
    """The valid range of a number.

    Attributes:
        low: smallest valid value.
        high: largest valid value.
        unit: unit of both.
        noun: noun for the error message.
        why: reason for a bound that is not obvious.
    """

    low: float
    high: float
    unit: str = ""
    noun: str = "a number"
    why: str = ""

    @property
    def words(self) -> str:
        """The advice for a value that is out of range."""
        sign = " above 0" if self.low > 0 else " of 0 or more" if self.low == 0 else ""
        if self.noun.startswith("a probability"):
            sign = ""
        unit = f" {self.unit}" if self.unit else ""
        why = f"; {self.why}" if self.why else ""
        return f"give {self.noun}{sign} ({_plain(self.low)} to {_plain(self.high)}{unit}{why})"


def _plain(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:.12g}"


_MOST_THREADS = max(64, 2 * (os.cpu_count() or 1))
_CPU = f"this machine has {os.cpu_count()} cores"
_COUNT = Limits(1, 10**12, noun="a whole number")
_FROM_ZERO = Limits(0, 10**12, noun="a whole number")
_TEMPERATURE = Limits(0, 1e6, "K", "a temperature")
_FACTOR = Limits(1e-6, 1e6, noun="a factor")
_THRESHOLD = Limits(0, 1e6, "eV/Å")
_PROBABILITY = Limits(
    1e-6, 1 - 1e-6, noun="a probability between 0 and 1", why="less would take millions of labels"
)

LIMITS: Mapping[str, Limits] = {
    # dynamics
    "timestep": Limits(1e-6, 100, "fs", "a time", "bonds to hydrogen vibrate in 10 fs"),
    "tau": Limits(1e-3, 1e9, "fs", "a time"),
    "barostat_tau": Limits(1e-3, 1e9, "fs", "a time"),
    "temperature": _TEMPERATURE,
    "ramp_to": _TEMPERATURE,
    "pressure": Limits(-1e4, 1e4, "GPa", "a finite number", "the centre of the Earth has 360 GPa"),
    "steps": _COUNT,
    "seed": Limits(0, 2**64 - 1, noun="a whole number"),
    # model
    "every": _COUNT,
    "inner": Limits(1, 1000, noun="a whole number", why="outer steps must resolve the vibrations"),
    "charge": Limits(-1000, 1000, "e", "a whole number"),
    "spin": Limits(1, 1000, noun="a whole number"),
    "threads": Limits(1, _MOST_THREADS, noun="a whole number", why=_CPU),
    "workers": Limits(1, 1024, noun="a whole number"),
    # guard
    "stop_above": _THRESHOLD,
    "flag_above": _THRESHOLD,
    "stop_error": _THRESHOLD,
    "flag_error": _THRESHOLD,
    "stop_factor": _FACTOR,
    "flag_factor": _FACTOR,
    "burn_in": _COUNT,
    "patience": Limits(1, 10**6, noun="whole numbers k/n with k <= n"),
    "drift_bound": Limits(1e-6, 1e6, "meV/atom/ps", "a drift"),
    # frames
    "record_every": _COUNT,
    "start": _FROM_ZERO,
    "stop": _COUNT,
    "select": Limits(1, 10**6, noun="a whole number"),
    "spacing": Limits(0, 1e12, "fs", "a time"),
    # attack
    "starts": Limits(1, 10**6, noun="a whole number"),
    "alpha": Limits(0, 1e6, "Å^3/eV", "a weight"),
    "beta": Limits(0, 1e6, "Å^2/eV", "a weight"),
    "rate": Limits(1e-6, 1, "Å", "a length", "a bond is 1 to 2 Å long"),
    "cap": Limits(1e-6, 1, "Å", "a length", "a bond is 1 to 2 Å long"),
    "displacement": Limits(0, 1, "Å", "a length", "a bond is 1 to 2 Å long"),
    "ceiling": Limits(1e-9, 1e6, "eV", "an energy"),
    "closest": Limits(0.1, 1, noun="a factor", why="1 is the length of a bond"),
    "picks": Limits(0, 10**6, noun="a whole number"),
    # screens
    "rattle": Limits(0, 1, "Å", "a displacement", "bonds are 1 to 3 Å long"),
    "rattles": Limits(1, 1000, noun="a whole number"),
    # calibration
    "tolerance": Limits(1e-6, 1e6, "eV/Å", "an error"),
    "risk": _PROBABILITY,
    "confidence": _PROBABILITY,
    "suggest": Limits(1, 10**6, noun="a whole number"),
    # training
    "report_every": _COUNT,
    "make_frames": Limits(10, 10**6, noun="a whole number"),
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "learning_rate": Limits(1e-9, 1, noun="a learning rate"),
}
"""Limits by the name of the setting in Python and in TOML files."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "engine": ("ase", "openmm"),
    "ensemble": ("nve", "langevin", "bussi", "npt"),
    "forces": ("direct", "conservative", "mts"),
    "on": ("force_delta", "worst_atom"),
    "optimizer": ("plain", "adam"),
    "by": ("diversity", "u", "u-diversity"),
    "reach": ("head", "energy", "shared"),
    "dtype": ("float32", "float64"),
}
"""Settings with a fixed set of values."""

_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:(0|[1-9]\d{0,2}))?")
_LONGEST_NAME, _LONGEST_OUTPUT, _LONGEST_PATH = 255, 200, 4000  # bytes
_OTHER_FLAGS = {"file_format": "format"}
_OUTPUTS = ("out", "flags", "report", "plot")


def flag(name: str) -> str:
    """The flag of a setting, ``--stop-above`` for ``stop_above``."""
    return "--" + _OTHER_FLAGS.get(name, name).replace("_", "-")


def setting(name: str) -> str:
    """The inverse of `flag`, for a name without dashes at its beginning."""
    name = name.replace("-", "_")
    return next((one for one, other in _OTHER_FLAGS.items() if other == name), name)


def check_number(name: str, value: float, label: str | None = None) -> None:
    """Check that a number is within the limits of its setting.

    Args:
        name: name of the setting, a key of `LIMITS`.
        value: its value.
        label: name for the error message; the name of the setting by default.

    Raises:
        ForceDeltaError: it is out of range or NaN.
    """
    limits = LIMITS[name]
    if not limits.low <= value <= limits.high:  # False for NaN
        raise ForceDeltaError(f"{label or name} is {_shown(value)}: {limits.words}")


def check_text(name: str, text: str, label: str | None = None) -> None:
    """Check a string, for instance a file name.

    Raises:
        ForceDeltaError: it is empty or too long, has characters that cannot be printed, is not one
            of `CHOICES`, or names a device that torch does not support.
    """
    label = label or name
    if not text:
        raise ForceDeltaError(f"{label} is empty: give a value, or omit it")
    if name in CHOICES and text not in CHOICES[name]:
        raise ForceDeltaError(f"{label} is {text!r}: give one of {', '.join(CHOICES[name])}")
    if name == "device" and not _DEVICE.fullmatch(text):
        raise ForceDeltaError(
            f"{label}: device '{one_line(text)}' cannot be used: give cpu, cuda, cuda:N, mps or xpu"
        )
    if printable(text, keep="") != text:
        raise ForceDeltaError(
            f"{label} is {shortened(ascii(text))}, with characters that cannot be printed (such as a "
            "line break): choose another name, or rename the file"
        )
    parts = [len(part.encode()) for part in text.split("/")]
    most = _LONGEST_OUTPUT if name in _OUTPUTS else _LONGEST_NAME
    if max(parts) > most or sum(parts) + len(parts) > _LONGEST_PATH:
        room = "; files beside it have longer names" if name in _OUTPUTS else ""
        raise ForceDeltaError(
            f"{label} is {shortened(text, 60)}: give a name of at most {most} bytes, and a path of at "
            f"most {_LONGEST_PATH}{room}"
        )


def check_value(name: str, value: Any, label: str | None = None) -> None:
    """Check that a value is within the limits of its setting, if it has any.

    Raises:
        ForceDeltaError: see `check_number` and `check_text`.
    """
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, numbers.Real):
        if name in LIMITS:
            check_number(name, value, label)  # type: ignore[arg-type]
    elif isinstance(value, str | os.PathLike):
        check_text(name, os.fspath(value), label)
    elif isinstance(value, list | tuple):
        for entry in value:
            check_value(name, entry, label)


def check_types(kind: type, values: Mapping[str, Any], where: str) -> None:
    """Check types and ranges of values from a file against a dataclass of settings.

    Args:
        kind: the dataclass; other keys of ``values`` are ignored.
        values: values by field name.
        where: file name for error messages.

    Raises:
        ForceDeltaError: a value has the wrong type or is out of range.
    """
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if name in hints:
            check_type(name, value, hints[name], f"{where}: {name}")
            check_value(name, value, f"{where}: {name}")


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


def check_type(name: str, value: Any, hint: Any, label: str) -> None:
    """Check the type of a value from a file against the type hint of its setting.

    A threshold, a string on the command line, may also be a number.

    Raises:
        ForceDeltaError: it has another type.
    """
    arguments = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    known = [entry for entry in arguments if entry in _WORDS]
    if not known:  # a mapping, which files do not contain
        return
    allowed: list[type] = list(known)
    if value is None and type(None) in arguments:
        return
    if float in allowed or (name in LIMITS and str in allowed and name != "patience"):
        allowed += [int, float]
    if not isinstance(value, tuple(allowed)) or (isinstance(value, bool) and bool not in allowed):
        words = " or ".join(_WORDS[entry] for entry in dict.fromkeys(known))
        raise ForceDeltaError(
            f"{label} is {_shown(value)}, {_kind(value)}: give {words}"
            + (", without quotes" if isinstance(value, str) else "")
        )


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    names = {**_WORDS, list: "a list", dict: "a table", bool: "true or false"}
    return names.get(type(value), f"a {type(value).__name__}")


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**300:
        return f"a number of {math.floor(math.log10(abs(value))) + 1} digits"
    return shortened(one_line(repr(value)), 80)
