"""ASE as the MD engine of a guarded run."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from md_hooks import Checkpoint, Hook, HookChain, RunInfo, RunResult, restore, run

from ..ase import ForceDeltaCalculator
from ..ensembles import Ensemble, EnsembleSettings


class ASEEngine:
    """Integration of a guarded run by ASE.

    Args:
        atoms: structure with momenta (`forcedelta.ensembles.prepare`); the calculator is attached here.
        settings: settings of the ensemble.
        calculator: calculator of the model.

    Attributes:
        hook: sets the target temperature of each step; must be first in the chain.
    """

    def __init__(
        self, atoms: Atoms, settings: EnsembleSettings, calculator: ForceDeltaCalculator
    ) -> None:
        atoms.calc = calculator
        self._atoms = atoms
        self._calculator = calculator
        self._ensemble = Ensemble(atoms, settings)
        self.hook: Hook = self._ensemble

    def first_evaluation(self) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """U (eV/Å), direct and conservative forces [N, 3] (eV/Å) of step 0, from one evaluation."""
        self._atoms.get_forces()
        results: dict[str, Any] = self._calculator.results
        return (
            results["force_delta"],
            results["direct_forces"],
            results["conservative_forces"],
        )

    def run(
        self, steps: int, chain: HookChain, info: RunInfo, checkpoint: Checkpoint | None = None
    ) -> RunResult:
        """Run the given number of steps, from a checkpoint if any; see `md_hooks.run`."""
        dynamics = self._ensemble.dynamics
        if checkpoint is not None:
            restore(dynamics, checkpoint)
            self._calculator.count_from(checkpoint.step)
            chain.load_state_dict(checkpoint.hooks)
        return run(dynamics, steps, chain, info)
