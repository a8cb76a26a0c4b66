"""Settings of a guarded run, and those that a continued run shares with its first part."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..calibration.predicted_error import PredictedError
from ..errors import ForceDeltaError
from ..limits import check_types, flag
from ..thresholds import (
    AUTO_FLAG_FACTOR,
    AUTO_STOP_FACTOR,
    BURN_IN,
    Patience,
    Threshold,
    stored_guard_settings,
    with_stored_guard_settings,
)

DEFINING = (
    "model", "architecture", "compile", "charge", "spin", "engine", "ensemble", "temperature",
    "ramp_to", "timestep", "tau", "pressure", "barostat_tau", "seed", "forces", "every", "inner", "dtype",
    "burn_in", "type_map", "no_pbc", "file_format", "select",
)  # fmt: skip
"""Settings that a continued run must share with its first part."""

CONTINUED = ("device", "record_every", "threads", "stop_above", "flag_above", "on", "patience",
             "stop_factor", "flag_factor", "steps", "calibration", "stop_error", "flag_error")  # fmt: skip
"""Settings that a continued run takes from its file unless they are passed again."""


@dataclass(frozen=True)
class RunSettings:
    """All settings of a guarded run, with their defaults; see `forcedelta.guarded_run`."""

    structure: str | None = None
    type_map: str | None = None
    no_pbc: bool = False
    file_format: str | None = None
    select: str | None = None
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
    every: int | str = 1
    inner: int = 1
    stop_above: Threshold = None
    flag_above: Threshold = None
    on: str = "force_delta"
    patience: Patience = (1, 1)
    stop_factor: float = AUTO_STOP_FACTOR
    flag_factor: float = AUTO_FLAG_FACTOR
    burn_in: int = BURN_IN
    calibration: PredictedError | None = None
    stop_error: float | None = None
    flag_error: float | None = None
    record_every: int = 10
    flags: str | None = None
    overwrite: bool = False
    restart: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1

    @property
    def reading(self) -> dict[str, Any]:
        """How the structure file is read, see `forcedelta.structures.read_structure`."""
        names = ("type_map", "no_pbc", "file_format", "select")
        return {name: getattr(self, name) for name in names}

    def stored(self) -> dict[str, Any]:
        """The settings stored in the file of the run."""
        names = ("structure", *DEFINING, *CONTINUED, "flags")
        return {name: getattr(self, name) for name in names} | stored_guard_settings(self)


def continued(
    settings: RunSettings,
    given: Collection[str],
    stored: Mapping[str, Any],
    advice: Callable[[], str],
) -> RunSettings:
    """The settings of a run that continues from a file.

    Args:
        settings: settings of this call.
        given: names of the settings passed in this call.
        stored: `RunSettings.stored` of the run in the file.
        advice: how to start a new run with other settings, see `forcedelta.simulation.anew`.

    Raises:
        ForceDeltaError: the file is not of a run, a setting that defines the run differs from the
            stored one, or a stored value is invalid.
    """
    for name, kind in (("trajectory", "audit"), ("optimizer", "attack")):
        if name in stored:
            raise ForceDeltaError(
                f"{settings.out} is the file of an {kind}, not of a run: give another --out, or start "
                f"from its last frame with 'forcedelta run {settings.out}'"
            )
    check_types(RunSettings, stored, settings.out)
    stored = with_stored_guard_settings(stored, settings.out)
    for name in DEFINING:
        if name == "model":  # compared by its weights when it is loaded
            continue
        if name in given and name in stored and getattr(settings, name) != stored[name]:
            raise ForceDeltaError(
                f"{flag(name)} {getattr(settings, name)} differs from the run in {settings.out}, which "
                f"has {stored[name]}: omit the flag to continue that run, or {advice()}"
            )
    taken = {
        name: stored[name]
        for name in (*DEFINING, *CONTINUED)
        if name in stored and name not in given
    }
    return replace(settings, **taken)
