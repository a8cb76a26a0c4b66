"""orb-models' own calculator with the weights of a loaded model, for comparison."""

import warnings
from collections.abc import Callable, Sequence

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from orb_models.forcefield.calculator import ORBCalculator
from orb_models.forcefield.direct_regressor import DirectForcefieldRegressor

from forcedelta.models.orb.module import default_dtype


class _Calculator(ORBCalculator):
    """An `ORBCalculator` in the dtype of its weights instead of torch's default dtype."""

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
        with default_dtype(self._dtype), warnings.catch_warnings():
            # orb-models converts tensors to numpy in a deprecated way
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            super().calculate(atoms, properties, system_changes)


def calculator(
    build: Callable[[], DirectForcefieldRegressor], device: torch.device, dtype: torch.dtype
) -> Calculator:
    """An `ORBCalculator` with a separate network."""
    return _Calculator(build(), device, dtype)
