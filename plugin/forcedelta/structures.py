"""Structures from files and from continued runs."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

from ase import Atoms

from md_hooks import Trajectory
from md_hooks.atoms import bare_atoms
from md_hooks.constraints import (
    MISSING,
    constraint_records,
    same_constraints,
    take_from_info,
)
from md_hooks.electronic_state import ElectronicState
from md_hooks.text import shortened

from .errors import ForceDeltaError
from .reading_files import check_regular
from .reading_options import part_of, selected, without_cell

_log = logging.getLogger(__name__)


def read_structure(
    path: str | None,
    type_map: str | None = None,
    no_pbc: bool = False,
    *,
    file_format: str | None = None,
    select: str | None = None,
) -> Atoms:
    """The last structure of a file in any format that ASE reads.

    Args:
        path: the file.
        type_map, no_pbc, file_format, select: see `forcedelta.reading_options.ReadingOptions`.

    Raises:
        ForceDeltaError: no readable structure, no atoms, or invalid atoms
            (`forcedelta.checks.check_atoms`).
        HookError: invalid charge, multiplicity or magnetic moments.
    """
    found = read_structures(path, type_map, no_pbc, file_format=file_format, select=select)
    if len(found) > 1:
        raise ForceDeltaError(f"{path} names several structures: give one of them")
    return found[0]


def read_structures(
    path: str | None,
    type_map: str | None = None,
    no_pbc: bool = False,
    *,
    file_format: str | None = None,
    select: str | None = None,
) -> list[Atoms]:
    """The last structure of a file in any format that ASE reads, or those chosen as in ``file@0:10``.

    Args:
        path, type_map, no_pbc, file_format, select: as for `read_structure`.

    Raises:
        ForceDeltaError, HookError: as `read_structure`.
    """
    import ase.io  # takes half a second; other commands do not need it
    from ase.io.formats import string2index

    from .text_formats.elements import read_type_map
    from .text_formats.reading import format_named, read_text_format

    if path is None:
        raise ForceDeltaError("no structure: give a file that ASE reads, e.g. molecule.xyz")
    types = None if type_map is None else read_type_map(type_map)
    named_format = None if file_format is None else format_named(file_format)
    file, at, _ = path.rpartition("@")  # ASE's syntax for one of several frames
    named = at and not os.path.lexists(path)
    if path != "-":
        file = file if named else path
        if not os.path.lexists(file):
            raise ForceDeltaError(f"{path} does not exist: give a structure file")
        check_regular(file, "give a structure file")
        _check_xyz_counts(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks of readers are not errors
            index = string2index(path.rpartition("@")[2]) if named else -1
            if isinstance(index, str):  # a query of ASE's databases
                atoms = ase.io.read(path)
            else:
                text = None
                if path != "-":
                    text = read_text_format(file, index, types, named_format)
                atoms = (
                    ase.io.read(file, index, named_format, do_not_split_by_at_sign=True)
                    if text is None
                    else text
                )
    except ForceDeltaError as error:
        raise ForceDeltaError(f"{path}: {error}") from error
    except FileNotFoundError:
        raise ForceDeltaError(f"{path} does not exist: give a structure file") from None
    except (Exception, SystemExit) as error:  # readers of many formats, each with its own errors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ForceDeltaError(
            f"{path} cannot be read as a structure ({reason}): give a file in a format that ASE "
            "supports ('ase info --formats')"
        ) from error
    found = [atoms] if isinstance(atoms, Atoms) else list(atoms)
    if not found or not all(len(atoms) for atoms in found):
        raise ForceDeltaError(f"{path} holds no atoms: give a structure file with at least one")
    for atoms in found:
        take_from_info(atoms)
        if MISSING in atoms.info:
            _log.warning(
                "%s has lost the constraint %s of its structure: set it in Python, "
                "guarded_run(atoms, ...), unless the atoms are to be free",
                path, atoms.info.pop(MISSING),
            )  # fmt: skip
    if select is not None:
        chosen = selected(select, found[0])
        if len({len(atoms) for atoms in found}) > 1:
            raise ForceDeltaError(
                f"{path} has structures of different numbers of atoms, and --select is for one number: give "
                "one of them"
            )
        found = [part_of(atoms, chosen) for atoms in found]
    if no_pbc:
        found = [without_cell(atoms) for atoms in found]
    try:
        return [checked_structure(atoms) for atoms in found]
    except ForceDeltaError as error:
        raise ForceDeltaError(f"{path}: {error}") from None


def checked_structure(atoms: Atoms) -> Atoms:
    """A copy of a structure with its charge, multiplicity and magnetic moments.

    Magnetic moments are taken from the calculator before another one replaces it.

    Raises:
        ForceDeltaError: invalid atoms (`forcedelta.checks.check_atoms`).
        HookError: invalid charge, multiplicity or magnetic moments.
    """
    from .checks import check_atoms  # imports PyTorch, which takes seconds

    check_atoms(atoms)
    copy = atoms.copy()
    copy.calc = atoms.calc
    ElectronicState.of(copy).put(copy)
    return copy


def _check_xyz_counts(path: str) -> None:
    """Check that an XYZ file is large enough for the number of atoms in its first line.

    ASE would loop up to this number, even beyond the end of the file.

    Raises:
        ForceDeltaError: it is too small.
    """
    if os.path.isdir(path):
        return
    with open(path, "rb") as file:
        first = file.readline(10_000).strip()
    if first.isdigit() and (len(first) > 18 or int(first) > os.path.getsize(path)):
        raise ForceDeltaError(
            f"{path} is truncated: its first line announces {shortened(first.decode(), 30)} atoms, but it "
            f"has only {os.path.getsize(path)} bytes; give a complete structure file"
        )


def continued_structure(given: str | Atoms | None, run: str, **reading: Any) -> Atoms:
    """The atoms of a recorded run, or those of a structure file that must be the same system.

    Args:
        given: the structure or its file, if any.
        run: the recorded run.
        reading: how the file is read, see `read_structure`.

    Raises:
        ForceDeltaError: another system, other constraints, or constraints that only the given structure
            has, and there is none.
    """
    last = Trajectory(run).frame(-1)
    stored = bare_atoms(last)
    missing = stored.info.pop(MISSING, None)
    if given is None:
        if missing is not None:
            raise ForceDeltaError(
                f"{run} was made with the constraint {missing}, which no file keeps: continue it in "
                "Python with the structure that started it, guarded_run(atoms, restart=True, ...)"
            )
        atoms = stored
    elif isinstance(given, Atoms):
        atoms = checked_structure(given)
    else:
        atoms = read_structure(given, **reading)
    if list(atoms.numbers) != list(stored.numbers) or list(atoms.pbc) != list(stored.pbc):
        raise ForceDeltaError(
            f"{run} holds another system ({stored.symbols}, periodic {stored.pbc}) than the structure "
            f"({atoms.symbols}, periodic {atoms.pbc}): omit the structure to continue that "
            "run, or give another --out"
        )
    if not same_constraints(constraint_records(atoms.constraints), last.constraints):
        raise ForceDeltaError(
            f"{run} was made with other constraints on its atoms: omit the structure to continue that "
            "run, or give the one that started it"
        )
    if missing is None:
        atoms.set_constraint(stored.constraints)  # with the lengths that they keep
    ElectronicState.of(stored).put(atoms)  # they may have come from flags of the first part
    return atoms
