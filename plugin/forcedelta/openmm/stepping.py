"""OpenMM runs with hooks that may stop them."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray

from md_hooks import Checkpoint, Frame, HookChain, RunInfo, RunResult, load_checkpoint
from md_hooks.drift import CONSERVED_ENERGY
from md_hooks.hook import AnyHook
from md_hooks.session import Session
from md_hooks.signals import end_after_the_step
from md_hooks.versions import versions_of

from ..monitoring import evaluate_adaptively
from .evaluator import Measurement
from .monitor import Monitor, find_monitor
from .state import capture, restore
from .units import NM
from .velocities import Velocities


def run(
    simulation: Any,
    steps: int,
    hooks: Iterable[AnyHook] | HookChain,
    info: RunInfo | None = None,
    *,
    restart: str | Path | Checkpoint | None = None,
) -> RunResult:
    """Run an OpenMM simulation with hooks until it is done, stopped or interrupted.

    Before each step the model is evaluated at the present configuration and the hooks get its
    `md_hooks.Frame`; the integrator then reuses the computed forces. A run that a hook stops has
    therefore not taken the step: positions, velocities, box, time and random numbers of the context
    are those of the frame that stopped it, and a run continued from there equals an uninterrupted
    one. Reporters of the simulation work as usual and see the same steps.

    The frame holds the model's atoms, energy and forces. OpenMM's leapfrog integrators (Verlet,
    Langevin, LangevinMiddle, NoseHoover) keep velocities half a step behind the positions. If the
    model's force is the only one in the System, the frame has velocities at the time of the
    positions; with other forces or constraints it has OpenMM's, and ``velocity_offset`` in the
    run's settings is -0.5 (steps) instead of 0. The temperature is that of the frame's velocities.

    With multiple time steps a step is one of the integrator, an outer step, and its frame has both
    forces and U. Where the model's force is the only one and the integrator is VerletIntegrator or
    MTSIntegrator, the frame's ``extra`` holds the total energy as "conserved_energy", eV.

    Ctrl-C and SIGTERM end the run after the current step; a second signal ends it within the step.

    Args:
        simulation: an `openmm.app.Simulation` with positions, of a System to which
            `forcedelta.openmm.add_force_delta` added its force.
        steps: number of steps.
        hooks: see `md_hooks.HookChain`.
        info: about the run; missing entries are filled in.
        restart: a file written by `md_hooks.Recorder` in such a run, or its checkpoint: the
            simulation continues from the state of that step, and the first frame is that of the
            next step.

    Returns:
        why and at which step the run ended.

    Raises:
        ForceDeltaError: the System has no force of `forcedelta.openmm.add_force_delta`, the integrator does not fit
            its multiple time steps, or the checkpoint does not match.
        Exception: errors of the model or of a hook, unchanged, after the hooks were closed; a note
            on the exception names the step.
    """
    chain = hooks if isinstance(hooks, HookChain) else HookChain(hooks)
    checkpoint = load_checkpoint(restart) if isinstance(restart, str | Path) else restart
    return run_steps(simulation, steps, chain, RunInfo() if info is None else info, checkpoint)


def run_steps(
    simulation: Any,
    steps: int,
    chain: HookChain,
    info: RunInfo,
    checkpoint: Checkpoint | None,
    per_step: int = 1,
) -> RunResult:
    """`run` with another count of steps.

    Args:
        simulation, chain, info, checkpoint: see `run`.
        steps: steps of the integrator.
        per_step: what a step of the integrator adds to the number of the frame.
    """
    monitor = find_monitor(simulation.system)
    monitor.check_integrator(simulation.system, simulation.integrator)
    if checkpoint is not None:
        restore(simulation.context, monitor, checkpoint)
        chain.load_state_dict(checkpoint.hooks)
        info = replace(info, restart_step=checkpoint.step, restart_time=checkpoint.time)
    if info.planned_steps is None:
        info = replace(info, planned_steps=steps * per_step)
    frames = _Frames(simulation, monitor, chain, info, per_step)
    session = frames.session
    with end_after_the_step(session.interrupt), frames.watching():
        frames.begin()
        if info.restart_step is None:
            frames.show()
        for _ in range(steps):
            if session.over:
                break
            frames.step()
            frames.show()
    assert session.result is not None
    return session.result


class _Frames:
    """Makes the steps and the frames of a run."""

    def __init__(
        self, simulation: Any, monitor: Monitor, chain: HookChain, info: RunInfo, per_step: int
    ) -> None:
        self.simulation = simulation
        self.context: openmm.Context = simulation.context
        self.monitor = monitor
        self._per_step = per_step
        self._sentinel = monitor.sentinel
        chain.add_first(self._sentinel)
        self.session = Session(
            chain,
            lambda: monitor.evaluations,
            monitoring=lambda: None if self._sentinel is None else self._sentinel.counts(),
        )
        self._velocities = Velocities(simulation, monitor)
        self._masses = _sealed(self._velocities.masses)
        self._numbers = _sealed(monitor.numbers)
        self._pbc = _sealed(np.full(3, monitor.periodic))
        self._electronic_state = monitor.electronic_state.frame_fields()
        integrator = simulation.integrator
        settings = {
            "engine": "openmm",
            "platform": self.context.getPlatform().getName(),
            "integrator": type(integrator).__name__,
            "timestep": integrator.getStepSize().value_in_unit(openmm.unit.femtosecond),
            "forces": monitor.forces,
            "every": monitor.every,
            "inner": monitor.inner,
            "velocity_offset": self._velocities.offset,
        }
        self.session.open(
            replace(
                info,
                model=info.model or monitor.model_info,
                settings={**settings, **info.settings},
                versions={
                    "python": platform.python_version(),
                    "openmm": openmm.Platform.getOpenMMVersion(),
                    **versions_of("forcedelta", "torch", "numpy", "h5py"),
                    **info.versions,
                },
                numbers=self._numbers,
                checkpoint=self._checkpoint,
            )
        )

    @property
    def _number(self) -> int:
        """Number of the present step."""
        return int(self.context.getStepCount()) * self._per_step

    def begin(self) -> None:
        """Prepare adaptive monitoring for the first step."""
        if self._sentinel is None:
            return
        if self._sentinel.resuming:
            self._measure(self._number)  # of the checkpoint; the integrator reuses it
        elif self._number != self.monitor.last_step:
            self._sentinel.begin()  # another path than that of the last run

    def step(self) -> None:
        """One step of the integrator, with the simulation's reporters."""
        step = self._number
        self.session.between_steps = False
        try:
            self.simulation.step(1)
        except openmm.OpenMMException as error:
            original = self.monitor.take_error()
            raise _at(error if original is None else original, step) from None
        failed = self.monitor.take_error()
        if failed is not None:
            raise _at(failed, step)
        self.session.between_steps = True

    def show(self) -> None:
        """Hand the frame of the present configuration to the hooks."""
        step = self._number
        try:
            due, measured = self._measure(step)
        except Exception as error:
            raise _at(error, step) from None
        self.session.show(self._make_frame(step, measured, due))

    def _measure(self, step: int) -> tuple[bool, Measurement]:
        """Whether a step has U, and the model at its configuration, which is the present one."""
        self.monitor.last_step = step
        due = self.monitor.due(step)
        measured = self.monitor.measure(self.context, full=due)
        if self._sentinel is None:
            return due, measured
        found = evaluate_adaptively(
            self._sentinel,
            lambda exact: self.monitor.measure(self.context, full=exact),
            measured.positions * NM,
            self._cell(measured),
            self._pbc,
        )
        assert isinstance(found, Measurement)
        return found.exact, found

    @staticmethod
    def _cell(measured: Measurement) -> NDArray[np.float64]:
        return np.zeros((3, 3)) if measured.box is None else measured.box * NM

    def _make_frame(self, step: int, measured: Measurement, due: bool) -> Frame:
        time, velocities, temperature = self._velocities.read(measured)
        return Frame(
            step=step,
            time=time,
            numbers=self._numbers,
            positions=_sealed(measured.positions * NM),
            velocities=_sealed(velocities),
            masses=self._masses,
            cell=_sealed(self._cell(measured)),
            pbc=self._pbc,
            energy=measured.energy,
            forces=measured.forces,
            temperature=temperature,
            force_delta=measured.force_delta,
            force_deltas=measured.force_deltas,
            direct_forces=measured.direct_forces,
            conservative_forces=measured.conservative_forces,
            extra=self._scalars(measured, velocities),
            why_no_force_delta="the model returned none"
            if due and measured.force_delta is None
            else "",
            **self._electronic_state,
        )

    def _scalars(
        self, measured: Measurement, velocities: NDArray[np.float64]
    ) -> Mapping[str, float]:
        """Further scalars of a frame: estimates of the error, and the conserved energy."""
        estimate = None if self._sentinel is None else self._sentinel.estimate
        scalars = Frame.scalars(measured.expected_errors, estimate)
        if not self._velocities.conserve_energy:
            return scalars
        kinetic = self._velocities.kinetic_energy(velocities)
        return {**scalars, CONSERVED_ENERGY: measured.energy + kinetic}

    def _checkpoint(self) -> dict[str, Any] | None:
        last = self.session.last
        if not self.session.between_steps or last is None:
            return None
        if last.step != self._number:
            return None
        return capture(self.context, self.monitor)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Close the hooks at the end, also after an error."""
        self.monitor.watch(self.context, True)
        self.session.count_from_now()
        try:
            yield
        except KeyboardInterrupt as error:
            self.session.between_steps = False
            self.session.close_after(error)
        except BaseException as error:
            self.session.close_after(error)
            raise
        else:
            self.session.close()
        finally:
            self.monitor.watch(self.context, False)


def _at(error: BaseException, step: int) -> BaseException:
    error.add_note(f"in the evaluation at step {step}")
    return error


def _sealed(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array
