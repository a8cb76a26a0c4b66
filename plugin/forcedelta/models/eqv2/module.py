"""EquiformerV2 with the call that ForceDelta expects."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from fairchem.core.common.utils import get_max_neighbors_mask
from fairchem.core.models.base import GraphData
from torch import Tensor, nn

from forcedelta.models.eqv2.frames import EdgeFrames, LiveRotation

_SAME_PLACE = 0.0001  # Å^2: closer pairs are not edges, as in the library


class EquiformerV2(nn.Module):
    """A network of fairchem-core 1.x with one head for energies and one for direct forces.

    The frames of its edges are partly random, and the energy depends on them slightly, as the
    network's grids are finite. All frames of an evaluation come from ``frame_seed``: energy and
    forces of a configuration are reproducible to the last bit, and the random state of the program
    is unchanged. Evaluations with several seeds measure that noise.

    Second derivatives are not available (`forcedelta.models.eqv2.frames`).

    Attributes:
        cutoff: Å.
        neighbours: number of nearest atoms within the cutoff that an atom sees.
        strict: exactly this number; otherwise also those as far as the last one, to 0.01 Å^2.
    """

    first_order_only = True
    references: Tensor | None

    def __init__(
        self,
        network: Any,
        energy: nn.Module,
        forces: nn.Module,
        scales: Mapping[str, tuple[float, float]],
        references: Tensor | None,
    ) -> None:
        """Take over the network, whose frames, graph and heads are then called from here.

        Args:
            network: the library's HydraModel, on a CPU.
            energy: its head of energies.
            forces: its head of direct forces.
            scales: mean and root mean square (eV, eV/Å) by which "energy" and "forces" were
                normalised; missing ones were not normalised.
            references: [Z] eV, the energy of each element by atomic number; None without.
        """
        super().__init__()
        backbone = network.backbone
        self.backbone = backbone
        self.energy_head = energy
        self.force_head = forces
        self.scales = dict(scales)
        self.cutoff = float(backbone.cutoff)
        self.neighbours = int(backbone.max_neighbors)
        self.strict = bool(backbone.enforce_max_neighbors_strictly)
        self.register_buffer("references", references)
        self.frames = EdgeFrames()
        backbone.generate_graph = _given_graph
        backbone._init_edge_rot_mat = self.frames.rotations
        dtype = next(backbone.parameters()).dtype
        for i, rotation in enumerate(backbone.SO3_rotation):
            backbone.SO3_rotation[i] = LiveRotation(rotation, self.frames, dtype)
        self.eval()
        self.requires_grad_(False)

    @property
    def frame_seed(self) -> int:
        """Seed of the random part of the edges' frames; any integer from 0."""
        return self.frames.seed

    @frame_seed.setter
    def frame_seed(self, seed: int) -> None:
        self.frames.seed = int(seed)

    def select(
        self,
        positions: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The edges that the network sees, those from each atom to its nearest neighbours.

        This is the library's own selection from all pairs within the cutoff; it is idempotent.
        Arguments as in ``forward``; returns edge_index [2, E'], edge_shift [E', 3].
        """
        vectors = _vectors(positions.detach(), cell.detach(), edge_index, edge_shift, batch)
        squared = (vectors * vectors).sum(1)
        apart = squared > _SAME_PLACE
        if not bool(apart.all()):
            edge_index, edge_shift, squared = (
                edge_index[:, apart],
                edge_shift[apart],
                squared[apart],
            )
        kept, _ = get_max_neighbors_mask(
            natoms=torch.bincount(batch, minlength=cell.shape[0]),
            index=edge_index[0],
            atom_distance=squared.to(torch.get_default_dtype()),  # of the array it sorts them in
            max_num_neighbors_threshold=self.neighbours,
            enforce_max_strictly=self.strict,
        )
        if bool(kept.all()):
            return edge_index, edge_shift
        return edge_index[:, kept], edge_shift[kept]

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Energy and direct forces of all structures of a batch.

        Args:
            positions: [N, 3] Å.
            numbers: [N] int64.
            cell: [S, 3, 3] Å.
            edge_index: [2, E] int64, all pairs within the cutoff, sorted by centre.
            edge_shift: [E, 3] whole cell vectors.
            batch: [N] int64.

        Returns:
            energy [S] eV, float64, connected to positions and cell in the autograd graph; direct
            forces [N, 3] eV/Å, detached.
        """
        edge_index, edge_shift = self.select(positions, cell, edge_index, edge_shift, batch)
        if edge_index.shape[1] == 0:
            return self._of_lone_atoms(positions, numbers, cell, batch)
        data = SimpleNamespace(
            pos=positions,
            atomic_numbers=numbers,
            natoms=torch.bincount(batch, minlength=cell.shape[0]),
            batch=batch,
            vectors=_vectors(positions, cell, edge_index, edge_shift, batch),
            # the library's order: the neighbour, which sends the message, and the centre
            edge_index=edge_index.flip(0),
            edge_shift=edge_shift,
        )
        embedding = self.backbone(data)
        mean, scale = self.scales.get("energy", (0.0, 1.0))
        normalised = _only(self.energy_head(data, embedding)).view(-1)
        energy = (normalised * scale + mean).double()
        if self.references is not None:
            energy = energy.index_add(0, batch, self.references[numbers])
        with torch.no_grad():
            mean, scale = self.scales.get("forces", (0.0, 1.0))
            forces = _only(self.force_head(data, embedding)) * scale + mean
        self.frames.turn = positions.new_empty(0, 3)  # release the autograd graph
        return energy, forces

    def _of_lone_atoms(
        self, positions: Tensor, numbers: Tensor, cell: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evaluate beside a pair of atoms as a second structure, as the library fails without edges."""
        first = len(numbers)
        edges = torch.tensor([[first, first + 1], [first + 1, first]], device=batch.device)
        pair = positions.new_zeros(2, 3)
        pair[1, 0] = 0.5 * self.cutoff
        energy, forces = self(
            torch.cat([positions, pair]),
            torch.cat([numbers, numbers[:1].repeat(2)]),
            torch.cat([cell, torch.zeros_like(cell[:1])]),
            edges,
            positions.new_zeros(2, 3),
            torch.cat([batch, torch.full_like(batch[:1], cell.shape[0]).repeat(2)]),
        )
        return energy[:-1], forces[:first]


def _only(outputs: dict[str, Tensor]) -> Tensor:
    (output,) = outputs.values()
    return output


def _vectors(
    positions: Tensor, cell: Tensor, edge_index: Tensor, edge_shift: Tensor, batch: Tensor
) -> Tensor:
    """[E, 3] Å from each centre to its neighbour, in the order of operations of the library."""
    centre, neighbour = edge_index
    offsets = torch.bmm(edge_shift[:, None], cell[batch[centre]])[:, 0]
    return positions[neighbour] - positions[centre] + offsets


def _given_graph(data: Any, **settings: Any) -> GraphData:
    """Replacement for the library's ``generate_graph`` that returns the edges in ``data``."""
    return GraphData(
        edge_index=data.edge_index,
        edge_distance=data.vectors.norm(dim=-1),
        edge_distance_vec=data.vectors,
        cell_offsets=data.edge_shift,
        offset_distances=None,
        neighbors=None,
        batch_full=data.batch,
        atomic_numbers_full=data.atomic_numbers,
    )
