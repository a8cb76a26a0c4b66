"""The networks of fairchem-core pass the tests that every model has to pass; small ones."""

from pathlib import Path
from typing import Any, ClassVar

import fairchem_checkpoints as checkpoints
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


class TestAllScaipOfMolecules(OfFairchem):
    config = checkpoints.allscaip("omol")
    dataset = "omol"
    structures: ClassVar[tuple[Atoms, ...]] = (molecule("CH3", charge=0, spin=2),)
    tolerances = Tolerances(rotation=None)


class TestAllScaipOfCrystals(OfFairchem):
    config = checkpoints.allscaip("omat")
    dataset = "omat"
    structures: ClassVar[tuple[Atoms, ...]] = (molecule("H2O"), crystal(), small_cell())
    # neighbours are counted for an average, so that E jumps where one comes or goes
    tolerances = Tolerances(rotation=None, jump=None, derivative=1e-5)


class TestEscaip(OfFairchem):
    config = checkpoints.escaip("oc20")
    dataset = "oc20"
    structures: ClassVar[tuple[Atoms, ...]] = (crystal(), small_cell())
    tolerances = Tolerances(rotation=None, jump=None, derivative=1e-4)
