"""Checks of a structure before a model is evaluated on it."""

from typing import Any

import numpy as np
from ase import Atoms, units
from ase.data import chemical_symbols
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.models.loaded import LoadedModel
from forcedelta.neighbours import neighbour_pairs
from md_hooks.foreign_fields import has_numbers

OVERLAP = 0.3  # Å, less than half of the shortest bond (H2, 0.74 Å)
FASTEST = 2998.0  # Å/fs, the speed of light
LIGHTEST, HEAVIEST = 1e-3, 1e9  # amu, far beyond isotopes and the masses that fix an atom in place


def check_atoms(atoms: Atoms) -> None:
    """Checks that a structure is valid for any model.

    Raises:
        ForceDeltaError: no atoms; an atom without an element, or with a position, momentum or mass
            that is not finite or not physical; partly occupied sites; a cell that is not finite.
    """
    if len(atoms) == 0:
        raise ForceDeltaError("the structure is empty: at least one atom is needed")
    _check_each(
        atoms, (atoms.numbers > 0) & (atoms.numbers < len(chemical_symbols)),
        "has no element (atomic number {0})", atoms.numbers, "name its element",
    )  # fmt: skip
    _check_each(
        atoms, np.isfinite(atoms.positions).all(axis=1),
        "is not a finite number", None, "correct the structure", "the position of ",
    )  # fmt: skip
    check_ordered(atoms)
    if not np.isfinite(atoms.cell.array).all():
        raise ForceDeltaError("the cell has entries that are not finite numbers: give it in Å")
    for name, shape in (("masses", (len(atoms),)), ("momenta", (len(atoms), 3))):
        if atoms.has(name) and not has_numbers(atoms.arrays[name], *shape):
            numbers = "a number" if name == "masses" else "three numbers"
            raise ForceDeltaError(
                f"the {name} of the structure are not {numbers} for each atom: correct them, or omit "
                "them from the file"
            )
    masses = atoms.get_masses()
    _check_each(
        atoms, (masses >= LIGHTEST) & (masses <= HEAVIEST),
        "has a mass of {0:g} amu", masses,
        f"give {LIGHTEST:g} to {HEAVIEST:g} amu, or omit the masses from the file",
    )  # fmt: skip
    if not atoms.has("momenta"):
        return
    momenta = atoms.arrays["momenta"]
    fix = "correct the momenta (or velocities), or omit them from the file"
    _check_each(
        atoms, np.isfinite(momenta).all(axis=1),
        "has a momentum that is not a finite number", None, fix,
    )  # fmt: skip
    speeds = np.linalg.norm(momenta / masses[:, None], axis=1) * units.fs
    _check_each(atoms, speeds <= FASTEST, "moves at {0:.3g} Å/fs, faster than light", speeds, fix)


def check_ordered(atoms: Atoms) -> None:
    """Checks that every site of a crystal is fully occupied by one element.

    ASE reads a CIF file with partly occupied sites as if each were filled by its main element, and
    keeps the occupancies in ``info``.

    Raises:
        ForceDeltaError: a site is not.
    """
    occupancies, kinds = atoms.info.get("occupancy"), atoms.arrays.get("spacegroup_kinds")
    if not isinstance(occupancies, dict) or kinds is None:
        return
    for kind, site in occupancies.items():
        if not isinstance(site, dict) or list(site.values()) == [1.0]:
            continue
        atom = next((k for k, found in enumerate(kinds) if str(found) == str(kind)), None)
        if atom is None or not site:
            continue
        shares = ", ".join(f"{symbol} {share:g}" for symbol, share in site.items())
        raise ForceDeltaError(
            f"the site of atom {atom}, counted from 0, is partly occupied ({shares}): give an ordered "
            "structure"
        )


def _check_each(
    atoms: Atoms, good: NDArray[np.bool_], what: str, values: NDArray[Any] | None, fix: str,
    part: str = "",
) -> None:  # fmt: skip
    """Raises a ForceDeltaError that names the first atom that is not good."""
    if good.all():
        return
    atom = int(np.argmin(good))
    value = None if values is None else values[atom]
    number = int(atoms.numbers[atom])
    symbol = chemical_symbols[number] if 0 < number < len(chemical_symbols) else "X"
    others = int((~good).sum()) - 1
    also = f" (and {others} more)" if others else ""
    raise ForceDeltaError(
        f"{part}atom {atom} ({symbol}), counted from 0, {what.format(value)}{also}: {fix}"
    )


def check_supported(
    numbers: NDArray[np.integer], pbc: NDArray[np.bool_], model: LoadedModel
) -> None:
    """Checks that the model supports the elements and the periodicity of a structure.

    Args:
        numbers: [N] atomic numbers.
        pbc: [3], which cell vectors are periodic.
        model: as loaded.

    Raises:
        ForceDeltaError: no atoms; unsupported elements or periodicity.
    """
    if len(numbers) == 0:
        raise ForceDeltaError("the structure is empty: at least one atom is needed")
    unknown = np.flatnonzero((numbers < 1) | (numbers >= len(chemical_symbols)))
    if len(unknown):
        raise ForceDeltaError(
            f"atom {unknown[0]}, counted from 0, has no element (atomic number "
            f"{numbers[unknown[0]]}): name its element"
        )
    if model.elements is not None:
        foreign = sorted(set(np.asarray(numbers).tolist()) - model.elements)
        if foreign:
            first = int(np.flatnonzero(numbers == foreign[0])[0])
            raise ForceDeltaError(
                f"model '{model.name}' does not support "
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
            f"{directions} direction{'s' * (directions > 1)}; set pbc=False "
            '(--no-pbc, or pbc="F F F" in extended XYZ), or choose a model for crystals'
        )


def check_takes_charge(model: LoadedModel, charge: int | None, spin: int | None) -> None:
    """Checks that a charge or a spin is given only to a model that takes them.

    Raises:
        ForceDeltaError: the model takes neither.
    """
    if not model.takes_charge_spin and not charge is spin is None:
        raise ForceDeltaError(
            f"model '{model.name}' takes neither charge nor spin: omit --charge and --spin"
        )


def check_structure(atoms: Atoms, model: LoadedModel) -> None:
    """All checks of the first structure of a run.

    Not for structures within a run: when it explodes, atoms come close, and the guard must see
    that.

    Raises:
        ForceDeltaError: what `check_atoms` and `check_supported` raise; periodic cell vectors that
            are missing or span no volume; atoms closer than `OVERLAP`.
    """
    check_atoms(atoms)
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
