"""PySCF for molecules, with its own ASE calculator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, ClassVar, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.installing import command_for
from forcedelta.labelling.references import gaussian_basis
from forcedelta.labelling.references.base import (
    ReferenceCode,
    charge_and_multiplicity,
    charge_words,
    need_molecule,
    out_of_box,
)
from forcedelta.parts import charges_around
from md_hooks.environment import Surroundings
from md_hooks.recalculation import results_of


@dataclass(frozen=True)
class PySCF(ReferenceCode):
    """Kohn-Sham DFT with Gaussian functions: restricted for singlets, unrestricted else.

    Attributes:
        xc: functional, in PySCF's words.
        basis: basis set; or names by element, {"I": "lanl2dz", "default": "6-31g*"}.
        ecp: effective core potentials: "basis", those that belong to the basis set, for the
            elements that it has them for; "none", all-electron; the name of others; or names by
            element.
        dispersion: "d3bj", "d3zero", "d4" (package pyscf-dispersion), or "none".
        density_fit: density fitting, where there is an auxiliary basis for all elements
            (`forcedelta.labelling.references.gaussian_basis.auxiliary`).
        grid_level: of the integration grid, 0 to 9.
        conv_tol: of the energy, Hartree.
        max_cycle: SCF cycles.
        charge: total charge in e; None: that of the frame, else 0.
        spin: multiplicity 2S+1; None: that of the frame, else the lowest.
        point_charges: label a part of a System in the field of the charges around it; None: where they
            are recorded.
        charge_cutoff: Å; leave out charges of molecules that are farther away. None: all.
    """

    key: ClassVar[str] = "pyscf"
    title: ClassVar[str] = "PySCF"
    packages: ClassVar[tuple[str, ...]] = ("pyscf",)
    install: ClassVar[str] = command_for("recalc", "pyscf", "pyscf-dispersion")

    xc: str = "pbe"
    basis: str | dict[str, str] = "def2-svp"
    ecp: str | dict[str, str] = gaussian_basis.OWN
    dispersion: str = "d3bj"
    density_fit: bool = True
    grid_level: int = 3
    conv_tol: float = 1e-9
    max_cycle: int = 100
    charge: int | None = None
    spin: int | None = None
    point_charges: bool | None = None
    charge_cutoff: float | None = None

    @property
    def embeds(self) -> bool:
        """See `ReferenceCode.embeds`."""
        return bool(self.point_charges)

    def embedded(self) -> Self:
        """See `ReferenceCode.embedded`."""
        return replace(self, point_charges=True) if self.point_charges is None else self

    @property
    def level(self) -> str:
        """See `ReferenceCode.level`."""
        words = {"none": "", "d3bj": "-D3(BJ)", "d3zero": "-D3(0)", "d4": "-D4"}
        dispersion = words.get(self.dispersion, f"-{self.dispersion}")
        level = f"{self.xc.upper()}{dispersion}/{gaussian_basis.words(self.basis, self.ecp)}"
        return f"{level} in MM point charges" if self.embeds else level

    @property
    def details(self) -> str:
        """See `ReferenceCode.details`."""
        fitting = "density fitting" if self.density_fit else "no density fitting"
        if self.density_fit and not gaussian_basis.all_have_potentials(self.basis):
            fitting += " (exact where core electrons from Rb on are calculated)"
        return ", ".join(
            ["RKS for singlets, else UKS", fitting, f"grid level {self.grid_level}",
             f"SCF to {self.conv_tol:g} Hartree", *charge_words(self.charge, self.spin),
             *self._embedding()]
        )  # fmt: skip

    def _embedding(self) -> list[str]:
        if not self.embeds:
            return []
        within = "" if self.charge_cutoff is None else f" within {self.charge_cutoff:g} Å"
        return [f"charges of whole molecules{within} in their nearest images"]

    @property
    def version(self) -> str:
        """See `ReferenceCode.version`."""
        return version("pyscf")

    def check(self) -> None:
        """See `ReferenceCode.check`."""
        super().check()
        if self.dispersion != "none":
            from importlib.util import find_spec

            if find_spec("pyscf.dispersion") is None:
                raise ForceDeltaError(
                    f"the dispersion correction {self.dispersion} needs pyscf-dispersion, which is "
                    f"not installed: {self.install}, or --set dispersion=none"
                )
        from pyscf.dft import libxc

        try:
            libxc.parse_xc(self.xc)
        except Exception as error:  # a KeyError for most names, others for odd ones
            raise ForceDeltaError(
                f"PySCF knows no functional '{self.xc}' ({error}): give one in its words, e.g. pbe"
            ) from error
        self._check_dispersion()
        gaussian_basis.check_names(self.basis, "basis")
        gaussian_basis.check_names(self.ecp, "ecp")
        if self.charge_cutoff is not None and not self.charge_cutoff > 0:
            raise ForceDeltaError(
                f"pyscf: charge_cutoff is {self.charge_cutoff:g} Å: give a length above 0, or none for "
                "all charges"
            )

    def _check_dispersion(self) -> None:
        """Whether the correction has parameters for the functional."""
        if self.dispersion == "none":
            return
        from pyscf import gto
        from pyscf.dispersion import dftd3, dftd4

        hydrogen = gto.M(atom="H 0 0 0; H 0 0 0.7", basis="sto-3g", verbose=0)
        try:
            if self.dispersion == "d4":
                dftd4.DFTD4Dispersion(hydrogen, xc=self.xc)
            else:
                dftd3.DFTD3Dispersion(hydrogen, xc=self.xc, version=self.dispersion)
        except (RuntimeError, KeyError) as error:
            raise ForceDeltaError(
                f"pyscf: there is no dispersion correction '{self.dispersion}' for the functional "
                f"'{self.xc}' ({str(error).strip()}): give --set dispersion=none, d3bj, d3zero or d4"
            ) from error

    def check_structure(self, atoms: Atoms) -> None:
        """See `ReferenceCode.check_structure`."""
        around = Surroundings.usable(atoms)
        atoms = out_of_box(atoms)
        need_molecule(self, atoms)
        if self.embeds and around.environment is None:
            raise ForceDeltaError(
                f"pyscf: a frame of {atoms.symbols} has no environment for point_charges: label frames without "
                "one apart, with --set point_charges=false and another --out"
            )
        charge_and_multiplicity(atoms, self.charge, self.spin)
        gaussian_basis.assign(atoms.symbols, self.basis, self.ecp)

    def calculator(self, atoms: Atoms, threads: int) -> Calculator:
        """See `ReferenceCode.calculator`."""
        from pyscf import dft, gto, lib, qmmm
        from pyscf.pbc.tools.pyscf_ase import PySCF as Calculator_
        from pyscf.pbc.tools.pyscf_ase import ase_atoms_to_pyscf

        lib.num_threads(threads)
        charge, multiplicity = charge_and_multiplicity(atoms, self.charge, self.spin)
        assigned = gaussian_basis.assign(atoms.symbols, self.basis, self.ecp)
        molecule = gto.M(
            atom=ase_atoms_to_pyscf(atoms),
            basis={symbol: choice.basis for symbol, choice in assigned.items()},
            ecp={symbol: choice.ecp for symbol, choice in assigned.items() if choice.ecp},
            charge=charge,
            spin=multiplicity - 1,
            verbose=4,
        )
        method: Any = dft.RKS(molecule) if multiplicity == 1 else dft.UKS(molecule)
        method.xc = self.xc
        method.grids.level = self.grid_level
        method.conv_tol = self.conv_tol
        method.max_cycle = self.max_cycle
        if self.dispersion != "none":
            method.disp = self.dispersion
        fitting = gaussian_basis.auxiliary(assigned, self.xc) if self.density_fit else None
        if fitting is not None:
            method = method.density_fit(auxbasis=fitting)
        charges = self._charges(atoms)
        if charges is not None:
            method = qmmm.mm_charge(method, *charges, unit="Angstrom")
        return Calculator_(method=method)

    def _charges(self, molecule: Atoms) -> tuple[NDArray[np.floating], NDArray[np.floating]] | None:
        """Positions [M, 3] (Å) and charges [M] (e) around a molecule; None for a label in vacuum."""
        environment = Surroundings.usable(molecule).environment
        if not self.embeds or environment is None:
            return None
        return charges_around(molecule, environment, self.charge_cutoff)

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        """See `ReferenceCode.calculate`; the SCF has to converge.

        The forces are those on the frame's atoms, the energy is that of the molecule and of its interaction
        with the fixed charges, not that of the charges with each other.
        """
        self.check_structure(atoms)
        molecule = out_of_box(atoms)
        charges = self._charges(molecule)
        try:
            results = results_of(molecule, self.calculator(molecule, threads))
        except RuntimeError as error:
            if "not converged" not in str(error):
                raise
            # the calculator's text is the representation of a Python object
            raise RuntimeError(f"SCF not converged within max_cycle={self.max_cycle}") from error
        return results if charges is None else {**results, "point_charges": len(charges[1])}
