"""A PET in the real TorchForce. Runs where openmmtorch, its torch and metatrain are installed."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from openmm import unit

from forcedelta import ForceDelta, load_model
from forcedelta.graph import Graphs
from forcedelta.models import LoadedModel
from forcedelta.openmm.export import export
from forcedelta.openmm.force import add_force_delta

pytest.importorskip("openmmtorch", reason="needs openmmtorch and torch 2.9")
pytest.importorskip("metatrain", reason="needs metatrain")
from random_pet import random_pet

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
]
KJ = units.kJ / units.mol  # eV


@pytest.fixture(scope="module")
def pet(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = tmp_path_factory.mktemp("pet") / "pet.pt"
    return load_model(random_pet(path), torch.float64)


def crystal() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    return atoms


def acetaldehyde() -> Atoms:
    atoms = molecule("CH3CHO")
    atoms.rattle(0.05, seed=0)
    return atoms


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("make", [crystal, acetaldehyde])
def test_it_is_the_model_in_python(
    make: object, platform: str, pet: LoadedModel, tmp_path: Path
) -> None:
    """Before and after some steps, in a cell smaller than the cutoff and for a molecule."""
    assert callable(make)
    atoms = make()
    export(pet, tmp_path / "pet.pt", dtype="float64")
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    periodic = bool(atoms.pbc.all())
    if periodic:
        system.setDefaultPeriodicBoxVectors(*(atoms.cell.array * 0.1))
    add_force_delta(
        system, tmp_path / "pet.pt", atoms.numbers, path="torchscript", periodic=periodic
    )
    integrator = openmm.LangevinMiddleIntegrator(300, 1.0, 0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPositions(atoms.positions * 0.1)
    context.setVelocitiesToTemperature(300, 1)
    force_delta, graphs = ForceDelta(pet.module), Graphs(pet, torch.float64, torch.device("cpu"))
    tolerance = 1e-9 if platform == "Reference" else 2e-4  # the CPU platform keeps float32
    for steps in (0, 10):
        integrator.step(steps)
        state = context.getState(positions=True, energy=True, forces=True)
        atoms.positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        expected = force_delta(*graphs.batch([atoms]))
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * KJ
        assert energy == pytest.approx(expected["energy"].item(), abs=tolerance)
        per = unit.kilojoule_per_mole / unit.angstrom
        forces = state.getForces(asNumpy=True).value_in_unit(per) * KJ
        assert np.abs(forces - expected["direct_forces"].numpy()).max() < tolerance
    assert float(expected["force_delta"]) > 1e-3
