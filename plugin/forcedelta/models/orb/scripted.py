"""An Orb model as a module that TorchScript compiles, for engines without Python."""

import warnings

import torch
from torch import Tensor, nn

from forcedelta.errors import ForceDeltaError
from forcedelta.models.orb.graph import edge_vectors, nearest, without_torque
from forcedelta.models.orb.module import OrbModel, default_dtype


def scripted(model: OrbModel) -> nn.Module:
    """A module with the same results for one structure with any number of atoms and pairs.

    TorchScript cannot compile orb-models' code, so the network is traced; the choice of neighbours
    and the torque of molecules, which depend on the structure, are compiled around it. A trace
    stores the device as a constant, so the module must be made on the device on which it will run.

    In float64 some constants of the network (of its repulsion, and of the activations of v2) have
    the precision of torch's default dtype at run time, float32 in an engine, so that energies and
    forces agree only to a relative 1e-8.
    """
    return _ChargedOrb(model) if model.takes_charge_spin else _Orb(model)


class _Scripted(nn.Module):
    def __init__(self, model: OrbModel) -> None:
        super().__init__()
        self.most = model.network.most
        self.references = nn.Buffer(model.references.clone())
        self.network = _traced(model)

    def evaluate(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
        charge_spin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        if cell.shape[0] != 1:
            raise ForceDeltaError("an exported Orb model takes one structure at a time")
        everything = edge_vectors(positions.detach(), cell.detach(), edge_index, edge_shift, batch)
        kept = nearest(everything, edge_index[0], positions.shape[0], self.most)
        edge_index, edge_shift = edge_index[:, kept], edge_shift[kept]
        vectors = edge_vectors(positions, cell, edge_index, edge_shift, batch)
        atoms = torch.full([1], positions.shape[0], dtype=torch.long, device=positions.device)
        edges = torch.full([1], edge_index.shape[1], dtype=torch.long, device=positions.device)
        output = self.network(
            vectors, numbers, edge_index[0], edge_index[1], atoms, edges, charge_spin
        )
        energy, forces = output[0], output[1]
        energy = energy.to(torch.float64).index_add(0, batch, self.references[numbers])
        return energy, without_torque(forces, positions, cell, batch)


class _Orb(_Scripted):
    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Energy [1] eV and direct forces [N, 3] eV/Å; arguments as of `OrbModel`."""
        neutral = torch.zeros(1, 2, dtype=positions.dtype, device=positions.device)
        return self.evaluate(positions, numbers, cell, edge_index, edge_shift, batch, neutral)


class _ChargedOrb(_Scripted):
    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
        charge_spin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Energy [1] eV and direct forces [N, 3] eV/Å; arguments as of `OrbModel`."""
        return self.evaluate(positions, numbers, cell, edge_index, edge_shift, batch, charge_spin)


def _traced(model: OrbModel) -> torch.jit.ScriptModule:
    """The network, traced with a water molecule; only the number of structures is fixed."""
    device = model.references.device

    def tensor(values: list, dtype: torch.dtype = torch.long) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    senders, receivers = [0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]
    positions = tensor([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]], model.dtype)
    example = (
        positions[receivers] - positions[senders],
        tensor([8, 1, 1]),
        tensor(senders),
        tensor(receivers),
        tensor([3]),
        tensor([6]),
        tensor([[0.0, 1.0]], model.dtype),
    )
    with warnings.catch_warnings(), default_dtype(model.dtype):
        # each size that becomes a constant: here the number of structures, one
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.*", DeprecationWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.*", FutureWarning)
        return torch.jit.trace(model.network, example, check_trace=False)
