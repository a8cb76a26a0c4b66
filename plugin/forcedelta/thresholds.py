"""Thresholds of a guarded run or audit (number, "auto" or calibration) and the guard they define."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from md_hooks import Guard
from md_hooks.guard import AUTO_FLAG_FACTOR, AUTO_STOP_FACTOR, BURN_IN
from md_hooks.text import one_line

from .calibration.predicted_error import PredictedError
from .calibration.predicted_error_file import from_dict
from .calibration.result import Calibration, read_calibration
from .errors import ForceDeltaError
from .limits import check_number

__all__ = [
    "AUTO_FLAG_FACTOR",
    "AUTO_STOP_FACTOR",
    "BURN_IN",
    "GivenThreshold",
    "Patience",
    "Threshold",
    "as_number",
    "calibrations_of",
    "explained",
    "guard_of",
    "stored_guard_settings",
    "threshold_of",
    "with_stored_guard_settings",
]

Threshold = float | Literal["auto"] | Calibration | None
"""eV/Å; "auto": a multiple of the usual values in the burn-in; `Calibration`: its threshold; or None."""

GivenThreshold = Threshold | str | Path
"""A threshold, or the file of a calibration."""

Patience = tuple[int, int]
"""(k, n): stop when k of the last n frames with U exceed the threshold."""

NAMES = ("stop_above", "flag_above")


class GuardSettings(Protocol):
    """Settings that describe a guard; see `md_hooks.Guard`."""

    @property
    def stop_above(self) -> Threshold:
        """Stop threshold, eV/Å."""
        ...

    @property
    def flag_above(self) -> Threshold:
        """Flag threshold, eV/Å."""
        ...

    @property
    def on(self) -> str:
        """What the thresholds are compared with: U, or the largest u_i."""
        ...

    @property
    def patience(self) -> Patience:
        """(k, n): stop when k of the last n frames with U exceed the threshold."""
        ...

    @property
    def stop_factor(self) -> float:
        """Multiple of the burn-in level at which an automatic threshold stops."""
        ...

    @property
    def flag_factor(self) -> float:
        """Multiple of the burn-in level at which an automatic threshold flags."""
        ...

    @property
    def burn_in(self) -> int:
        """Length of the burn-in, steps."""
        ...

    @property
    def calibration(self) -> PredictedError | None:
        """The predicted error; None: there is none."""
        ...


def threshold_of(given: GivenThreshold) -> Threshold:
    """A threshold; calibration files are read.

    Raises:
        ForceDeltaError: the file is not a calibration.
    """
    if isinstance(given, Path) or (isinstance(given, str) and given != "auto"):
        return read_calibration(given)
    return given  # type: ignore[return-value]


def as_number(name: str, threshold: Threshold) -> float | Literal["auto"] | None:
    """A threshold as a `md_hooks.Guard` takes it.

    Args:
        name: "stop_above" or "flag_above".
        threshold: as given.

    Raises:
        ForceDeltaError: not a threshold, or out of range.
    """
    if threshold is None or (isinstance(threshold, str) and threshold == "auto"):
        return threshold
    value = threshold.threshold if isinstance(threshold, Calibration) else threshold
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ForceDeltaError(
            f"{name} is {one_line(repr(value))}: give a number in eV/Å, 'auto', a Calibration or None"
        )
    if not value >= 0:
        raise ForceDeltaError(f"{name} is {value:g}: give a number >= 0 in eV/Å, or 'auto'")
    check_number(name, value)
    return float(value)


def guard_of(settings: GuardSettings, temperature: float | None = None) -> Guard:
    """The guard that settings describe.

    Args:
        settings: settings of a run or an audit.
        temperature: target of the thermostat in the burn-in, K; None without a thermostat.

    Raises:
        ForceDeltaError, HookError: invalid thresholds or patience.
    """
    stop, flag = (as_number(name, getattr(settings, name)) for name in NAMES)
    automatic = stop == "auto" and flag in ("auto", None)
    if automatic and settings.flag_factor >= settings.stop_factor:
        raise ForceDeltaError(
            f"--flag-factor {settings.flag_factor:g} must be below --stop-factor "
            f"{settings.stop_factor:g}: exchange the two"
        )
    check_number("patience", settings.patience[1])
    return Guard(
        stop,
        flag,
        on=settings.on,  # type: ignore[arg-type]
        patience=settings.patience,
        factor=settings.stop_factor,
        flag_factor=settings.flag_factor,
        burn_in=settings.burn_in,
        temperature=temperature,
    )


def explained(settings: GuardSettings) -> list[str]:
    """What the numbers of a calibrated guard mean, one sentence each."""
    lines = [found.guarantee for found in calibrations_of(settings).values()]
    if settings.calibration is not None:
        quality = settings.calibration.quality
        typical = quality.get("factor")
        known = f", typically within a factor of {typical:.2f}" if type(typical) is float else ""
        lines.append(
            f"The predicted error is an estimate for each frame{known}; a threshold on it bounds no "
            f"risk. {settings.calibration.guarantee}"
        )
    return lines


def calibrations_of(settings: GuardSettings) -> dict[str, Calibration]:
    """The calibrations that define thresholds, by the name of the setting."""
    given = {name: getattr(settings, name) for name in NAMES}
    return {name: value for name, value in given.items() if isinstance(value, Calibration)}


def stored_guard_settings(settings: GuardSettings) -> dict[str, Any]:
    """Thresholds and patience in their stored form, the syntax of the command line.

    A calibration is stored as its threshold, and a predicted error with all of its numbers, so a
    continued run does not need the file of the calibration.
    """
    numbers = {name: as_number(name, getattr(settings, name)) for name in NAMES}
    k, n = settings.patience
    return {
        **{
            name: repr(value) if isinstance(value, float) else value
            for name, value in numbers.items()
        },
        "patience": f"{k}/{n}",
        **({} if settings.calibration is None else {"calibration": settings.calibration.as_dict()}),
    }


def with_stored_guard_settings(stored: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Stored settings with thresholds and patience converted back to values.

    Args:
        stored: all settings in a file.
        where: file name for error messages.

    Raises:
        ForceDeltaError: they are not in the form of `stored_guard_settings`.
    """
    read: dict[str, Any] = dict(stored)
    for name in NAMES:
        if name in stored:
            read[name] = _stored_threshold(name, stored[name], where)
    if stored.get("calibration") is not None:
        read["calibration"] = from_dict(stored["calibration"], where)
    if "patience" in stored:
        read["patience"] = _stored_patience(stored["patience"], where)
    return read


def _stored_threshold(name: str, value: Any, where: str) -> float | Literal["auto"] | None:
    if value is None or value == "none":
        return None
    if value == "auto":
        return "auto"
    try:
        if isinstance(value, bool):
            raise ValueError
        return as_number(name, float(value))
    except (TypeError, ValueError, OverflowError, ForceDeltaError):
        raise ForceDeltaError(
            f"{where}: {name} is {one_line(repr(value))}, not a threshold in eV/Å: pass "
            f"--{name.replace('_', '-')}, or start anew with another --out"
        ) from None


def _stored_patience(value: Any, where: str) -> Patience:
    try:
        k, n = (int(part) for part in value.split("/"))
    except (AttributeError, ValueError):
        k, n = 0, 0
    if not 1 <= k <= n:
        raise ForceDeltaError(
            f"{where}: patience is {one_line(repr(value))}, not k/n: pass --patience, or start anew "
            "with another --out"
        )
    check_number("patience", n, f"{where}: patience")
    return k, n
