"""Graphs: structures as the input tensors of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from forcedelta.errors import ForceDeltaError
from forcedelta.models.loaded import LoadedModel
from forcedelta.neighbours import NeighbourList, near_the_first, neighbour_pairs

Graph = tuple[Tensor, ...]
"""Arguments of a model and of `forcedelta.ForceDelta`, in order: positions, numbers, cell,
edge_index, edge_shift, batch and, for models that take it, charge_spin."""


def charge_and_spin(atoms: Atoms, model: LoadedModel) -> tuple[float, float] | None:
    """Total charge (e) and spin multiplicity of a structure, from ``atoms.info``.

    Returns:
        None for a model that takes neither.

    Raises:
        ForceDeltaError: the model takes them and they are missing or impossible.
    """
    if not model.takes_charge_spin:
        return None
    missing = [name for name in ("charge", "spin") if name not in atoms.info]
    if missing:
        raise ForceDeltaError(
            f"model '{model.name}' needs the total charge and the spin multiplicity (1 for a closed "
            f"shell): pass --charge and --spin, or set atoms.info['{missing[0]}']"
        )
    charge, spin = (_whole(atoms.info[name]) for name in ("charge", "spin"))
    if charge is None:
        raise ForceDeltaError(
            f"the total charge must be a whole number of e, not {atoms.info['charge']!r}"
        )
    if spin is None or spin < 1:
        raise ForceDeltaError(
            "the spin multiplicity must be a whole number of 1 or more (1: closed shell, 2: one "
            f"unpaired electron), not {atoms.info['spin']!r}"
        )
    electrons = int(atoms.numbers.sum()) - round(charge)
    if electrons < 0 or (electrons - int(spin)) % 2 == 0:
        raise ForceDeltaError(
            f"charge {charge:g} and spin multiplicity {spin:g} are incompatible: with "
            f"{electrons} electrons the multiplicity must be {'odd' if electrons % 2 == 0 else 'even'}"
        )
    return charge, spin


def _whole(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number.is_integer() else None


class Graphs:
    """Builds the input of a model, for one moving structure or for a batch.

    Tensors that do not change between steps are reused: atomic numbers, cell, and the neighbour
    list until an atom leaves its skin.

    Args:
        model: sets the cutoff.
        dtype: of the tensors.
        device: of the tensors.
    """

    def __init__(self, model: LoadedModel, dtype: torch.dtype, device: torch.device) -> None:
        self._model = model
        self._dtype, self._device = dtype, device
        self._neighbours = NeighbourList(model.cutoff)
        self._numbers: NDArray[np.integer] = np.empty(0, int)
        self._cell: NDArray[np.float64] = np.empty((0, 3))
        self._state: tuple[float, float] | None = None
        self._state_tensor: Tensor | None = None

    def at(
        self,
        positions: NDArray[np.float64],
        numbers: NDArray[np.integer],
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        charge_spin: tuple[float, float] | None = None,
    ) -> Graph:
        """The arguments for one structure.

        Args:
            positions: [N, 3] Å.
            numbers: [N] atomic numbers.
            cell: [3, 3] Å; rows of non-periodic directions are ignored.
            pbc: [3].
            charge_spin: see `charge_and_spin`.

        Raises:
            ForceDeltaError: as `forcedelta.neighbours.neighbour_pairs`.
        """
        cell = np.where(pbc[:, None], cell, 0.0)
        index, shift = self._neighbours.pairs(positions, cell, pbc)
        if not np.array_equal(numbers, self._numbers):
            self._numbers = np.array(numbers)
            self._number_tensor = torch.tensor(numbers, dtype=torch.long, device=self._device)
            self._batch = torch.zeros_like(self._number_tensor)
        if not np.array_equal(cell, self._cell):
            self._cell = cell
            self._cell_tensor = self._tensor(cell[None])
        near, shift = near_the_first(positions, cell, pbc, index, shift)
        graph = (
            self._tensor(near),
            self._number_tensor,
            self._cell_tensor,
            torch.from_numpy(index).to(self._device),
            self._tensor(shift),
            self._batch,
        )
        if charge_spin is None:
            return graph
        if charge_spin != self._state or self._state_tensor is None:
            self._state = charge_spin
            self._state_tensor = self._tensor(np.array([charge_spin]))
        return (*graph, self._state_tensor)

    def batch(self, structures: Sequence[Atoms]) -> Graph:
        """The arguments for a batch of structures.

        Raises:
            ForceDeltaError: as `forcedelta.neighbours.neighbour_pairs` and `charge_and_spin`.
        """
        positions, cells, indices, shifts, states = [], [], [], [], []
        first = 0
        for atoms in structures:
            cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
            index, shift = neighbour_pairs(atoms.positions, cell, atoms.pbc, self._model.cutoff)
            near, shift = near_the_first(atoms.positions, cell, atoms.pbc, index, shift)
            positions.append(near)
            cells.append(cell)
            indices.append(index + first)
            shifts.append(shift)
            first += len(atoms)
            state = charge_and_spin(atoms, self._model)
            if state is not None:
                states.append(state)
        sizes = [len(atoms) for atoms in structures]
        numbers = np.concatenate([atoms.numbers for atoms in structures])
        owner = np.repeat(np.arange(len(sizes)), sizes)
        graph = (
            self._tensor(np.concatenate(positions)),
            torch.tensor(numbers, dtype=torch.long, device=self._device),
            self._tensor(np.stack(cells)),
            torch.from_numpy(np.concatenate(indices, axis=1)).to(self._device),
            self._tensor(np.concatenate(shifts)),
            torch.from_numpy(owner).to(self._device),
        )
        return (*graph, self._tensor(np.array(states))) if states else graph

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device, self._dtype)
