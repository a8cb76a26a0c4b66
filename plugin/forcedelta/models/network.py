"""The embedded network: an equivariant message-passing potential with a direct force head.

Messages are densities, as in the atomic cluster expansion (Drautz, Phys. Rev. B 99, 014104, 2019), of the scalar and
vector features of PaiNN (Schuett et al., ICML 2021). For every atom the neighbours' features are contracted with
``R_n(r)`` and ``R_n(r) r/|r|`` in one batched matrix product over a padded table of neighbours, and the learned radial
weights act on the sums. No tensor of (edges x features) is multiplied element by element, so that the backward pass
also consists of matrix products, which makes the conservative forces cheap.
"""

import math

import torch
from torch import Tensor, nn


class RadialBasis(nn.Module):
    """Bessel functions times a smooth cutoff (Gasteiger, Gross, Guennemann, ICLR 2020, eqs. 7 and 8, p = 5)."""

    def __init__(self, cutoff: float, functions: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.frequencies = nn.Buffer(
            torch.arange(1, functions + 1, dtype=torch.float64)
            .mul(math.pi / cutoff)
            .to(torch.float32)
        )
        self.norm = math.sqrt(2.0 / cutoff)

    def forward(self, distance: Tensor) -> Tensor:
        """Å [..., 1] -> dimensionless [..., functions]; zero with two zero derivatives from the cutoff on."""
        x = torch.clamp(distance * (1.0 / self.cutoff), max=1.0)
        x5 = x * x * x * x * x
        envelope = 1.0 + x5 * (-21.0 + x * (35.0 - 15.0 * x))
        return torch.sin(distance * self.frequencies) * (self.norm * envelope / distance)


def second_harmonics(direction: Tensor) -> Tensor:
    """Unit vectors [N, 3, K] -> real spherical harmonics of l = 2 [N, 5, K] whose squares sum to 1."""
    x, y, z = direction.unbind(1)
    root = math.sqrt(3.0)
    return torch.stack(
        [
            root * x * y,
            root * y * z,
            root * x * z,
            0.5 * root * (x * x - y * y),
            1.5 * z * z - 0.5,
        ],
        1,
    )


def tensor_vector_coupling() -> Tensor:
    """[15, 3]: row (m, c) of the matrix M_m of the m-th harmonic, so that M_m v is a vector.

    The M_m are symmetric and traceless, and rotate as the harmonics of ``second_harmonics`` do.
    """
    root = math.sqrt(3.0)
    matrices = torch.zeros(5, 3, 3, dtype=torch.float64)
    for m, (i, j) in enumerate([(0, 1), (1, 2), (0, 2)]):
        matrices[m, i, j] = matrices[m, j, i] = root
    matrices[3, 0, 0], matrices[3, 1, 1] = root, -root
    matrices[4, 0, 0] = matrices[4, 1, 1] = -1.0
    matrices[4, 2, 2] = 2.0
    return (0.5 * matrices).view(15, 3)


class TensorProducts(nn.Module):
    """Contributions of tensors of l = 2: their invariant products, and vectors multiplied by them.

    Networks for crystals have them: with l = 1 alone the errors of both forces are larger.
    """

    def __init__(self, features: int, density: int, tensors: int) -> None:
        super().__init__()
        self.tensors = tensors
        self.left = nn.Linear(density, tensors, bias=False)
        self.right = nn.Linear(density, tensors, bias=False)
        self.update = nn.Linear(tensors, features, bias=False)
        self.turn = nn.Linear(features, tensors, bias=False)
        self.mix = nn.Linear(tensors, features, bias=False)
        # in float64, so that a network in float64 rotates exactly
        self.coupling = nn.Buffer(tensor_vector_coupling(), persistent=False)

    def forward(self, density: Tensor, hidden: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """density [5N, D], hidden [N, F] and vectors [3N, F] -> hidden and vectors with the additions."""
        atoms, width = hidden.shape[0], self.tensors
        left = torch.mm(density, self.left.weight.t())
        products = left * torch.mm(density, self.right.weight.t())
        products = products.view(atoms, 5, width).sum(1)
        hidden = torch.addmm(hidden, products, self.update.weight.t())
        turned = torch.mm(vectors, self.turn.weight.t()).view(atoms, 3, width)
        turned = torch.matmul(self.coupling.to(turned.dtype), turned).view(atoms, 5, 3, width)
        turned = (turned * left.view(atoms, 5, 1, width)).sum(1).view(3 * atoms, width)
        return hidden, torch.addmm(vectors, turned, self.mix.weight.t())


class Interaction(nn.Module):
    """One message pass and one update of the scalar [N, F] and vector [N, 3, F] features."""

    def __init__(
        self, features: int, channels: int, radial: int, tensors: int, first: bool
    ) -> None:
        super().__init__()
        self.channels = channels
        self.radial = radial
        self.first = first  # the vectors are still zero: no need to send them
        self.send_scalars = nn.Linear(features, channels)
        self.send_vectors = nn.Linear(features, channels, bias=False)
        self.mix_scalars = nn.Linear(radial * channels, features)
        self.mix_vectors = nn.Linear(radial * channels, features, bias=False)
        self.left = nn.Linear(features, features, bias=False)
        self.right = nn.Linear(features, features, bias=False)
        self.tensor_products: TensorProducts | None = None
        if tensors > 0:
            self.tensor_products = TensorProducts(features, radial * channels, tensors)
        self.update_scalars = nn.Linear(features, features)
        self.update_products = nn.Linear(features, features, bias=False)
        self.update = nn.Linear(features, 2 * features)
        self.features = features

    def forward(
        self,
        scalars: Tensor,
        vectors: Tensor,
        radial: Tensor,
        angular: Tensor,
        along: Tensor,
        quadratic: Tensor,
        neighbours: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Features after this pass.

        scalars [N, F], vectors [3N, F], radial [N, n, K], angular [N, 3n, K], along [N, n, 3K], quadratic [N, 5n, K],
        neighbours [N, K].
        """
        atoms, slots, width = scalars.shape[0], neighbours.shape[1], self.channels
        n = self.radial
        # For small molecules the cost is the number of operations in the backward pass: 2D matrices,
        # addmm and baddbmm need half as many as the plain formulas. embedding() is a gather whose
        # backward on CPU is one axpy per neighbour; the backward of split() is one cat.
        near = nn.functional.embedding(neighbours, self.send_scalars(scalars))
        scalar_density = torch.bmm(radial, near)
        vector_density = torch.bmm(angular, near)
        if not self.first:
            sent = torch.mm(vectors, self.send_vectors.weight.t()).view(atoms, 3 * width)
            near_vectors = nn.functional.embedding(neighbours, sent)
            scalar_density = torch.baddbmm(
                scalar_density, along, near_vectors.view(atoms, 3 * slots, width)
            )
            vector_density = vector_density.view(atoms, n, 3 * width)
            vector_density = torch.baddbmm(vector_density, radial, near_vectors)
        vector_density = vector_density.view(atoms, n, 3, width).transpose(1, 2)
        vector_density = vector_density.reshape(3 * atoms, n * width)
        scalars = scalars + self.mix_scalars(scalar_density.view(atoms, n * width))
        vectors = torch.addmm(vectors, vector_density, self.mix_vectors.weight.t())

        hidden = self.update_scalars(scalars)
        if self.tensor_products is not None:
            tensor_density = torch.bmm(quadratic, near).view(5 * atoms, n * width)
            hidden, vectors = self.tensor_products(tensor_density, hidden, vectors)
        left = torch.mm(vectors, self.left.weight.t())
        products = left * torch.mm(vectors, self.right.weight.t())
        products = products.view(atoms, 3, self.features).sum(1)
        hidden = torch.addmm(hidden, products, self.update_products.weight.t())
        gate, shift = self.update(nn.functional.silu(hidden)).split(self.features, 1)
        turned = (left.view(atoms, 3, self.features) * gate[:, None]).view(3 * atoms, self.features)
        return scalars + shift, vectors + turned


class ForceInteraction(nn.Module):
    """A message pass for the direct forces alone, which is not part of the backward pass.

    The gradient of a many-body energy contains projections of a neighbour's surroundings on the bond
    u to it: v_j, u (u v_j), T_j u and u (u T_j u), with its vectors v_j and its tensors T_j. Direct
    forces can match the gradient only if they contain the same terms.
    """

    def __init__(self, features: int, channels: int, radial: int) -> None:
        super().__init__()
        self.channels = channels
        self.radial = radial
        self.send_scalars = nn.Linear(features, channels)
        self.send_vectors = nn.Linear(features, channels, bias=False)
        self.send_tensors = nn.Linear(radial * channels, channels, bias=False)
        self.mix = nn.Linear(5 * radial * channels, features, bias=False)
        self.coupling = nn.Buffer(tensor_vector_coupling().view(5, 9), persistent=False)

    def forward(
        self,
        scalars: Tensor,
        vectors: Tensor,
        radial: Tensor,
        angular: Tensor,
        quadratic: Tensor,
        direction: Tensor,
        neighbours: Tensor,
    ) -> Tensor:
        """Vectors [3N, F] after this pass; direction [N, 3, K], the others as in ``Interaction``."""
        atoms, slots = neighbours.shape
        width, n = self.channels, self.radial
        near = nn.functional.embedding(neighbours, self.send_scalars(scalars))
        tensors = torch.bmm(quadratic, near).view(5 * atoms, n * width)
        tensors = torch.mm(tensors, self.send_tensors.weight.t()).view(atoms, 5, width)
        matrices = torch.matmul(self.coupling.to(tensors.dtype).t(), tensors)
        sent = torch.mm(vectors, self.send_vectors.weight.t()).view(atoms, 3, width)
        sent = torch.cat([sent, matrices], 1).view(atoms, 12 * width)
        received = nn.functional.embedding(neighbours, sent).view(atoms, slots, 12, width)
        near_vectors, near_matrices = received.split([3, 9], 2)
        bond = direction.transpose(1, 2)[:, :, :, None]
        turned = near_matrices.view(atoms, slots, 3, 3, width) * bond[:, :, None]
        turned = turned.sum(3)
        along = [near, (near_vectors * bond).sum(2), (turned * bond).sum(2)]
        first = torch.bmm(angular, torch.cat(along, 2)).view(atoms, n, 3, 3 * width)
        other = torch.cat([near_vectors, turned], 3).view(atoms, slots, 6 * width)
        second = torch.bmm(radial, other).view(atoms, n, 3, 2 * width)
        density = torch.cat([first, second], 3).transpose(1, 2)
        density = density.reshape(3 * atoms, 5 * n * width)
        return torch.addmm(vectors, density, self.mix.weight.t())


class DirectForceNetwork(nn.Module):
    """Energy and direct forces of structures made of the network's elements.

    The energy is a sum of atomic energies on top of the reference energies of the elements, summed in float64: total
    energies of molecules are thousands of eV, and float32 would round them to meV.
    """

    tunable = ("head", "energy", "shared")  # see `forcedelta.models.tuned`

    def __init__(
        self,
        elements: list[int],
        cutoff: float,
        features: int = 128,
        channels: int = 32,
        layers: int = 3,
        radial: int = 8,
        tensors: int = 0,
        force_layers: int = 0,
    ) -> None:
        super().__init__()
        if force_layers > 0 and tensors == 0:
            raise ValueError("force_layers need tensors above 0")
        self.cutoff = cutoff
        self.tensors = tensors
        self.radial = radial
        self.features = features
        index = torch.full((120,), -1, dtype=torch.long)
        index[torch.tensor(elements)] = torch.arange(len(elements))
        self.element_index = nn.Buffer(index, persistent=False)
        self.basis = RadialBasis(cutoff, radial)
        self.embedding = nn.Embedding(len(elements), features)
        self.interactions = nn.ModuleList(
            Interaction(features, channels, radial, tensors, first=layer == 0)
            for layer in range(layers)
        )
        self.force_interactions = nn.ModuleList(
            ForceInteraction(features, channels, radial) for _ in range(force_layers)
        )
        self.energy_head = nn.Sequential(
            nn.Linear(features, features // 2), nn.SiLU(), nn.Linear(features // 2, 1)
        )
        self.force_gate = nn.Sequential(
            nn.Linear(features, features), nn.SiLU(), nn.Linear(features, features)
        )
        self.force_head = nn.Linear(features, 1, bias=False)
        self.reference_energies = nn.Buffer(torch.zeros(len(elements), dtype=torch.float64))
        self.energy_scale = nn.Buffer(torch.ones(()))
        self.density_scale = nn.Buffer(torch.ones(()))
        self.feature_width = 2 * features * layers
        self.residual_head: nn.Module | None = None

    @torch.jit.unused
    def add_energy_head(self, head: nn.Module) -> None:
        """Add the output [N, 1] eV of a head on the features of the atoms to their energies.

        The features [N, 2 F layers] are the scalars and the squared lengths of the vectors after each layer.
        """
        self.residual_head = head

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Energy and direct forces in one pass.

        positions [N, 3] Å, numbers [N], cell [S, 3, 3] Å, edge_index [2, E] (centre, neighbour), edge_shift [E, 3] in
        units of the cell vectors, batch [N] -> energy [S] eV in float64, direct forces [N, 3] eV/Å.
        """
        atoms = positions.shape[0]
        centre, neighbour = edge_index[0], edge_index[1]
        counts = torch.bincount(centre, minlength=atoms)
        if centre.shape[0] > 1 and bool((centre[1:] < centre[:-1]).any()):
            order = torch.argsort(centre, stable=True)
            centre, neighbour, edge_shift = centre[order], neighbour[order], edge_shift[order]
        slots = max(int(counts.max()), 1)
        first = torch.cumsum(counts, 0) - counts
        slot = torch.arange(centre.shape[0], device=centre.device) - first[centre] + centre * slots
        # an empty slot points to a place beyond the cutoff, where value and gradient vanish
        table = torch.arange(atoms, device=centre.device).repeat_interleave(slots)
        table = table.index_copy(0, slot, neighbour)
        offset = torch.zeros(atoms * slots, 3, dtype=positions.dtype, device=positions.device)
        offset[:, 0] = 2.0 * self.cutoff
        shift = torch.bmm(edge_shift[:, None], cell[batch[centre]])[:, 0]
        offset = offset.index_copy(0, slot, shift)
        table = table.view(atoms, slots)

        vector = (
            nn.functional.embedding(table, positions)
            - positions[:, None]
            + offset.view(atoms, slots, 3)
        )
        # 1e-12 Å^2 keeps the gradient finite for atoms on top of each other, which the callers refuse
        distance = torch.sqrt((vector * vector).sum(2, keepdim=True) + 1e-12)
        direction = vector / distance
        # neighbours last, as the batched products contract them
        radial = (self.basis(distance) * self.density_scale).transpose(1, 2).contiguous()
        direction = direction.transpose(1, 2).contiguous()
        quadratic = radial
        if self.tensors > 0:
            quadratic = second_harmonics(direction)[:, :, None] * radial[:, None]
            quadratic = quadratic.view(atoms, 5 * self.radial, slots)
        angular = radial[:, :, None] * direction[:, None]
        along = angular.transpose(2, 3).reshape(atoms, self.radial, 3 * slots)
        angular = angular.view(atoms, 3 * self.radial, slots)

        species = self.element_index[numbers]
        scalars = self.embedding(species)
        vectors = torch.zeros(
            3 * atoms, self.features, dtype=positions.dtype, device=positions.device
        )
        invariants: list[Tensor] = []
        for interaction in self.interactions:
            scalars, vectors = interaction(
                scalars, vectors, radial, angular, along, quadratic, table
            )
            if self.residual_head is not None:
                lengths = (vectors * vectors).view(atoms, 3, self.features).sum(1)
                invariants += [scalars, lengths]

        atomic = self.energy_head(scalars)[:, 0] * self.energy_scale
        if self.residual_head is not None:
            atomic = atomic + self.residual_head(torch.cat(invariants, 1))[:, 0]
        energies = atomic.to(torch.float64) + self.reference_energies[species]
        energy = torch.zeros(cell.shape[0], dtype=torch.float64, device=positions.device)
        energy = energy.index_add(0, batch, energies)
        for interaction in self.force_interactions:
            vectors = interaction(scalars, vectors, radial, angular, quadratic, direction, table)
        gate = self.force_gate(scalars) * self.force_head.weight
        vectors = vectors.view(atoms, 3, self.features)
        direct = torch.bmm(vectors, gate[:, :, None])[:, :, 0] * self.energy_scale
        return energy, direct
