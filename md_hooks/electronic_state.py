"""Total charge, spin multiplicity and initial magnetic moments of a structure.

A model may not ask for them, yet the reference calculation of its frames needs them: H3O+ that is
labelled as a neutral doublet has other forces by several eV/Å. They travel from the structure with
every frame into all files, and from there to the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from .errors import HookError

INITIAL_MOMENTS = "initial_magmoms"
"""ASE's name of the array."""

_WHOLE_TO = 1e-3  # e; partial charges are written with few digits


@dataclass(frozen=True, eq=False)
class ElectronicState:
    """What is known of the electrons of a structure; None where nothing is said.

    Attributes:
        charge: total charge, e.
        spin: multiplicity 2S+1.
        magnetic_moments: [N] initial magnetic moments, Bohr magnetons.
    """

    charge: int | None = None
    spin: int | None = None
    magnetic_moments: NDArray[np.floating] | None = None

    @classmethod
    def of(cls, atoms: Atoms) -> ElectronicState:
        """The state that a structure tells.

        The charge is ``info["charge"]``, else the sum of the initial charges; the multiplicity is
        ``info["spin"]``; the moments are the initial ones, else those that a stored calculation
        ended with.

        Raises:
            HookError: a charge or multiplicity that is no whole number, or moments that are not
                collinear.
        """
        return cls(_charge(atoms), _spin(atoms), _moments(atoms))

    @classmethod
    def usable(cls, atoms: Atoms) -> tuple[ElectronicState, list[str]]:
        """What of it can be used, and why the rest cannot: for files that others wrote."""
        known: dict[str, Any] = {}
        problems = []
        for name, read in (("charge", _charge), ("spin", _spin), ("magnetic_moments", _moments)):
            try:
                known[name] = read(atoms)
            except HookError as error:
                problems.append(str(error))
        return cls(**known), problems

    def put(self, atoms: Atoms) -> None:
        """Write what is known into ``info`` and the initial magnetic moments of atoms."""
        if self.charge is not None:
            atoms.info["charge"] = self.charge
        if self.spin is not None:
            atoms.info["spin"] = self.spin
        if self.magnetic_moments is not None:
            atoms.set_initial_magnetic_moments(np.asarray(self.magnetic_moments, dtype=float))

    def frame_fields(self) -> dict[str, Any]:
        """The arguments of a `md_hooks.Frame`."""
        return {
            "charge": self.charge,
            "spin": self.spin,
            "magnetic_moments": self.magnetic_moments,
        }


def whole(value: Any) -> int | None:
    """A whole number, or None for everything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if np.isfinite(number) and number.is_integer() else None


def _charge(atoms: Atoms) -> int | None:
    told = atoms.info.get("charge")
    if told is None:
        return _sum_of_charges(atoms)
    charge = whole(told)
    if charge is None:
        raise HookError(
            f"the total charge must be a whole number of e, not '{told}': correct charge=... in the "
            "structure file"
        )
    return charge


def _spin(atoms: Atoms) -> int | None:
    told = atoms.info.get("spin")
    if told is None:
        return None
    spin = whole(told)
    if spin is None or spin < 1:
        raise HookError(
            "the spin multiplicity must be a whole number of 1 or more (1: closed shell, 2: one "
            f"unpaired electron), not '{told}': correct spin=... in the structure file"
        )
    return spin


def _sum_of_charges(atoms: Atoms) -> int | None:
    """The total charge after ASE's convention, where the structure has charges of atoms."""
    if not atoms.has("initial_charges"):
        return None
    total = float(atoms.get_initial_charges().sum())
    nearest = round(total) if np.isfinite(total) else 0
    return nearest if abs(total - nearest) < _WHOLE_TO else None


def _moments(atoms: Atoms) -> NDArray[np.floating] | None:
    moments = atoms.arrays.get(INITIAL_MOMENTS)
    if moments is None and isinstance(atoms.calc, SinglePointCalculator):
        moments = atoms.calc.results.get("magmoms")
    if moments is None:
        return None
    moments = np.array(moments)
    if moments.dtype.kind not in "fiub":
        raise HookError(
            "the magnetic moments of the structure are no numbers: correct them, or leave them out"
        )
    moments = moments.astype(float)
    if moments.shape != (len(atoms),):
        raise HookError(
            f"the magnetic moments of the structure have the shape {moments.shape}, but only "
            "collinear ones, a number for each atom, can be kept: remove them, or give their "
            "projections"
        )
    if not np.isfinite(moments).all():
        raise HookError("the magnetic moments of the structure are not finite: correct them")
    moments.setflags(write=False)
    return moments
