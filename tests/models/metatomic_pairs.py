"""A small analytic model in metatomic's terms, with any lists, units, outputs and inputs."""

import warnings
from pathlib import Path
from typing import Dict, List, Optional  # noqa: UP035

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)
from torch import Tensor, nn


class Pairs(nn.Module):
    """E = sum over each list of its pairs' (1 - d/cutoff)^2, half counted double, in the unit of energy.

    Direct forces: sum over the neighbours in the first list of (1 - d/cutoff)^2 times the vector.
    Charge and spin multiplicity, where they are asked for, add charge * 0.5 + spin * 0.25, and scale
    the sum by 1 + charge / 10.
    """

    inputs: Dict[str, ModelOutput]  # noqa: UP006
    lists: List[NeighborListOptions]  # noqa: UP006

    def __init__(
        self, lists: list[tuple[float, bool]], inputs: dict[str, ModelOutput] | None = None
    ) -> None:
        super().__init__()
        self.lists = [
            NeighborListOptions(cutoff=cutoff, full_list=full, strict=True)
            for cutoff, full in lists
        ]
        self.inputs = inputs or {}
        self.first = lists[0][0] if lists else 1.0
        self.register_buffer("scale", torch.ones(1))

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        return self.lists

    def requested_inputs(self) -> Dict[str, ModelOutput]:  # noqa: UP006
        return self.inputs

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels] = None,  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        energies: List[Tensor] = []  # noqa: UP006
        forces: List[Tensor] = []  # noqa: UP006
        samples: List[Tensor] = []  # noqa: UP006
        for k, system in enumerate(systems):
            energy = torch.zeros(1, dtype=system.positions.dtype)
            for options in self.lists:
                vectors = system.get_neighbor_list(options).values[:, :, 0]
                near = 1 - (vectors**2).sum(1).sqrt() / options.cutoff
                weight = 1.0 if options.full_list else 2.0
                energy = energy + weight * (near**2).sum()
            if "charge" in self.inputs:
                charge = system.get_data("charge").block().values.reshape(1)
                energy = energy * (1 + charge / 10) + 0.5 * charge
            if "spin_multiplicity" in self.inputs:
                spin = system.get_data("spin_multiplicity").block().values.reshape(1)
                energy = energy + 0.25 * spin
            energies.append(energy)
            pull = torch.zeros_like(system.positions)
            if len(self.lists) > 0:
                block = system.get_neighbor_list(self.lists[0])
                vectors = block.values[:, :, 0]
                near = 1 - (vectors**2).sum(1).sqrt() / self.first
                each = vectors * (near**2)[:, None]
                pull = pull.index_add(0, block.samples.column("first_atom").long(), each)
            forces.append(pull)
            atoms = torch.arange(len(system), dtype=torch.int32)
            samples.append(torch.stack([torch.full_like(atoms, k), atoms], 1))
        zero = torch.zeros(1, 1, dtype=torch.int32)
        xyz = Labels(["xyz"], torch.arange(3, dtype=torch.int32)[:, None])
        nothing: List[Labels] = []  # noqa: UP006
        results: Dict[str, TensorMap] = {}  # noqa: UP006
        for name in outputs.keys():  # noqa: SIM118
            if name.startswith("energy"):
                block = TensorBlock(
                    torch.stack(energies),
                    Labels(["system"], torch.arange(len(systems), dtype=torch.int32)[:, None]),
                    nothing,
                    Labels(["energy"], zero),
                )
            else:
                block = TensorBlock(
                    torch.cat(forces)[:, :, None],
                    Labels(["system", "atom"], torch.cat(samples)),
                    [xyz],
                    Labels([name.split("/")[0]], zero),
                )
            results[name] = TensorMap(Labels(["_"], zero), [block])
        return results


def save(
    path: Path,
    lists: tuple[tuple[float, bool], ...] = ((3.0, True),),
    *,
    outputs: tuple[str, ...] = ("energy", "non_conservative_force"),
    length: str = "angstrom",
    energy: str = "eV",
    force: str = "eV/angstrom",
    inputs: dict[str, ModelOutput] | None = None,
    devices: tuple[str, ...] = ("cpu",),
    dtype: str = "float64",
) -> Path:
    """Exports such a model."""
    units = {name: energy if name.startswith("energy") else force for name in outputs}
    kinds = {name: "system" if name.startswith("energy") else "atom" for name in outputs}
    with warnings.catch_warnings():
        # of TorchScript, and of models without units, which some of these are on purpose
        warnings.simplefilter("ignore")
        AtomisticModel(
            Pairs(list(lists), inputs).to(getattr(torch, dtype)).eval(),
            ModelMetadata(name="pairs", authors=["A. Author"], references={"model": ["a paper"]}),
            ModelCapabilities(
                outputs={
                    name: ModelOutput(unit=units[name], sample_kind=kinds[name]) for name in outputs
                },
                atomic_types=[1, 6, 8, 29],
                interaction_range=max([cutoff for cutoff, _ in lists], default=0.0),
                length_unit=length,
                supported_devices=list(devices),
                dtype=dtype,
            ),
        ).save(path)
    return path
