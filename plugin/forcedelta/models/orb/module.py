"""An Orb model with the call that ForceDelta expects."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from forcedelta.errors import ForceDeltaError
from forcedelta.models.orb.graph import edge_vectors, nearest, without_torque
from forcedelta.models.orb.network import OrbNetwork

CUTOFF = 6.0  # Å, of all published models: `nn_util.get_cutoff` of orb-models has no other


class OrbModel(nn.Module):
    """Energy and direct forces of a direct model, equal to those of orb-models' calculator.

    One difference is intended: the reference energies of the elements, hundreds of eV per atom for
    some models, are summed in float64, which keeps the digits of the interaction energy.

    Atoms see the `most` nearest neighbours within 6 Å. The energy jumps when one neighbour replaces
    another, and -dE/dr is the derivative between two jumps; models with 120 neighbours are smooth
    up to densities of 0.13 atoms/Å^3, beyond which their list is also full.

    The direct forces have no net force, and those of molecules no net torque: a molecule is a
    structure with a zero cell, even if orb-models would see a box around it and keep the torque.

    Attributes:
        cutoff: Å.
        takes_charge_spin: whether the call has a seventh argument charge_spin [S, 2].
        gives_expected_errors: whether it returns, as a third tensor [N] eV/Å, the confidence head's
            estimate of the mean of ``|F_nc,i - F_ref,i|`` over the three components of an atom's
            force; at most the last edge of its bins (0.3 eV/Å).
        first_order_only: compiled networks cannot be differentiated twice.
    """

    def __init__(self, network: OrbNetwork, compiled: bool = False) -> None:
        super().__init__()
        self.network = network
        self.cutoff = CUTOFF
        self.takes_charge_spin = network.charged
        self.gives_expected_errors = network.confident
        self.first_order_only = compiled
        weight = network.regressor.heads["energy"].reference.linear.weight
        self.references = nn.Buffer(weight.detach().flatten().to(torch.float64))
        self.dtype = weight.dtype

    @property
    def tunable(self) -> tuple[str, ...]:
        """The reaches of tuning (`forcedelta.models.tuned`); compiled networks have none."""
        return () if self.first_order_only else ("head", "energy", "shared")

    @property
    def feature_width(self) -> int:
        """Number of features of an atom, which the heads of the network read."""
        return next(self.network.regressor.heads["forces"].parameters()).shape[1]

    def add_energy_head(self, head: nn.Module) -> None:
        """Add the output [N, 1] eV of a head on the last features to the energy."""
        self.network.residual_head = head

    def select(
        self,
        positions: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The pairs that the network sees, out of all within the cutoff; arguments as in ``forward``."""
        with torch.no_grad():
            vectors = edge_vectors(positions, cell, edge_index, edge_shift, batch)
            kept = nearest(vectors, edge_index[0], positions.shape[0], self.network.most)
        if kept.shape[0] == edge_index.shape[1]:
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
        charge_spin: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Energy and direct forces in one pass.

        Args:
            positions: [N, 3] Å; the atoms of a structure lie together.
            numbers: [N] int64.
            cell: [S, 3, 3] Å.
            edge_index: [2, E] (centre, neighbour), all pairs within the cutoff.
            edge_shift: [E, 3], in units of the cell vectors.
            batch: [N] int64.
            charge_spin: [S, 2], total charge in e and spin multiplicity 2S+1.

        Returns:
            energy [S] eV in float64, direct forces [N, 3] eV/Å, and from models with a confidence
            head expected errors [N] eV/Å.

        Raises:
            ForceDeltaError: structures that are periodic in one or two directions, which orb-models
                does not support; atoms that are not in order; missing charge and spin.
        """
        structures = cell.shape[0]
        open_rows = (cell == 0).all(2)
        if bool((open_rows.any(1) != open_rows.all(1)).any()):
            raise ForceDeltaError(
                "Orb models do not support structures that are periodic in one or two directions; set "
                "pbc=True in all three, with vacuum in the cell, or pbc=False"
            )
        if structures > 1 and bool((batch[1:] < batch[:-1]).any()):
            raise ForceDeltaError(
                "the atoms of a structure must lie together, in the order of batch"
            )
        if charge_spin is None:
            if self.takes_charge_spin:
                raise ForceDeltaError(
                    "this model needs the total charge and the spin multiplicity: set "
                    "atoms.info['charge'] and atoms.info['spin']"
                )
            charge_spin = positions.new_zeros(structures, 2)
        edge_index, edge_shift = self.select(positions, cell, edge_index, edge_shift, batch)
        vectors = edge_vectors(positions, cell, edge_index, edge_shift, batch)
        with default_dtype(self.dtype):
            energy, forces, expected = self.network(
                vectors,
                numbers,
                edge_index[0],
                edge_index[1],
                torch.bincount(batch, minlength=structures),
                torch.bincount(batch[edge_index[0]], minlength=structures),
                charge_spin,
            )
        energy = energy.to(torch.float64).index_add(0, batch, self.references[numbers])
        forces = without_torque(forces, positions, cell, batch)
        if self.gives_expected_errors:
            return energy, forces, expected
        return energy, forces


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype, in which Orb's activation and basis create constants."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
