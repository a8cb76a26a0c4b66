"""The embedded models pass the conformance suite, and broken models fail the right tests of it."""

import torch

from forcedelta import LoadedModel, load_model
from forcedelta.conformance import Conformance, crystal, molecule, small_cell


class TestAcac(Conformance):
    structures = (molecule(),)

    def load(self, dtype: torch.dtype) -> LoadedModel:
        return load_model("acac", dtype)


class TestAcacDirect(Conformance):
    structures = (molecule(),)

    def load(self, dtype: torch.dtype) -> LoadedModel:
        return load_model("acac-direct", dtype)


class TestMlearn(Conformance):
    structures = (crystal("Si"), crystal("Li"), small_cell("Si"))

    def load(self, dtype: torch.dtype) -> LoadedModel:
        return load_model("mlearn", dtype)
