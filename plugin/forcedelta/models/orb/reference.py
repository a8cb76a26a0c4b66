"""orb-models' own calculator with the weights of a loaded model, to compare with."""

from collections.abc import Sequence
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import all_changes
from orb_models.forcefield.calculator import ORBCalculator
from orb_models.forcefield.direct_regressor import DirectForcefieldRegressor

from forcedelta.models.orb.module import default_dtype


class _Calculator(ORBCalculator):
    """In the dtype of its weights; `ORBCalculator` takes torch's default dtype."""

    def __init__(
        self, model: DirectForcefieldRegressor, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(model, device=device)
        self._dtype = dtype

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        with default_dtype(self._dtype):
            super().calculate(atoms, properties, system_changes)


def calculator(
    regressor: DirectForcefieldRegressor, device: torch.device, dtype: torch.dtype
) -> Any:
    """An `ORBCalculator` that shares the network."""
    return _Calculator(regressor, device, dtype)
