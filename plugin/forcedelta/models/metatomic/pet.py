"""PET without metatomic's own classes, for OpenMM's TorchForce.

TorchForce freezes its module, and TorchScript cannot freeze a module with objects of C++ classes,
which every exported metatomic model has ("Cannot inspect value of type Capsule"). The backend of a
PET of metatrain, which does the computation, consists of tensors only. This module calls it directly
and applies the scales and atomic energies of the rest of the model.
"""

from typing import Any, Dict, List  # noqa: UP035

import torch
from ase.data import chemical_symbols
from metatensor.torch import Labels
from metatomic.torch import ModelOutput, System
from torch import Tensor, nn

from forcedelta.errors import ForceDeltaError
from forcedelta.force_delta import ForceDelta
from forcedelta.models.metatomic.module import MetatomicModule


class PetModule(nn.Module):
    """A PET as described in `forcedelta.ForceDelta`, equal to its `MetatomicModule`.

    Args:
        backend: of the exported model.
        energy: name of the energy among the model's outputs.
        forces: name of the non-conservative forces among them.
        scales: [2, Z] by atomic number, eV and eV/Å: factors of the two outputs.
        shifts: [Z] eV: energies of atoms.
        width: of the adaptive cutoff, Å.
    """

    scales: Tensor
    shifts: Tensor

    def __init__(
        self,
        backend: nn.Module,
        energy: str,
        forces: str,
        scales: Tensor,
        shifts: Tensor,
        width: float,
    ) -> None:
        super().__init__()
        self.backend = backend
        self.energy, self.forces = energy, forces
        self.width = width
        self.register_buffer("scales", scales)
        self.register_buffer("shifts", shifts)

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
        shift = edge_shift.long()
        data = self.backend.preprocess(  # type: ignore[operator]
            positions, edge_index[0], edge_index[1], numbers, cell, shift, batch, self.width
        )
        nodes, edges = self.backend.calculate_features(data, False)  # type: ignore[operator]
        names = [self.energy, self.forces]
        predicted = self.backend.predict(  # type: ignore[operator]
            nodes, edges, data, cell, batch, names
        )[0]
        energies = predicted[self.energy][0].reshape(-1) * self.scales[0, numbers]
        energies = energies + self.shifts[numbers]
        structures = cell.shape[0]
        energy = torch.zeros(structures, dtype=positions.dtype, device=positions.device)
        energy = energy.index_add(0, batch, energies)
        direct = predicted[self.forces][0].reshape(-1, 3) * self.scales[1, numbers][:, None]
        counts = torch.bincount(batch, minlength=structures).to(positions.dtype)
        net = torch.zeros(structures, 3, dtype=positions.dtype, device=positions.device)
        net = net.index_add(0, batch, direct) / counts[:, None]
        return energy, direct - net[batch]


def without_metatomic(
    module: MetatomicModule, elements: list[int], dtype: torch.dtype
) -> nn.Module:
    """The same model in a form that can be frozen, after a comparison with the original.

    Args:
        module: of an exported PET.
        elements: atomic numbers that it supports.
        dtype: of the model.

    Raises:
        ForceDeltaError: the model is not a PET of metatrain, has parts beside its backend (long
            range, ZBL, charge and spin), or its parts do not reproduce it.
    """
    whole: Any = module.model.module
    backend = getattr(whole, "backend", None)
    parts = list(whole.additive_models.children()) if backend is not None else []
    if (
        backend is None
        or backend.original_name != "PETBackend"
        or len(parts) != 1
        or whole.long_range
        or module.takes_charge_spin
    ):
        raise ForceDeltaError(
            "OpenMM's TorchForce freezes its module, and TorchScript cannot freeze this metatomic "
            "model (only a PET of metatrain without long range, ZBL, charge and spin): use "
            "path='python'"
        )
    device = next(backend.parameters()).device
    old = module.forces.replace("non_conservative_force", "non_conservative_forces", 1)
    forces = module.forces if module.forces in whole.target_names else old
    scales, shifts = _scales_and_shifts(whole, module.energy, forces, elements, dtype, device)
    width = float(whole.cutoff_width_adaptive)
    pet = PetModule(backend, module.energy, forces, scales, shifts, width).eval()
    _compare(pet, module, elements, dtype, device)
    return pet


def _scales_and_shifts(
    whole: Any,
    energy: str,
    forces: str,
    elements: list[int],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Scales and atomic energies for each element, evaluated with the model itself."""
    size = len(chemical_symbols)
    scales = torch.zeros(2, size, dtype=dtype, device=device)
    shifts = torch.zeros(size, dtype=dtype, device=device)
    numbers = torch.tensor(elements, dtype=torch.int32, device=device)
    system = System(
        numbers,
        torch.zeros(len(elements), 3, dtype=dtype, device=device),
        torch.zeros(3, 3, dtype=dtype, device=device),
        torch.zeros(3, dtype=torch.bool, device=device),
    )
    nobody: Labels | None = None
    systems: List[System] = [system]  # noqa: UP006
    outputs: Dict[str, ModelOutput] = {  # noqa: UP006
        energy: ModelOutput(unit="eV", sample_kind="atom"),
        forces: ModelOutput(unit="eV/Angstrom", sample_kind="atom"),
    }
    (composition,) = whole.additive_models.children()
    factors = whole.scaler(systems, outputs, nobody)
    scales[0, elements] = factors[energy].block().values.reshape(-1).to(dtype)
    scales[1, elements] = factors[forces].block().values[:, 0].reshape(-1).to(dtype)
    added = composition(systems, {energy: outputs[energy]}, nobody)[energy].block()
    shifts[elements] = shifts[elements].index_add(
        0, added.samples.column("atom").long(), added.values.reshape(-1).to(dtype)
    )
    return scales, shifts


def _compare(
    pet: nn.Module,
    module: MetatomicModule,
    elements: list[int],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Compare both forms on a chain with one atom of each element, which covers all scales."""
    count = max(len(elements), 2)
    numbers = torch.tensor((elements * 2)[:count], device=device)
    along = torch.arange(count, dtype=dtype, device=device)
    positions = torch.stack([1.1 * along, 0.6 * (along % 2), 0.3 * (along % 3)], 1)
    near = torch.cdist(positions, positions) < module.cutoff
    near.fill_diagonal_(False)
    index = torch.nonzero(near).t()
    graph = (
        positions,
        numbers,
        torch.zeros(1, 3, 3, dtype=dtype, device=device),
        index,
        torch.zeros(index.shape[1], 3, dtype=dtype, device=device),
        torch.zeros_like(numbers),
    )
    results = [ForceDelta(form)(*graph) for form in (pet, module)]
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    for key in ("energy", "direct_forces", "conservative_forces"):
        one, other = (result[key] for result in results)
        if not torch.allclose(one, other, rtol=tolerance, atol=tolerance):
            raise ForceDeltaError(
                f"this PET was exported by a version of metatrain that computes its {key} "
                "in a way that is not supported: use path='python'"
            )
