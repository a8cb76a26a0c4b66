"""Hook that adds the predicted errors to the frames of a run or an audit, and warns of extrapolation."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from md_hooks import Action, Frame, Hook, RunResult, Verdict
from md_hooks.frame import FloatArray
from md_hooks.frame_description import where
from md_hooks.predicted_error import OUTSIDE, PREDICTED, PREDICTED_ATOMS

from .predicted_error import UNKNOWN_COMPOSITION, PredictedError
from .signals import WORDS, Signals, composition, frame_signals

_log = logging.getLogger(__name__)

_UNKNOWN = dict.fromkeys((*PREDICTED, OUTSIDE), math.nan)


class PredictedErrorHook(Hook):
    """Adds ``predicted_error`` with its interval, eV/Å, to the scalars of each frame that has U.

    The number of signals outside the calibrated range is ``predicted_error_outside``. The first frame
    outside for each signal is logged; the number of such frames is logged at the end.

    The atoms of these frames get ``predicted_errors`` with ``predicted_errors_low`` and
    ``predicted_errors_high`` [N], eV/Å, from their u_i, where the calibration has fits of single atoms.
    They are NaN for elements without one, which is logged once.

    >>> from forcedelta import calibrate_error
    >>> hook = PredictedErrorHook(calibrate_error("labelled.xyz"))  # for hooks=[hook] of a run

    Args:
        predicted: the calibrated prediction.
        flag_outside: flag the frames outside the range, which a new calibration needs labels of.

    Attributes:
        outside: number of frames outside the range, by signal.
    """

    state_name = "PredictedError"

    def __init__(self, predicted: PredictedError, flag_outside: bool = False) -> None:
        self.predicted = predicted
        self.flag_outside = flag_outside
        self.outside: dict[str, int] = {}
        self._frames = self._frames_outside = 0
        self._composition: tuple[bytes, str] = (b"", "")
        self._now: list[str] = []
        self._unknown: tuple[bytes, list[str]] = (b"", [])
        self._told: set[str] = set()

    def annotate(self, frame: Frame) -> Mapping[str, float]:
        """The predicted error of a frame; NaN where it has no U.

        Raises:
            ForceDeltaError: the frame lacks a signal of the fit.
        """
        self._now = []
        signals = frame_signals(frame)
        if signals is None or not math.isfinite(frame.force_delta or 0.0):
            return _UNKNOWN
        name = self._composition_of(frame)
        columns = {key: np.array([value]) for key, value in signals.items()}
        if not all(key in columns for key in self.predicted.signals):
            if math.isfinite(frame.energy):
                self.predicted.predict(Signals(columns, [name]))  # says which one is missing
            return _UNKNOWN
        one = Signals(columns, [name])
        values = self.predicted.predict(one)
        self._now = [key for key, is_out in self.predicted.outside(one).items() if is_out[0]]
        found = {key: float(value[0]) for key, value in zip(PREDICTED, values, strict=True)}
        return {**found, OUTSIDE: float(len(self._now))}

    def annotate_atoms(self, frame: Frame) -> Mapping[str, FloatArray]:
        """The predicted errors of the atoms [N], eV/Å; none where the frame has no U."""
        u = frame.force_deltas
        if not self.predicted.atoms or u is None or not math.isfinite(frame.force_delta or 0.0):
            return {}
        values = self.predicted.predict_atoms(frame.numbers, u)
        return dict(zip(PREDICTED_ATOMS, values, strict=True))

    def _composition_of(self, frame: Frame) -> str:
        key = frame.numbers.tobytes()
        if self._composition[0] != key:
            self._composition = key, composition(frame.numbers)
        return self._composition[1]

    def __call__(self, frame: Frame) -> Verdict | None:
        """Flag a frame outside the calibrated range, if wanted."""
        if not (self.flag_outside and self._now):
            return None
        reason = (
            f"{where(frame)}: {self._words(self._now)} outside the calibrated range, so the predicted "
            "error is extrapolated"
        )
        return Verdict(Action.FLAG, reason, OUTSIDE, float(len(self._now)))

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Count the frame, and warn of elements without a fit and at the first one outside for each signal."""
        if frame.predicted_errors is not None:
            self._warn_of_elements(frame)
        if frame.predicted_error is None:
            return
        self._frames += 1
        self._frames_outside += bool(self._now)
        new = [name for name in self._now if name not in self.outside]
        for name in self._now:
            self.outside[name] = self.outside.get(name, 0) + 1
        if new:
            _log.warning(
                "%s: %s outside the calibrated range: the predicted error is extrapolated there and its "
                "interval has no guarantee",
                where(frame),
                self._words(new),
            )

    def _warn_of_elements(self, frame: Frame) -> None:
        key = frame.numbers.tobytes()
        if self._unknown[0] != key:
            self._unknown = key, self.predicted.without_atoms(frame.numbers)
        new = [symbol for symbol in self._unknown[1] if symbol not in self._told]
        if new:
            self._told.update(new)
            _log.warning(
                "%s: the predicted errors of atoms of %s are NaN, as the calibration has no fit for them: "
                "label more frames with these elements and calibrate again",
                where(frame),
                ", ".join(new),
            )

    @staticmethod
    def _words(names: list[str]) -> str:
        text = ", ".join(
            "a composition without labels" if name == UNKNOWN_COMPOSITION else WORDS[name]
            for name in names
        )
        return text + (" is" if len(names) == 1 else " are")

    def close(self, result: RunResult) -> None:
        """Tell how many frames were outside the calibrated range."""
        if self._frames_outside:
            counts = ", ".join(
                f"{WORDS.get(name, 'composition')} in {count}"
                for name, count in self.outside.items()
            )
            _log.warning(
                "%d of %d frames with a predicted error are outside the calibrated range (%s): label "
                "some of them and calibrate again",
                self._frames_outside, self._frames, counts,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The counts, JSON-able, for a restart."""
        return {
            "frames": self._frames,
            "frames_outside": self._frames_outside,
            "outside": dict(self.outside),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self._frames = int(state["frames"])
        self._frames_outside = int(state["frames_outside"])
        self.outside = {str(name): int(count) for name, count in state["outside"].items()}
