"""fairchem's networks with the call that ForceDelta expects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from fairchem.core.datasets.atomic_data import AtomicData
from fairchem.core.graph.radius_graph_pbc import get_max_neighbors_mask
from fairchem.core.units.mlip_unit.utils import tf32_context_manager
from torch import Tensor, nn

from forcedelta.errors import ForceDeltaError
from forcedelta.models.fairchem.precision import attention_kept, float64_throughout

_CHARGES = (-100, 100)  # rows of the library's embeddings
_SPINS = (0, 100)


class FairchemModel(nn.Module):
    """A network of fairchem-core with heads for energy and direct forces.

    Energies and forces equal those of fairchem's predict unit: outputs scaled by the normalizer of
    their task, with the sum of the elements' reference energies added to the energy.

    Attributes:
        takes_charge_spin: whether total charge and spin multiplicity are required; otherwise both
            are 0, as fairchem sets them for data sets without.
        dataset: data set of its tasks.
        periodic: as in `LoadedModel`, if the network restricts it.
    """

    periodic: bool | None = None
    tunable = ("energy", "shared")  # see `forcedelta.models.tuned`

    def __init__(
        self, network: nn.Module, energy: Any, forces: Any, takes_charge_spin: bool
    ) -> None:
        """A `HydraModel`, its two tasks, both of one data set, and whether these have charges."""
        super().__init__()
        self.network = network
        self.takes_charge_spin = takes_charge_spin
        self._energy, self._forces = energy, forces
        self.dataset: str = energy.datasets[0]
        self._isolated_atoms = bool(getattr(network, "supports_single_atoms", False))
        self.scales = nn.ModuleList([energy.normalizer, forces.normalizer])
        self.references: Any = energy.element_references  # a module, or None

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
        charge_spin: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Energy [S] eV (float64 in any case) and direct forces [N, 3] eV/Å.

        Args:
            positions: [N, 3] Å.
            numbers: [N] int64, atomic numbers.
            cell: [S, 3, 3] Å; rows of directions that are not periodic are zero.
            edge_index: [2, E] int64, centre and neighbour.
            edge_shift: [E, 3], whole cell vectors.
            batch: [N] int64.
            charge_spin: [S, 2], total charge in e and spin multiplicity.

        Raises:
            ForceDeltaError: a charge or spin beyond the embeddings of the network, an isolated atom,
                or a structure whose periodicity the network does not support.
        """
        structures = cell.shape[0]
        sizes = torch.bincount(batch, minlength=structures)
        periodic = (cell != 0).any(2)
        self._check(sizes, periodic)
        charge, spin = self._state(charge_spin, cell)
        edges = self._edges(positions, cell, edge_index, edge_shift, batch)
        with self._surroundings(positions):
            data = AtomicData(
                pos=self._placed(positions, cell, periodic, batch),
                atomic_numbers=numbers,
                cell=cell,
                pbc=periodic,
                natoms=sizes,
                edge_index=edges[0].flip(0),  # neighbour first
                cell_offsets=edges[1],
                nedges=torch.bincount(batch[edges[0][0]], minlength=structures),
                charge=charge,
                spin=spin,
                fixed=torch.zeros_like(numbers),
                tags=torch.zeros_like(numbers),
                batch=batch,
                sid=[""] * structures,
                dataset=[self.dataset] * structures,
            )
            if structures > 1:
                counts = sizes.tolist()
                starts = (sizes.cumsum(0) - sizes).tolist()
                data.assign_batch_stats({"pos": starts}, {}, {}, counts)
            output = self.network(data)
            energy = self._energy.normalizer.denorm(self._of(output, self._energy))
            if self.references is not None:
                energy = self.references.undo_refs(data, energy)
            forces = self._forces.normalizer.denorm(self._of(output, self._forces))
        return energy, forces.to(positions.dtype)

    @staticmethod
    def _of(output: dict[str, Any], task: Any) -> Tensor:
        try:
            value: Tensor = output[task.name][task.property]
        except KeyError as error:
            raise ForceDeltaError(
                f"the checkpoint is incomplete: it has a task '{task.name}', but no head that predicts "
                f"'{task.property}' for it"
            ) from error
        return value

    def _check(self, sizes: Tensor, periodic: Tensor) -> None:
        alone = (sizes == 1) & ~periodic.any(1)
        if not self._isolated_atoms and bool(alone.any()):
            raise ForceDeltaError(
                "a single atom without a cell has no Force Delta, as fairchem takes its energy from a "
                "table: leave isolated atoms out"
            )

    def _state(self, charge_spin: Tensor | None, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Total charges and spin multiplicities [S], whole numbers."""
        if charge_spin is None:
            none = torch.zeros(cell.shape[0], dtype=torch.long, device=cell.device)
            return none, none.clone()  # fairchem's layers write into it
        charge, spin = charge_spin.detach().round().long().unbind(1)
        for values, (low, high), what in (
            (charge, _CHARGES, "a total charge"),
            (spin, _SPINS, "a spin multiplicity"),
        ):
            if bool(((values < low) | (values > high)).any()):
                raise ForceDeltaError(
                    f"{what} is outside the range of the network: pass one from {low} to {high}"
                )
        return charge, spin

    def _edges(
        self, positions: Tensor, cell: Tensor, index: Tensor, shift: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        return index, shift

    def _placed(self, positions: Tensor, cell: Tensor, periodic: Tensor, batch: Tensor) -> Tensor:
        return positions

    @contextmanager
    def _surroundings(self, positions: Tensor) -> Iterator[None]:
        # as in the predict unit: no TF32 products, even if the process allows them
        with tf32_context_manager(False):
            yield


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the random numbers, and restore the random state of the process afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        generator = torch.default_generator
        if device.type == "cuda":
            generator = torch.cuda.default_generators[device.index or 0]
        generator.manual_seed(seed)
        yield


class EdgeModel(FairchemModel):
    """eSEN, which uses the given edges, or those to the nearest neighbours of each atom.

    It rotates each edge into a frame with one random angle. Energies and forces depend on it only by
    rounding; with a fixed seed they are reproducible and do not consume random numbers of a
    thermostat.

    Attributes:
        frame_seed: seed of the angles.
    """

    frame_seed: int = 0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        backbone: Any = self.network.backbone
        self.max_neighbors = int(backbone.max_neighbors)

    def select(
        self, positions: Tensor, cell: Tensor, edge_index: Tensor, edge_shift: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The edges that the network sees, those from each centre to its nearest neighbours.

        With the limit n of the checkpoint's configuration, these are the n + 1 nearest and all
        within 0.01 Å^2 of the last of them, by the library's own function. The energy jumps when one
        neighbour replaces another.

        Returns:
            edge_index [2, E'], edge_shift [E', 3].
        """
        with torch.no_grad():
            centre, neighbour = edge_index
            shift = torch.bmm(edge_shift[:, None], cell[batch[centre]])[:, 0]
            vectors = positions[neighbour] + shift - positions[centre]
            kept, _ = get_max_neighbors_mask(
                natoms=torch.bincount(batch, minlength=cell.shape[0]),
                index=centre,
                atom_distance=vectors.square().sum(1),
                max_num_neighbors_threshold=self.max_neighbors,
            )
        return edge_index[:, kept], edge_shift[kept]

    def _edges(
        self, positions: Tensor, cell: Tensor, index: Tensor, shift: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        if index.shape[1] == 0:
            return index, shift
        return self.select(positions, cell, index, shift, batch)

    @contextmanager
    def _surroundings(self, positions: Tensor) -> Iterator[None]:
        with super()._surroundings(positions), _seeded(positions.device, self.frame_seed):
            yield


class OwnGraphModel(FairchemModel):
    """AllScAIP and EScAIP, which build their own graph with a smooth choice of neighbours.

    The given edges are not used. Their graph considers all pairs of atoms and images, and memory
    grows with N^2.
    """

    first_order_only = True  # in crystals, second derivatives of the choice of neighbours are NaN

    def __init__(self, network: nn.Module, *arguments: Any) -> None:
        super().__init__(network, *arguments)
        backbone: Any = network.backbone
        self.periodic = getattr(backbone.molecular_graph_cfg, "use_pbc", None)  # EScAIP's

    def _check(self, sizes: Tensor, periodic: Tensor) -> None:
        super()._check(sizes, periodic)
        directions = periodic.sum(1)
        if bool(((directions > 0) & (directions < 3)).any()):
            raise ForceDeltaError(
                "this network supports molecules, or structures that are periodic in three directions: "
                "put the atoms into a cell with pbc=True, with vacuum around a surface"
            )

    def _edges(
        self, positions: Tensor, cell: Tensor, index: Tensor, shift: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        return index[:, :0], shift[:0]

    def _placed(self, positions: Tensor, cell: Tensor, periodic: Tensor, batch: Tensor) -> Tensor:
        """Positions wrapped into the cell, where the library's search for images starts."""
        full = periodic.all(1)
        if not bool(full.any()):
            return positions
        unit = torch.eye(3, dtype=cell.dtype, device=cell.device)
        inverse = torch.linalg.inv(torch.where(full[:, None, None], cell.detach(), unit))
        fractional = torch.bmm(positions.detach()[:, None], inverse[batch])
        return positions - torch.bmm(fractional.floor(), cell[batch])[:, 0]

    @contextmanager
    def _surroundings(self, positions: Tensor) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(super()._surroundings(positions))
            stack.enter_context(attention_kept())
            if positions.dtype == torch.float64:
                stack.enter_context(float64_throughout())
            yield
