"""A model of water made of springs, as a third party would offer it."""

import torch
from torch import Tensor, nn

from forcedelta.models import LoadedModel

SWITCH, CUTOFF = 1.7, 2.2  # Å


class Bonds(nn.Module):
    """E = sum over pairs of k/2 (d - d0)^2 w(d); direct forces 10 % weaker than those of the springs.

    The switch w falls from 1 at `SWITCH` to 0 at `CUTOFF`, with two continuous derivatives, so that
    neighbours come and go without a jump. The direct forces know nothing of its slope: they are
    wrong where bonds break.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(20.0), requires_grad=False)  # k, eV/Å^2

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Arguments and results as described in `forcedelta.ForceDelta`."""
        i, j = edge_index[0], edge_index[1]
        offset = torch.bmm(edge_shift[:, None], cell[batch[i]])[:, 0]
        vectors = positions[j] - positions[i] + offset
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        natural = torch.where((numbers[i] == 1) & (numbers[j] == 1), 1.51, 0.96)
        stretch = lengths - natural.to(lengths.dtype)
        x = ((lengths - SWITCH) / (CUTOFF - SWITCH)).clamp(0, 1)
        switch = 1 - x**3 * (10 - 15 * x + 6 * x**2)
        each = 0.25 * self.stiffness * stretch**2 * switch  # every pair comes twice
        energy = torch.zeros_like(cell[:, 0, 0]).index_add(0, batch[i], each)
        # the second head of a network would stand here
        pull = (0.9 * self.stiffness * stretch * switch / lengths)[:, None] * vectors
        return energy, torch.zeros_like(positions).index_add(0, i, pull)


def load(dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """What forcedelta calls for ``--model example-bonds``."""
    return LoadedModel(
        module=Bonds().to(device, dtype).eval(),
        name="example-bonds",
        weights_hash="example-bonds 1",
        elements=frozenset({1, 8}),
        cutoff=CUTOFF,
        periodic=None,
        library="example-bonds 1.2.3",
    )
