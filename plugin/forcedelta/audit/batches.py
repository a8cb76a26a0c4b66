"""Many structures in one evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import nn

from forcedelta.errors import ForceDeltaError
from forcedelta.force_delta import ForceDelta, is_out_of_memory
from forcedelta.graph import Graphs
from forcedelta.models.loaded import LoadedModel

_VOIGT = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model says of one structure of N atoms; see `forcedelta.ForceDelta` for the units.

    Attributes:
        energy: eV.
        direct_forces: [N, 3] eV/Å.
        conservative_forces: [N, 3] eV/Å.
        force_deltas: [N] u_i, eV/Å.
        force_delta: U, eV/Å.
        stress: [6] eV/Å^3 in ASE's order, of structures with a volume.
        expected_errors: [N] eV/Å, of models that have them.
    """

    energy: float
    direct_forces: NDArray[np.float64]
    conservative_forces: NDArray[np.float64]
    force_deltas: NDArray[np.float64]
    force_delta: float
    stress: NDArray[np.float64] | None = None
    expected_errors: NDArray[np.float64] | None = None


class BatchEvaluator:
    """Evaluates structures side by side; the numbers are those of single evaluations to rounding.

    Args:
        model: as loaded.
        dtype: of positions and weights.
        device: of torch.
    """

    def __init__(self, model: LoadedModel, dtype: torch.dtype, device: torch.device) -> None:
        self._model = model
        self._graphs = Graphs(model, dtype, device)
        self._force_delta = ForceDelta(model.module)

    def __call__(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        """One forward and one backward pass; halves of the batch where the memory does not suffice.

        Raises:
            ForceDeltaError: as `forcedelta.graph.Graphs.batch`, and a structure that is too large
                for the memory.
        """
        try:
            return self._evaluate(structures)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(structures) == 1:
                raise ForceDeltaError(
                    f"the memory does not suffice for a structure of {len(structures[0])} atoms: "
                    "use a device with more, or a smaller model"
                ) from error
        half = len(structures) // 2
        return self(structures[:half]) + self(structures[half:])

    def _evaluate(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        volumes = [bool(atoms.pbc.all()) for atoms in structures]
        stress = self._model.stress and any(volumes)
        output = self._force_delta(*self._graphs.batch(structures), stress=stress)
        arrays = {
            name: value.detach().to("cpu", torch.float64).numpy() for name, value in output.items()
        }
        ends = np.cumsum([len(atoms) for atoms in structures])
        evaluations = []
        for k, atoms in enumerate(structures):
            rows = slice(ends[k] - len(atoms), ends[k])
            expected = arrays.get("expected_errors")
            evaluations.append(
                Evaluation(
                    energy=float(arrays["energy"][k]),
                    direct_forces=arrays["direct_forces"][rows],
                    conservative_forces=arrays["conservative_forces"][rows],
                    force_deltas=arrays["force_deltas"][rows],
                    force_delta=float(arrays["force_delta"][k]),
                    stress=arrays["stress"][k][_VOIGT] if stress and volumes[k] else None,
                    expected_errors=None if expected is None else expected[rows],
                )
            )
        return evaluations


def batch_atoms(module: nn.Module, device: torch.device) -> int:
    """How many atoms to evaluate side by side.

    A constant, so that batches follow the file alone and not the clock: an audit that was killed and
    continued has the same numbers, to the last bit, as one that was not. For the embedded networks
    256 atoms were the best or within 10 % of it on a CPU, from molecules of 3 atoms to crystals of
    64; large networks gain little from batches there, and a smaller one loses less to a kill.

    Args:
        module: the model.
        device: on which it runs.
    """
    if device.type != "cpu":
        return 2048
    weights = sum(parameter.numel() for parameter in module.parameters())
    return 256 if weights < 1_000_000 else 64
