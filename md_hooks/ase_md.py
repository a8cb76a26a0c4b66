"""Hooks on an ASE dynamics: attach them, and drive a run that they may stop."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
from ase import units

from .ase_dynamics import check_frames, ending, run_arguments, settings_of
from .ase_frames import ASEFrames
from .ase_state import capture
from .chain import HookChain
from .drift import CONSERVED_ENERGY
from .errors import HookError, RunStoppedError
from .frame import Frame
from .hook import AnyHook
from .legs import is_at
from .run_info import RunInfo, RunResult
from .session import Session
from .signals import end_after_the_step
from .verdict import Verdict
from .versions import versions_of


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
        check_frames(dynamics)
        self._frames = frames = ASEFrames(dynamics, info)
        self._clock = getattr(dynamics, "get_time", None)
        self._ended = False
        self._detached = False
        calc = frames.calculator
        self.chain.add_first(getattr(calc, "sentinel", None))
        self._session = Session(
            self.chain,
            frames.evaluations,
            monitoring=lambda: getattr(frames.calculator, "monitoring", None),
        )
        self._user_checkpoint = info.checkpoint
        before = self.chain.leg_before(info)
        self._session.open(
            replace(
                info,
                seamless=before is not None and self._is_seamless(before.frame),
                settings={**settings_of(dynamics), **frames.settings, **info.settings},
                model=info.model or dict(getattr(calc, "model_info", None) or {}),
                versions={
                    "python": platform.python_version(),
                    **versions_of("forcedelta", "ase", "numpy", "h5py"),
                    **info.versions,
                },
                numbers=frames.numbers if info.numbers is None else info.numbers,
                checkpoint=self._checkpoint,
            ),
            dynamics.nsteps,
            self._time(),
        )
        frames.begin()
        dynamics.attach(self._observe, 1)
        self._unseen = False
        self._step = getattr(dynamics, "step", None)
        if self._step is not None:
            dynamics.step = self._counted_step

    def _time(self) -> float:
        """Time of the dynamics, fs; 0 for an optimiser."""
        return 0.0 if self._clock is None else self._clock() / units.fs

    def begin(self) -> bool:
        """Show a configuration that was changed since the last leg of the same dynamics.

        ASE shows the first configuration of a new dynamics only. The forces that are needed are those
        of the first step.

        Returns:
            whether the run should go on.
        """
        if self._session.info.leg > 1 and self.dynamics.nsteps > 0:
            self._frames.evaluate()
            self._show()
        return not self._session.over

    # --- one step ----------------------------------------------------------------------------

    def _observe(self) -> None:
        """Hand the frame of this step to the hooks; end the run if one of them stops it."""
        session = self._session
        self._unseen = False
        self._frames.look()
        if self._ended:
            raise RunStoppedError(
                f"the run was stopped and cannot continue with these hooks ({session.reason}): attach new "
                "hooks for a new run, or these again with after_stop=True",
                session.result,
            )
        self._show()
        if session.over:
            self._end()
        elif self.dynamics.nsteps == getattr(self.dynamics, "max_steps", None):
            self.chain.flush()

    def _counted_step(self, *arguments: Any, **named: Any) -> Any:
        """A step of the dynamics, which the loops of ASE show to its observers and ``step`` does not."""
        self._refuse_unseen()
        self._unseen = not self._detached
        assert self._step is not None
        return self._step(*arguments, **named)

    def _refuse_unseen(self) -> None:
        if self._unseen:
            self._unseen = False
            raise HookError(
                f"{type(self.dynamics).__name__}.step() was called by itself, and hooks see no frame of it: "
                "loop over dynamics.irun(steps) instead, or call dynamics.run(steps)"
            )

    def _show(self) -> None:
        session, nsteps = self._session, self.dynamics.nsteps
        known = session.known_step
        if known is not None and session.step(nsteps) <= known:
            # ASE shows the first configuration of a new dynamics, which may be on file already
            there = self._frames.computed_at()
            if session.is_known(nsteps, there.positions, there.cell.array):
                return
        session.show(self._frame(session.step(nsteps)))
        if session.stopped is not None:
            session.close()

    def _is_seamless(self, last: Frame) -> bool:
        """Whether the dynamics goes on from a frame without any change; costs no evaluation."""
        atoms = self._frames.atoms
        if not is_at(last, atoms.positions, atoms.cell.array):
            return False
        if not self._frames.are_evaluated():
            return False
        now = self._frame(last.step)
        if not np.array_equal(now.velocities, last.velocities):  # type: ignore[arg-type]
            return False
        old, new = (frame.extra.get(CONSERVED_ENERGY) for frame in (last, now))
        if old is None or new is None:
            return old is new
        return math.isclose(old, new, rel_tol=1e-12, abs_tol=1e-9)

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
        return self._frames.frame(step, self._session.time(self._time()))

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

    def close(self, reason: str = "", message: str = "") -> RunResult:
        """Detach from the dynamics and close the hooks; further calls return the same result.

        Args:
            reason: one of `RunResult`; by default that of the dynamics. A run that was stopped stays
                "stopped".
            message: one readable line.
        """
        # before a band gives its calculators back
        reason = reason or ending(self.dynamics, self._frames.are_evaluated())
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
            self._frames.end()
            if vars(self.dynamics).get("step") == self._counted_step:
                del self.dynamics.step  # that of its class comes back
                if self.dynamics.step != self._step:
                    self.dynamics.step = self._step  # of another attachment
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
            self._refuse_unseen()
        else:
            self.close_after(error)


def attach(
    dynamics: Any,
    hooks: HookChain | Iterable[AnyHook],
    info: RunInfo | None = None,
    *,
    after_stop: bool = False,
) -> Attachment:
    """Attach hooks to an ASE dynamics or optimiser, which is then run as usual.

    After each step the hooks get a `Frame` made from what the calculator has in ``results``; no
    evaluation is caused. A hook that stops the run ends ``dynamics.run`` at that step. Dynamics with a
    loop of their own (``SwitchLangevin``) are left with `RunStoppedError` one step later; that step
    makes no frame.

    Of a nudged elastic band (`ase.mep.NEB`) the frame is the image with the largest U. Its ``extra`` has
    the number of the image as "image", and U (eV/Å) and energy (eV) of each image as
    "force_delta_image_0", "energy_image_0" and so on.

    Hooks that were used before continue their run (`md_hooks.legs`), also with another dynamics of the
    same system: see `run`.

    Args:
        dynamics: any of `ase.md` or `ase.optimize`.
        hooks: see `md_hooks.HookChain`; or a chain.
        info: about the run. The model is taken from ``calc.model_info`` where it is not given, and
            the checkpoint of `md_hooks.ase_state.capture` is added to the given one (which then is
            under "user").
        after_stop: go on with hooks that have stopped the run.

    Returns:
        a handle; use it as a context manager, or call its ``close()`` after the run.

    Raises:
        RunStoppedError: the hooks have stopped the run before.
        HookError: a hook refuses the run, or the hooks were used for another system or model.
    """
    if after_stop:
        info = replace(info or RunInfo(), after_stop=True)
    return Attachment(dynamics, hooks, info)


def run(
    dynamics: Any,
    steps: int,
    hooks: HookChain | Iterable[AnyHook],
    info: RunInfo | None = None,
    *,
    fmax: float | None = None,
    after_stop: bool = False,
    raise_on_stop: bool = False,
) -> RunResult:
    """Run an ASE dynamics with hooks until it is done, stopped or interrupted.

    Further calls with the same hooks are legs of one run: they continue its file, its count of steps and
    its times, and each hook keeps its state. Between two legs the temperature, the time step or the
    whole dynamics may change, and velocities may be drawn anew. The first configuration of a leg is
    the last frame, and makes no further one; if atoms or cell were changed, it is a step of its own.

    >>> import ase.io
    >>> from ase.md.langevin import Langevin
    >>> from forcedelta import ForceDeltaCalculator, Guard, Recorder
    >>> atoms = ase.io.read("molecule.xyz")
    >>> atoms.calc = ForceDeltaCalculator("acac")
    >>> hooks = [Guard(stop_above=1.0), Recorder("annealing.h5")]
    >>> for temperature in (600, 450, 300):
    ...     dynamics = Langevin(
    ...         atoms, 0.5 * units.fs, temperature_K=temperature, friction=0.002, fixcm=False
    ...     )
    ...     run(dynamics, 10, hooks, raise_on_stop=True).step
    10
    20
    30

    Ctrl-C and SIGTERM end the run after the step that is being made, with the files closed and
    the last frame and its checkpoint in them; a second signal ends it in the middle of the step.

    Args:
        dynamics: any of `ase.md` or `ase.optimize` with ``run(steps=...)``.
        steps: number of steps to make.
        hooks: see `md_hooks.HookChain`.
        info: see `attach`.
        fmax: convergence criterion of an optimiser, eV/Å; by default its own, 0.05 in ASE.
        after_stop: go on with hooks that have stopped the run; the frame that they stopped at is not
            judged again.
        raise_on_stop: raise if a hook stops the run, or a signal ends it: the end of a loop of legs.

    Returns:
        why and where the run ended. Errors of the model or of a hook are raised, after the hooks
        were closed.

    Raises:
        RunStoppedError: the hooks have stopped the run before; with ``raise_on_stop`` also at the stop
            itself, with its ``result``.
        HookError: see `attach`; or ``dynamics.run`` takes no ``steps``, or no ``fmax``.
    """
    info = RunInfo() if info is None else info
    if info.planned_steps is None:
        info = replace(info, planned_steps=steps)
    arguments = run_arguments(dynamics, steps, fmax)
    handle = attach(dynamics, hooks, info, after_stop=after_stop)
    try:
        with end_after_the_step(handle.interrupt), handle:
            if handle.begin():
                dynamics.run(**arguments)
    except (KeyboardInterrupt, RunStoppedError):
        pass
    result = handle.close()
    if raise_on_stop and result.reason in ("stopped", "interrupted"):
        raise RunStoppedError(f"the run was {result.reason} ({result.message})", result)
    return result
