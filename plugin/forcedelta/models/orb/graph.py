"""Orb's graph from all pairs within the cutoff, in code that TorchScript can also compile."""

import torch
from torch import Tensor


def edge_vectors(
    positions: Tensor, cell: Tensor, edge_index: Tensor, edge_shift: Tensor, batch: Tensor
) -> Tensor:
    """Vectors [E, 3] Å from the centre to the neighbour of each pair; arguments as of a model."""
    centre, neighbour = edge_index[0], edge_index[1]
    vectors = positions[neighbour] - positions[centre]
    if cell.shape[0] == 1:
        return vectors + edge_shift @ cell[0]
    return vectors + torch.bmm(edge_shift[:, None], cell[batch[centre]])[:, 0]


def nearest(vectors: Tensor, centre: Tensor, atoms: int, most: int) -> Tensor:
    """Ascending indices of the pairs to the ``most`` nearest neighbours of each atom.

    As in orb-models' own graph, an atom sends to its nearest neighbours, whether or not it is among
    theirs. Of neighbours at the same distance the first in the list are kept, so that a second
    selection keeps the same pairs.

    Args:
        vectors: [E, 3] Å.
        centre: [E] int64.
        atoms: N.
        most: k.
    """
    counts = torch.bincount(centre, minlength=atoms)
    everything = torch.arange(centre.shape[0], device=centre.device)
    if centre.shape[0] == 0 or int(counts.max()) <= most:
        return everything
    distance = (vectors * vectors).sum(1)
    order = torch.argsort(distance, stable=True)
    order = order[torch.argsort(centre[order], stable=True)]
    first = torch.cumsum(counts, 0) - counts
    rank = torch.empty_like(everything)
    rank[order] = everything - first[centre[order]]
    return torch.nonzero(rank < most)[:, 0]


def without_torque(forces: Tensor, positions: Tensor, cell: Tensor, batch: Tensor) -> Tensor:
    """Forces [N, 3] of molecules without their net torque; those of periodic structures as given.

    As in orb-models: with x the positions relative to their mean, the smallest change of the forces
    that removes the torque is ``x_i × μ`` with ``(Σ x x^T - Σ |x|² 1) μ = -Σ x × F``. The
    pseudo-inverse also covers linear molecules and single atoms, which have no μ along their axis.

    Args:
        forces: [N, 3], without net force.
        positions: [N, 3] Å.
        cell: [S, 3, 3] Å; zero for molecules.
        batch: [N] int64.
    """
    molecule = (cell == 0).flatten(1).all(1)
    if not bool(molecule.any()):
        return forces
    structures = cell.shape[0]
    counts = torch.bincount(batch, minlength=structures).to(positions.dtype)[:, None]
    total = torch.zeros(structures, 3, dtype=positions.dtype, device=positions.device)
    x = positions - (total.index_add(0, batch, positions) / counts)[batch]
    torque = total.index_add(0, batch, torch.linalg.cross(x, forces))
    matrix = torch.zeros(structures, 3, 3, dtype=positions.dtype, device=positions.device)
    one = torch.eye(3, dtype=positions.dtype, device=positions.device)
    outer = x[:, :, None] * x[:, None] - (x * x).sum(1)[:, None, None] * one
    matrix = matrix.index_add(0, batch, outer)
    # the matrices of periodic structures are not used
    matrix = torch.where(molecule[:, None, None], matrix, one)
    mu = torch.bmm(torch.linalg.pinv(matrix), -torque[:, :, None])[:, :, 0]
    change = torch.linalg.cross(x, mu[batch])
    return forces + torch.where(molecule[batch][:, None], change, torch.zeros_like(change))
