"""The settings of ``forcedelta run``: flags, a TOML file with the same keys, and a stored run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from md_hooks.text import one_line, shortened

from ..calibration.result import Calibration, read_calibration
from ..errors import ForceDeltaError
from ..limits import check_number, check_type, check_types, check_value, flag
from ..reading_files import read_toml

DEFINING = (
    "model", "architecture", "compile", "charge", "spin", "engine", "ensemble", "temperature",
    "ramp_to", "timestep", "tau", "pressure", "barostat_tau", "seed", "forces", "every", "dtype",
    "burn_in",
)  # fmt: skip
"""What a continued run must share with the first part, or it would be another run."""

CONTINUED = ("device", "record_every", "threads", "stop_above", "flag_above", "on", "patience",
             "stop_factor", "flag_factor", "steps")  # fmt: skip
"""What a continued run takes over unless it is given anew."""

Settings = TypeVar("Settings")
"""A dataclass with ``stop_above`` and ``flag_above`` as the user gave them."""


@dataclass(frozen=True)
class RunSettings:
    """All settings of a run, with the defaults of the command; units as in its --help."""

    structure: str | None = None
    model: str | None = None
    architecture: str | None = None
    trust: bool = False
    compile: bool = False
    charge: int | None = None
    spin: int | None = None
    out: str = "run.h5"
    engine: str = "ase"
    ensemble: str = "langevin"
    temperature: float = 300.0
    ramp_to: float | None = None
    steps: int | None = None
    timestep: float = 0.5
    tau: float = 100.0
    pressure: float = 0.0
    barostat_tau: float = 1000.0
    seed: int | None = None
    forces: str = "direct"
    every: int = 1
    stop_above: str | None = None
    flag_above: str | None = None
    on: str = "force_delta"
    patience: str = "1/1"
    stop_factor: float = 2.0
    flag_factor: float = 1.5
    burn_in: int = 1000
    record_every: int = 10
    flags: str | None = None
    overwrite: bool = False
    restart: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    json: bool = False

    def stored(self) -> dict[str, Any]:
        """What goes into the file of the run."""
        kept = asdict(self)
        return {name: kept[name] for name in ("structure", *DEFINING, *CONTINUED, "flags")}


def load_toml(path: Path, known: Iterable[str]) -> dict[str, str]:
    """The keys of a settings file, with ``-`` and ``_`` taken for the same.

    Raises:
        ForceDeltaError: the file cannot be read, has a key that is not known or stands there twice,
            or a value of another type than its setting.
    """
    found = read_toml(path, "give a TOML file of settings")
    names = {name.replace("-", "_") for name in known}
    types = get_type_hints(RunSettings)
    settings: dict[str, str] = {}
    for key, value in found.items():
        name = key.replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(names))}"
            raise ForceDeltaError(f"{path} has the unknown key {shortened(repr(key), 80)}: {hint}")
        if name in settings:
            raise ForceDeltaError(
                f"{path} has {name.replace('_', '-')} and {name}, which are the same: give one of them"
            )
        if isinstance(value, dict | list):
            raise ForceDeltaError(f"{path}: {key} must be one value, not a table or a list")
        check_type(name, value, types[name], f"{path}: {key}")
        check_value(name, value, f"{path}: {key}")
        settings[name] = str(value)  # so that it is parsed and checked like a flag
    return settings


def continued(settings: RunSettings, given: set[str], stored: Mapping[str, Any]) -> RunSettings:
    """The settings of a run that goes on from a file.

    Args:
        settings: those of this call.
        given: the names that the user gave, by flag or file, in this call.
        stored: `RunSettings.stored` of the run in the file.

    Raises:
        ForceDeltaError: a setting that defines the run was given with another value, or a stored
            one is none that a run can have.
    """
    check_types(RunSettings, stored, settings.out)
    for name in DEFINING:
        if name == "model":  # by its weights, when it is loaded
            continue
        if name in given and name in stored and getattr(settings, name) != stored[name]:
            raise ForceDeltaError(
                f"{flag(name)} {getattr(settings, name)} differs from the run in {settings.out}, which "
                f"has {stored[name]}: omit the flag to continue that run, or start a new one with "
                "another --out"
            )
    taken = {
        name: stored[name]
        for name in (*DEFINING, *CONTINUED)
        if name in stored and name not in given
    }
    for name in ("stop_above", "flag_above"):  # a word here; a number in a file is as good
        if isinstance(taken.get(name), int | float):
            taken[name] = repr(taken[name])
    return replace(settings, **taken)


def threshold(name: str, text: str | None) -> float | Literal["auto"] | None:
    """A threshold as given by the user: a number in eV/Å, "auto", "none", or a calibration's file.

    Raises:
        ForceDeltaError: it is something else.
    """
    if text is None or text == "none":
        return None
    if text == "auto":
        return "auto"
    calibrated = calibration(text)
    if calibrated is not None:
        return calibrated.threshold
    try:
        value = float(text)
    except ValueError:
        raise ForceDeltaError(
            f"--{name} {one_line(text)}: give a number in eV/Å, auto or none, or a file of 'forcedelta "
            "calibrate' (FILE.json)"
        ) from None
    if not value >= 0:
        raise ForceDeltaError(f"--{name} is {text}: give a number >= 0 in eV/Å, or auto")
    check_number(name.replace("-", "_"), value, f"--{name}")
    return value


def calibration(text: str | None) -> Calibration | None:
    """The calibration that a threshold of the user names; None where it is no file of one.

    Whoever uses it calls its `check_use` once the model is loaded, and keeps its `record`.

    Raises:
        ForceDeltaError: the file cannot be read as one.
    """
    if text is None or not text.endswith(".json"):
        return None
    return read_calibration(text)


def with_calibrations(settings: Settings) -> tuple[Settings, dict[str, Calibration]]:
    """Settings whose thresholds are numbers, and the calibrations that these come from, by setting.

    The numbers are what a run or an audit stores: one that is continued needs the files no more.

    Raises:
        ForceDeltaError: a file cannot be read as a calibration.
    """
    named = {name: calibration(getattr(settings, name)) for name in ("stop_above", "flag_above")}
    found = {name: entry for name, entry in named.items() if entry is not None}
    numbers: dict[str, Any] = {name: repr(entry.threshold) for name, entry in found.items()}
    return replace(settings, **numbers), found  # type: ignore[type-var]


def patience(text: str) -> tuple[int, int]:
    """(k, n) from "k/n".

    Raises:
        ForceDeltaError: it is something else.
    """
    try:
        k, n = (int(part) for part in text.split("/"))
    except ValueError:
        raise ForceDeltaError(
            f"--patience {one_line(text)}: give it as k/n, for example 3/5"
        ) from None
    if not 1 <= k <= n:
        raise ForceDeltaError(
            f"--patience {one_line(text)}: give k/n with 1 <= k <= n, k of the last n frames with U"
        )
    check_number("patience", n, "--patience")
    return k, n


def check_factors(stop: float | str | None, flagged: float | str | None, settings: Any) -> None:
    """Whether automatic thresholds leave a band between them.

    Args:
        stop: the stop threshold, as `threshold` gives it.
        flagged: the flag threshold.
        settings: with ``stop_factor`` and ``flag_factor``.

    Raises:
        ForceDeltaError: they do not, by flag.
    """
    both = stop == "auto" and flagged in ("auto", None)
    if both and settings.flag_factor >= settings.stop_factor:
        raise ForceDeltaError(
            f"--flag-factor {settings.flag_factor:g} must be below --stop-factor "
            f"{settings.stop_factor:g}: exchange the two"
        )
