"""metatomic models and the tests that every model has to pass: a PET, and pairs of several lists."""

import warnings
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from ase import Atoms
from random_pet import random_pet

from forcedelta import load_model
from forcedelta.conformance import Conformance, Tolerances, crystal, molecule, small_cell
from forcedelta.models import LoadedModel

with warnings.catch_warnings():
    # metatomic is TorchScript, which torch deprecates
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
    pytest.importorskip("metatomic_ase", reason="needs metatomic")
    pytest.importorskip("metatrain", reason="needs metatrain")
    from metatomic_pairs import save

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
NAMES = {torch.float32: "float32", torch.float64: "float64"}


class OfMetatomic(Conformance):
    """An exported model has a dtype of its own, so that there is a file for each."""

    structures: ClassVar[tuple[Atoms, ...]] = (molecule(), crystal("Cu"), small_cell("Cu", 2.6))
    paths: ClassVar[dict[torch.dtype, Path]]

    def load(self, dtype: torch.dtype) -> LoadedModel:
        return load_model(self.paths[dtype], dtype)


class TestPet(OfMetatomic):
    tolerances = Tolerances(rotation=None)  # not equivariant

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _files(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("pet")
        cls.paths = {t: random_pet(folder / f"pet-{n}.pt", t) for t, n in NAMES.items()}


class TestPairs(OfMetatomic):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _files(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("pairs")
        lists = ((4.0, True), (2.5, False), (1.6, True))
        cls.paths = {t: save(folder / f"{n}.pt", lists, dtype=n) for t, n in NAMES.items()}
