"""EquiformerV2 as run by fairchem itself, for comparison.

fairchem's OCPCalculator imports its trainers, which need half a dozen packages that an MD
environment does not have. This calculator performs the same steps with the library's functions:
conversion, graph, forward pass of backbone and all heads (with the graph of all parameters, as in the
library), normalisers and references. It shares only the reading of the file with the adapter.
"""

from collections.abc import Sequence

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from fairchem.core.datasets import data_list_collater
from fairchem.core.modules.normalization.element_references import LinearReferences
from fairchem.core.modules.normalization.normalizer import Normalizer
from fairchem.core.preprocessing import AtomsToGraphs

from forcedelta.models.eqv2.checkpoint import Checkpoint


class LibraryCalculator(Calculator):
    """Energy (eV) and direct forces (eV/Å) of a checkpoint, in float32.

    The frames of the edges come from torch's random numbers, as in the library: two evaluations of
    one configuration differ.
    """

    implemented_properties: Sequence[str] = ["energy", "forces"]  # type: ignore[assignment]

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        """Take over the network of the checkpoint, which is modified."""
        super().__init__()
        self.network = checkpoint.network.to(device).requires_grad_(True)
        self._heads = {"energy": checkpoint.energy, "forces": checkpoint.forces}
        self._device = device
        self._normalizers = {
            name: Normalizer(mean, scale).to(device)
            for name, (mean, scale) in checkpoint.scales.items()
        }
        self._references = None
        if checkpoint.references is not None:
            self._references = LinearReferences(checkpoint.references.float()).to(device)
        self._convert = AtomsToGraphs(
            r_energy=False, r_forces=False, r_distances=False, r_edges=False, r_pbc=True
        ).convert

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """One forward pass of the library."""
        super().calculate(atoms, properties, system_changes)
        batch = data_list_collater([self._convert(self.atoms)], otf_graph=True).to(self._device)
        with torch.no_grad():
            outputs = self.network(batch)
            found = {}
            for name, head in self._heads.items():
                output = outputs.get(name)
                if not isinstance(output, torch.Tensor):  # by head and then by name
                    output = outputs[head][name]
                output = output.view(len(output), -1)
                if name in self._normalizers:
                    output = self._normalizers[name](output)
                found[name] = output
            if self._references is not None:
                found["energy"] = self._references(found["energy"], batch)
        self.results = {
            "energy": float(found["energy"]),
            "free_energy": float(found["energy"]),
            "forces": found["forces"].cpu().numpy(),
        }
