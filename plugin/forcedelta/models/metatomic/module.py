"""A metatomic model with the call that ForceDelta expects.

Like metatomic's models, the module can be compiled by TorchScript. It therefore uses the old names of
types, and this file must not postpone annotations.
"""

from typing import Any, Dict, List, Optional, Tuple  # noqa: UP035

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import ModelEvaluationOptions, ModelOutput, NeighborListOptions, System
from torch import Tensor, nn


class MetatomicModule(nn.Module):
    """Energy and non-conservative forces of an exported metatomic model.

    The model's own code converts units: it receives Å and returns eV and eV/Å. As in
    ``metatomic_ase.MetatomicCalculator`` the mean of the direct forces of a structure is subtracted,
    which removes the net force. Outputs for direct stress are not evaluated.

    A neighbour list that the model requests is a subset of the edges: those within the list's
    cutoff, and for half lists one of the two directions of a pair. The vectors are computed from
    positions and cell within the autograd graph.

    Args:
        model: exported ``AtomisticModel``, loaded by ``torch.jit.load``.
        energy: name of the energy among its outputs.
        forces: name of the non-conservative forces among its outputs.

    Attributes:
        cutoff: Å, the largest of the model's lists.
        takes_charge_spin: whether the model takes the total charge and the spin multiplicity.
    """

    tunable = ("energy", "shared")  # see `forcedelta.models.tuned`

    lists: List[NeighborListOptions]  # noqa: UP006
    cutoffs: List[float]  # noqa: UP006

    def __init__(self, model: Any, energy: str, forces: str) -> None:
        super().__init__()
        self.model = model
        self.energy = energy
        self.forces = forces
        self.lists = model.requested_neighbor_lists()
        self.cutoffs = [options.engine_cutoff("angstrom") for options in self.lists]
        self.cutoff = max(self.cutoffs)
        inputs = model.requested_inputs(True)
        self.takes_charge = "charge" in inputs
        self.takes_spin = "spin_multiplicity" in inputs
        self.takes_charge_spin = self.takes_charge or self.takes_spin

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
        charge_spin: Optional[Tensor] = None,  # noqa: UP045
    ) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        """Arguments and results as described in `forcedelta.ForceDelta`."""
        if torch.jit.is_scripting():
            return self._predict(
                positions, numbers, cell, edge_index, edge_shift, batch, charge_spin
            )
        # the optimising executor rounds its first call differently from later ones: a restarted run
        # would differ from an uninterrupted one
        with torch.jit.optimized_execution(False):
            return self._predict(
                positions, numbers, cell, edge_index, edge_shift, batch, charge_spin
            )

    def _predict(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
        charge_spin: Optional[Tensor],  # noqa: UP045
    ) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        systems, order, first = self._systems(
            positions, numbers, cell, edge_index, edge_shift, batch, charge_spin
        )
        outputs = {
            self.energy: ModelOutput(unit="eV", sample_kind="system"),
            self.forces: ModelOutput(unit="eV/Angstrom", sample_kind="atom"),
        }
        options = ModelEvaluationOptions("angstrom", outputs)
        results: Dict[str, TensorMap] = self.model(systems, options, False)  # noqa: UP006
        return self._read(results, order, first, positions, batch)

    def _systems(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
        charge_spin: Optional[Tensor],  # noqa: UP045
    ) -> Tuple[List[System], Tensor, Tensor]:  # noqa: UP006
        """The structures in metatomic's form, and where their atoms are: see `_read`."""
        structures = cell.shape[0]
        owner = batch[edge_index[0]]
        vectors = positions[edge_index[1]] - positions[edge_index[0]]
        if structures == 1:
            vectors = vectors + edge_shift @ cell[0]
        else:
            vectors = vectors + torch.bmm(edge_shift[:, None], cell[owner])[:, 0]
        periodic = (cell != 0).any(dim=2)
        place = torch.zeros_like(batch)  # number of an atom within its structure
        first = torch.zeros(structures, dtype=torch.long, device=batch.device)
        order = torch.argsort(batch, stable=True)
        systems: List[System] = []  # noqa: UP006
        done = 0
        for k in range(structures):
            if structures == 1:
                atoms, edges = order, torch.arange(len(owner), device=owner.device)
            else:
                atoms = torch.nonzero(batch == k)[:, 0]
                edges = torch.nonzero(owner == k)[:, 0]
            place[atoms] = torch.arange(len(atoms), device=atoms.device)
            first[k] = done
            done += len(atoms)
            system = System(numbers[atoms].to(torch.int32), positions[atoms], cell[k], periodic[k])
            pairs = torch.cat([place[edge_index[:, edges]].t(), edge_shift[edges].long()], dim=1)
            for options, cutoff in zip(self.lists, self.cutoffs):  # noqa: B905
                system.add_neighbor_list(
                    options, self._neighbours(options, cutoff, pairs, vectors[edges])
                )
            if charge_spin is not None:
                if self.takes_charge:
                    system.add_data("charge", self._scalar("charge", "e", charge_spin[k, 0]))
                if self.takes_spin:
                    spin = self._scalar("spin_multiplicity", "", charge_spin[k, 1])
                    system.add_data("spin_multiplicity", spin)
            systems.append(system)
        return systems, order, first

    def _read(
        self,
        results: Dict[str, TensorMap],  # noqa: UP006
        order: Tensor,
        first: Tensor,
        positions: Tensor,
        batch: Tensor,
    ) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        """Energies [S] and direct forces [N, 3] of the model's results.

        order [N] lists the atoms by structure, first [S] where each structure begins in it.
        """
        structures = first.shape[0]
        energies = results[self.energy].block()
        owners = energies.samples.column("system").long()
        energy = torch.zeros(structures, dtype=positions.dtype, device=positions.device)
        energy = energy.index_add(0, owners, energies.values.reshape(-1))
        forces = results[self.forces].block()
        owners = forces.samples.column("system").long()
        atoms = order[first[owners] + forces.samples.column("atom").long()]
        direct = torch.zeros_like(positions).index_add(0, atoms, forces.values.reshape(-1, 3))
        counts = torch.bincount(batch, minlength=structures).to(positions.dtype)
        net = torch.zeros(structures, 3, dtype=positions.dtype, device=positions.device)
        net = net.index_add(0, batch, direct) / counts[:, None]
        return energy, direct - net[batch]

    def _neighbours(
        self, options: NeighborListOptions, cutoff: float, pairs: Tensor, vectors: Tensor
    ) -> TensorBlock:
        """The edges [E, 5] (two atoms, shift) that belong to one list."""
        if cutoff < self.cutoff:
            near = torch.nonzero((vectors.detach() ** 2).sum(1) < cutoff * cutoff)[:, 0]
            pairs, vectors = pairs[near], vectors[near]
        if not options.full_list:
            # of (i, j, S) and (j, i, -S), the later one in lexicographic order
            sign = torch.cat([pairs[:, 1:2] - pairs[:, 0:1], pairs[:, 2:]], dim=1).sign()
            weights = torch.tensor([8, 4, 2, 1], device=pairs.device)
            half = torch.nonzero((sign * weights).sum(1) > 0)[:, 0]
            pairs, vectors = pairs[half], vectors[half]
        device = vectors.device
        return TensorBlock(
            values=vectors[:, :, None],
            samples=Labels(
                ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"],
                pairs.to(torch.int32),
                assume_unique=True,
            ),
            components=[
                Labels(["xyz"], torch.arange(3, dtype=torch.int32, device=device)[:, None])
            ],
            properties=Labels(["distance"], torch.zeros(1, 1, dtype=torch.int32, device=device)),
        )

    def _scalar(self, name: str, unit: str, value: Tensor) -> TensorMap:
        """One number of a structure in metatomic's format."""
        zero = torch.zeros(1, 1, dtype=torch.int32, device=value.device)
        components: List[Labels] = []  # noqa: UP006
        block = TensorBlock(
            value.reshape(1, 1), Labels(["system"], zero), components, Labels([name], zero)
        )
        tensor = TensorMap(Labels(["_"], zero), [block])
        tensor.set_info("unit", unit)
        return tensor


class UncertainMetatomicModule(MetatomicModule):
    """The same for a model with an uncertainty of the energy, in eV, which is a third result [S].

    Args:
        model, energy, forces: see `MetatomicModule`.
        uncertainty: name of the energy uncertainty among the outputs.
    """

    gives_energy_uncertainty = True

    def __init__(self, model: Any, energy: str, forces: str, uncertainty: str) -> None:
        super().__init__(model, energy, forces)
        self.uncertainty = uncertainty

    def _predict(self, *graph: Any) -> Any:
        systems, order, first = self._systems(*graph)
        outputs = {
            self.energy: ModelOutput(unit="eV", sample_kind="system"),
            self.forces: ModelOutput(unit="eV/Angstrom", sample_kind="atom"),
            self.uncertainty: ModelOutput(unit="eV", sample_kind="system"),
        }
        options = ModelEvaluationOptions("angstrom", outputs)
        results = self.model(systems, options, False)
        energy, direct = self._read(results, order, first, graph[0], graph[5])
        found = results[self.uncertainty].block()
        owners = found.samples.column("system").long()
        own = torch.zeros_like(energy).index_add(0, owners, found.values.detach().reshape(-1))
        return energy, direct, own
