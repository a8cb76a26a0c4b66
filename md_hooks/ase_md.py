"""Hooks on an ASE dynamics: attach them, and drive a run that they may stop."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
from ase import units

from .ase_calculators import ForceDeltaSource
from .ase_state import atoms_of, capture
from .chain import HookChain
from .conserved_energy import conserved_energy, has_conserved_energy
from .drift import CONSERVED_ENERGY
from .electronic_state import ElectronicState
from .errors import HookError, RunStoppedError
from .frame import Frame
from .hook import AnyHook
from .run_info import RunInfo, RunResult
from .session import Session
from .signals import end_after_the_step
from .verdict import Verdict
from .versions import versions_of

_FORCE_DELTA_KEYS = ("force_deltas", "direct_forces", "conservative_forces")


class Attachment:
    """Hooks attached to a dynamics; made by `attach` from the hooks and the info of a run.

    Use it as a context manager, or call `close` at the end: it writes how the run ended.
    """

    def __init__(
        self, dynamics: Any, hooks: HookChain | Iterable[AnyHook], info: RunInfo | None = None
    ) -> None:
        info = RunInfo() if info is None else info
        self.dynamics = dynamics
        self.chain = hooks if isinstance(hooks, HookChain) else HookChain(hooks)
        self._atoms = atoms_of(dynamics)
        self._numbers = _own(self._atoms.numbers)
        self._masses = _own(self._atoms.get_masses())
        self._velocity_factor = units.fs / self._masses[:, None]
        self._electronic_state = ElectronicState.of(self._atoms).frame_fields()
        self._restart_step = info.restart_step
        self._step_offset = (info.restart_step or 0) - dynamics.nsteps
        if info.restart_step is None:
            self._step_offset = 0
        self._clock = getattr(dynamics, "get_time", None)
        self._conserves = has_conserved_energy(dynamics)
        self._time_offset = 0.0
        if info.restart_step is not None and self._clock is not None:
            self._time_offset = info.restart_time - self._clock() / units.fs
        self._ended = False
        self._detached = False
        self._source = ForceDeltaSource(self._atoms.calc)
        calc = self._source.calculator
        self.chain.add_first(getattr(calc, "sentinel", None))
        self._session = Session(
            self.chain,
            lambda: getattr(self._source.calculator, "evaluations", None),
            monitoring=lambda: getattr(self._source.calculator, "monitoring", None),
        )
        self._user_checkpoint = info.checkpoint
        self._session.open(
            replace(
                info,
                model=info.model or dict(getattr(calc, "model_info", None) or {}),
                versions={
                    "python": platform.python_version(),
                    **versions_of("forcedelta", "ase", "numpy", "h5py"),
                    **info.versions,
                },
                numbers=self._numbers if info.numbers is None else info.numbers,
                checkpoint=self._checkpoint,
            )
        )
        dynamics.attach(self._observe, 1)

    # --- one step ----------------------------------------------------------------------------

    def _observe(self) -> None:
        """Hand the frame of this step to the hooks; end the run if one of them stops it."""
        session = self._session
        if self._ended:
            raise RunStoppedError(
                f"the run was stopped and cannot continue with these hooks ({session.reason}): attach "
                "new ones to continue"
            )
        step = self.dynamics.nsteps + self._step_offset
        if self._restart_step is not None and step <= self._restart_step:
            return  # ASE shows a new dynamics its first configuration, which is on file already
        session.show(self._frame(step))
        if session.stopped is not None:
            session.close()
        if session.over:
            self._end()
        elif self.dynamics.nsteps == getattr(self.dynamics, "max_steps", None):
            self.chain.flush()

    @property
    def verdict(self) -> Verdict | None:
        """The verdict that stopped the run, if one did."""
        return self._session.stopped

    def _end(self) -> None:
        """Make the dynamics' own loop end after this step."""
        self._ended = True
        scipy_optimisers = sys.modules.get("ase.optimize.sciopt")
        if scipy_optimisers and isinstance(self.dynamics, scipy_optimisers.SciPyOptimizer):
            raise scipy_optimisers.Converged  # how its loop, which is SciPy's, is left
        self.dynamics.max_steps = self.dynamics.nsteps

    def _frame(self, step: int) -> Frame:
        atoms = self._atoms
        calc = atoms.calc
        results: Mapping[str, Any] = getattr(calc, "results", {})
        energy, forces = results.get("energy"), results.get("forces")
        if energy is None or forces is None:
            raise HookError(
                "the calculator kept no energy and forces of this step: use one that stores them "
                "in calc.results"
            )
        computed_at = getattr(calc, "atoms", None)
        if computed_at is None or len(computed_at) != len(atoms):
            computed_at = atoms
        momenta = atoms.arrays.get("momenta")
        twice_kinetic = 0.0
        if momenta is None:
            velocities = np.zeros((len(atoms), 3))
            temperature = 0.0
        else:
            velocities = momenta * self._velocity_factor
            freedom = atoms.get_number_of_degrees_of_freedom()
            twice_kinetic = float(np.vdot(momenta, velocities)) / units.fs
            temperature = twice_kinetic / (freedom * units.kB) if freedom > 0 else 0.0
        if not self._source.is_of(calc):
            self._source = ForceDeltaSource(calc)
        predicted = self._source.results(computed_at)
        u = predicted.get("force_delta")
        time = 0.0
        if self._clock is not None:
            # rounded, so that a restart's times equal the original's in the last digit too
            time = round(self._clock() / units.fs + self._time_offset, 9)
        arrays: dict[str, Any] = {
            name: _own(predicted[name])
            for name in _FORCE_DELTA_KEYS
            if predicted.get(name) is not None
        }
        if results.get("stress") is not None:
            arrays["stress"] = _own(results["stress"])
        extra = dict(
            Frame.scalars(predicted.get("expected_errors"), predicted.get("estimated_force_delta"))
        )
        if self._conserves:
            total = float(energy) + 0.5 * twice_kinetic
            extra[CONSERVED_ENERGY] = conserved_energy(self.dynamics, atoms, total)
        return Frame(
            step=step,
            time=time,
            numbers=self._numbers,
            positions=_own(computed_at.positions),
            velocities=_seal(velocities),
            masses=self._masses,
            cell=_own(computed_at.cell.array),
            pbc=_own(computed_at.pbc),
            energy=float(energy),
            forces=_own(forces),
            temperature=temperature,
            force_delta=None if u is None else float(u),
            extra=extra,
            why_no_force_delta=self._source.why_missing() if u is None else "",
            **arrays,
            **self._electronic_state,
        )

    def _checkpoint(self) -> dict[str, Any] | None:
        if not self._session.between_steps:
            return None
        state = capture(self.dynamics)
        if self._user_checkpoint is not None:
            extra = self._user_checkpoint()
            if extra is None:
                return None
            state["user"] = dict(extra)
        return state

    # --- the end -----------------------------------------------------------------------------

    def interrupt(self, why: str) -> None:
        """End the run after the present step; the result's reason is "interrupted", its message ``why``."""
        self._session.interrupt(why)

    def close(self, reason: str = "finished", message: str = "") -> RunResult:
        """Detach from the dynamics and close the hooks; further calls return the same result.

        Args:
            reason: "finished", "interrupted" or "error"; a run that was stopped stays "stopped".
            message: one readable line.
        """
        self._detach()
        return self._session.close(reason, message)

    def close_after(self, error: BaseException) -> RunResult | None:
        """Close after an exception, ``error``, that left the dynamics in the middle of a step."""
        self._detach()
        self._session.between_steps = isinstance(error, RunStoppedError)
        return self._session.close_after(error)

    def _detach(self) -> None:
        if not self._detached:
            self._detached = True
            observers = self.dynamics.observers
            observers[:] = [entry for entry in observers if entry[0] != self._observe]

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.close_after(error)


def attach(
    dynamics: Any, hooks: HookChain | Iterable[AnyHook], info: RunInfo | None = None
) -> Attachment:
    """Attach hooks to an ASE dynamics or optimiser, which is then run as usual.

    After each step the hooks get a `Frame` made from what the calculator has in ``results``; no
    evaluation is caused. A hook that stops the run ends ``dynamics.run`` at that step. Dynamics with a
    loop of their own (``SwitchLangevin``) are left with `RunStoppedError` one step later; that step
    makes no frame.

    Args:
        dynamics: any of `ase.md` or `ase.optimize`.
        hooks: see `md_hooks.HookChain`; or a chain.
        info: about the run. The model is taken from ``calc.model_info`` where it is not given, and
            the checkpoint of `md_hooks.ase_state.capture` is added to the given one (which then is
            under "user").

    Returns:
        a handle; use it as a context manager, or call its ``close()`` after the run.

    Raises:
        HookError: a hook refuses the run.
    """
    return Attachment(dynamics, hooks, info)


def run(
    dynamics: Any,
    steps: int,
    hooks: HookChain | Iterable[AnyHook],
    info: RunInfo | None = None,
    *,
    fmax: float | None = None,
) -> RunResult:
    """Run an ASE dynamics with hooks until it is done, stopped or interrupted.

    Ctrl-C and SIGTERM end the run after the step that is being made, with the files closed and
    the last frame and its checkpoint in them; a second signal ends it in the middle of the step.

    Args:
        dynamics: any of `ase.md` or `ase.optimize` with ``run(steps=...)``.
        steps: number of steps to make.
        hooks: see `md_hooks.HookChain`.
        info: see `attach`.
        fmax: convergence criterion of an optimiser, eV/Å.

    Returns:
        why and where the run ended. Errors of the model or of a hook are raised, after the hooks
        were closed.
    """
    info = RunInfo() if info is None else info
    if info.planned_steps is None:
        info = replace(info, planned_steps=steps)
    arguments: dict[str, Any] = {"steps": steps}
    if fmax is not None:
        arguments["fmax"] = fmax
    handle = attach(dynamics, hooks, info)
    try:
        with end_after_the_step(handle.interrupt), handle:
            dynamics.run(**arguments)
    except (KeyboardInterrupt, RunStoppedError):
        pass
    return handle.close()


def _own(array: Any) -> np.ndarray:
    return _seal(np.array(array))


def _seal(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
