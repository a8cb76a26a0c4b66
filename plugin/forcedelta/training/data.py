"""Labelled structures: read from extended XYZ, turned into graphs, collected into batches."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray
from torch import Tensor

from forcedelta.calibration.labelled_files import reference_energy, reference_forces
from forcedelta.errors import ForceDeltaError
from forcedelta.labelling.level_of_theory import difference
from forcedelta.neighbours import near_the_first, neighbour_pairs

SAME_ENERGY = 1e-6  # eV
_LABELS = ("energy", "free_energy", "forces")


@dataclass(frozen=True)
class Batch:
    """A batch of structures: the arguments of a model, with labels."""

    positions: Tensor  # [N, 3] Å
    numbers: Tensor  # [N]
    cell: Tensor  # [S, 3, 3] Å
    edge_index: Tensor  # [2, E]
    edge_shift: Tensor  # [E, 3]
    batch: Tensor  # [N]
    energy: Tensor  # [S] eV, float64
    forces: Tensor  # [N, 3] eV/Å

    @property
    def graph(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The six arguments that every model takes."""
        return (
            self.positions,
            self.numbers,
            self.cell,
            self.edge_index,
            self.edge_shift,
            self.batch,
        )


def read_frames(path: Path) -> list[Atoms]:
    """All frames of a structure file; ForceDeltaError if it is missing, unreadable or empty."""
    try:
        frames = ase.io.read(path, ":")
    except Exception as error:  # ASE's readers raise whatever their parsers raise
        raise ForceDeltaError(f"{path}: cannot be read as a structure file ({error})") from error
    if not frames or isinstance(frames, Atoms):
        raise ForceDeltaError(f"{path} holds no frames")
    return frames


def read_labelled(
    path: Path, energy_key: str | None = None, forces_key: str | None = None
) -> list[Atoms]:
    """Frames of an extended-XYZ file (Å) with an energy (eV) and forces (eV/Å) for each.

    Args:
        path: the file.
        energy_key, forces_key: names of the labels, if not those of ASE's results.

    Raises:
        ForceDeltaError: the file cannot be read or is empty; labels are missing or not finite, or
            the energies are of two kinds (`energy_of`).
    """
    frames = [
        with_labels(atoms, f"{path}, frame {index} (counted from 0)", energy_key, forces_key)
        for index, atoms in enumerate(read_frames(path))
    ]
    for index, atoms in enumerate(frames):
        results = _results(atoms)
        if "forces" not in results or not {"energy", "free_energy"} & results.keys():
            raise ForceDeltaError(
                f"{path}: frame {index} has no energy or no forces (its labels: "
                f"{_label_keys(atoms)}); training needs both: pass --energy-key and --forces-key if they "
                "have other names"
            )
        if not np.isfinite(energy_of(atoms)) or not np.isfinite(forces_of(atoms)).all():
            raise ForceDeltaError(
                f"{path}: the energy or forces of frame {index} are not finite: remove the frame"
            )
    _same_kind_of_energy(frames, path)
    return frames


def with_labels(atoms: Atoms, where: str, energy_key: str | None, forces_key: str | None) -> Atoms:
    """A structure whose results are the labels of the given names, and ASE's results without a name.

    Raises:
        ForceDeltaError: a label of this name is missing, no number, or not finite.
    """
    if energy_key is None and forces_key is None:
        return atoms
    results = {name: _results(atoms)[name] for name in _LABELS if name in _results(atoms)}
    if energy_key is not None:
        results.pop("free_energy", None)
        results["energy"] = reference_energy(atoms, where, energy_key)
    if forces_key is not None:
        results["forces"] = reference_forces(atoms, where, forces_key)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def energy_of(atoms: Atoms) -> float:
    """The labelled energy (eV) that is consistent with the labelled forces.

    With smeared occupations it is ``free_energy``; ``energy`` is extrapolated to zero smearing.
    Energies of constraints (ASE's Hookean) are not part of a label.

    Raises:
        ForceDeltaError: the structure has no energy.
    """
    results = _results(atoms)
    energy = results.get("free_energy", results.get("energy"))
    if energy is None:
        raise ForceDeltaError(f"{atoms.symbols} has no energy: label it, or remove it")
    return float(energy)


def forces_of(atoms: Atoms) -> NDArray[np.float64]:
    """The labelled forces [N, 3] (eV/Å) of all atoms, constrained ones included."""
    return np.asarray(_results(atoms)["forces"], dtype=float)


def _results(atoms: Atoms) -> dict[str, Any]:
    """The stored results, without the changes of `Atoms.get_forces` for constraints."""
    return {} if atoms.calc is None else atoms.calc.results


def _label_keys(atoms: Atoms) -> str:
    """Keys of everything in a frame that may be meant as a label, such as ``REF_forces``."""
    structure = {"numbers", "positions"}
    keys = [*_results(atoms), *atoms.info, *(key for key in atoms.arrays if key not in structure)]
    return ", ".join(dict.fromkeys(keys)) or "none"


def _same_kind_of_energy(frames: list[Atoms], path: Path) -> None:
    """Refuse a file in which only some frames have a free energy that differs from the energy."""
    without = [index for index, a in enumerate(frames) if "free_energy" not in _results(a)]
    smeared = [
        index
        for index, atoms in enumerate(frames)
        if abs(energy_of(atoms) - _results(atoms).get("energy", energy_of(atoms))) > SAME_ENERGY
    ]
    if without and smeared:
        raise ForceDeltaError(
            f"{path}: frame {smeared[0]} has a free_energy that differs from its energy, and frame "
            f"{without[0]} has an energy only: these are not comparable; label all frames alike"
        )


def energy_words(frames: list[Atoms]) -> str:
    """Description of the energies used for training."""
    smeared = sum("free_energy" in _results(atoms) for atoms in frames)
    if smeared == len(frames):
        return "free_energy, which is consistent with the forces"
    return "energy" if smeared == 0 else f"free_energy of {smeared} frames, energy of the others"


def mixed_levels(frames: list[Atoms]) -> str | None:
    """A warning if frames were labelled at incompatible levels of theory, or None."""
    told = dict.fromkeys(str(a.info["reference"]) for a in frames if "reference" in a.info)
    references = list(told)
    for other in references[1:]:
        first = references[0]
        parts = difference(first, other)
        if parts is not None:
            return (
                f"labels of different levels of theory are mixed ({parts}): {first} | {other}; their "
                "energies and forces are not comparable"
            )
    return None


def to_batch(atoms: Atoms, cutoff: float) -> Batch:
    """One labelled structure as a batch of one, in float32 (energies in float64)."""
    cell = np.where(atoms.pbc[:, None], np.asarray(atoms.cell), 0.0)
    edge_index, edge_shift = neighbour_pairs(atoms.positions, cell, atoms.pbc, cutoff)
    near, edge_shift = near_the_first(atoms.positions, cell, atoms.pbc, edge_index, edge_shift)
    return Batch(
        positions=torch.tensor(near, dtype=torch.float32),
        numbers=torch.tensor(atoms.numbers, dtype=torch.long),
        cell=torch.tensor(np.asarray(atoms.cell), dtype=torch.float32)[None],
        edge_index=torch.from_numpy(edge_index),
        edge_shift=torch.from_numpy(edge_shift).to(torch.float32),
        batch=torch.zeros(len(atoms), dtype=torch.long),
        energy=torch.tensor([energy_of(atoms)], dtype=torch.float64),
        forces=torch.tensor(forces_of(atoms), dtype=torch.float32),
    )


def collect(parts: list[Batch]) -> Batch:
    """Several batches as one, with atoms and structures renumbered."""
    sizes = torch.tensor([len(part.positions) for part in parts])
    structures = torch.tensor([len(part.cell) for part in parts])
    atoms_before = torch.cumsum(sizes, 0) - sizes
    structures_before = torch.cumsum(structures, 0) - structures
    return Batch(
        positions=torch.cat([part.positions for part in parts]),
        numbers=torch.cat([part.numbers for part in parts]),
        cell=torch.cat([part.cell for part in parts]),
        edge_index=torch.cat(
            [part.edge_index + first for part, first in zip(parts, atoms_before, strict=True)], 1
        ),
        edge_shift=torch.cat([part.edge_shift for part in parts]),
        batch=torch.cat(
            [part.batch + first for part, first in zip(parts, structures_before, strict=True)]
        ),
        energy=torch.cat([part.energy for part in parts]),
        forces=torch.cat([part.forces for part in parts]),
    )


def reference_energies(
    frames: list[Atoms], elements: list[int], isolated: list[Atoms]
) -> NDArray[np.float64]:
    """Energy of each element [len(elements)] in eV, subtracted before training.

    Energies of the isolated atoms, if given, plus the least-squares fit (of smallest norm) of the remainder.
    A network in float32 then learns numbers near zero instead of total energies of thousands of eV.
    """
    known = {int(atoms.numbers[0]): energy_of(atoms) for atoms in isolated}
    start = np.array([known.get(number, 0.0) for number in elements])
    counts = np.array(
        [[np.sum(atoms.numbers == number) for number in elements] for atoms in frames]
    )
    remainder = np.array([energy_of(atoms) for atoms in frames]) - counts @ start
    correction, *_ = np.linalg.lstsq(counts.astype(float), remainder, rcond=None)
    return start + correction
