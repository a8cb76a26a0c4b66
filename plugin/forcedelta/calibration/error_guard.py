"""From a calibration and thresholds on the predicted error to the hooks of a run or an audit."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from md_hooks import Guard, Hook

from ..errors import ForceDeltaError
from ..limits import check_number, flag
from .error_hook import PredictedErrorHook
from .predicted_error import PredictedError
from .predicted_error_file import read_predicted_error
from .result import check_model

NAMES = ("stop_error", "flag_error")

GivenPrediction = PredictedError | str | Path | None
"""A predicted error, or the file of a calibration that holds one."""


class ErrorSettings(Protocol):
    """Settings of the guard on the predicted error."""

    @property
    def calibration(self) -> PredictedError | None:
        """The predicted error; None: there is none."""
        ...

    @property
    def stop_error(self) -> float | None:
        """Predicted error above which a run stops, eV/Å."""
        ...

    @property
    def flag_error(self) -> float | None:
        """Predicted error above which a frame is flagged, eV/Å."""
        ...

    @property
    def patience(self) -> tuple[int, int]:
        """(k, n): stop when k of the last n frames exceed the threshold."""
        ...


def prediction_of(given: GivenPrediction) -> PredictedError | None:
    """A predicted error; files are read.

    Raises:
        ForceDeltaError: the file holds none.
    """
    if isinstance(given, str | Path):
        return read_predicted_error(given)
    return given


def error_hooks(settings: ErrorSettings) -> list[Hook]:
    """The hooks that predict the error of each frame and guard on it; none without a calibration.

    Raises:
        ForceDeltaError: a threshold on the error without a calibration, or thresholds out of range.
    """
    thresholds = {name: getattr(settings, name) for name in NAMES}
    given = [name for name, value in thresholds.items() if value is not None]
    for name in given:
        check_number(name, thresholds[name], flag(name))
    if settings.calibration is None:
        if given:
            raise ForceDeltaError(
                f"{flag(given[0])} needs a predicted error: pass --calibration with a file of "
                "'forcedelta calibrate'"
            )
        return []
    stop, flagged = thresholds.values()
    if stop is not None and flagged is not None and flagged >= stop:
        raise ForceDeltaError(
            f"--flag-error {flagged:g} must be below --stop-error {stop:g}: exchange the two"
        )
    hook = PredictedErrorHook(settings.calibration, flag_outside=flagged is not None)
    guard = Guard(stop, flagged, on="predicted_error", patience=settings.patience)
    return [hook, *([guard] if given else [])]


def check_prediction(
    settings: ErrorSettings, name: str, weights_hash: str, forces: str = "direct"
) -> None:
    """Refuse a run or an audit for which the predicted error does not hold.

    Args:
        settings: of the run or audit.
        name, weights_hash: of the model in use.
        forces: that drive the run.

    Raises:
        ForceDeltaError: another model, or other forces.
    """
    if settings.calibration is not None:
        check_model(settings.calibration.model, name, weights_hash)
        if forces != "direct":
            raise ForceDeltaError(
                f"the predicted error is that of the direct forces, and {forces} forces drive this run: "
                "use --forces direct, or omit --calibration"
            )
