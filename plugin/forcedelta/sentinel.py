"""The sentinel of adaptive monitoring: the work along the path decides when U must be exact."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from ase.geometry import find_mic
from numpy.typing import NDArray

from md_hooks import Hook, RunInfo, RunResult

from .monitoring import COUNTS

if TYPE_CHECKING:
    from .evaluation import Evaluation

AT_LEAST_EVERY = 20
"""Steps after which an exact evaluation is made anyway."""

SOON = 5
"""The same after an exact U above the level from which the estimate would fire: the work is a
projection on the path, and misses a difference that grows perpendicular to it."""

WINDOW = 10
"""Steps over which the work is averaged."""

STOP_SHARE, FLAG_SHARE = 0.35, 0.5
"""Shares of the thresholds that the estimate of U must exceed to require an exact evaluation."""

NEAR = 0.7
"""Share of the lowest threshold above which an exact U makes the next evaluation exact too."""

FEWEST, MOST = 20, 200
"""Exact evaluations that set the scale: those at the start of a run, and the latest ones."""

FALSE = 0.5
"""A firing is false if the exact value is below this share of its estimate."""

RAISED, LOWERED, HIGHEST = 1.25, 0.93, 8.0
"""Factors of the level that the estimate must exceed: after each false firing, after each scheduled
evaluation, and the most. In equilibrium a noisy energy makes one false firing for three scheduled
evaluations, 1.6 % of the steps."""

PAUSE, SURGE = 3, 1.5
"""Evaluations after a firing that found no U near a threshold in which only an estimate this much
larger fires again: U and S vary over the period of a bond vibration, 20 to 40 steps."""

UNUSUAL = 8.0
"""Multiple of the median U that takes the place of a threshold in runs without one."""

_FAR = 1.0
"""Å; a longer displacement within a step may be a wrap into the cell."""

Quantity = Literal["force_delta", "worst_atom"]

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class _Limit:
    """Thresholds of one guard: on which quantity, the lowest, and the level to be exact from, eV/Å."""

    on: Quantity
    lowest: float
    level: float


class Sentinel(Hook):
    """Decides from quantities of the forward pass alone which evaluations must be exact.

    Along a step from r to r + dr, w = dE + 1/2 (F_nc(t) + F_nc(t + dt)) . dr is the work of the
    difference F_nc - F_c, up to O(dr^3): it vanishes where the direct forces are the gradient of
    the energy. ``S = sqrt(sum w^2 / sum |dr|^2)`` over the last `WINDOW` steps follows U; the running
    median of U/S over the latest `MOST` exact evaluations is the scale, and scale * S the estimate
    of U. An evaluation is made exact

    - in the first `FEWEST` evaluations, until a guard has chosen its "auto" thresholds, after
      `AT_LEAST_EVERY` steps, `SOON` after an exact U above the level of the next line, and at once
      after one above `NEAR` of the lowest threshold: all this is known before the forward pass
      (`due`);
    - where the estimate exceeds `STOP_SHARE` of the stop threshold or `FLAG_SHARE` of the flag
      threshold of a guard: a firing, known only from the forward pass (`see`).

    A firing that finds no U above `NEAR` of the lowest threshold is followed by a pause (`PAUSE`,
    `SURGE`). If it finds less than `FALSE` of the estimate, it was false: it multiplies the level that
    the estimate must exceed by `RAISED`, and each scheduled evaluation by `LOWERED`, down to its first
    value. So an energy whose noise exceeds U cannot fire forever. Runs without thresholds use
    `UNUSUAL` times the median U as one.

    As a hook it reads the thresholds of the guards of the run, and checkpoints keep its state. One
    evaluation is one step.

    Attributes:
        evaluations: evaluations seen.
        exact_evaluations: exact ones among them.
        firings: those made exact because of the estimate.
        false_firings: firings that found less than `FALSE` of the estimate.
        estimate: of U at the last evaluation, eV/Å, made without its exact U; NaN while there is no
            scale.
    """

    def __init__(self) -> None:
        self.evaluations = self.exact_evaluations = self.firings = self.false_firings = 0
        self.estimate = math.nan
        self._policies: Callable[[], list[dict[str, Any]]] = list
        self._thresholds: list[dict[str, Any]] = []  # of the guards, at the present evaluation
        self._given: list[_Limit] = []
        self._scheduled: bool | None = None
        self._squares: deque[float] = deque(maxlen=WINDOW)  # w^2, eV^2
        self._lengths: deque[float] = deque(maxlen=WINDOW)  # |dr|^2, Å^2
        self._ratios: deque[tuple[float, float, float]] = deque(maxlen=MOST)  # U/S, max u/S, U
        self._medians: tuple[float, float, float] = (math.nan,) * 3
        self._since = 0
        self._near = self._elevated = False
        self._raised = 1.0
        self._fired = False
        self._pause, self._paused_at = 0, 0.0
        self._work = math.nan
        self._exact = True
        self._resuming = self._repeated = False
        self._last: tuple[float, FloatArray, FloatArray, FloatArray] | None = None

    @property
    def resuming(self) -> bool:
        """Whether the next evaluation must be that of a checkpoint's configuration."""
        return self._resuming

    # --- before an evaluation --------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether the next evaluation is exact whatever its forward pass gives."""
        self._read_thresholds()
        if self._resuming:
            return self._exact  # of the checkpoint's configuration, as it was
        self._scheduled = (
            self._last is None
            or self._near
            or self._since + 1 >= (SOON if self._elevated else AT_LEAST_EVERY)
            or len(self._ratios) < FEWEST
            or self._undecided
        )
        return self._scheduled

    @property
    def _undecided(self) -> bool:
        """Whether a guard has not chosen its thresholds yet."""
        return any(
            policy.get(f"{name}_above") == "auto" and policy.get(f"{name}_threshold") is None
            for policy in self._thresholds
            for name in ("stop", "flag")
        )

    def begin(self) -> None:
        """Forget the path, unless a restart comes next: the next evaluation is of another system."""
        if self._resuming:
            return
        self._last = self._scheduled = None
        self._forget_steps()
        self._ratios.clear()
        self._take_medians()
        self._near, self._elevated, self._raised = False, False, 1.0

    # --- an evaluation ---------------------------------------------------------------------------

    def see(
        self,
        energy: float,
        forces: FloatArray,
        positions: FloatArray,
        cell: FloatArray,
        pbc: NDArray[np.bool_],
    ) -> bool:
        """Take the forward pass of a step; whether its evaluation must be exact.

        Where it must, `confirm` follows with the exact U of the same configuration.

        Args:
            energy: eV, of the model.
            forces: direct forces [N, 3], eV/Å, of the model.
            positions: [N, 3] Å; atoms may have been wrapped into the cell since the last step.
            cell: [3, 3] Å, rows are the vectors; zeros without a cell.
            pbc: (3,) bool.
        """
        self._repeated, self._resuming = self._resuming, False
        if self._repeated:  # the configuration of the checkpoint
            self._last = (energy, forces, positions.copy(), cell.copy())
            return self._exact
        scheduled = self.due if self._scheduled is None else self._scheduled
        self._scheduled = None
        self._since += 1
        self.evaluations += 1
        self._add_step(energy, forces, positions, cell, pbc)
        self._last = (energy, forces, positions.copy(), cell.copy())
        self._work = self._rms_work()
        self.estimate = self._scale("force_delta") * self._work
        self._pause = max(0, self._pause - 1)
        self._fired = not scheduled and self._is_high()
        self._exact = scheduled or self._fired
        self.firings += self._fired
        return self._exact

    def confirm(self, exact: Evaluation) -> None:
        """Take the exact evaluation of the configuration seen last.

        Its energy and direct forces replace those of the forward pass, which may be rounded
        differently: a restart sees them alone.
        """
        if self._last is not None:
            self._last = (exact.energy, exact.direct_forces, *self._last[2:])
        if self._repeated:
            return
        force_delta, deltas = exact.force_delta, exact.force_deltas
        assert force_delta is not None
        assert deltas is not None
        worst = float(deltas.max())
        values: dict[Quantity, float] = {"force_delta": force_delta, "worst_atom": worst}
        limits = self._limits()
        self._near = any(not values[at.on] < NEAR * at.lowest for at in limits)
        self._elevated = any(not values[at.on] < at.level for at in limits)
        self.exact_evaluations += 1
        self._since = 0
        if not self._fired:
            self._raised = max(1.0, LOWERED * self._raised)
        elif not self._near:
            if math.isfinite(self._work):
                self._pause, self._paused_at = PAUSE, self._work
            false = force_delta < FALSE * self.estimate
            self.false_firings += false
            if false:
                self._raised = min(HIGHEST, RAISED * self._raised)
        if self._work > 0 and math.isfinite(force_delta):
            ratio = force_delta / self._work, worst / self._work, force_delta
            self._ratios.append(tuple(map(float, ratio)))  # type: ignore[arg-type]
            self._take_medians()

    def _add_step(
        self,
        energy: float,
        forces: FloatArray,
        positions: FloatArray,
        cell: FloatArray,
        pbc: NDArray[np.bool_],
    ) -> None:
        """Add the work of the step that led to these positions to the window."""
        if self._last is None:
            return
        energy_before, forces_before, positions_before, cell_before = self._last
        if (cell != cell_before).any():
            return  # a barostat's work is none of the forces
        moved = positions - positions_before
        if not np.abs(moved).max() < _FAR:
            if pbc.any() and np.isfinite(moved).all():
                moved = find_mic(moved, cell, pbc)[0]
            if not np.abs(moved).max() < _FAR:  # an explosion, or the begin of another path
                self._forget_steps()  # and without a window every evaluation is exact
                return
        work = energy - energy_before + 0.5 * float(np.vdot(forces + forces_before, moved))
        if math.isfinite(work):
            self._squares.append(work * work)
            self._lengths.append(float(np.vdot(moved, moved)))
        else:
            self._forget_steps()

    def _rms_work(self) -> float:
        """S of the window, eV/Å; NaN if nothing has moved."""
        moved = math.fsum(self._lengths)
        return math.sqrt(math.fsum(self._squares) / moved) if moved > 0 else math.nan

    def _forget_steps(self) -> None:
        self._squares.clear()
        self._lengths.clear()

    def _scale(self, on: Quantity) -> float:
        """Median of U, or of the largest u_i, over S; NaN until there are enough exact values."""
        return self._medians[on == "worst_atom"]

    def _take_medians(self) -> None:
        """Medians of the ratios, once for each exact evaluation: they take longer than all else."""
        if len(self._ratios) < FEWEST:
            self._medians = (math.nan,) * 3
        else:
            self._medians = tuple(np.median(list(self._ratios), axis=0).tolist())

    def _is_high(self) -> bool:
        if self._pause and self._work <= SURGE * self._paused_at:
            return False
        return any(
            not self._scale(at.on) * self._work <= self._raised * at.level  # also if NaN
            for at in self._limits()
        )

    def _limits(self) -> list[_Limit]:
        """The thresholds in force."""
        if self._given or len(self._ratios) < FEWEST:
            return self._given
        unusual = UNUSUAL * self._medians[2]
        return [_Limit("force_delta", unusual, STOP_SHARE * unusual)]

    def _read_thresholds(self) -> None:
        """Take the thresholds of the guards at the present evaluation."""
        policies = self._policies()
        if policies == self._thresholds:
            return
        self._thresholds = policies
        self._given = []
        for policy in policies:
            stop, flag = policy.get("stop_threshold"), policy.get("flag_threshold")
            given = [
                (value, share * value)
                for value, share in ((stop, STOP_SHARE), (flag, FLAG_SHARE))
                if value is not None
            ]
            if given and policy.get("on") in get_args(Quantity):
                lowest, level = (min(numbers) for numbers in zip(*given, strict=True))
                self._given.append(_Limit(policy["on"], lowest, level))

    # --- as a hook -------------------------------------------------------------------------------

    def open(self, info: RunInfo) -> None:
        """Read the thresholds of the run's guards from now on."""
        self._policies = info.policies

    def close(self, result: RunResult) -> None:
        """Forget the thresholds of the run."""
        self._policies = list

    def counts(self) -> dict[str, int]:
        """The counts of the run so far, for its record."""
        return {name: getattr(self, name) for name in COUNTS}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next decision depends on, JSON-able, for a restart."""
        return {
            **self.counts(),
            "window": [list(step) for step in zip(self._squares, self._lengths, strict=True)],
            "ratios": [list(ratio) for ratio in self._ratios],
            "since": self._since,
            "near": self._near,
            "elevated": self._elevated,
            "raised": self._raised,
            "pause": self._pause,
            "paused_at": self._paused_at,
            "exact": self._exact,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`: the next evaluation is that of the checkpoint's step."""
        for name in COUNTS:
            setattr(self, name, int(state[name]))
        self._forget_steps()
        self._squares.extend(step[0] for step in state["window"])
        self._lengths.extend(step[1] for step in state["window"])
        self._ratios = deque((tuple(ratio) for ratio in state["ratios"]), maxlen=MOST)
        self._take_medians()
        self._since = int(state["since"])
        self._near, self._elevated = bool(state["near"]), bool(state["elevated"])
        self._raised = float(state["raised"])
        self._pause, self._paused_at = int(state["pause"]), float(state["paused_at"])
        self._exact = bool(state["exact"])
        self._resuming = True
