"""What a model can be asked for: checks of structures, before anything is computed."""

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.models.loaded import LoadedModel
from forcedelta.neighbours import neighbour_pairs

OVERLAP = 0.3  # Å, less than half of the shortest bond there is (H2, 0.74 Å)


def check_supported(
    numbers: NDArray[np.integer], pbc: NDArray[np.bool_], model: LoadedModel
) -> None:
    """Whether the model was made for such elements and such periodicity.

    Args:
        numbers: [N] atomic numbers.
        pbc: [3], which cell vectors are periodic.
        model: as loaded.

    Raises:
        ForceDeltaError: no atoms, elements or a periodicity that the model does not know.
    """
    if len(numbers) == 0:
        raise ForceDeltaError("the structure is empty: at least one atom is needed")
    if model.elements is not None:
        foreign = sorted(set(np.asarray(numbers).tolist()) - model.elements)
        if foreign:
            first = int(np.flatnonzero(numbers == foreign[0])[0])
            raise ForceDeltaError(
                f"model '{model.name}' does not know "
                f"{', '.join(chemical_symbols[z] for z in foreign)} (first: atom {first}, counted "
                f"from 0), only {', '.join(model.symbols)}; "
                "choose a model for these elements"
            )
    if model.periodic is None or (model.periodic and all(pbc)):
        return
    directions = int(np.sum(pbc))
    if model.periodic:
        raise ForceDeltaError(
            f"model '{model.name}' was made for structures that are periodic in three directions, "
            f"not in {directions}; put the atoms into a cell with pbc=True, with vacuum around a "
            "surface or a cluster, or choose another model"
        )
    if directions:
        raise ForceDeltaError(
            f"model '{model.name}' was made for molecules, and the structure is periodic in "
            f"{directions} direction{'s' * (directions > 1)}; set pbc=False, or choose a model for "
            "crystals"
        )


def check_structure(atoms: Atoms, model: LoadedModel) -> None:
    """Everything that should hold at the start of a run.

    Not for structures within a run: when one explodes, atoms do come close, and the guard is to see
    it.

    Raises:
        ForceDeltaError: what `check_supported` raises; positions that are not finite; periodic cell
            vectors that are missing or span no volume; atoms closer than `OVERLAP`.
    """
    check_supported(atoms.numbers, atoms.pbc, model)
    index, shift = neighbour_pairs(atoms.positions, atoms.cell.array, atoms.pbc, model.cutoff)
    vectors = atoms.positions[index[1]] - atoms.positions[index[0]] + shift @ atoms.cell.array
    distances = np.linalg.norm(vectors, axis=1)
    if distances.min(initial=np.inf) < OVERLAP:
        i, j = sorted(index[:, np.argmin(distances)].tolist())
        what = (
            f"atom {i} ({atoms.symbols[i]}) and its own periodic image"
            if i == j
            else f"atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}), counted from 0,"
        )
        raise ForceDeltaError(
            f"{what} are only {distances.min():.2f} Å apart; remove duplicates, or check the unit of positions "
            "and cell"
        )
