"""Handles of the force that OpenMM calls, with its evaluations."""

from __future__ import annotations

import sys
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import openmm
from numpy.typing import NDArray

from md_hooks.electronic_state import ElectronicState

from ..errors import ForceDeltaError
from ..monitoring import ADAPTIVE, Every
from ..sentinel import Sentinel
from .evaluator import Measurement, RememberingEvaluator

if TYPE_CHECKING:
    from .stepping import Left

Forces = Literal["direct", "conservative", "mts"]

_NAME = "ForceDelta "
SLOW_NAME = "slow ForceDelta "
"""Begin of the name of the slow force of multiple time steps."""

_monitors: weakref.WeakValueDictionary[str, Monitor] = weakref.WeakValueDictionary()

# Platforms that pass a PythonForce the positions of the context unchanged; the others may shift
# them by box vectors.
_PLAIN_PLATFORMS = ("Reference", "CPU")


class Monitor(ABC):
    """Handle of a force that `forcedelta.openmm.add_force_delta` added to a System.

    Attributes:
        atoms: [n] indices of the particles that the model sees.
        numbers: [n] their atomic numbers.
        periodic: whether the model sees periodic images.
        forces: "direct" or "conservative", those that drive the run, or "mts": both, with multiple
            time steps.
        inner: inner steps with direct forces in a step of the integrator; 1 without "mts".
        every: a run computes U every N steps, or where ``sentinel`` requires it.
        sentinel: decides with ``every="adaptive"`` which frames have U; None otherwise.
        last_count: OpenMM's number of the last step that was measured for a frame; None before the first.
        offset: what is added to OpenMM's number of a step for that of its frame.
        left: where the last run or reporter ended; None before.
        followed: whether the frames of a run or reporter that is open are made of this monitor.
        model_info: name, hash, ... of the model, for the files.
        token: identifies the force in a System; the force's name ends with it.
        force: the OpenMM force that was added.
        electronic_state: charge, multiplicity and magnetic moments of the model's atoms, as stored
            in the frames of a run.
        separate_energy: whether the energy takes a forward pass of its own, which steps may omit.
        system_numbers: atomic numbers of all particles of the System, if the frames of a run also hold
            those that the model does not see; None: they do not.
    """

    inner = 1
    separate_energy = False

    def __init__(
        self,
        atoms: NDArray[np.int64],
        numbers: NDArray[np.int64],
        periodic: bool,
        forces: Forces,
        every: Every,
        model_info: dict[str, Any],
        token: str | None = None,
    ) -> None:
        self.atoms = atoms
        self.numbers = numbers
        self.periodic = periodic
        self.forces = forces
        self.every = every
        self.sentinel = Sentinel() if every == ADAPTIVE else None
        self.last_count: int | None = None
        self.offset = 0
        self.left: Left | None = None
        self.followed = False
        self.model_info = model_info
        self.token = uuid.uuid4().hex[:12] if token is None else token
        self.force: openmm.Force | None = None
        self.electronic_state = ElectronicState()
        self.system_numbers: NDArray[np.int64] | None = None
        _monitors[self.token] = self

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Passes of the model so far."""

    @abstractmethod
    def measure(
        self, context: openmm.Context, full: bool = True, energy: bool = True
    ) -> Measurement:
        """The model at the present configuration of a context.

        The integrator then reuses this evaluation, so that measuring *before* a step adds none.

        Args:
            context: of the System that holds the force.
            full: with U, u_i and both forces; otherwise only the forces that drive the run.
            energy: with the energy, even if it takes a forward pass of its own; always with U.

        Raises:
            Exception: the model's own error, unchanged.
        """

    def due(self, step: int) -> bool:
        """Whether a step has U in any case, as far as is known before its forward pass."""
        if self.sentinel is not None:
            return self.sentinel.due
        return step % int(self.every) == 0

    @abstractmethod
    def watch(self, context: openmm.Context, running: bool) -> None:
        """Mark the begin or end of a run, during which evaluations for frames include U.

        Args:
            context: of the System that holds the force.
            running: whether the run begins.
        """

    def stepping(  # noqa: B027  others need not know
        self, stepping: bool, forces_alone: bool = False
    ) -> None:
        """Mark the begin or end of a step: evaluations between two steps belong to no frame.

        Args:
            stepping: whether a step begins.
            forces_alone: whether the integrator makes it without the energy.
        """

    @abstractmethod
    def take_error(self) -> BaseException | None:
        """Return the error of the last evaluation inside OpenMM, if any, and forget it."""

    @property
    def force_name(self) -> str:
        """Name of the force in its System."""
        return _NAME + self.token

    def check_integrator(  # noqa: B027  any integrator is right without multiple time steps
        self, system: openmm.System, integrator: openmm.Integrator
    ) -> None:
        """Refuse an integrator that does not apply the force as intended.

        Args:
            system: the System that holds the force.
            integrator: of its context.

        Raises:
            ForceDeltaError: such an integrator; only with multiple time steps.
        """

    def _register(self, system: openmm.System, force: openmm.Force) -> None:
        force.setName(self.force_name)
        system.addForce(force)
        self.force = force


class PythonMonitor(Monitor):
    """A model behind an `openmm.PythonForce`; the object is the function that OpenMM calls.

    Args:
        evaluator: of the model.
        rebuild: (function, arguments) that make the evaluator in another process; None for a model
            that exists in this process only, whose System cannot be serialised.
    """

    _SETTINGS: tuple[str, ...] = (
        "atoms", "numbers", "periodic", "forces", "every", "model_info",
    )  # fmt: skip

    def __init__(
        self,
        evaluator: RememberingEvaluator,
        rebuild: tuple[Callable[..., RememberingEvaluator], tuple[Any, ...]] | None,
        atoms: NDArray[np.int64],
        numbers: NDArray[np.int64],
        periodic: bool,
        forces: Forces,
        every: Every,
        model_info: dict[str, Any],
        token: str | None = None,
    ) -> None:
        super().__init__(atoms, numbers, periodic, forces, every, model_info, token)
        self.separate_energy = evaluator.separate_energy
        self._evaluator = evaluator
        self._rebuild = rebuild
        self._running = False
        self._forces_alone = False
        self._frame_step: int | None = None
        self._frame_box: NDArray[np.floating] = np.zeros((3, 3))
        self._latest: Measurement | None = None
        self._error: BaseException | None = None
        self._made = 0  # evaluations in the present step
        self._needed = 1  # up to that of the next frame, as in earlier steps
        self._newest: tuple[Measurement | None, int] = (None, 0)

    def add_to(self, system: openmm.System, group: int = 0) -> None:
        """Add the force to a System, in one of OpenMM's force groups."""
        self._register(system, self._python_force(system, self, group))

    def _python_force(self, system: openmm.System, function: Any, group: int) -> openmm.PythonForce:
        force = openmm.PythonForce(function)
        force.setUsesPeriodicBoundaryConditions(self.periodic)
        if len(self.atoms) != system.getNumParticles():
            force.setParticles(self.atoms.tolist())
        force.setForceGroup(group)
        return force

    @property
    def evaluations(self) -> int:
        """Passes of the model so far."""
        return self._evaluator.evaluations

    def watch(self, context: openmm.Context, running: bool) -> None:
        """See `Monitor.watch`."""
        self._running = running
        self._forces_alone = False
        self._frame_step = None

    def stepping(self, stepping: bool, forces_alone: bool = False) -> None:
        """See `Monitor.stepping`."""
        self._running = stepping
        self._forces_alone = forces_alone
        self._made = 0

    def take_error(self) -> BaseException | None:
        """See `Monitor.take_error`."""
        error, self._error = self._error, None
        return error

    # --- evaluations requested by the engine ---------------------------------------------------

    def __call__(self, state: openmm.State) -> tuple[float, NDArray[np.floating]]:
        """Energy in kJ/mol and forces [n, 3] in kJ/(mol nm) of a state, for OpenMM."""
        latest, other_volume = self._evaluate(state, self._with_energy(sys._getframe().f_back))
        if latest is None:
            # raising would leave the trial volume in place; an infinite energy rejects it
            return np.inf, np.zeros((len(self.atoms), 3))
        energy = latest.openmm_energy
        if other_volume and np.isnan(energy):
            energy = np.inf  # a barostat would accept NaN
        return energy, latest.openmm_forces

    def _evaluate(
        self, state: openmm.State, energy: bool, exact: bool = False
    ) -> tuple[Measurement | None, bool]:
        """The model at a state, and whether that is a barostat's trial volume.

        Args:
            state: of OpenMM.
            energy: with the energy in any case.
            exact: with U in any case.

        Returns:
            None in place of the evaluation if the model failed at a trial volume.
        """
        positions = state.getPositions(asNumpy=True)._value
        box = state.getPeriodicBoxVectors(asNumpy=True)._value if self.periodic else None
        step = state.getStepCount()
        after_frame = self._running and step == self._frame_step
        other_volume = after_frame and box is not None and not np.array_equal(box, self._frame_box)
        # The frame of a step is followed by trial volumes of a barostat, for which U is not needed,
        # or, if the integrator ends a step with its forces, by the configuration of the next frame.
        frame = step + after_frame
        try:
            latest = self._evaluator.known(positions, box)
            if latest is None or not latest.has(exact, energy):
                with_u = exact or self._with_u(box, frame, other_volume)
                latest = self._evaluator.evaluate(positions, box, with_u, energy)
                self._newest = latest, self._made
        except BaseException as error:
            self._error = error  # OpenMM would keep only its text
            if other_volume:
                return None, True
            raise
        self._latest = latest
        return latest, other_volume

    def _with_u(self, box: NDArray[np.floating] | None, frame: int, other_volume: bool) -> bool:
        """Whether the evaluation of a new configuration includes U.

        An integrator may evaluate several configurations in a step: substeps, trial moves. The number
        of the one that was a frame before tells which one will be the next.

        Args:
            box: its box vectors [3, 3], nm, or None.
            frame: step of the frame that it may belong to.
            other_volume: whether it is a barostat's trial.
        """
        if not self._running or other_volume:
            return False
        self._made += 1
        return self._made >= self._needed and self.due(frame + self.offset)

    def _with_energy(self, caller: FrameType | None) -> bool:
        """Whether OpenMM may use the energy of an evaluation.

        It does not say what it wants, but an integrator that steps with forces alone does not look at
        the energy. Reporters, minimisers and hooks call another function of OpenMM. On a GPU the force
        is evaluated in a thread of its own, which has no caller.

        Args:
            caller: the Python code that called OpenMM.
        """
        return not (self._forces_alone and _is_step(caller))

    # --- evaluations requested by a run --------------------------------------------------------

    def measure(
        self, context: openmm.Context, full: bool = True, energy: bool = True
    ) -> Measurement:
        """See `Monitor.measure`."""
        if context.getPlatform().getName() in _PLAIN_PLATFORMS:
            state = context.getState(positions=True)
            positions = state.getPositions(asNumpy=True)._value
            if len(self.atoms) != len(positions):
                positions = positions[self.atoms]
            box = state.getPeriodicBoxVectors(asNumpy=True)._value if self.periodic else None
            latest = self._evaluator.evaluate(positions, box, full, energy)
        else:
            latest = self._measure_through_engine(context, full)
        newest, number = self._newest
        if latest is newest and number > 0:
            self._needed = number
        self._frame_step = context.getStepCount()
        if latest.box is not None:
            self._frame_box = latest.box
        return latest

    def _measure_through_engine(self, context: openmm.Context, full: bool) -> Measurement:
        """Let OpenMM call the force; its next call then sees the same positions."""
        self._frame_step = None
        self._made = self._needed - 1
        try:
            context.getState(energy=True, groups={_group(context, self.token)})
        except openmm.OpenMMException:
            error = self.take_error()
            if error is None:
                raise
            raise error from None
        assert self._latest is not None
        return self._evaluator.evaluate(self._latest.positions, self._latest.box, full)

    # --- serialisation -------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        if self._rebuild is None:
            raise ForceDeltaError(
                "a model in memory cannot be serialised with its force: load the model by its name "
                "or from its file"
            )
        settings = {name: getattr(self, name) for name in self._SETTINGS}
        state = {name: getattr(self, name) for name in ("electronic_state", "system_numbers")}
        return _restore, (self.token, *self._rebuild, settings, type(self)), state


def _is_step(caller: FrameType | None) -> bool:
    """Whether it is the method ``step`` of one of OpenMM's integrators."""
    return (
        caller is not None
        and caller.f_code.co_name == "step"
        and caller.f_globals.get("__name__") == openmm.Integrator.__module__
    )


class _Unavailable:
    """Placeholder for a model that could not be loaded again.

    An exception during OpenMM's deserialisation of a System ends the process, so it is raised at
    the first evaluation.
    """

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, state: openmm.State) -> tuple[float, NDArray[np.floating]]:
        raise ForceDeltaError(f"the model of this System cannot be loaded: {self.error}")


def _restore(
    token: str,
    rebuild: Callable[..., RememberingEvaluator],
    rebuild_arguments: tuple[Any, ...],
    settings: dict[str, Any],
    kind: type[PythonMonitor] = PythonMonitor,
) -> Any:
    """The force of a deserialised System: the existing one in the same process, or a new one."""
    live = _monitors.get(token)
    if live is not None:
        return live
    try:
        evaluator = rebuild(*rebuild_arguments)
        return kind(evaluator, (rebuild, rebuild_arguments), token=token, **settings)
    except Exception as error:
        return _Unavailable(error)


def _group(context: openmm.Context, token: str) -> int:
    for force in context.getSystem().getForces():
        if _NAME + token in names_in(force):
            return int(force.getForceGroup())
    raise ForceDeltaError(
        "the context's System does not hold this force: use that System's monitor"
    )


def names_in(force: openmm.Force) -> list[str]:
    """Names of a force and of those inside it: openmm-ml interpolates with a CustomCVForce."""
    names = [force.getName()]
    if isinstance(force, openmm.CustomCVForce):
        for index in range(force.getNumCollectiveVariables()):
            names += names_in(force.getCollectiveVariable(index))
    return names


def holds(force: openmm.Force, monitor: Monitor) -> bool:
    """Whether a force of a System is one of the monitor's own, not one that contains it."""
    return str(force.getName()) in (monitor.force_name, SLOW_NAME + monitor.token)


def find_monitors(system: openmm.System) -> list[Monitor]:
    """The monitors of all forces that `forcedelta.openmm.add_force_delta` added, in that order.

    Args:
        system: the System that holds them.

    Raises:
        ForceDeltaError: no such force, or one whose model is not loaded.
    """
    names = [name for force in system.getForces() for name in names_in(force)]
    tokens = [name.removeprefix(_NAME) for name in names if name.startswith(_NAME)]
    if not tokens:
        raise ForceDeltaError(
            "the simulation's System holds no ForceDelta force: call "
            "forcedelta.openmm.add_force_delta(system, ...) before making the Simulation"
        )
    if any(token not in _monitors for token in tokens):
        raise ForceDeltaError(
            "the model of the System's ForceDelta force is not loaded: call add_force_delta on a new "
            "System, or keep a reference to its monitor"
        )
    return [_monitors[token] for token in tokens]


def find_monitor(system: openmm.System) -> Monitor:
    """The monitor of the only force that `forcedelta.openmm.add_force_delta` added to a ``system``.

    Raises:
        ForceDeltaError: no such force, several of them, or one whose model is not loaded.
    """
    monitors = find_monitors(system)
    if len(monitors) > 1:
        raise ForceDeltaError(
            f"the System holds {len(monitors)} ForceDelta forces: pass the hooks of each, "
            "hooks={monitor: [...], other: [...]}, with what add_force_delta returned"
        )
    return monitors[0]
