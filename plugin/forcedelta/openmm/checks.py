"""Checks of a System before a force is added; each error names the fix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray

from ..errors import ForceDeltaError


def atomic_numbers(
    system: openmm.System, topology_or_numbers: Any
) -> tuple[NDArray[np.int64], bool | None]:
    """Atomic numbers of all particles, and whether the topology is periodic (None without one).

    Args:
        system: the System that they must match.
        topology_or_numbers: an `openmm.app.Topology`, or an atomic number for every particle.

    Raises:
        ForceDeltaError: the number of atoms differs from that of the System's particles.
    """
    periodic: bool | None = None
    if hasattr(topology_or_numbers, "atoms"):
        atoms = list(topology_or_numbers.atoms())
        numbers = [0 if atom.element is None else atom.element.atomic_number for atom in atoms]
        periodic = topology_or_numbers.getPeriodicBoxVectors() is not None
        what = "the topology"
    else:
        numbers = [int(number) for number in topology_or_numbers]
        what = "the list of atomic numbers"
    # openmm-ml collects the forces that it interpolates in a System without particles
    particles = system.getNumParticles() or len(numbers)
    if len(numbers) != particles:
        raise ForceDeltaError(
            f"{what} has {len(numbers)} atoms but the System has {particles} particles: pass the one "
            "that the System was made from"
        )
    return np.array(numbers, dtype=np.int64), periodic


def atom_indices(particles: int, atoms: Iterable[int] | None) -> NDArray[np.int64]:
    """The particles that the force acts on: the given ones, or all.

    Raises:
        ForceDeltaError: no index, a repeated one, or one out of range.
    """
    if atoms is None:
        return np.arange(particles)
    indices = np.array([int(atom) for atom in atoms], dtype=np.int64)
    if len(indices) == 0:
        raise ForceDeltaError("atoms is empty: pass the indices of the model's atoms")
    if indices.min() < 0 or indices.max() >= particles:
        raise ForceDeltaError(
            f"atoms names particle {indices.min() if indices.min() < 0 else indices.max()}, but "
            f"the System has particles 0 to {particles - 1}: indices start at 0"
        )
    if len(np.unique(indices)) != len(indices):
        raise ForceDeltaError("atoms names a particle twice: pass each index once")
    return indices


def surrounded(numbers: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The atomic numbers of all particles, if the force acts on a part of them.

    Raises:
        ForceDeltaError: it acts on all.
    """
    if len(indices) == len(numbers):
        raise ForceDeltaError(
            "environment=True, but the model sees all particles: pass the indices of its atoms, or omit "
            "environment"
        )
    return numbers


def check_particles(
    system: openmm.System, indices: NDArray[np.int64], numbers: NDArray[np.int64]
) -> None:
    """Refuse particles that are not atoms.

    Args:
        system: the System.
        indices: particles of the force.
        numbers: their atomic numbers.

    Raises:
        ForceDeltaError: a virtual site, or a particle without an element.
    """
    for index, number in zip(indices.tolist(), numbers.tolist(), strict=True):
        if index < system.getNumParticles() and system.isVirtualSite(index):
            raise ForceDeltaError(
                f"particle {index} is a virtual site, not an atom of the model: leave it out of atoms"
            )
        if number <= 0:
            raise ForceDeltaError(
                f"particle {index} has no element, which the model needs: leave it out of "
                "atoms, or set the element in the topology"
            )


def is_periodic(system: openmm.System, topology_says: bool | None, periodic: bool | None) -> bool:
    """Whether the model sees periodic images.

    Taken from ``periodic``, else from the topology (whether it has box vectors), else from the
    forces already in the System.

    Raises:
        ForceDeltaError: ``periodic=True`` and a topology without box vectors.
    """
    if periodic and topology_says is False:
        raise ForceDeltaError(
            "periodic=True, but the topology has no box: call topology.setPeriodicBoxVectors(...) first"
        )
    if periodic is not None:
        return periodic
    if topology_says is not None:
        return topology_says
    return bool(system.usesPeriodicBoundaryConditions())
