"""Guard: thresholds on the Force Delta that flag frames or stop the run."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from .burn_in import BurnIn
from .errors import HookError
from .frame import Frame
from .frame_description import not_finite, where, worst
from .hook import Hook
from .predicted_error import predicted_words
from .run_info import RunInfo
from .verdict import CONTINUE, Action, Verdict

Threshold = float | Literal["auto"] | None

_QUANTITIES = {
    "force_delta": ("force_delta", "U"),
    "worst_atom": ("worst_force_delta", "largest u"),
    "predicted_error": ("predicted_error", "predicted error"),
}
"""Quantities of a frame that thresholds apply to: attribute and words."""

FRAMES_WITHOUT_U = 1000
"""A guard with a threshold raises after this many frames in a row that lack U without a reason."""


AUTO_STOP_FACTOR, AUTO_FLAG_FACTOR = 2.0, 1.5
"""Multiples of the upper end of the burn-in's usual values at which "auto" stops and flags."""

BURN_IN = 1000
"""Length of the burn-in that sets the thresholds of "auto", steps."""


class Guard(Hook):
    """Flags frames above one threshold and stops the run above another.

    Frames between the two are candidates for a reference calculation; a frame above the upper one
    counts as unphysical and is not flagged. "Above" is strict: a value *equal* to
    a threshold does not cross it. Energy, temperature, positions, forces or U that are not finite
    stop the run at once, whatever the thresholds and the patience, also in the burn-in.

    With "auto" a threshold is a factor times the upper end of the usual U, which is estimated from
    the first ``burn_in`` steps (`md_hooks.burn_in.BurnIn.level`). They should run at the start
    temperature; during them, only a threshold given as a number applies. The burn-in itself is
    judged: if the two force predictions are nearly uncorrelated, the temperature is too high, U
    spikes or drifts upwards, atoms overlap or molecules dissociate, the run stops without a
    threshold, immediately in clear cases and otherwise at the end of the burn-in. After the burn-in
    it also stops once the two predictions disagree throughout a block of 50 frames.
    ``stop_above="auto"`` alone also flags, above ``flag_factor`` times the same level. If a number
    and an "auto" resolve to the wrong order, the band is empty: stopping takes precedence.

    A frame that should carry U but does not is an error.

    Further legs of a run (`md_hooks.legs`) continue the burn-in, the thresholds and the patience. After a
    stop they are refused; with ``after_stop`` the patience begins anew, and so does a burn-in that was
    rejected. In another run the guard keeps the thresholds that it has chosen.

    >>> guard = Guard(stop_above=1.0, flag_above=0.4, patience=(3, 10))
    >>> guard.stop_threshold
    1.0

    Args:
        stop_above: eV/Å, "auto", or None for no stop threshold.
        flag_above: eV/Å, "auto", or None (see above).
        on: "force_delta" for U of the frame, "worst_atom" for its largest u_i, "predicted_error" for
            the predicted error of its direct forces, which another hook adds to `Frame.extra`.
        patience: (k, n): stop when k of the last n frames that carry U lie above the stop
            threshold. Frames in which U was not computed do not count.
        factor: multiple of the burn-in level at which an automatic threshold stops.
        flag_factor: multiple of the burn-in level at which an automatic threshold flags.
        burn_in: length of the burn-in, steps.
        temperature: target of the thermostat during the burn-in, K; None skips the temperature
            checks.

    Raises:
        HookError: an invalid threshold, factor, patience, burn-in or temperature.
    """

    def __init__(
        self,
        stop_above: Threshold = None,
        flag_above: Threshold = None,
        *,
        on: Literal["force_delta", "worst_atom", "predicted_error"] = "force_delta",
        patience: tuple[int, int] = (1, 1),
        factor: float = AUTO_STOP_FACTOR,
        flag_factor: float = AUTO_FLAG_FACTOR,
        burn_in: int = BURN_IN,
        temperature: float | None = None,
    ) -> None:
        if stop_above == "auto" and flag_above is None:
            flag_above = "auto"
        _check_threshold("stop_above", stop_above)
        _check_threshold("flag_above", flag_above)
        if _is_number(stop_above) and _is_number(flag_above) and flag_above >= stop_above:  # type: ignore[operator]
            raise HookError(
                f"flag_above ({flag_above} eV/Å) must lie below stop_above ({stop_above} eV/Å): "
                "swap the two"
            )
        if on not in _QUANTITIES:
            raise HookError(f"on is {on!r}: pass {', '.join(map(repr, _QUANTITIES))}")
        if len(patience) != 2 or not 1 <= patience[0] <= patience[1]:
            raise HookError(
                f"patience is {patience}: pass (k, n) with 1 <= k <= n for k of the last n frames"
            )
        if not (0 < factor < math.inf and 0 < flag_factor < math.inf):
            raise HookError("factor and flag_factor must be positive numbers")
        if stop_above == flag_above == "auto" and flag_factor >= factor:
            raise HookError(
                f"flag_factor ({flag_factor}) must be smaller than factor ({factor}): swap the two"
            )
        if burn_in < 1:
            raise HookError(f"burn_in is {burn_in}: pass at least 1 step")
        if temperature is not None and not 0 <= temperature < math.inf:
            raise HookError(f"temperature is {temperature!r}: pass a target in K, or None")
        self.stop_above = stop_above
        self.flag_above = flag_above
        self.on = on
        self.patience = (int(patience[0]), int(patience[1]))
        self.factor = float(factor)
        self.flag_factor = float(flag_factor)
        self.burn_in = int(burn_in)

        self._stop = float(stop_above) if _is_number(stop_above) else None  # type: ignore[arg-type]
        self._flag = float(flag_above) if _is_number(flag_above) else None  # type: ignore[arg-type]
        self._pending = "auto" in (stop_above, flag_above)
        self._burn_in = BurnIn(self.burn_in, temperature)
        self._autocorrelation_times: float | None = None
        self._refused: str | None = None
        self._replay = False
        self._window: deque[bool] = deque(maxlen=self.patience[1])
        self._frames_without = 0

    @property
    def stop_threshold(self) -> float | None:
        """The stop threshold in force, eV/Å, or None (also while "auto" is still in its burn-in)."""
        return self._stop

    @property
    def flag_threshold(self) -> float | None:
        """The flag threshold in force, eV/Å, or None (also while "auto" is still in its burn-in)."""
        return self._flag

    @property
    def burning_in(self) -> bool:
        """True until every automatic threshold is set."""
        return self._pending

    @property
    def refused(self) -> str | None:
        """Why the burn-in was rejected; None if it was not, or is still running."""
        return self._refused

    @property
    def autocorrelation_times(self) -> float | None:
        """Length of the burn-in in autocorrelation times of U; None until it is over."""
        return self._autocorrelation_times

    def open(self, info: RunInfo) -> None:
        """Begin anew what a new run, or one that goes on after a stop, does not share with the last."""
        self._replay = info.planned_frames is not None
        if self.ended is None or not (info.after_stop or info.restart_step is None):
            return
        self._window.clear()
        self._frames_without = 0
        if self._pending and (self._refused is not None or info.restart_step is None):
            self._refused = None
            self._burn_in = BurnIn(self.burn_in, self._burn_in.temperature)

    def __call__(self, frame: Frame) -> Verdict:
        """Judge a frame.

        Raises:
            HookError: the frame lacks a U that it should carry, or the burn-in contained no U, or
                only zeros.
        """
        broken = not_finite(frame)
        if broken is not None:
            quantity, number = broken
            reason = f"{where(frame)}: {quantity} is not finite ({number}){worst(frame)}"
            return Verdict(Action.STOP, reason, quantity, number)

        value = getattr(frame, _QUANTITIES[self.on][0])
        if value is None:
            self._miss(frame)
        else:
            value = float(value)  # a numpy number would not go into the state's JSON
            self._frames_without = 0
        if self._pending:
            verdict = self._burn(frame, value)
            if verdict.action is Action.STOP:
                return verdict
        elif self._autocorrelation_times is not None and not self._replay:
            why = self._burn_in.follow(frame, value)
            if why is not None:
                reason = f"{where(frame)}: {why}, unlike in the burn-in of 'auto'{worst(frame)}"
                return Verdict(Action.STOP, reason, "burn_in")
        if value is None:
            return CONTINUE

        above = self._stop is not None and value > self._stop
        self._window.append(above)
        if above and sum(self._window) >= self.patience[0]:
            return self._verdict(Action.STOP, frame, value, self._stop)
        if not above and self._flag is not None and value > self._flag:
            return self._verdict(Action.FLAG, frame, value, self._flag)
        return CONTINUE

    def _burn(self, frame: Frame, value: float | None) -> Verdict:
        """Follow the burn-in; at its end set the thresholds, or reject it."""
        if self._refused is not None:
            # a run ends here; an audit still reads the remaining frames
            return CONTINUE if self._replay else self._refusal(frame)
        burn_in = self._burn_in
        if not burn_in.over(frame.step):
            self._refused = burn_in.add(frame, value)
            return CONTINUE if self._refused is None else self._refusal(frame)
        if not burn_in.largest:
            what = "no Force Delta" if burn_in.largest is None else "only a zero Force Delta"
            raise HookError(
                f"the burn-in of {self.burn_in} steps gave {what}, so 'auto' cannot choose a "
                "threshold: pass stop_above as a number, or use a model with two force predictions"
            )
        self._refused = "; ".join(burn_in.judge(frame)) or None
        if self._refused is not None:
            return self._refusal(frame)
        level, self._autocorrelation_times = burn_in.level()
        if self.stop_above == "auto":
            self._stop = self.factor * level
        if self.flag_above == "auto":
            self._flag = self.flag_factor * level
        self._pending = False
        return CONTINUE

    def _refusal(self, frame: Frame) -> Verdict:
        reason = (
            f"{where(frame)}: burn-in rejected, 'auto' cannot choose a threshold: {self._refused}"
        )
        return Verdict(Action.STOP, reason + worst(frame), "burn_in")

    def unresolved(self) -> str | None:
        """Why a finished run was not guarded as requested, in words; None if it was."""
        if not self._pending or self._refused is not None:
            return None
        return (
            f"the run ended within the burn-in of {self.burn_in} steps, before 'auto' had chosen a "
            "threshold: run more steps (another run with the same hooks continues), or pass a shorter "
            "burn-in"
        )

    def _miss(self, frame: Frame) -> None:
        if not (self._pending or self._stop is not None or self._flag is not None):
            return
        if frame.why_no_force_delta:
            raise HookError(
                f"{where(frame)} carries no Force Delta, which the guard needs: "
                f"{frame.why_no_force_delta}; use a calculator that fills force_delta, or a guard "
                "without thresholds"
            )
        self._frames_without += 1
        if self._frames_without >= FRAMES_WITHOUT_U:
            raise HookError(
                f"{FRAMES_WITHOUT_U} frames in a row carried no Force Delta, which the guard "
                "needs: use a calculator that fills force_delta, or a smaller every"
            )

    def _verdict(
        self, action: Action, frame: Frame, value: float, threshold: float | None
    ) -> Verdict:
        what = _QUANTITIES[self.on][1]
        kind = "stop" if action is Action.STOP else "flag"
        reason = (
            f"{where(frame)}: {what} {value:.4g} eV/Å is above the {kind} threshold "
            f"{threshold:.4g} eV/Å"
        )
        if self.on == "predicted_error" and frame.force_delta is not None:
            reason = (
                f"{where(frame)}: {predicted_words(frame.extra)} is above the {kind} threshold "
            )
            reason += f"{threshold:.4g} eV/Å (U {frame.force_delta:.4g} eV/Å)"
        if action is Action.STOP and self.patience[1] > 1:
            reason += f" ({sum(self._window)} of the last {len(self._window)} frames with U)"
        return Verdict(action, reason + worst(frame), self.on, value, threshold)

    def policy(self) -> dict[str, Any]:
        """The requested and the resolved thresholds, JSON-able, in eV/Å."""
        return {
            "on": self.on,
            "stop_above": self.stop_above,
            "flag_above": self.flag_above,
            "patience": list(self.patience),
            "factor": self.factor,
            "flag_factor": self.flag_factor,
            "burn_in": self.burn_in,
            "burn_in_max": self._burn_in.largest,
            "burn_in_autocorrelation_times": self._autocorrelation_times,
            "burn_in_refused": self._refused,
            "stop_threshold": self._stop,
            "flag_threshold": self._flag,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next verdict depends on, JSON-able, for a restart."""
        return {
            "pending": self._pending,
            "burn_in_start": self._burn_in.start,
            "burn_in_max": self._burn_in.largest,
            "burn_in": self._burn_in.state() if self._pending else self._burn_in.state_after(),
            "burn_in_autocorrelation_times": self._autocorrelation_times,
            "burn_in_refused": self._refused,
            "window": list(self._window),
            "frames_without": self._frames_without,
            "stop_threshold": self._stop,
            "flag_threshold": self._flag,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`. Thresholds given as numbers keep their new values."""
        self._burn_in.load(state["burn_in_start"], state["burn_in_max"], state.get("burn_in") or {})
        self._autocorrelation_times = state.get("burn_in_autocorrelation_times")
        self._refused = state.get("burn_in_refused")
        self._window = deque((bool(x) for x in state["window"]), maxlen=self.patience[1])
        self._frames_without = int(state["frames_without"])
        if self.stop_above == "auto":
            self._stop = state["stop_threshold"]
        if self.flag_above == "auto":
            self._flag = state["flag_threshold"]
        self._pending = (self.stop_above == "auto" and self._stop is None) or (
            self.flag_above == "auto" and self._flag is None
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _check_threshold(name: str, value: object) -> None:
    if value is None or value == "auto":
        return
    if not _is_number(value) or not (0 <= float(value) < math.inf):  # type: ignore[arg-type]
        raise HookError(f"{name} is {value!r}: pass a number >= 0 in eV/Å, or 'auto'")
