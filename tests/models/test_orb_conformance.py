"""Orb models and the tests that every model has to pass."""

import torch
from orb_networks import small

from forcedelta.conformance import Conformance, Tolerances
from forcedelta.models import LoadedModel


class TestOrbV3(Conformance):
    tolerances = Tolerances(rotation=None)  # not equivariant
    directions = 4

    def load(self, dtype: torch.dtype) -> LoadedModel:
        return small("v3", most=120, dtype=dtype)


class TestOrbV2(Conformance):
    tolerances = Tolerances(rotation=None)
    directions = 4

    def load(self, dtype: torch.dtype) -> LoadedModel:
        return small("v2", most=120, dtype=dtype)
