"""Velocities, masses and temperature of the model's atoms at the time of their positions."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import openmm
from ase import units
from ase.data import atomic_masses
from numpy.typing import NDArray

from .evaluator import Measurement
from .monitor import Monitor, find_monitors, holds
from .state import degrees_of_freedom
from .units import NM, PS

HALF_A_STEP_BEHIND = (
    "DPDIntegrator",
    "LangevinIntegrator",
    "LangevinMiddleIntegrator",
    "NoseHooverIntegrator",
    "VariableLangevinIntegrator",
    "VariableVerletIntegrator",
    "VerletIntegrator",
)
"""OpenMM's leapfrog integrators: with x(t), their state holds v(t - dt/2). A CustomIntegrator of that kind
is known by its expression of the kinetic energy, which contains the time step. Adding half a step of
F(t)/m improved the conservation of the total energy of oscillators by a factor of 65 for all but
the two with variable steps, for which the gain is smaller."""

CONSERVE_ENERGY = ("MTSIntegrator", "VerletIntegrator")
"""Integrators without thermostat whose velocities in a frame have the time of its positions."""

_MOVE_NO_ATOMS = (
    openmm.CMMotionRemover,
    openmm.MonteCarloBarostat,
    openmm.MonteCarloAnisotropicBarostat,
    openmm.MonteCarloFlexibleBarostat,
)


class Velocities:
    """Reads the velocities of a context for frames.

    Where the model's force is the only one that acts on its atoms, those of leapfrog integrators are
    brought to the time of the positions: v(t) = v(t - dt/2) + dt/2 F(t)/m. With other forces, which
    would need another evaluation of the whole System, or with constraints, they stay at OpenMM's time,
    as given by `offset`.

    Args:
        simulation: an `openmm.app.Simulation`.
        monitor: of the force in its System.

    Attributes:
        masses: [n] amu, of the model's atoms. An atom fixed in OpenMM by a mass of 0 has the mass of
            its element here.
        conserve_energy: whether the frame's total energy is a constant of the motion of the
            model's conservative forces.
        offset: time of the frames' velocities relative to their positions, in time steps: 0 or -0.5.
    """

    def __init__(self, simulation: Any, monitor: Monitor) -> None:
        system: openmm.System = simulation.system
        self._context: openmm.Context = simulation.context
        self._integrator: openmm.Integrator = simulation.integrator
        self._atoms = monitor.atoms
        masses = np.array([system.getParticleMass(int(i))._value for i in monitor.atoms])
        self._mobile = masses > 0
        self.masses = np.where(self._mobile, masses, atomic_masses[monitor.numbers])
        self._freedom = degrees_of_freedom(system, monitor.atoms)
        self._centred = any(isinstance(f, openmm.CMMotionRemover) for f in system.getForces())
        name = type(self._integrator).__name__
        behind, alone = _is_behind(self._integrator), _alone(system, monitor)
        self._shifted = behind and alone
        self.conserve_energy = alone and name in CONSERVE_ENERGY and not _has_barostat(system)
        self.offset = -0.5 if behind and not self._shifted else 0.0

    def read(self, measured: Measurement) -> tuple[float, NDArray[np.float64], float]:
        """Time (fs), velocities [n, 3] (Å/fs) and temperature (K) of the present configuration.

        Args:
            measured: the model at this configuration.
        """
        state = self._context.getState(velocities=True)
        velocities = state.getVelocities(asNumpy=True)._value[self._atoms]
        velocities[~self._mobile] = 0.0  # OpenMM keeps the initial velocity of a fixed atom
        if self._shifted:
            half = 0.5 * self._integrator.getStepSize()._value
            change = half * measured.openmm_forces / self.masses[:, None]
            change[~self._mobile] = 0.0
            velocities = velocities + change
            if self._centred:
                velocities -= self.masses @ velocities / self.masses.sum()
        velocities *= NM / PS
        kinetic = self.kinetic_energy(velocities)
        temperature = 2 * kinetic / (self._freedom * units.kB) if self._freedom > 0 else 0.0
        # rounded, because OpenMM adds up the time steps
        time = round(state.getTime()._value * PS, 9)
        return time, velocities, temperature

    def kinetic_energy(self, velocities: NDArray[np.float64]) -> float:
        """Kinetic energy (eV) of the model's atoms with the velocities [n, 3] (Å/fs) of a frame."""
        return 0.5 * float((self.masses[:, None] * (velocities / units.fs) ** 2).sum())


def _has_barostat(system: openmm.System) -> bool:
    return any("Barostat" in type(force).__name__ for force in system.getForces())


def _is_behind(integrator: openmm.Integrator) -> bool:
    """Whether an integrator keeps velocities half a step before the positions."""
    if isinstance(integrator, openmm.CustomIntegrator):
        return re.search(r"\bdt\b", integrator.getKineticEnergyExpression()) is not None
    return type(integrator).__name__ in HALF_A_STEP_BEHIND


def _alone(system: openmm.System, monitor: Monitor) -> bool:
    """Whether the model's force alone moves its atoms."""
    atoms = set(monitor.atoms.tolist())
    for index in range(system.getNumConstraints()):
        first, second, _ = system.getConstraintParameters(index)
        if first in atoms or second in atoms:
            return False
    apart = [other for other in find_monitors(system) if atoms.isdisjoint(other.atoms.tolist())]
    for force in system.getForces():
        if isinstance(force, _MOVE_NO_ATOMS):
            if len(atoms) != system.getNumParticles():
                return False  # the motion that they remove is that of all particles
        elif not any(holds(force, one) for one in (monitor, *apart)):
            return False
    return True
