"""The frames of a simulation's steps, for runs and reporters."""

from __future__ import annotations

import math
import platform
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray

from md_hooks import Frame, HookChain, RunInfo, RunResult
from md_hooks.constraints import constraint_records
from md_hooks.drift import CONSERVED_ENERGY
from md_hooks.session import Session
from md_hooks.versions import versions_of

from ..errors import ForceDeltaError
from ..monitoring import evaluate_adaptively
from .energy_use import EnergyUse
from .environment import SystemAround
from .evaluator import Measurement
from .monitor import Monitor
from .state import capture
from .units import NM, PS
from .velocities import Velocities

_MOVED = 1e-6
"""Å; atoms that are farther from where the last frame has them were moved by the user."""


@dataclass(frozen=True)
class Left:
    """Where a run or reporter ended.

    Attributes:
        context: a weak reference.
        count: OpenMM's number of the step.
        time: in the context, fs.
        step: number of the frame.
    """

    context: weakref.ref[openmm.Context]
    count: int
    time: float
    step: int


class Frames:
    """The frames of one monitored region, from opening its hooks to closing them.

    Whoever makes the steps calls `begin` and `catch_up` before the first one, and for each one
    `begin_step`, then `end_step` and `show`. Hooks that were used before continue their run
    (`md_hooks.legs`), also in another Simulation.

    Args:
        simulation: an `openmm.app.Simulation`.
        monitor: of a force in its System.
        chain: the hooks, which are opened.
        info: about the run.
        per_step: what a step of the integrator adds to the number of the frame.

    Raises:
        ForceDeltaError: adaptive monitoring follows the path of another open run.
        Exception: of a hook that refuses the run.
    """

    def __init__(
        self, simulation: Any, monitor: Monitor, chain: HookChain, info: RunInfo, per_step: int = 1
    ) -> None:
        self.context: openmm.Context = simulation.context
        self.monitor = monitor
        self._per_step = per_step
        self._seen: int | None = None  # OpenMM's number of the step of the last frame
        self._sentinel = monitor.sentinel
        if self._sentinel is not None and monitor.followed:
            raise ForceDeltaError(
                "every='adaptive' follows the path of one run, and another one with this monitor is "
                "open: close its reporter, or give it these hooks too"
            )
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
        self._around = SystemAround(self.context, monitor)
        self._energy_use = EnergyUse(simulation, monitor)
        self._forces_alone = self._energy_use.can_be_omitted
        self._constraints = constraint_records(info.constraints or ())
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
            **self._around.settings,
        }
        info = replace(info, numbers=self._numbers, model=info.model or monitor.model_info)
        before = chain.leg_before(info)
        self._before = None if before is None else before.frame
        self._goes_on = self._before is not None and self._is_at(self._before)
        self.session.open(
            replace(
                info,
                seamless=self._goes_on and self._is_seamless(),
                settings={**settings, **info.settings},
                versions={
                    "python": platform.python_version(),
                    "openmm": openmm.Platform.getOpenMMVersion(),
                    **versions_of("forcedelta", "torch", "numpy", "h5py"),
                    **info.versions,
                },
                checkpoint=self._checkpoint,
            ),
            *self._origin(),
        )
        monitor.followed = True
        monitor.watch(self.context, True)
        self.session.count_from_now()

    @property
    def number(self) -> int:
        """Number of the present step in the run."""
        return self.session.step(self._count)

    @property
    def _count(self) -> int:
        """Number of the present step as the context counts."""
        return int(self.context.getStepCount()) * self._per_step

    @property
    def _time(self) -> float:
        """Time of the context, fs."""
        return float(self.context.getTime()._value) * PS

    def _origin(self) -> tuple[int, float]:
        """Number and time, in the context, of the step that the run continues.

        Steps of the same context that were made without hooks in between are counted.
        """
        count, time = self._count, self._time
        left = self.monitor.left
        if self._before is None or left is None or left.context() is not self.context:
            return count, time
        continues = left.step == self._before.step and left.count <= count
        return (left.count, left.time) if continues else (count, time)

    @property
    def result(self) -> RunResult:
        """The outcome, once closed."""
        assert self.session.result is not None
        return self.session.result

    def begin(self) -> None:
        """Prepare adaptive monitoring for the first step."""
        if self._sentinel is None:
            return
        if self._sentinel.resuming:
            self._measure(self.number)  # of the checkpoint; the integrator reuses it
        elif self._count != self.monitor.last_count:
            self._sentinel.begin()  # another path than that of the last run

    def catch_up(self) -> None:
        """Show the present configuration, unless it is that of the last frame."""
        count, seen = self._count, self._seen
        if count == seen:
            return
        self._tell_unseen()
        self.end_step()
        went_on = seen is not None and count > seen
        if not went_on and self._is_known(set_back=seen is not None):
            self._seen = count
        else:
            self.show()

    def _is_known(self, set_back: bool) -> bool:
        """Whether the configuration is that of a restart, or the last frame's.

        Args:
            set_back: whether the count of steps was set back since that frame.
        """
        last = self.session.last or self._before
        if set_back:
            self.session.count_anew(self._count, self._time)
        if last is not None and self._is_at(last):
            return self.session.is_known(self._count, last.positions, last.cell)
        return self.session.is_known(self._count, *self._configuration())

    def _tell_unseen(self) -> None:
        """Warn of steps since the last frame that were not shown."""
        last = self.session.last
        if last is not None and self.session.between_steps and self.number > last.step:
            steps, after = self.number - last.step, last.step
            warnings.warn(
                f"{steps} steps after step {after} were made by integrator.step(), and neither guarded nor "
                "recorded: call simulation.step() instead",
                stacklevel=2,
            )

    def begin_step(self) -> None:
        """The integrator is about to make a step."""
        self.session.between_steps = False
        self._forces_alone = self._energy_use.can_be_omitted
        self.monitor.stepping(True, self._forces_alone)

    def end_step(self) -> None:
        """The integrator has made a step."""
        self.session.between_steps = True

    def show(self) -> None:
        """Hand the frame of the present configuration to the hooks."""
        step = self.number
        self.monitor.stepping(True)
        try:
            due, measured = self._measure(step)
        except Exception as error:
            raise at_step(error, step) from None
        finally:
            self.monitor.stepping(False)
        self._seen = self._count
        self.session.show(self._make_frame(step, measured, due))

    def _measure(self, step: int) -> tuple[bool, Measurement]:
        """Whether a step has U, and the model at its configuration, which is the present one."""
        self.monitor.last_count = self._count
        self.monitor.offset = step - self._count
        due = self.monitor.due(step)
        energy = self._sentinel is not None or not self._forces_alone
        measured = self.monitor.measure(self.context, full=due, energy=energy)
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
            time=self.session.time(time),
            numbers=self._numbers,
            positions=_sealed(measured.positions * NM),
            velocities=_sealed(velocities),
            masses=self._masses,
            cell=_sealed(self._cell(measured)),
            pbc=self._pbc,
            energy=measured.energy,
            energy_known=measured.energy_known,
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
            constraints=self._constraints,
            **self._electronic_state,
            **self._around().frame_fields(),
        )

    def _scalars(
        self, measured: Measurement, velocities: NDArray[np.float64]
    ) -> Mapping[str, float]:
        """Further scalars of a frame: estimates of the error, and the conserved energy."""
        estimate = None if self._sentinel is None else self._sentinel.estimate
        scalars = Frame.scalars(measured.expected_errors, estimate, measured.energy_uncertainty)
        if not self._velocities.conserve_energy:
            return scalars
        kinetic = self._velocities.kinetic_energy(velocities)
        return {**scalars, CONSERVED_ENERGY: measured.energy + kinetic}

    def _checkpoint(self) -> dict[str, Any] | None:
        last = self.session.last
        # at the begin of a leg hooks ask for the state in which it goes on from the leg before
        here = self._goes_on if last is None else last.step == self.number
        if not (here and self.session.between_steps):
            return None
        return capture(self.context, self.monitor)

    def close(self, reason: str = "", message: str = "") -> RunResult:
        """Close the hooks; see `md_hooks.session.Session.close`."""
        with self._leaving():
            result = self.session.close(reason, message)
        self._tell_unseen()
        return result

    def close_after(self, error: BaseException) -> RunResult | None:
        """Close the hooks after an exception."""
        if isinstance(error, KeyboardInterrupt):
            self.session.between_steps = False
        with self._leaving():
            return self.session.close_after(error)

    @contextmanager
    def _leaving(self) -> Iterator[None]:
        """Hooks that close may ask for a checkpoint, of the last frame only."""
        last, between = self.session.last, self.session.between_steps
        if self.session.result is None and (last is None or not self._is_at(last)):
            self.session.between_steps = False
        if last is not None and last.step == self.number:
            self.monitor.left = Left(weakref.ref(self.context), self._count, self._time, last.step)
        try:
            yield
        finally:
            self.session.between_steps = between
            self.monitor.followed = False
            self.monitor.watch(self.context, False)

    def _configuration(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions [n, 3] of the model's atoms and cell [3, 3] of the context, Å."""
        state = self.context.getState(positions=True)
        positions = state.getPositions(asNumpy=True)._value[self.monitor.atoms] * NM
        if not self.monitor.periodic:
            return positions, np.zeros((3, 3))
        return positions, state.getPeriodicBoxVectors(asNumpy=True)._value * NM

    def _is_at(self, frame: Frame) -> bool:
        """Whether the context has the configuration of a frame: a user may have moved atoms since."""
        positions, cell = self._configuration()
        moved = positions - frame.positions
        if self.monitor.periodic:  # some platforms show the model another image of an atom
            moved -= np.round(moved @ np.linalg.inv(cell)) @ cell
        return not max(np.abs(moved).max(), np.abs(cell - frame.cell).max()) > _MOVED

    def _is_seamless(self) -> bool:
        """Whether velocities and conserved energy are those of the frame that the run continues.

        The integrator reuses the evaluation.
        """
        assert self._before is not None
        known = self._before.energy_known
        measured = self.monitor.measure(
            self.context, full=self.monitor.forces == "mts", energy=known
        )
        _, velocities, _ = self._velocities.read(measured)
        before = self._before.velocities
        if before is None or not np.array_equal(velocities, before):
            return False
        old = self._before.extra.get(CONSERVED_ENERGY)
        new = self._scalars(measured, velocities).get(CONSERVED_ENERGY)
        if old is None or new is None:
            return old is new
        return not known or math.isclose(old, new, rel_tol=1e-12, abs_tol=1e-9)


def at_step(error: BaseException, step: int) -> BaseException:
    """The error of an evaluation, with a note on its step."""
    error.add_note(f"in the evaluation at step {step}")
    return error


def _sealed(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array
