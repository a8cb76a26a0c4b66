"""Where the atoms of a run come from: a structure file, or the run that is continued."""

from __future__ import annotations

import json
from typing import Any

import ase.io
from ase import Atoms

from md_hooks import Trajectory
from md_hooks.h5md_io import bare_atoms

from ..errors import ForceDeltaError


def read_structure(path: str | None) -> Atoms:
    """The last structure of a file in any format that ASE reads.

    Raises:
        ForceDeltaError: there is none, or it has no atoms.
    """
    if path is None:
        raise ForceDeltaError("no structure: give a file that ASE reads, e.g. molecule.xyz")
    try:
        atoms = ase.io.read(path)
    except FileNotFoundError:
        raise ForceDeltaError(f"{path} does not exist: give a structure file") from None
    except Exception as error:  # readers of many formats, each with its own kinds of errors
        reason = str(error) or type(error).__name__
        raise ForceDeltaError(
            f"{path} cannot be read as a structure ({reason}): give a file in a format that ASE "
            "knows ('ase info --formats')"
        ) from error
    if not isinstance(atoms, Atoms):
        raise ForceDeltaError(f"{path} names several structures: give one of them")
    if len(atoms) == 0:
        raise ForceDeltaError(f"{path} holds no atoms: give a structure file with at least one")
    return atoms


def continued_structure(path: str | None, run: str, constraints: Any) -> Atoms:
    """The atoms of a recorded run, or those of a structure file that must be the same system.

    A recorded run does not hold the constraints of its structure, only which they were
    (`constraints_of`): where there are any, the structure file is needed.

    Args:
        path: the structure file, if one was given.
        run: the recorded run.
        constraints: what it says about its constraints.

    Raises:
        ForceDeltaError: another system, other constraints.
    """
    stored = bare_atoms(Trajectory(run).frame(-1))
    atoms = stored if path is None else read_structure(path)
    if list(atoms.numbers) != list(stored.numbers) or list(atoms.pbc) != list(stored.pbc):
        raise ForceDeltaError(
            f"{run} holds another system ({stored.symbols}, periodic {stored.pbc}) than {path} "
            f"({atoms.symbols}, periodic {atoms.pbc}): leave the structure away to continue that "
            "run, or give another --out"
        )
    if constraints_of(atoms) != (constraints or []):
        raise ForceDeltaError(
            f"{run} was made with other constraints on its atoms: give the structure file with "
            "which it was started"
        )
    return atoms


def constraints_of(atoms: Atoms) -> list[Any]:
    """The constraints of atoms in a form that can be stored and compared."""
    facts = [constraint.todict() for constraint in atoms.constraints]
    return list(json.loads(json.dumps(facts, default=lambda array: array.tolist())))
