"""The particles of a System that the model does not see: their charges, for labels of its frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray

from md_hooks.environment import Environment, Surroundings

from ..errors import ForceDeltaError
from .monitor import Monitor
from .units import NM

_OMIT = "or omit environment=True"


class SystemAround:
    """Reads the particles around the model's atoms for the frames of a run.

    Charges are those of the System's NonbondedForce at the start of the run, with parameter offsets.

    Args:
        context: of the System.
        monitor: of the force in it.

    Raises:
        ForceDeltaError: the monitor wants the environment, and the System has no charges for it, or a
            bond of its molecules leads to the model's atoms.
    """

    def __init__(self, context: openmm.Context, monitor: Monitor) -> None:
        self._context = context
        self._atoms = len(monitor.atoms)
        system = context.getSystem()
        particles = system.getNumParticles()
        self.particles = particles if len(monitor.atoms) < particles else None
        numbers = monitor.system_numbers
        self._others: NDArray[np.int64] | None = None
        if numbers is None or self.particles is None:
            return
        self._others = np.setdiff1d(np.arange(particles), _with_sites(system, monitor.atoms))
        self._numbers = _sealed(numbers[self._others])
        self._charges = _sealed(_charges(context)[self._others])
        if not self._charges.any():
            raise ForceDeltaError(
                "environment=True records the charges around the model's atoms, and all of them are 0 in "
                f"the System's NonbondedForce: give the other particles their charges, {_OMIT}"
            )
        self._molecules = _sealed(_molecules(context, monitor.atoms, self._others))
        self._periodic = system.usesPeriodicBoundaryConditions()

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the run that say of what the frames are a part; empty for a whole System."""
        if self.particles is None:
            return {}
        return {"system_particles": self.particles, "environment": self._others is not None}

    def __call__(self) -> Surroundings:
        """What the frame of the present configuration says of the System around it."""
        if self._others is None:
            return Surroundings(self._atoms, self.particles)
        state = self._context.getState(positions=True)
        positions = state.getPositions(asNumpy=True)._value[self._others] * NM
        cell = np.zeros((3, 3))
        if self._periodic:
            cell = state.getPeriodicBoxVectors(asNumpy=True)._value * NM
        found = Environment(
            self._numbers, _sealed(positions), self._charges, self._molecules, _sealed(cell)
        )
        return Surroundings(self._atoms, self.particles, found)


def _with_sites(system: openmm.System, atoms: NDArray[np.int64]) -> NDArray[np.int64]:
    """The model's atoms with the virtual sites on them, whose charges the model replaces."""
    inside = set(atoms.tolist())
    for particle in range(system.getNumParticles()):
        if system.isVirtualSite(particle):
            site = system.getVirtualSite(particle)
            if all(site.getParticle(k) in inside for k in range(site.getNumParticles())):
                inside.add(particle)
    return np.array(sorted(inside))


def _charges(context: openmm.Context) -> NDArray[np.float64]:
    """Charges [P] of all particles, e.

    Raises:
        ForceDeltaError: no NonbondedForce, or several.
    """
    forces = context.getSystem().getForces()
    found = [force for force in forces if isinstance(force, openmm.NonbondedForce)]
    if len(found) != 1:
        raise ForceDeltaError(
            f"environment=True takes the charges from the System's NonbondedForce, and it has {len(found)} of "
            f"them: use a force field with one, {_OMIT}"
        )
    (force,) = found
    charges = np.array(
        [force.getParticleParameters(i)[0]._value for i in range(force.getNumParticles())]
    )
    for index in range(force.getNumParticleParameterOffsets()):
        parameter, particle, scale, *_ = force.getParticleParameterOffset(index)
        charges[particle] += context.getParameter(parameter) * scale
    return charges


def _molecules(
    context: openmm.Context, atoms: NDArray[np.int64], others: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Numbers [M] of the molecules that bonds and constraints make of the other particles.

    Raises:
        ForceDeltaError: a molecule that the model sees in part.
    """
    numbers = np.zeros(context.getSystem().getNumParticles(), dtype=np.int64)
    for number, members in enumerate(context.getMolecules()):
        numbers[list(members)] = number
    cut = others[np.isin(numbers[others], numbers[atoms])]
    if len(cut):
        raise ForceDeltaError(
            f"environment=True: particle {cut[0]} belongs to a molecule of which the model sees a part, and "
            f"point charges cannot replace a bond that is cut: give whole molecules as atoms, {_OMIT}"
        )
    return numbers[others]


def _sealed(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array
