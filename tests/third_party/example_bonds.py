"""A model of H2 and water that keeps bonds at their lengths, as a third party would offer it."""

import torch
from torch import Tensor, nn

from forcedelta.models import LoadedModel

CUTOFF = 1.3  # Å


class Bonds(nn.Module):
    """E = 1/2 sum of k (d - d0)^2 over pairs within the cutoff; direct forces that are 10 % weaker."""

    def __init__(self) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(20.0), requires_grad=False)  # eV/Å^2

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
        natural = torch.where((numbers[i] == 1) & (numbers[j] == 1), 0.74, 0.96)
        stretch = lengths - natural.to(lengths.dtype)
        each = 0.25 * self.stiffness * stretch**2  # every pair comes twice
        energy = torch.zeros_like(cell[:, 0, 0]).index_add(0, batch[i], each)
        pull = (0.9 * self.stiffness * stretch / lengths)[:, None] * vectors
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
