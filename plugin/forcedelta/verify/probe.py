"""A loaded model as the measurements see it: structures go in, numbers in float64 come out."""

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from forcedelta.checks import check_structure
from forcedelta.evaluation import Evaluator, ExactEvaluation
from forcedelta.graph import Graph
from forcedelta.models.loaded import LoadedModel


class Probe:
    """Evaluates a model on structures, without a memory of its own between evaluations.

    Attributes:
        model: as loaded.
        dtype: of positions and weights.
        device: where the model is.
    """

    def __init__(
        self, model: LoadedModel, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.device = torch.device(device)
        self._evaluator = Evaluator(model, dtype, self.device)

    def check(self, atoms: Atoms) -> None:
        """Raises ForceDeltaError for structures that the model cannot be asked about."""
        check_structure(atoms, self.model)

    def graph(self, structures: Atoms | list[Atoms]) -> Graph:
        """The arguments of the model for one structure, or for several side by side."""
        batch = [structures] if isinstance(structures, Atoms) else structures
        return self._evaluator.graph_of(batch)

    def tensor(self, array: NDArray[np.floating] | NDArray[np.integer]) -> Tensor:
        """The numbers in dtype, on the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, self.dtype)

    def selected(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """edge_index [2, E] and edge_shift [E, 3] of the pairs that the model takes notice of.

        They are all pairs of the graph where the model has no `select`.
        """
        if not self.selects:
            return graph[3], graph[4]
        with torch.no_grad():
            index, shift = self.model.module.select(  # type: ignore[operator]
                graph[0], graph[2], *graph[3:6]
            )
        return index, shift

    @property
    def selects(self) -> bool:
        """Whether the model sees only some of the pairs within its cutoff, and says so."""
        return callable(getattr(self.model.module, "select", None))

    def energy(self, graph: Graph) -> float:
        """Energy of a single structure, eV, from a forward pass without gradient."""
        with torch.no_grad():
            return float(self.model.module(*graph)[0][0])

    def evaluate(self, atoms: Atoms, stress: bool = False) -> ExactEvaluation:
        """One forward and one backward pass."""
        return self.evaluate_graph(self.graph(atoms), stress)[0]

    def evaluate_graph(self, graph: Graph, stress: bool = False) -> list[ExactEvaluation]:
        """The same for each structure of a graph."""
        return self._evaluator.evaluate(graph, stress)


def seen_pairs(probe: Probe, graph: Graph) -> set[tuple[int, ...]]:
    """(centre, neighbour, three shifts) of each pair that the model takes notice of."""
    index, shift = probe.selected(graph)
    return set(map(tuple, torch.cat([index.T, shift.round().long()], 1).tolist()))


def atom_pairs(probe: Probe, atoms: Atoms) -> set[tuple[int, ...]]:
    """The same for a structure."""
    return seen_pairs(probe, probe.graph(atoms))


def displaced(atoms: Atoms, size: float = 0.05, seed: int = 0) -> Atoms:
    """A copy with normally distributed displacements of ``size`` Å in each coordinate.

    On a symmetric structure forces vanish whatever the model does, and a wrong gradient with them.
    """
    copy = atoms.copy()
    copy.set_constraint()
    copy.positions += np.random.default_rng(seed).normal(scale=size, size=(len(atoms), 3))
    return copy
