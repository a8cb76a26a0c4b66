"""A loaded model as the measurements see it: structures go in, numbers in float64 come out."""

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from forcedelta.checks import check_structure
from forcedelta.force_delta import ForceDelta
from forcedelta.graph import Graph, Graphs
from forcedelta.models.loaded import LoadedModel


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation of N atoms gave.

    Attributes:
        energy: eV.
        direct: [N, 3] eV/Å, F_nc.
        conservative: [N, 3] eV/Å, F_c.
        force_delta: U, eV/Å.
        stress: [3, 3] eV/Å^3, positive under tension; None where it was not asked for.
    """

    energy: float
    direct: NDArray[np.float64]
    conservative: NDArray[np.float64]
    force_delta: float
    stress: NDArray[np.float64] | None = None


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
        self._force_delta = ForceDelta(model.module)
        self._graphs = Graphs(model, dtype, self.device)

    def check(self, atoms: Atoms) -> None:
        """Raises ForceDeltaError for structures that the model cannot be asked about."""
        check_structure(atoms, self.model)

    def graph(self, structures: Atoms | list[Atoms]) -> Graph:
        """The arguments of the model for one structure, or for several side by side."""
        return self._graphs.batch([structures] if isinstance(structures, Atoms) else structures)

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

    def evaluate(self, atoms: Atoms, stress: bool = False) -> Evaluation:
        """One forward and one backward pass."""
        return self.evaluate_graph(self.graph(atoms), stress)[0]

    def evaluate_graph(self, graph: Graph, stress: bool = False) -> list[Evaluation]:
        """The same for each structure of a graph."""
        output = self._force_delta(*graph, stress=stress)
        batch = graph[5].cpu().numpy()
        direct = _array(output["direct_forces"])
        conservative = _array(output["conservative_forces"])
        return [
            Evaluation(
                float(output["energy"][s]),
                direct[batch == s],
                conservative[batch == s],
                float(output["force_delta"][s]),
                _array(output["stress"][s]) if stress else None,
            )
            for s in range(len(graph[2]))
        ]


def seen_pairs(probe: Probe, graph: Graph) -> set[tuple[int, ...]]:
    """(centre, neighbour, three shifts) of each pair that the model takes notice of."""
    index, shift = probe.selected(graph)
    return set(map(tuple, torch.cat([index.T, shift.round().long()], 1).tolist()))


def atom_pairs(probe: Probe, atoms: Atoms) -> set[tuple[int, ...]]:
    """The same for a structure."""
    return seen_pairs(probe, probe.graph(atoms))


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().to("cpu", torch.float64).numpy()


def displaced(atoms: Atoms, size: float = 0.05, seed: int = 0) -> Atoms:
    """A copy with normally distributed displacements of ``size`` Å in each coordinate.

    On a symmetric structure forces vanish whatever the model does, and a wrong gradient with them.
    """
    copy = atoms.copy()
    copy.set_constraint()
    copy.positions += np.random.default_rng(seed).normal(scale=size, size=(len(atoms), 3))
    return copy
