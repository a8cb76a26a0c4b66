"""VASP: input sets with the settings of the Materials Project, and finished runs collected.

VASP is licensed and runs on other machines, so this writes one folder per frame, without
potentials (POTCAR.spec names them), and takes in the ``vasprun.xml`` that come back.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from forcedelta.errors import ForceDeltaError
from forcedelta.installing import command_for
from md_hooks.recalculation import Failure, Label
from md_hooks.replacing import replace_file

INSTALL = command_for("recalc", "pymatgen")
FRAME = "forcedelta.json"
RESULT = "vasprun.xml"
LEVEL = "PBE"
SAME_PLACE = 1e-3  # Å


@dataclass(frozen=True)
class Waiting:
    """A run that has not come back, or has not ended yet.

    Attributes:
        message: which of the two.
    """

    message: str


def check() -> None:
    """Raises ForceDeltaError where pymatgen is not installed."""
    try:
        import pymatgen.io.vasp.sets  # noqa: F401
    except ImportError as error:
        raise ForceDeltaError(f"VASP input sets need pymatgen ({error}): {INSTALL}") from error


def description() -> str:
    """The level and settings of the labels in one line."""
    return f"VASP: {LEVEL}; MPStaticSet of pymatgen-core {version('pymatgen-core')}"


def write_inputs(atoms: Atoms, key: str, folder: Path) -> None:
    """Write INCAR, KPOINTS, POSCAR and POTCAR.spec of pymatgen's MPStaticSet for one frame.

    Raises:
        ForceDeltaError: the structure is not periodic, has elements without settings, or the
            folder cannot be written.
    """
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.vasp.sets import MPStaticSet

    if not atoms.pbc.all():
        raise ForceDeltaError(
            f"vasp needs a structure that is periodic in three directions, and {atoms.symbols} is "
            "not: use pyscf for molecules, a cell with vacuum for surfaces"
        )
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    structure = AseAtomsAdaptor.get_structure(bare)
    structure.add_site_property("order", list(range(len(atoms))))
    structure = structure.get_sorted_structure()
    order = list(structure.site_properties["order"])
    structure.remove_site_property("order")
    try:
        with warnings.catch_warnings():
            # about spglib's own error handling, and settings that users of the set cannot change
            warnings.simplefilter("ignore")
            MPStaticSet(structure).write_input(os.fspath(folder), potcar_spec=True)
        replace_file(folder / FRAME, json.dumps({"key": key, "order": order}).encode())
    except OSError as error:
        raise ForceDeltaError(
            f"{folder} cannot be written ({error.strerror}): free some space or choose another "
            "output file"
        ) from error
    except (KeyError, ValueError) as error:
        raise ForceDeltaError(f"{atoms.symbols}: MPStaticSet has no settings ({error})") from error


def has_inputs(folder: Path) -> bool:
    """Whether the inputs of a frame have been written, all of them."""
    return (folder / FRAME).is_file()


def collect(atoms: Atoms, folder: Path) -> Label | Failure | Waiting:
    """The result of one folder, in the order of the frame's atoms.

    The energy is VASP's energy extrapolated to zero smearing, as ASE and the usual data sets take
    it.

    Args:
        atoms: the frame for which the inputs were written.
        folder: with a vasprun.xml, or not yet.
    """
    import ase.io
    from pymatgen.io.vasp import Vasprun

    path = folder / RESULT
    if not path.is_file():
        return Waiting(f"no {RESULT} yet")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is not converged, which is asked below
            run = Vasprun(
                os.fspath(path), parse_dos=False, parse_eigen=False, parse_potcar_file=False
            )
        converged = bool(run.converged_electronic)
        final: Any = ase.io.read(path, format="vasp-xml")
    except SyntaxError:  # of the XML, in the words of both of Python's parsers
        return Waiting(f"{RESULT} ends in the middle: the run is not finished, or was killed")
    except Exception as error:  # readers raise whatever a strange file makes them raise
        return Failure(f"{RESULT} cannot be read ({type(error).__name__}: {error})", 0.0)
    if not converged:
        steps = run.parameters.get("NELM", "?")
        return Failure(f"VASP's SCF did not converge within NELM={steps} steps", 0.0)
    order = np.array(json.loads((folder / FRAME).read_text())["order"])
    wrong = _another_structure(atoms[order], final)
    if wrong is not None:
        return Failure(f"{RESULT} is of another structure than this frame ({wrong})", 0.0)
    forces = np.empty((len(atoms), 3))
    forces[order] = final.get_forces(apply_constraint=False)
    stress = final.calc.results.get("stress")
    return Label(float(final.get_potential_energy()), forces, stress, 0.0)


def _another_structure(expected: Atoms, found: Atoms) -> str | None:
    if list(expected.numbers) != list(found.numbers):
        return f"{found.symbols} instead of {expected.symbols}"
    if not np.allclose(expected.cell.array, found.cell.array, atol=SAME_PLACE):
        return "another cell"
    _, moved = find_mic(found.positions - expected.positions, expected.cell, pbc=True)
    if moved.max() > SAME_PLACE:
        return f"an atom is {moved.max():.3g} Å away"
    return None
