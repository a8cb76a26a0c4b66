"""The networks of fairchem-core pass the tests that every model has to pass; small ones."""

from pathlib import Path
from typing import Any, ClassVar

import fairchem_checkpoints as checkpoints
import numpy as np
import pytest
import torch
from ase import Atoms

from forcedelta.conformance import Conformance, Tolerances, crystal, molecule, small_cell
from forcedelta.models import LoadedModel, load_model
from forcedelta.models.fairchem.catalogue import FAMILY

pytestmark = pytest.mark.skipif(bool(FAMILY.problem()), reason=FAMILY.problem())


class OfFairchem(Conformance):
    """Writes a checkpoint and loads it as a user does."""

    config: ClassVar[Any]
    dataset: ClassVar[str]
    directions: ClassVar[int] = 6
    path: ClassVar[Path]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.path = tmp_path_factory.mktemp("fairchem") / "inference_ckpt.pt"
        checkpoints.write(cls.path, cls.config, cls.dataset)

    def load(self, dtype: torch.dtype) -> LoadedModel:
        return load_model(self.path, dtype, architecture="fairchem", trust=True)


class TestEsenOfMolecules(OfFairchem):
    config = checkpoints.esen("omol", max_neighbors=30)
    dataset = "omol"
    structures: ClassVar[tuple[Atoms, ...]] = (molecule(), molecule("CH3", charge=0, spin=2))


class TestEsenOfSurfaces(OfFairchem):
    config = checkpoints.esen("oc25")
    dataset = "oc25"
    structures: ClassVar[tuple[Atoms, ...]] = (crystal(), small_cell())


class OwnGraph(OfFairchem):
    """AllScAIP and EScAIP count the neighbours that an average is taken over.

    E jumps where one comes or goes, also out of reach of the cutoff, which no `select` tells of.
    Steps of finite differences have to be small.
    """

    def test_stress_is_the_strain_derivative(self, periodic: Atoms, record_property: Any) -> None:
        probe, step = self.probe(), 1e-5
        stress = probe.evaluate(periodic, stress=True).stress
        assert stress is not None
        for strain in (
            np.diag([1.0, 0, 0]),
            np.array([[1, 0.3, 0], [0.3, 0, 0.2], [0, 0.2, -0.5]]),
        ):
            energies = []
            for sign in (1, -1):
                strained = periodic.copy()
                cell = periodic.cell.array @ (np.eye(3) + sign * step * strain)
                strained.set_cell(cell, scale_atoms=True)
                energies.append(probe.energy(probe.graph(strained)))
            slope = (energies[0] - energies[1]) / (2 * step) / periodic.get_volume()
            error = abs(slope - (stress * strain).sum())
            record_property("error (eV/Å^3)", float(error))
            assert error < 1e-8


class TestAllScaipOfMolecules(OwnGraph):
    config = checkpoints.allscaip("omol")
    dataset = "omol"
    structures: ClassVar[tuple[Atoms, ...]] = (molecule("CH3", charge=0, spin=2),)
    tolerances = Tolerances(rotation=None)


class TestAllScaipOfCrystals(OwnGraph):
    config = checkpoints.allscaip("omat")
    dataset = "omat"
    structures: ClassVar[tuple[Atoms, ...]] = (molecule("H2O"), crystal(), small_cell())
    tolerances = Tolerances(rotation=None, jump=None, derivative=1e-5)


class TestEscaip(OwnGraph):
    config = checkpoints.escaip("oc20")
    dataset = "oc20"
    structures: ClassVar[tuple[Atoms, ...]] = (crystal(), small_cell())
    tolerances = Tolerances(rotation=None, jump=None, derivative=1e-4)
