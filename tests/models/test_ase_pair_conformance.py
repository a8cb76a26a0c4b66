"""Two ASE calculators and the tests that every model has to pass."""

from dataclasses import replace
from typing import ClassVar

import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator

from forcedelta.conformance import Conformance, crystal, molecule, small_cell
from forcedelta.models import LoadedModel, from_calculators


class TestTwoCalculators(Conformance):
    structures: ClassVar[tuple[Atoms, ...]] = (
        molecule("H2O"), crystal("Cu"), small_cell("Cu", 2.6)
    )  # fmt: skip

    def load(self, dtype: torch.dtype) -> LoadedModel:
        weak = LennardJones(sigma=2.2, epsilon=0.01, rc=5.0, smooth=True)
        model = from_calculators(SumCalculator([EMT(), weak]), EMT(), elements=["H", "O", "Cu"])
        # how far they see, which nobody but these tests asks for
        return replace(model, cutoff=8.0)
