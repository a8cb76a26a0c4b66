"""Constraints of ASE as records that files keep: ``{"name": ..., "kwargs": {...}}``, as in ``todict``.

A constraint without ``todict``, or with contents that JSON cannot hold, has a record without
"kwargs". Only constraints of `ase.constraints` can be made from records.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, dict2constraint

Records = tuple[dict[str, Any], ...]

INFO = "constraints"
"""Key of ``atoms.info`` in files whose format has no constraints of these kinds."""

MISSING = "missing_constraints"
"""Key of ``atoms.info``: names of constraints that could not be made from their records."""

_IN_XYZ = (FixAtoms, FixCartesian)
"""Kinds that extended XYZ keeps by itself, as the column ``move_mask``."""

_NORMALISED = {"direction": "dir", "mode": "mode"}
"""Vectors that ASE normalises anew, which may change their last bits; by argument, with their attribute."""

_log = logging.getLogger(__name__)


def constraint_records(constraints: Sequence[Any]) -> Records:
    """The records of constraints, JSON-able.

    Args:
        constraints: as in ``atoms.constraints``.
    """
    return tuple(_record(constraint) for constraint in constraints)


def _record(constraint: Any) -> dict[str, Any]:
    name = type(constraint).__name__
    try:
        found = json.loads(json.dumps(constraint.todict(), default=_plain, allow_nan=False))
        name, kwargs = str(found["name"]), dict(found["kwargs"])
    except Exception:  # todict of a class of the user's may raise or return anything
        return {"name": name}
    lengths = getattr(constraint, "bondlengths", None)
    if isinstance(constraint, FixBondLengths) and lengths is not None:
        kwargs["bondlengths"] = [float(length) for length in lengths]  # not in todict
    return {"name": name, "kwargs": kwargs}


def _plain(value: Any) -> Any:
    """Arrays and the structure that `ase.constraints.FixSymmetry` keeps, for JSON."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Atoms):
        return {
            "numbers": value.numbers, "positions": value.positions, "cell": value.cell.array,
            "pbc": value.pbc,
        }  # fmt: skip
    raise TypeError(f"{type(value).__name__} in a constraint")


def not_storable(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the constraints whose records do not suffice to make them."""
    return [str(record.get("name")) for record in records if _made(record) is None]


def put_constraints(atoms: Atoms, records: Sequence[Mapping[str, Any]]) -> None:
    """Make constraints from their records and set them.

    Names of those that cannot be made go to ``atoms.info["missing_constraints"]``.
    """
    made = [_made(record) for record in records]
    if made:
        atoms.set_constraint([constraint for constraint in made if constraint is not None])
    if missing := not_storable(records):
        atoms.info[MISSING] = ", ".join(missing)


def _made(record: Mapping[str, Any]) -> Any:
    """The constraint of a record; None if it cannot be made."""
    kwargs = record.get("kwargs")
    if not isinstance(kwargs, dict):
        return None
    kwargs = dict(kwargs)
    try:
        if isinstance(kwargs.get("atoms"), dict):
            kwargs["atoms"] = Atoms(**kwargs["atoms"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of spglib, by which FixSymmetry finds its operations
            made = dict2constraint({"name": record["name"], "kwargs": kwargs})
        for name, attribute in _NORMALISED.items():
            if name in kwargs and hasattr(made, attribute):
                setattr(made, attribute, np.array(kwargs[name], dtype=float))
        return made
    except Exception:  # of a name or arguments that this version of ASE does not know
        return None


def same_constraints(a: Any, b: Any) -> bool:
    """Whether records agree; a value that one of them leaves open agrees with any.

    Lengths and angles that are to be kept at their first values are open until then.
    """
    if a is None or b is None:
        return True
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return all(same_constraints(a.get(key), b.get(key)) for key in {*a, *b})
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same_constraints, a, b))
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return bool(a == b)


def warn_not_storable(records: Sequence[Mapping[str, Any]], file: str) -> None:
    """Warn in one line of constraints that a file cannot give back; do nothing without any."""
    if names := not_storable(records):
        _log.warning(
            "%s cannot keep the constraint %s, which has no todict() of ase.constraints: set it again "
            "on structures from this file",
            file, ", ".join(dict.fromkeys(names)),
        )  # fmt: skip


def text_for_xyz(atoms: Atoms, mask: bool = True) -> str | None:
    """What extended XYZ needs in ``info["constraints"]``; None for nothing.

    Args:
        atoms: a frame.
        mask: the file has a move_mask, which says it all of some kinds.
    """
    known = _IN_XYZ if mask else ()
    if all(type(constraint) in known for constraint in atoms.constraints):
        return None
    return json.dumps(constraint_records(atoms.constraints))


def take_from_info(atoms: Atoms) -> None:
    """Set the constraints that ``info["constraints"]`` describes, if these are our own records."""
    try:
        records = json.loads(atoms.info[INFO])
        ours = bool(records) and all(set(found) <= {"name", "kwargs"} for found in records)
    except (KeyError, TypeError, ValueError, RecursionError):
        return
    if ours:
        del atoms.info[INFO]
        put_constraints(atoms, records)
