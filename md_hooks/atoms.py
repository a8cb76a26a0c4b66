"""Frames as ASE atoms."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from .constraints import put_constraints
from .electronic_state import ElectronicState
from .environment import Surroundings
from .foreign_fields import step_of
from .frame import IMAGE, Frame
from .predicted_error import OUTSIDE, PREDICTED, PREDICTED_ATOMS

ATTACK = ("path", "move")
"""Scalars of a frame of an attack: the number of its path, and of the move along it."""


def to_atoms(frame: Frame, model: str | None = None) -> Atoms:
    """A frame as ASE atoms, with the model's predictions as single-point results."""
    atoms = bare_atoms(frame)
    results: dict[str, Any] = {"forces": frame.forces}
    if frame.energy_known:
        results["energy"] = frame.energy
    if frame.stress is not None:
        results["stress"] = frame.stress
    if frame.temperature is not None:
        # get_temperature() of the atoms knows only the constraints of the structure
        atoms.info["temperature"] = frame.temperature
    if model is not None:
        atoms.info["model"] = model
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def bare_atoms(frame: Frame) -> Atoms:
    """A frame as ASE atoms without energy and forces, but with U and the related fields."""
    atoms = Atoms(numbers=frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
    if not np.allclose(atoms.get_masses(), frame.masses):
        atoms.set_masses(frame.masses)
    if frame.velocities is not None:
        atoms.set_momenta(frame.velocities / units.fs * frame.masses[:, None])
    atoms.info["step"] = frame.step
    if np.isfinite(frame.time):
        atoms.info["time"] = frame.time
    ElectronicState(frame.charge, frame.spin, frame.magnetic_moments).put(atoms)
    Surroundings(len(atoms), frame.system_particles, frame.environment).put(atoms)
    if frame.force_delta is not None:
        atoms.info["force_delta"] = frame.force_delta
    for name in (*ATTACK, IMAGE):
        number = step_of(frame.extra.get(name))
        if number is not None:
            atoms.info[name] = number
    for name in ("expected_error", "energy_uncertainty", *PREDICTED, OUTSIDE):
        value = frame.extra.get(name)
        if value is not None and value == value:
            atoms.info[name] = float(value)
    if frame.worst_atom is not None:
        atoms.info["worst_atom"] = frame.worst_atom
    for name in ("force_deltas", "direct_forces", "conservative_forces", *PREDICTED_ATOMS):
        array = getattr(frame, name)
        if array is not None:
            atoms.set_array(name, np.asarray(array, dtype=float))
    put_constraints(atoms, frame.constraints)  # last, as they would change momenta
    return atoms
