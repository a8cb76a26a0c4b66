"""DriftGuard: flags or stops a run whose conserved energy drifts."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from .drift import BLOCKS, CONSERVED_ENERGY, FEWEST_BLOCKS, Drift, line_through
from .errors import HookError
from .frame import Frame
from .frame_description import where
from .hook import Hook
from .run_info import RunInfo
from .verdict import CONTINUE, Action, Verdict

RESOLVED = 2.0
"""Standard errors; a smaller drift may be a fluctuation, and counts as none."""


class DriftGuard(Hook):
    """Flags or stops on the drift of the conserved energy over the latest frames.

    The window is divided into `md_hooks.drift.BLOCKS` blocks. At the end of each block, once the run
    is a window long, a straight line is fitted to the mean energies of the blocks. A slope of either
    sign counts that is above a threshold and at least `RESOLVED` times its standard error.

    A further leg of a run (`md_hooks.legs`) continues the window if nothing was changed in between. Where
    the conserved energy jumps, as with new velocities or another dynamics, and after a stop, the window
    begins anew.

    >>> guard = DriftGuard(stop_above=5.0, window=500.0)

    Args:
        stop_above: size of the drift at which the run stops, meV/atom/ps; None never stops it.
        flag_above: size of the drift at which frames are flagged, meV/atom/ps; None flags none.
        window: fs. Conserved energies fluctuate within vibrations, which it should span many of.

    Raises:
        HookError: a threshold or a window that is not a positive number, or no threshold at all;
            while running, frames without conserved energy, or a window with too few of them.
    """

    def __init__(
        self,
        stop_above: float | None = None,
        flag_above: float | None = None,
        window: float = 500.0,
    ) -> None:
        for name, value in (("stop_above", stop_above), ("flag_above", flag_above)):
            if value is not None and not _is_positive(value):
                raise HookError(f"{name} is {value!r}: pass a number above 0 in meV/atom/ps")
        if stop_above is None and flag_above is None:
            raise HookError("no threshold: pass stop_above or flag_above in meV/atom/ps")
        if stop_above is not None and flag_above is not None and flag_above >= stop_above:
            raise HookError(
                f"flag_above ({flag_above} meV/atom/ps) must lie below stop_above ({stop_above} "
                "meV/atom/ps): swap the two"
            )
        if not _is_positive(window):
            raise HookError(f"window is {window!r}: pass a time above 0 in fs")
        self.stop_above = stop_above
        self.flag_above = flag_above
        self.window = float(window)
        self._begin()

    def _begin(self) -> None:
        self._start: float | None = None
        self._reference = 0.0
        self._block = 0
        self._sums = [0.0, 0.0, 0.0]  # frames, times, energies of the present block
        self._means: deque[tuple[int, float, float]] = deque()
        self._drift: Drift | None = None

    def open(self, info: RunInfo) -> None:
        """Begin the window anew where the conserved energy does not go on from the last frame."""
        ended = self.ended
        if ended is None or info.restart_step not in (None, ended.frame.step):
            return
        if info.after_stop or not info.seamless:
            self._begin()

    @property
    def drift(self) -> Drift | None:
        """The drift over the latest window; None before the first one is complete."""
        return self._drift

    def __call__(self, frame: Frame) -> Verdict:
        """Take in the conserved energy of a frame; judge the drift at the end of a block.

        Raises:
            HookError: the run has no conserved energy, or the window holds too few of them.
        """
        if CONSERVED_ENERGY not in frame.extra:
            raise HookError(
                f"{where(frame)} carries no conserved energy, which DriftGuard needs: choose nve, "
                "langevin or bussi, or omit DriftGuard"
            )
        energy = frame.extra[CONSERVED_ENERGY]
        if not math.isfinite(energy):  # between two outer steps, or after an explosion
            return CONTINUE
        if self._start is None:
            self._start, self._reference = frame.time, energy
        block = int((frame.time - self._start) / self.window * BLOCKS)
        verdict = CONTINUE
        if block > self._block:
            self._end_block(block)
            if block >= BLOCKS:
                verdict = self._judge(frame)
        self._sums = [
            total + value
            for total, value in zip(
                self._sums, (1.0, frame.time, energy - self._reference), strict=True
            )
        ]
        return verdict

    def _end_block(self, block: int) -> None:
        count, times, energies = self._sums
        if count:
            self._means.append((self._block, times / count, energies / count))
        self._block, self._sums = block, [0.0, 0.0, 0.0]
        while self._means and self._means[0][0] < block - BLOCKS:
            self._means.popleft()

    def _judge(self, frame: Frame) -> Verdict:
        if len(self._means) < FEWEST_BLOCKS:
            raise HookError(
                f"{where(frame)}: the last {self.window:g} fs hold too few frames with conserved energy "
                "for a drift: pass a longer window to DriftGuard"
            )
        _, times, energies = zip(*self._means, strict=True)
        found = self._drift = line_through(times, energies, len(frame.numbers))
        if found is None or abs(found.value) < RESOLVED * found.error:
            return CONTINUE
        for action, threshold in ((Action.STOP, self.stop_above), (Action.FLAG, self.flag_above)):
            if threshold is not None and abs(found.value) > threshold:
                kind = "stop" if action is Action.STOP else "flag"
                reason = (
                    f"{where(frame)}: the conserved energy drifts by {found} over {self.window:g} fs, "
                    f"above the {kind} threshold {threshold:.4g} meV/atom/ps"
                )
                return Verdict(action, reason, "drift", found.value, threshold)
        return CONTINUE

    def policy(self) -> dict[str, Any]:
        """The thresholds, JSON-able: meV/atom/ps, and the window in fs."""
        return {
            "on": "drift",
            "drift_stop_above": self.stop_above,
            "drift_flag_above": self.flag_above,
            "window": self.window,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next verdict depends on, JSON-able, for a restart."""
        return {
            "start": self._start,
            "reference": self._reference,
            "block": self._block,
            "sums": list(self._sums),
            "means": [list(mean) for mean in self._means],
            "window": self.window,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`; with another window the drift is measured anew."""
        if state["window"] != self.window:
            return
        self._start = state["start"]
        self._reference = float(state["reference"])
        self._block = int(state["block"])
        self._sums = [float(value) for value in state["sums"]]
        self._means = deque((int(b), float(t), float(e)) for b, t, e in state["means"])


def _is_positive(value: object) -> bool:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return is_number and 0 < float(value) < math.inf  # type: ignore[arg-type]
