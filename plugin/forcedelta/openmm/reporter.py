"""A reporter of OpenMM that shows hooks the frames of any way of stepping."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal

import openmm

from md_hooks import RunInfo, RunResult, RunStoppedError
from md_hooks.verdict import Verdict

from ..errors import ForceDeltaError
from .monitor import Monitor
from .runs import Hooks, Restart, chain_of, checkpoint_of, resume
from .stepping import Frames, at_step

OnStop = Literal["raise", "flag"]
"""What ends the stepping after a hook stopped the run."""


class ForceDeltaReporter:
    """Shows hooks every step of a simulation, however the steps are made.

    Append it to ``simulation.reporters``: ``simulation.step``, ``runForClockTime``,
    ``app.Metadynamics``, ``app.SimulatedTempering`` and loops of your own are then recorded and
    guarded as by `forcedelta.openmm.run`, at one evaluation per step. The first step that is made
    shows the configuration before it, which is the first frame. As a context manager it closes its
    files at the end of the block:

    >>> import ase.io
    >>> from openmm import LangevinMiddleIntegrator, System, app, unit
    >>> from forcedelta.openmm import add_force_delta
    >>> from md_hooks import Guard, Recorder
    >>> atoms = ase.io.read("molecule.xyz")
    >>> topology, system = app.Topology(), System()
    >>> residue = topology.addResidue("MOL", topology.addChain())
    >>> for symbol in atoms.symbols:
    ...     element = app.Element.getBySymbol(symbol)
    ...     _ = topology.addAtom(symbol, element, residue), system.addParticle(element.mass)
    >>> monitor = add_force_delta(system, "acac", topology)
    >>> integrator = LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 0.5 * unit.femtosecond)
    >>> simulation = app.Simulation(topology, system, integrator)
    >>> simulation.context.setPositions(atoms.positions / 10)  # nm
    >>> reporter = ForceDeltaReporter(monitor, hooks=[Guard(stop_above=1.0), Recorder("openmm.h5")])
    >>> simulation.reporters.append(reporter)
    >>> with reporter:
    ...     simulation.step(10)

    A hook that stops the run ends it at its frame: the frame, its checkpoint and the outcome are on
    disk, and the file is closed. With ``on_stop="raise"`` the next step is refused with
    `md_hooks.RunStoppedError` before it is made, so the context stays in the state of that
    frame; all other reporters have seen it, and metadynamics has added its Gaussian. If no further
    step follows, leaving the ``with`` block raises. With ``on_stop="flag"`` the stepping goes on, and
    later steps are neither guarded nor recorded: ask `stopped` in your loop. To go on after a stop,
    `close` the reporter and append a new one, or none.

    Only a Simulation calls its reporters: steps of ``integrator.step`` are not seen, and the next
    reported step or `close` warns of them.

    Hooks that were used before continue their run, its file and its count of steps (`md_hooks.legs`), and
    a closed reporter can be appended again.

    Without `close`, the files are closed when the simulation is deleted or Python exits. An error of
    the model keeps its type if it is raised between steps, where most integrators need the model; inside
    a step OpenMM raises an OpenMMException with its text, which a ``with`` block turns back.

    Args:
        monitor: what `forcedelta.openmm.add_force_delta` returned. A System with several has a reporter for each.
        hooks: see `md_hooks.HookChain`.
        info: about the run; missing entries are filled in.
        on_stop: see above.
        restart: a file of `md_hooks.Recorder`, written under a reporter or by `forcedelta.openmm.run`, or its
            checkpoint; ``simulation`` is put into its state at once, and the first frame is that of the
            next step. The state of metadynamics or of simulated tempering is not in it: keep it by their
            own means.
        simulation: the `openmm.app.Simulation`; needed for ``restart`` only.
        after_stop: go on with hooks that have stopped the run.

    Raises:
        ForceDeltaError: an invalid ``on_stop``, or a checkpoint that does not match.
    """

    def __init__(
        self,
        monitor: Monitor,
        hooks: Hooks,
        info: RunInfo | None = None,
        *,
        on_stop: OnStop = "raise",
        restart: Restart | None = None,
        simulation: Any = None,
        after_stop: bool = False,
    ) -> None:
        self._frames: Frames | None = None
        self._pid = os.getpid()
        if on_stop not in ("raise", "flag"):
            raise ForceDeltaError(f"on_stop is {on_stop!r}: pass 'raise' or 'flag'")
        if restart is not None and simulation is None:
            raise ForceDeltaError(
                "restart puts the simulation into the state of its checkpoint: pass simulation=... too"
            )
        self.monitor = monitor
        self.on_stop = on_stop
        self._chain = chain_of(hooks)
        info = RunInfo() if info is None else info
        self._info = replace(info, after_stop=after_stop or info.after_stop)
        self._simulation: weakref.ref[Any] | None = None
        self._raised = False
        self._closed = False
        if restart is not None:
            monitor.check_integrator(simulation.system, simulation.integrator)
            checkpoints = {monitor: checkpoint_of(restart)}
            chains = {monitor: self._chain}
            self._info = resume(simulation.context, chains, checkpoints, self._info)

    # --- what a user asks ------------------------------------------------------------------------

    @property
    def verdict(self) -> Verdict | None:
        """The verdict that stopped the run, if one did."""
        return None if self._frames is None else self._frames.session.stopped

    @property
    def stopped(self) -> bool:
        """Whether a hook stopped the run."""
        return self.verdict is not None

    @property
    def result(self) -> RunResult | None:
        """Why and at which step the run ended; None before."""
        return None if self._frames is None else self._frames.session.result

    def close(self, reason: str = "finished", message: str = "") -> RunResult | None:
        """Close the hooks and leave ``simulation.reporters``; further calls return the same result.

        Args:
            reason: "finished", "interrupted" or "error"; a run that was stopped stays "stopped".
            message: one readable line.

        Returns:
            the result; None if no step was made.
        """
        self._detach()
        self._closed = True
        if self._frames is not None and self.result is None:
            self._frames.close(reason, message)
        return self.result

    def __enter__(self) -> ForceDeltaReporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            if self.stopped and self.on_stop == "raise" and not self._raised:
                raise self._refusal()
            return
        if isinstance(error, RunStoppedError):  # of this reporter, or of another region's
            self.close("stopped", f"with another region: {error}")
            return
        own = self.monitor.take_error() if isinstance(error, openmm.OpenMMException) else None
        if own is not None and self._frames is not None:
            at_step(own, self._frames.number)
        self._detach()
        self._close_after(error if own is None else own)
        if own is not None:
            raise own from None

    # --- what OpenMM asks ------------------------------------------------------------------------

    def describeNextReport(self, simulation: Any) -> dict[str, Any]:  # noqa: N802
        """Show the first frame of a ``simulation``, and request the next one; OpenMM calls this before a step.

        Args:
            simulation: the `openmm.app.Simulation` that makes the steps.

        Returns:
            OpenMM's description of the next report: after one step, without energies or forces.

        Raises:
            RunStoppedError: a hook stopped the run.
        """
        if self._frames is None or self._closed:
            self._open(simulation)
        frames = self._frames
        assert frames is not None
        if simulation.context is not frames.context:
            raise ForceDeltaError(
                "the reporter belongs to another Simulation: make one for each Simulation"
            )
        if self.result is None:
            self._show(frames.catch_up)
        if self.result is None:
            frames.begin_step()
            return {"steps": 1, "periodic": False, "include": []}
        if not self.stopped or self.on_stop == "raise":
            raise self._refusal()
        return {"steps": 0, "periodic": False, "include": []}

    def report(self, simulation: Any, state: openmm.State) -> None:
        """Show the frame of a step; OpenMM calls this after it.

        Args:
            simulation: see `describeNextReport`.
            state: OpenMM's, which is not used: the frame is that of the model's evaluation.
        """
        frames = self._frames
        assert frames is not None
        failed = self.monitor.take_error()
        if failed is not None:  # at the trial volume of a barostat
            at_step(failed, frames.number - 1)
            self._close_after(failed)
            raise failed
        frames.end_step()
        self._show(frames.show)

    def _open(self, simulation: Any) -> None:
        restart_step = self._info.restart_step
        if restart_step is not None and simulation.currentStep != restart_step:
            raise ForceDeltaError(
                f"the reporter continues from step {restart_step}, but the simulation is at step "
                f"{simulation.currentStep}: make the reporters just before the first step, the one with "
                "the earliest checkpoint last"
            )
        self.monitor.check_integrator(simulation.system, simulation.integrator)
        self._simulation = weakref.ref(simulation)
        self._frames = Frames(simulation, self.monitor, self._chain, self._info)
        self._closed = self._raised = False
        self._info = replace(self._info, restart_step=None, after_stop=False)
        _open_reporters.add(self)
        try:
            self._frames.begin()
        except BaseException as error:
            self._close_after(error)
            raise

    def _show(self, show: Any) -> None:
        frames = self._frames
        assert frames is not None
        try:
            show()
        except BaseException as error:
            self._close_after(error)
            raise
        if frames.session.over:
            frames.close()

    def _refusal(self) -> RunStoppedError:
        assert self.result is not None
        self._raised = True
        why = self.result.message or f"step {self.result.step}: the run has ended"
        return RunStoppedError(
            f"{why}: no step can be made with the hooks of this run; remove its reporter, and append "
            "a new one to go on",
            self.result,
        )

    # --- the end ---------------------------------------------------------------------------------

    def _close_after(self, error: BaseException) -> None:
        if self._frames is not None and self.result is None:
            self._frames.close_after(error)

    def _detach(self) -> None:
        simulation = None if self._simulation is None else self._simulation()
        if simulation is not None:
            reporters = simulation.reporters
            reporters[:] = [reporter for reporter in reporters if reporter is not self]

    def __del__(self) -> None:
        # a forked process must not write to the file of its parent
        if self._frames is not None and self.result is None and os.getpid() == self._pid:
            self.close()


_open_reporters: weakref.WeakSet[ForceDeltaReporter] = weakref.WeakSet()


@atexit.register
def _close_at_exit() -> None:
    """Close what is still open when Python exits, with the error that ends it, if any."""
    error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
    for reporter in list(_open_reporters):
        if reporter.result is not None or os.getpid() != reporter._pid:
            continue
        if error is None:
            reporter.close()
        else:
            reporter._close_after(error)
