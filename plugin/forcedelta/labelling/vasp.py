"""VASP: input sets of the Materials Project, and labels from finished runs.

VASP is licensed and runs on other machines. This module writes one folder of inputs per frame,
without potentials (POTCAR.spec names them), and reads the ``vasprun.xml`` of each finished run.

The Materials Project's static calculations are designed for energies. Their EDIFF grows with the number
of atoms (0.026 eV for 512), and the tetrahedron method (ISMEAR = -5) gives forces that are wrong in
metals. For labels both are replaced by the same values for all frames; ``mp=exact`` keeps them.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from forcedelta.errors import ForceDeltaError
from forcedelta.installing import command_for
from md_hooks.electronic_state import ElectronicState
from md_hooks.recalculation import Failure, Label
from md_hooks.replacing import replace_file

INSTALL = command_for("recalc", "pymatgen")
FRAME = "forcedelta.json"
RESULT = "vasprun.xml"
FORCES, EXACT = "forces", "exact"
FOR_FORCES = {"EDIFF": 1e-6, "ISMEAR": 0, "SIGMA": 0.05}
"""Settings for all frames: EDIFF in eV for the whole cell, Gaussian smearing with SIGMA in eV."""
SAME_PLACE = 1e-3  # Å


@dataclass(frozen=True)
class Waiting:
    """A run without a result so far.

    Attributes:
        message: whether the result is missing or incomplete.
    """

    message: str


@dataclass(frozen=True)
class InputSet:
    """The choice of input set.

    Attributes:
        mp: "forces", MPStaticSet with `FOR_FORCES`; "exact", unchanged MPStaticSet.
    """

    mp: str = FORCES

    @classmethod
    def with_settings(cls, settings: Mapping[str, Any]) -> InputSet:
        """The input set for the settings of a user.

        Raises:
            ForceDeltaError: unknown setting or value.
        """
        others = ", ".join(sorted(set(settings) - {"mp"}))
        if others:
            raise ForceDeltaError(
                f"vasp has no setting '{others}': its inputs follow the Materials Project; only mp "
                "can be set, --set mp=forces or --set mp=exact"
            )
        mp = settings.get("mp", FORCES)
        if mp not in (FORCES, EXACT):
            raise ForceDeltaError(f"vasp: mp is {mp!r}: give --set mp=forces or --set mp=exact")
        return cls(mp)

    def description(self, level: str | None = None) -> str:
        """Level of theory and settings in one line; by default for frames of any composition."""
        level = level or f"PBE or PBE+U ({_values(_hubbard_values())}) as in the Materials Project"
        text = f"VASP: {level}; PAW, spin-polarised, MPStaticSet of pymatgen-core "
        text += version("pymatgen-core")
        if self.mp == EXACT:
            return f"{text} to the letter"
        changed = ", ".join(f"{name} = {value:g}" for name, value in FOR_FORCES.items())
        return f"{text} with {changed} for forces (--set mp=exact keeps its own)"

    @property
    def incar(self) -> dict[str, Any]:
        """Differences from MPStaticSet."""
        return {} if self.mp == EXACT else dict(FOR_FORCES)


def level(atoms: Atoms) -> str:
    """Level of theory of a frame: "PBE", or "PBE+U" with the values in its inputs."""
    return _level(tuple(sorted(set(atoms.symbols))))


@cache
def _level(symbols: tuple[str, ...]) -> str:
    cell = Atoms(symbols, [[3.0 * place, 0, 0] for place in range(len(symbols))], pbc=True)
    cell.set_cell([3.0 * len(symbols), 3.0, 3.0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in write_inputs
            incar = _input_set(cell, InputSet(EXACT)).incar
    except (KeyError, ValueError) as error:
        raise ForceDeltaError(
            f"{''.join(symbols)}: MPStaticSet has no settings ({error})"
        ) from error
    if not incar.get("LDAU"):
        return "PBE"
    order = list(dict.fromkeys(str(site.specie) for site in _structure(cell)[0]))
    values = dict(zip(order, incar["LDAUU"], strict=True))
    return f"PBE+U ({_values({name: value for name, value in values.items() if value})})"


def _values(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g} eV" for name, value in sorted(values.items()))


def _hubbard_values() -> dict[str, float]:
    """Hubbard U of the Materials Project for oxides, in eV by element."""
    from pymatgen.io.vasp.sets import MPStaticSet

    return dict(MPStaticSet.CONFIG["INCAR"]["LDAUU"]["O"])


def check() -> None:
    """Raise ForceDeltaError unless pymatgen is installed."""
    try:
        import pymatgen.io.vasp.sets  # noqa: F401
    except ImportError as error:
        raise ForceDeltaError(f"VASP input sets need pymatgen ({error}): {INSTALL}") from error


def check_structure(atoms: Atoms) -> None:
    """Check that inputs can be written for a frame.

    Raises:
        ForceDeltaError: the structure is not periodic or carries a charge.
    """
    if not atoms.pbc.all():
        raise ForceDeltaError(
            f"vasp needs a structure periodic in three directions, and {atoms.symbols} is not: use "
            "pyscf for molecules, a cell with vacuum for surfaces"
        )
    charge = ElectronicState.of(atoms).charge
    if charge:
        raise ForceDeltaError(
            f"vasp: {atoms.symbols} has a charge of {charge}, and NELECT cannot be set without the "
            "valences in your POTCARs: use gpaw, espresso or cp2k, or pass --charge 0 to "
            "label it as neutral"
        )


def write_inputs(atoms: Atoms, key: str, folder: Path, inputs: InputSet) -> None:
    """Write INCAR, KPOINTS, POSCAR and POTCAR.spec for one frame.

    The SCF starts from the magnetic moments of the frame; a multiplicity fixes the total moment.

    Raises:
        ForceDeltaError: the structure is not periodic, carries a charge or has elements without
            settings, or the folder cannot be written.
    """
    check_structure(atoms)
    _, order = _structure(atoms)
    try:
        with warnings.catch_warnings():
            # about spglib's error handling, and settings that users of the set cannot change
            warnings.simplefilter("ignore")
            _input_set(atoms, inputs).write_input(os.fspath(folder), potcar_spec=True)
        record = {"key": key, "order": order, "mp": inputs.mp}
        replace_file(folder / FRAME, json.dumps(record).encode())
    except OSError as error:
        raise ForceDeltaError(
            f"{folder} cannot be written ({error.strerror}): free some space or choose another "
            "output file"
        ) from error
    except (KeyError, ValueError) as error:
        raise ForceDeltaError(f"{atoms.symbols}: MPStaticSet has no settings ({error})") from error


def _structure(atoms: Atoms) -> tuple[Any, list[int]]:
    """A frame sorted by element for VASP, and the indices of its atoms in that order."""
    from pymatgen.io.ase import AseAtomsAdaptor

    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    structure = AseAtomsAdaptor.get_structure(bare)
    structure.add_site_property("order", list(range(len(atoms))))
    moments = ElectronicState.of(atoms).magnetic_moments
    if moments is not None and moments.any():
        structure.add_site_property("magmom", [float(moment) for moment in moments])
    structure = structure.get_sorted_structure()
    order = list(structure.site_properties["order"])
    structure.remove_site_property("order")
    return structure, order


def _input_set(atoms: Atoms, inputs: InputSet) -> Any:
    from pymatgen.io.vasp.sets import MPStaticSet

    structure, _ = _structure(atoms)
    changed = inputs.incar
    spin = ElectronicState.of(atoms).spin
    if spin is not None:
        changed["NUPDOWN"] = spin - 1
    return MPStaticSet(structure, user_incar_settings=changed)


def has_inputs(folder: Path, inputs: InputSet) -> bool:
    """Whether all inputs of a frame have been written.

    Raises:
        ForceDeltaError: they have other settings; results would be mixed.
    """
    if not (folder / FRAME).is_file():
        return False
    # earlier versions wrote the unchanged MPStaticSet and did not record it
    written = json.loads((folder / FRAME).read_text()).get("mp", EXACT)
    if written != inputs.mp:
        raise ForceDeltaError(
            f"{folder} has inputs with mp={written}: pass --set mp={written}, or another --out for "
            f"mp={inputs.mp}"
        )
    return True


def collect(atoms: Atoms, folder: Path) -> Label | Failure | Waiting:
    """The result in one folder, with forces in the order of the frame's atoms.

    The energy is VASP's extrapolation to zero smearing, the convention of ASE and the usual data
    sets; the forces are the negative gradient of the free energy.

    Args:
        atoms: the frame for which the inputs were written.
        folder: folder of the frame; vasprun.xml may still be missing.
    """
    import ase.io
    from pymatgen.io.vasp import Vasprun

    path = folder / RESULT
    if not path.is_file():
        return Waiting(f"no {RESULT} yet")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about convergence, which is checked below
            run = Vasprun(
                os.fspath(path), parse_dos=False, parse_eigen=False, parse_potcar_file=False
            )
        converged = bool(run.converged_electronic)
        final: Any = ase.io.read(path, format="vasp-xml")
    except SyntaxError:  # base class of the errors of both XML parsers
        return Waiting(f"{RESULT} is incomplete: the run has not finished, or was killed")
    except Exception as error:  # a damaged file may make readers raise anything
        return Failure(f"{RESULT} cannot be read ({type(error).__name__}: {error})", 0.0)
    if not converged:
        steps = run.parameters.get("NELM", "?")
        return Failure(f"VASP's SCF did not converge within NELM={steps} steps", 0.0)
    order = np.array(json.loads((folder / FRAME).read_text())["order"])
    wrong = _structure_mismatch(atoms[order], final)
    if wrong is not None:
        return Failure(f"{RESULT} belongs to another structure ({wrong})", 0.0)
    forces = np.empty((len(atoms), 3))
    forces[order] = final.get_forces(apply_constraint=False)
    stress = final.calc.results.get("stress")
    energy = float(final.get_potential_energy())
    free_energy = final.calc.results.get("free_energy")
    return Label(energy, forces, stress, 0.0, None if free_energy is None else float(free_energy))


def _structure_mismatch(expected: Atoms, found: Atoms) -> str | None:
    if list(expected.numbers) != list(found.numbers):
        return f"{found.symbols} instead of {expected.symbols}"
    if not np.allclose(expected.cell.array, found.cell.array, atol=SAME_PLACE):
        return "another cell"
    _, moved = find_mic(found.positions - expected.positions, expected.cell, pbc=True)
    if moved.max() > SAME_PLACE:
        return f"an atom is {moved.max():.3g} Å away"
    return None
