"""The settings of an audit, and which of them a continued one must share with its first part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from forcedelta.calibration.result import Calibration
from forcedelta.errors import ForceDeltaError
from forcedelta.limits import check_types, check_value
from forcedelta.simulation.settings import check_factors, patience, threshold
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
        every: each so many frames.
        model: name, or path of a file.
        architecture, trust, compile: see `forcedelta.load_model`.
        charge: total charge in e, for models that take one and frames that have none.
        spin: spin multiplicity, likewise.
        stop_above, flag_above, on, patience, stop_factor, flag_factor, burn_in: of the guard, as
            for a run.
        end_at_stop: end at the first frame at which the guard says stop.
        record_every: store each so many of the audited frames; None: so that about
            `forcedelta.audit.replay.STORED_FRAMES` are.
        flags: extended XYZ file for flagged frames.
        device: of torch.
        dtype: "float32" or "float64".
        threads: of torch, on the CPU.
        calibrations: where thresholds come from, by the name of the setting (`many.plan`).
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
    stop_above: str | None = None
    flag_above: str | None = None
    on: str = "force_delta"
    patience: str = "1/1"
    stop_factor: float = 2.0
    flag_factor: float = 1.5
    burn_in: int = 1000
    end_at_stop: bool = False
    record_every: int | None = None
    flags: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)

    def stored(self) -> dict[str, Any]:
        """What goes into the audit's file."""
        kept = asdict(self)
        return {name: kept[name] for name in (*DEFINING, *CONTINUED, "flags")}

    def guard(self) -> Guard:
        """The guard that they describe.

        Raises:
            ForceDeltaError, HookError: thresholds that make no sense.
        """
        stop = threshold("stop-above", self.stop_above)
        flag = threshold("flag-above", self.flag_above)
        check_factors(stop, flag, self)
        return Guard(
            stop,
            flag,
            on=self.on,  # type: ignore[arg-type]
            patience=patience(self.patience),
            factor=self.stop_factor,
            flag_factor=self.flag_factor,
            burn_in=self.burn_in,
        )

    def check(self) -> None:
        """What can be said without reading anything.

        Raises:
            ForceDeltaError, HookError: numbers out of range, thresholds that make no sense.
        """
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise ForceDeltaError(
                f"--start {self.start} and --stop {self.stop} leave no frame: give 0 <= start < stop"
            )
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        for name, value in values.items():
            if name not in (
                "stop_above",
                "flag_above",
                "patience",
            ):  # words, which the guard checks
                check_value(name, value)
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
    for name in DEFINING:
        said = given is None or name in given
        if said and name in stored and getattr(settings, name) != stored[name]:
            raise ForceDeltaError(
                f"{name.replace('_', '-')} {getattr(settings, name)} differs from the audit in "
                f"{settings.out}, which has {stored[name]}: omit it to continue that audit, "
                "or make a new one with --overwrite or another --out"
            )
    taken = {
        name: stored[name]
        for name in (*DEFINING, *CONTINUED)
        if name in stored and given is not None and name not in given
    }
    for name in ("stop_above", "flag_above"):  # a word here; a number in a file is as good
        if isinstance(taken.get(name), int | float):
            taken[name] = repr(taken[name])
    return replace(settings, **taken)


def just_created(out: Path) -> bool:
    """Whether a file was killed before it was complete for the first time, and holds nothing."""
    if out.stat().st_size > _NOTHING_YET:
        return False
    try:
        Trajectory(out)
    except HookError:
        return True
    return False
