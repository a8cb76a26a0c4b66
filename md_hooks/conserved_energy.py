"""The energy that a dynamics of ASE conserves, where it has one."""

from __future__ import annotations

import math
from typing import Any


def has_conserved_energy(dynamics: Any) -> bool:
    """Whether a dynamics conserves an energy that it can tell.

    That is the total energy with velocity Verlet, and minus the heat of the thermostat where a
    dynamics counts it as ``transferred_energy`` (eV); or whatever ``get_conserved_energy`` gives.
    """
    # ase.md loads ASE's file formats, and thereby this package: it cannot be imported before
    from ase.md.verlet import VelocityVerlet

    return (
        type(dynamics) is VelocityVerlet  # a subclass may couple to a bath
        or hasattr(dynamics, "transferred_energy")
        or hasattr(dynamics, "get_conserved_energy")
    )


def conserved_energy(dynamics: Any, atoms: Any, total: float) -> float:
    """The conserved energy after a step, eV, without a further evaluation.

    Args:
        dynamics: for which `has_conserved_energy` is true.
        atoms: its atoms.
        total: their potential and kinetic energy, eV.

    Returns:
        NaN where the dynamics cannot tell it at this step.
    """
    own = getattr(dynamics, "get_conserved_energy", None)
    if own is None:
        return total - float(getattr(dynamics, "transferred_energy", 0.0))
    if atoms.calc.calculation_required(atoms, ["energy", "free_energy"]):
        return math.nan
    return float(own())
