"""The settings of an audit, and which of them a continued one must share with its first part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from forcedelta.calibration.result import Calibration
from forcedelta.errors import ForceDeltaError
from forcedelta.limits import check_types, check_value
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
from md_hooks import Guard, HookError, Trajectory

DEFINING = (
    "trajectory", "topology", "start", "every", "model", "architecture", "compile", "charge", "spin", "dtype",
    "stop_above", "flag_above", "on", "patience", "stop_factor", "flag_factor", "burn_in",
)  # fmt: skip
"""What a continued audit must share with the first part, or its frames could not be compared."""

CONTINUED = ("stop", "device", "threads", "record_every", "end_at_stop")
"""What a continued audit takes over unless it is given anew."""


_NOTHING_YET = 4096  # bytes; a file with a run in it has more


@dataclass(frozen=True)
class AuditSettings:
    """All settings of the audit of one trajectory; units as in ``forcedelta audit --help``.

    Attributes:
        trajectory: the file.
        topology: with which MDAnalysis reads it; None: ASE reads it.
        out: the audit's file, H5MD.
        start: first frame, counted from 0.
        stop: the first frame that is left out; None: to the end.
        every: audit every Nth frame.
        model: name, or path of a file.
        architecture, trust, compile: see `forcedelta.load_model`.
        charge: total charge in e, for models that take one and frames that have none.
        spin: spin multiplicity, likewise.
        stop_above, flag_above, on, patience, stop_factor, flag_factor, burn_in: of the guard, as
            for a run.
        end_at_stop: end at the first frame at which the guard says stop.
        record_every: store every Nth audited frame; None: about
            `forcedelta.audit.replay.STORED_FRAMES` in total.
        flags: extended XYZ file for flagged frames.
        device: of torch.
        dtype: "float32" or "float64".
        threads: of torch, on the CPU.
    """

    trajectory: str
    model: str
    out: str
    topology: str | None = None
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
    end_at_stop: bool = False
    record_every: int | None = None
    flags: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1

    def stored(self) -> dict[str, Any]:
        """What the audit's file holds."""
        names = (*DEFINING, *CONTINUED, "flags")
        return {name: getattr(self, name) for name in names} | stored_guard_settings(self)

    @property
    def calibrations(self) -> dict[str, Calibration]:
        """The calibrations that thresholds come from, by the name of the setting."""
        return calibrations_of(self)

    def guard(self) -> Guard:
        """The guard that they describe.

        Raises:
            ForceDeltaError, HookError: thresholds that make no sense.
        """
        return guard_of(self)

    def check(self) -> None:
        """What can be said without reading anything.

        Raises:
            ForceDeltaError, HookError: numbers out of range, thresholds that make no sense.
        """
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise ForceDeltaError(
                f"--start {self.start} and --stop {self.stop} leave no frame: give 0 <= start < stop"
            )
        for entry in fields(self):
            if entry.name not in ("stop_above", "flag_above", "patience"):  # checked by the guard
                check_value(entry.name, getattr(self, entry.name))
        self.guard()


def continued(
    settings: AuditSettings, given: set[str] | None, stored: Mapping[str, Any]
) -> AuditSettings:
    """The settings of an audit that goes on in its file.

    Args:
        settings: those of this call.
        given: the names that the user gave in this call; None: all.
        stored: `AuditSettings.stored` of the audit in the file.

    Raises:
        ForceDeltaError: the file is no audit, or one that was made with other settings.
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
                f"{name.replace('_', '-')} {ours[name]} differs from the audit in "
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
    """Whether a file was killed before it was complete for the first time, and holds nothing."""
    if out.stat().st_size > _NOTHING_YET:
        return False
    try:
        Trajectory(out)
    except HookError:
        return True
    return False
