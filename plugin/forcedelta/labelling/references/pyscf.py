"""PySCF for molecules, with its own ASE calculator."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator

from forcedelta.errors import ForceDeltaError
from forcedelta.installing import command_for
from forcedelta.labelling.references import gaussian_basis
from forcedelta.labelling.references.base import (
    ReferenceCode,
    charge_and_multiplicity,
    charge_words,
    need_molecule,
)


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

    @property
    def level(self) -> str:
        """See `ReferenceCode.level`."""
        words = {"none": "", "d3bj": "-D3(BJ)", "d3zero": "-D3(0)", "d4": "-D4"}
        dispersion = words.get(self.dispersion, f"-{self.dispersion}")
        return f"{self.xc.upper()}{dispersion}/{gaussian_basis.words(self.basis, self.ecp)}"

    @property
    def details(self) -> str:
        """See `ReferenceCode.details`."""
        fitting = "density fitting" if self.density_fit else "no density fitting"
        if self.density_fit and not gaussian_basis.all_have_potentials(self.basis):
            fitting += " (exact where core electrons from Rb on are calculated)"
        return ", ".join(
            ["RKS for singlets, else UKS", fitting, f"grid level {self.grid_level}",
             f"SCF to {self.conv_tol:g} Hartree", *charge_words(self.charge, self.spin)]
        )  # fmt: skip

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
        need_molecule(self, atoms)
        charge_and_multiplicity(atoms, self.charge, self.spin)
        gaussian_basis.assign(atoms.symbols, self.basis, self.ecp)

    def calculator(self, atoms: Atoms, threads: int) -> Calculator:
        """See `ReferenceCode.calculator`."""
        from pyscf import dft, gto, lib
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
        return Calculator_(method=method)

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        """See `ReferenceCode.calculate`; the SCF has to converge."""
        try:
            return super().calculate(atoms, threads)
        except RuntimeError as error:
            if "not converged" not in str(error):
                raise
            # the calculator's text is the representation of a Python object
            raise RuntimeError(f"SCF not converged within max_cycle={self.max_cycle}") from error
