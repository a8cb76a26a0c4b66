"""An analytic pair model with a slightly wrong direct force, and simulations made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
import torch
from ase import Atoms, units
from ase.build import bulk
from openmm import app, unit
from torch import Tensor, nn

from forcedelta import LoadedModel
from forcedelta.openmm import Monitor, add_force_delta

CUTOFF = 4.5


class MorsePairs(nn.Module):
    """Morse pairs (1 eV, 2.35 Å) with a smooth cutoff; direct forces wrong by some per cent."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        self.calls += 1
        i, j = edge_index[0], edge_index[1]
        shift = torch.bmm(edge_shift[:, None], cell[batch[i]])[:, 0]
        vector = positions[j] - positions[i] + shift
        r = torch.sqrt((vector * vector).sum(1))
        well = torch.exp(-1.5 * (r - 2.35))
        x = r / 4.5
        smooth = (1 - x * x) ** 3
        morse = well * well - 2 * well
        slope = (-3.0 * well * well + 3.0 * well) * smooth
        slope = slope - morse * 6 * x / 4.5 * (1 - x * x) ** 2
        energy = torch.zeros(cell.shape[0], dtype=positions.dtype)
        energy = energy.index_add(0, batch[i], 0.5 * morse * smooth)
        push = (slope * (1 + 0.05 * torch.cos(3 * r)) / r)[:, None] * vector
        direct = torch.zeros_like(positions).index_add(0, i, push)
        return energy, direct


def loaded(module: nn.Module | None = None, **changes: Any) -> LoadedModel:
    """The pair model as `load_model` would give it."""
    values: dict[str, Any] = {
        "module": MorsePairs() if module is None else module,
        "name": "morse-pairs",
        "weights_hash": "0",
        "elements": frozenset({1, 6, 14}),
        "cutoff": CUTOFF,
        "periodic": None,
        "library": "tests",
    }
    return LoadedModel(**{**values, **changes})


def cluster() -> Atoms:
    """Eight silicon atoms in vacuum, rattled."""
    atoms = bulk("Si", cubic=True)
    atoms.pbc = False
    atoms.cell = np.zeros((3, 3))
    atoms.rattle(0.05, seed=1)
    return atoms


def crystal() -> Atoms:
    """Eight silicon atoms in a cubic cell that is little larger than the cutoff."""
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def triclinic() -> Atoms:
    """Eight silicon atoms in a skewed cell, smaller than the cutoff, of OpenMM's reduced form."""
    atoms = bulk("Si").repeat((2, 2, 1))
    atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
    atoms.rattle(0.05, seed=2)
    return atoms


def topology_of(atoms: Atoms) -> app.Topology:
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for number in atoms.numbers:
        topology.addAtom("X", app.Element.getByAtomicNumber(int(number)), residue)
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors(atoms.cell.array / 10 * unit.nanometer)
    return topology


INTEGRATORS: dict[str, Callable[[], openmm.Integrator]] = {
    "Verlet": lambda: openmm.VerletIntegrator(0.001),
    "LangevinMiddle": lambda: openmm.LangevinMiddleIntegrator(300, 5, 0.001),
    "NoseHoover": lambda: openmm.NoseHooverIntegrator(300, 5, 0.001),
    "Brownian": lambda: openmm.BrownianIntegrator(300, 100, 0.0005),
}


def simulation(
    structure: Atoms,
    integrator: str | openmm.Integrator = "LangevinMiddle",
    *,
    model: Any = None,
    barostat: bool = False,
    platform: str = "Reference",
    dtype: str = "float64",
    **options: Any,
) -> tuple[app.Simulation, Monitor]:
    """A simulation of the atoms, with positions and velocities."""
    system = openmm.System()
    for mass in structure.get_masses():
        system.addParticle(mass)
    if structure.pbc.all():
        system.setDefaultPeriodicBoxVectors(*(structure.cell.array / 10))
    topology = topology_of(structure)
    model = loaded() if model is None else model
    monitor = add_force_delta(system, model, topology, dtype=dtype, **options)
    if barostat:
        pressure = openmm.MonteCarloBarostat(1.0, 300, 5)
        pressure.setRandomNumberSeed(3)
        system.addForce(pressure)
    engine = INTEGRATORS[integrator]() if isinstance(integrator, str) else integrator
    if hasattr(engine, "setRandomNumberSeed"):
        engine.setRandomNumberSeed(1)
    made = app.Simulation(topology, system, engine, openmm.Platform.getPlatformByName(platform))
    made.context.setPositions(structure.positions / 10)
    made.context.setVelocitiesToTemperature(300, 2)
    return made, monitor


def state_of(made: app.Simulation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, velocities and box, in OpenMM's units."""
    state = made.context.getState(positions=True, velocities=True)
    return (
        state.getPositions(asNumpy=True)._value.copy(),
        state.getVelocities(asNumpy=True)._value.copy(),
        state.getPeriodicBoxVectors(asNumpy=True)._value.copy(),
    )


def openmm_velocities(frame: Any, made: app.Simulation) -> np.ndarray:
    """What OpenMM has for a frame's velocities, Å/fs: with leapfrog, those of half a step before."""
    integrator = made.integrator
    if "Brownian" in type(integrator).__name__:
        return frame.velocities
    step = integrator.getStepSize().value_in_unit(unit.femtosecond)
    return frame.velocities - 0.5 * step * units.fs**2 * frame.forces / frame.masses[:, None]


class Frames(list):
    """A hook that keeps the frames, and the verdicts on them."""

    def __init__(self) -> None:
        super().__init__()
        self.verdicts: list[Any] = []

    def observe(self, frame: Any, verdict: Any) -> None:
        self.append(frame)
        self.verdicts.append(verdict)
