"""What a reference calculation is, as the jobs see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ase import Atoms
from ase.calculators.calculator import Calculator


class Reference(Protocol):
    """A reference code with all its settings; it must be picklable, as jobs run in other processes.

    One that can label in the charges around a frame has a method ``embedded()``, which returns the
    reference that does, with a description of its own.

    Attributes:
        description: code, version and settings in one line. Labels with different descriptions
            are taken for labels of different levels of theory and never mixed.
    """

    @property
    def description(self) -> str:
        """Code, version and settings in one line."""
        ...

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        """Energy and forces of a structure, ``atoms``.

        Runs in a process of its own, in an empty folder, with the threads of OpenMP and BLAS set
        to ``threads`` before any library was loaded.

        Returns:
            "energy" (eV), "forces" [N, 3] (eV/Å) and, where the reference code has them, "free_energy" (eV,
            the energy whose gradient the forces are), "stress" (6,) (eV/Å^3, Voigt order xx, yy,
            zz, yz, xz, xy) and "point_charges", the number of charges of the structure's environment
            (`md_hooks.Environment`) in whose field it was computed.

        Raises:
            Exception: whatever went wrong; its text is what the user gets to see.
        """
        ...


@dataclass(frozen=True)
class CalculatorReference:
    """Any ASE calculator as a reference.

    Args:
        make: called with the atoms, gives the calculator: a class or function that other
            processes can import (no lambda, nothing defined in the script itself).
        description: code, version and settings in one line.
    """

    make: Callable[[Atoms], Calculator]
    description: str

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        """See `Reference.calculate`; ``atoms`` are those of the calculator, ``threads`` those of its libraries."""
        return results_of(atoms, self.make(atoms))


def results_of(atoms: Atoms, calculator: Calculator) -> dict[str, Any]:
    """Energy and free energy (eV), forces (eV/Å), of a crystal stress (eV/Å^3), by an ASE calculator.

    Args:
        atoms: the structure, whose constraints are not applied.
        calculator: used for a copy of it.

    Returns:
        see `Reference.calculate`.
    """
    structure = atoms.copy()
    structure.calc = calculator
    # forces first: some codes know only then that they are wanted and would compute twice
    forces = structure.get_forces(apply_constraint=False)
    results = {"forces": forces, "energy": structure.get_potential_energy()}
    free_energy = calculator.results.get("free_energy")
    if free_energy is not None:
        results["free_energy"] = free_energy
    if structure.pbc.all() and "stress" in calculator.implemented_properties:
        results["stress"] = structure.get_stress(apply_constraint=False)
    return results
