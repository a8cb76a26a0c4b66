"""PySCF for molecules, with its own ASE calculator."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator

from forcedelta.errors import ForceDeltaError
from forcedelta.installing import command_for
from forcedelta.recalculation.engines.base import (
    Engine,
    charge_and_multiplicity,
    charge_words,
    need_molecule,
)


@dataclass(frozen=True)
class PySCF(Engine):
    """Kohn-Sham DFT with Gaussian functions: restricted for singlets, unrestricted else.

    Attributes:
        xc: functional, in PySCF's words.
        basis: basis set.
        dispersion: "d3bj", "d3zero", "d4" (package pyscf-dispersion), or "none".
        density_fit: density fitting, with PySCF's auxiliary basis for this one.
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
    basis: str = "def2-svp"
    dispersion: str = "d3bj"
    density_fit: bool = True
    grid_level: int = 3
    conv_tol: float = 1e-9
    max_cycle: int = 100
    charge: int | None = None
    spin: int | None = None

    @property
    def level(self) -> str:
        """See `Engine.level`."""
        words = {"none": "", "d3bj": "-D3(BJ)", "d3zero": "-D3(0)", "d4": "-D4"}
        dispersion = words.get(self.dispersion, f"-{self.dispersion}")
        return f"{self.xc.upper()}{dispersion}/{self.basis}"

    @property
    def details(self) -> str:
        """See `Engine.details`."""
        fitting = "density fitting" if self.density_fit else "no density fitting"
        return ", ".join(
            ["RKS for singlets, else UKS", fitting, f"grid level {self.grid_level}",
             f"SCF to {self.conv_tol:g} Hartree", *charge_words(self.charge, self.spin)]
        )  # fmt: skip

    @property
    def version(self) -> str:
        """See `Engine.version`."""
        return version("pyscf")

    def check(self) -> None:
        """See `Engine.check`."""
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

    def check_structure(self, atoms: Atoms) -> None:
        """See `Engine.check_structure`."""
        need_molecule(self, atoms)
        charge_and_multiplicity(atoms, self.charge, self.spin)

    def calculator(self, atoms: Atoms, threads: int) -> Calculator:
        """See `Engine.calculator`."""
        from pyscf import dft, gto, lib
        from pyscf.pbc.tools.pyscf_ase import PySCF as Calculator_
        from pyscf.pbc.tools.pyscf_ase import ase_atoms_to_pyscf

        lib.num_threads(threads)
        charge, multiplicity = charge_and_multiplicity(atoms, self.charge, self.spin)
        molecule = gto.M(
            atom=ase_atoms_to_pyscf(atoms),
            basis=self.basis,
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
        if self.density_fit:
            method = method.density_fit()
        return Calculator_(method=method)

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        """See `Engine.calculate`; the SCF has to converge."""
        try:
            return super().calculate(atoms, threads)
        except RuntimeError as error:
            if "not converged" not in str(error):
                raise
            # the calculator's text is the representation of a Python object
            raise RuntimeError(f"SCF not converged within max_cycle={self.max_cycle}") from error
