"""The settings of an audit, and the ones that a restart must not change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from forcedelta.calibration.error_guard import error_hooks
from forcedelta.calibration.predicted_error import PredictedError
from forcedelta.calibration.result import Calibration
from forcedelta.errors import ForceDeltaError
from forcedelta.limits import check_types, check_value, flag
from forcedelta.reading_options import ReadingOptions
from forcedelta.thresholds import (
    AUTO_FLAG_FACTOR,
    AUTO_STOP_FACTOR,
    BURN_IN,
    Patience,
    Threshold,
    calibrations_of,
    guard_of,
    stored_guard_settings,
    with_stored_guard_settings,
)
from md_hooks import Guard, Hook, HookError, Trajectory

DEFINING = (
    "trajectory", "topology", "file_format", "type_map", "no_pbc", "select", "timestep", "rattle",
    "start", "every", "model", "architecture", "compile", "charge", "spin", "dtype",
    "stop_above", "flag_above", "on", "patience", "stop_factor", "flag_factor", "burn_in",
    "calibration", "stop_error", "flag_error",
)  # fmt: skip
"""Settings that a restart must not change, or its frames would not be comparable."""

CONTINUED = ("stop", "device", "threads", "record_every", "end_at_stop")
"""Settings that a restart takes from the file unless given."""

_NOTHING_YET = 4096  # bytes; a file with a run in it has more


@dataclass(frozen=True)
class AuditSettings:
    """All settings of the audit of one trajectory; units as in ``forcedelta audit --help``.

    Attributes:
        trajectory: the file.
        topology: topology file for MDAnalysis; None: ASE reads the trajectory.
        file_format, type_map, no_pbc, select, timestep, rattle: see `ReadingOptions`.
        out: the file of the audit, H5MD.
        start: first frame, counted from 0.
        stop: end before this frame; None: to the end.
        every: audit every Nth frame.
        model: name, or path of a file.
        architecture, trust, compile: see `forcedelta.load_model`.
        charge: total charge in e, for models that take one; None: that of each frame.
        spin: spin multiplicity, likewise.
        stop_above, flag_above: thresholds on U, eV/Å, or "auto"; None: no threshold.
        on, patience, stop_factor, flag_factor, burn_in: see `forcedelta.guarded_run`.
        calibration: the predicted error; None: there is none.
        stop_error, flag_error: thresholds on the predicted error, eV/Å.
        end_at_stop: end at the first frame at which the guard would stop.
        record_every: store every Nth audited frame; None: about
            `forcedelta.audit.replay.STORED_FRAMES` in all.
        flags: extended XYZ file for flagged frames.
        device: of torch.
        dtype: "float32" or "float64".
        threads: of torch, on the CPU.
    """

    trajectory: str
    model: str
    out: str
    topology: str | None = None
    file_format: str | None = None
    type_map: str | None = None
    no_pbc: bool = False
    select: str | None = None
    timestep: float | None = None
    rattle: float | None = None
    start: int = 0
    stop: int | None = None
    every: int = 1
    architecture: str | None = None
    trust: bool = False
    compile: bool = False
    charge: int | None = None
    spin: int | None = None
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
    end_at_stop: bool = False
    record_every: int | None = None
    flags: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1

    def stored(self) -> dict[str, Any]:
        """The settings as stored in the file of the audit."""
        names = (*DEFINING, *CONTINUED, "flags")
        return {name: getattr(self, name) for name in names} | stored_guard_settings(self)

    @property
    def reading(self) -> ReadingOptions:
        """How the trajectory is read."""
        return ReadingOptions(**{e.name: getattr(self, e.name) for e in fields(ReadingOptions)})

    @property
    def calibrations(self) -> dict[str, Calibration]:
        """The calibrations behind the thresholds, by name of the setting."""
        return calibrations_of(self)

    def guard(self) -> Guard:
        """The guard described by the settings.

        Raises:
            ForceDeltaError, HookError: inconsistent thresholds.
        """
        return guard_of(self)

    def error_hooks(self) -> list[Hook]:
        """The hooks that predict errors and guard on them.

        Raises:
            ForceDeltaError: thresholds on the error without a calibration, or out of range.
        """
        return error_hooks(self)

    def check(self) -> None:
        """Check the settings without reading any file.

        Raises:
            ForceDeltaError, HookError: numbers out of range, inconsistent thresholds.
        """
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise ForceDeltaError(
                f"--start {self.start} and --stop {self.stop} leave no frame: give 0 <= start < stop"
            )
        if self.timestep is not None and not 0 < self.timestep < math.inf:
            raise ForceDeltaError(f"--timestep {self.timestep}: give a time in fs above 0")
        for entry in fields(self):
            # the guard checks its own; frames of a file may be far apart, unlike the steps of a run
            if entry.name not in ("stop_above", "flag_above", "patience", "timestep"):
                check_value(entry.name, getattr(self, entry.name))
        self.guard()
        self.error_hooks()


def continued(
    settings: AuditSettings, given: set[str] | None, stored: Mapping[str, Any]
) -> AuditSettings:
    """The settings of an audit continued in its file.

    Args:
        settings: those of this call.
        given: names of the settings given in this call; None: all.
        stored: `AuditSettings.stored` of the audit in the file.

    Raises:
        ForceDeltaError: the file is not an audit, or has other settings.
    """
    if "trajectory" not in stored:
        raise ForceDeltaError(
            f"{settings.out} is the file of a run, not of an audit: give another --out"
        )
    check_types(AuditSettings, stored, settings.out)
    ours = settings.stored()
    for name in DEFINING:
        asked = given is None or name in given
        if asked and name in stored and not _same(name, ours[name], stored[name], settings.out):
            raise ForceDeltaError(
                f"{flag(name).removeprefix('--')} {ours[name]} differs from the audit in "
                f"{settings.out}, which has {stored[name]}: omit it to continue that audit, "
                "or make a new one with --overwrite or another --out"
            )
    read = with_stored_guard_settings(stored, settings.out)
    taken = {
        name: read[name]
        for name in (*DEFINING, *CONTINUED)
        if name in stored and given is not None and name not in given
    }
    return replace(settings, **taken)


def _same(name: str, ours: Any, stored: Any, where: str) -> bool:
    """Whether two stored settings mean the same: "0.1" and "0.10" do."""
    one, other = (
        with_stored_guard_settings({name: value}, where)[name] for value in (ours, stored)
    )
    return bool(one == other)


def just_created(out: Path) -> bool:
    """Whether the process was killed before the file held its first frame."""
    if out.stat().st_size > _NOTHING_YET:
        return False
    try:
        Trajectory(out)
    except HookError:
        return True
    return False
