"""Structures, graphs and models that the tests of the force module share."""

from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from numpy.typing import NDArray
from torch import Tensor, nn

from forcedelta import ForceDelta
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.models.network import DirectForceNetwork
from forcedelta.neighbours import neighbour_pairs

CUTOFF = 3.6  # Å
ELEMENTS = [1, 6, 8, 14]
KEYS = {
    "energy",
    "free_energy",
    "forces",
    "direct_forces",
    "conservative_forces",
    "force_delta",
    "force_deltas",
}
DIRECT_KEYS = {"energy", "free_energy", "forces", "direct_forces"}

Graph = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def small_network(
    dtype: torch.dtype = torch.float64, seed: int = 0, tensors: int = 3
) -> DirectForceNetwork:
    """A network of the embedded kind with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = DirectForceNetwork(
            ELEMENTS,
            CUTOFF,
            features=16,
            channels=4,
            layers=2,
            radial=4,
            tensors=tensors,
            force_layers=int(tensors > 0),
        )
    network.reference_energies.copy_(torch.tensor([-13.0, -1030.0, -2040.0, -7800.0]))
    return network.to(dtype) if dtype == torch.float64 else network


def acetaldehyde(seed: int = 0) -> Atoms:
    """Seven atoms without a cell, off their symmetric places."""
    atoms = molecule("CH3CHO")
    atoms.rattle(0.05, seed=seed)
    return atoms


def small_crystal(seed: int = 0) -> Atoms:
    """Two atoms in a triclinic cell that is smaller than the cutoff, one of them outside of it."""
    atoms = bulk("Si")
    atoms.set_cell(np.array([[3.1, 0, 0], [0.7, 2.9, 0], [-0.6, 0.5, 3.3]]), scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    atoms.positions[1] += atoms.cell[0]
    return atoms


def graph_of(
    structures: list[Atoms], dtype: torch.dtype = torch.float64, cutoff: float = CUTOFF
) -> Graph:
    """The six arguments of a model for structures side by side."""
    indices, shifts, first = [], [], 0
    for atoms in structures:
        index, shift = neighbour_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
        indices.append(torch.from_numpy(index) + first)
        shifts.append(torch.from_numpy(shift).to(dtype))
        first += len(atoms)
    sizes = torch.tensor([len(atoms) for atoms in structures])
    return (
        torch.tensor(np.concatenate([atoms.positions for atoms in structures]), dtype=dtype),
        torch.tensor(np.concatenate([atoms.numbers for atoms in structures])),
        torch.tensor(np.stack([atoms.cell.array for atoms in structures]), dtype=dtype),
        torch.cat(indices, 1),
        torch.cat(shifts),
        torch.arange(len(structures)).repeat_interleave(sizes),
    )


def random_rotation(seed: int) -> NDArray[np.float64]:
    """[3, 3], proper."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


class Springs(nn.Module):
    """Atoms tied to the origin: E = sum 1/2 |r|^2, F_c = -r; direct forces: a share of that."""

    def __init__(self, share: float = 0.0) -> None:
        super().__init__()
        self.share = share
        self.cutoff = CUTOFF

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        energy = torch.zeros(cell.shape[0], dtype=positions.dtype)
        energy = energy.index_add(0, batch, 0.5 * (positions * positions).sum(1))
        return energy, -self.share * positions


class Counting(nn.Module):
    """Counts forward passes of a model, and backward passes through its energy."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.cutoff = model.cutoff
        self.forwards = 0
        self.backwards = 0

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        self.forwards += 1
        energy, direct = self.model(*graph)
        if energy.requires_grad:
            energy.register_hook(self._count)
        return energy, direct

    def _count(self, gradient: Tensor) -> None:
        self.backwards += 1


def calm_network(dtype: torch.dtype = torch.float32) -> Any:
    """Random weights with forces small enough for a run to live."""
    network = small_network(dtype)
    network.energy_scale.fill_(0.02)
    return network


def calculator(**options: Any) -> ForceDeltaCalculator:
    dtype = getattr(torch, options.get("dtype", "float32"))
    return ForceDeltaCalculator(ForceDelta(calm_network(dtype)), **options)


def with_calculator(atoms: Atoms, **options: Any) -> Atoms:
    atoms.calc = calculator(**options)
    return atoms


def slab() -> Atoms:
    atoms = small_crystal()
    atoms.pbc = [True, True, False]
    return atoms
