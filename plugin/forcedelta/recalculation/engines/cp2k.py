"""CP2K as Debian packages it: Gaussians and plane waves, for crystals."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator

from forcedelta.recalculation.engines.base import (
    Engine,
    executable,
    k_points,
    need_crystal,
    words_of,
)
from forcedelta.recalculation.engines.magnetism import moments, words

LABEL = "cp2k"


@dataclass(frozen=True)
class CP2K(Engine):
    """DFT with MOLOPT functions and GTH pseudopotentials.

    Attributes:
        xc: functional, in CP2K's words; its GTH pseudopotentials are taken.
        basis: basis set, of BASIS_MOLOPT.
        cutoff: of the density grid, eV.
        relative_cutoff: of a Gaussian on that grid, eV.
        kpt_density: points per Å⁻¹ of the mesh in each direction.
        smearing: electronic temperature of the Fermi-Dirac distribution as an energy, eV.
        conv_tol: of the SCF (EPS_SCF).
        max_cycle: SCF cycles.
        spin_polarised: whether spins may differ (`forcedelta.recalculation.engines.magnetism`);
            twice the time.
        command: the program, in its shell mode.
    """

    key: ClassVar[str] = "cp2k"
    title: ClassVar[str] = "CP2K"
    install: ClassVar[str] = "apt-get install cp2k"

    xc: str = "PBE"
    basis: str = "DZVP-MOLOPT-SR-GTH"
    cutoff: float = 6000.0
    relative_cutoff: float = 800.0
    kpt_density: float = 3.5
    smearing: float = 0.05
    conv_tol: float = 1e-7
    max_cycle: int = 100
    spin_polarised: bool = True
    command: str = "cp2k_shell"

    @property
    def level(self) -> str:
        """See `Engine.level`."""
        return f"{self.xc}/{self.basis}"

    @property
    def details(self) -> str:
        """See `Engine.details`."""
        return (
            f"GTH pseudopotentials, grid to {self.cutoff:g} eV ({self.relative_cutoff:g} eV "
            f"relative), {self.kpt_density:g} k-points per Å⁻¹, Fermi-Dirac {self.smearing:g} eV, "
            f"{words(self.spin_polarised)}, SCF to {self.conv_tol:g}"
        )

    @cached_property
    def version(self) -> str:
        """See `Engine.version`."""
        answer = subprocess.run(
            [*words_of(self, self.command), "--version"],
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.search(r"CP2K version (\S+)", answer.stdout)
        return found.group(1) if found else "of unknown version"

    def check(self) -> None:
        """See `Engine.check`."""
        executable(self, self.command)

    def check_structure(self, atoms: Atoms) -> None:
        """See `Engine.check_structure`."""
        need_crystal(self, atoms)

    def calculator(self, atoms: Atoms, threads: int) -> Calculator:
        """See `Engine.calculator`."""
        from ase.calculators import cp2k

        mesh = " ".join(str(number) for number in k_points(atoms, self.kpt_density))
        return cp2k.CP2K(
            command=shlex.join(words_of(self, self.command)),  # ASE gives it to a shell
            label=LABEL,
            xc=self.xc,
            basis_set_file="BASIS_MOLOPT",
            basis_set=self.basis,
            pseudo_potential="auto",
            cutoff=self.cutoff,
            max_scf=self.max_cycle,
            stress_tensor=True,
            uks=self.spin_polarised,
            multiplicity=_multiplicity(atoms) if self.spin_polarised else 0,
            inp=f"""
                &FORCE_EVAL
                  &SUBSYS
                    {_kinds(atoms) if self.spin_polarised else ""}
                  &END SUBSYS
                  &DFT
                    &MGRID
                      REL_CUTOFF [eV] {self.relative_cutoff}
                    &END MGRID
                    &KPOINTS
                      SCHEME MONKHORST-PACK {mesh}
                      SYMMETRY OFF
                      FULL_GRID OFF
                    &END KPOINTS
                    &SCF
                      EPS_SCF {self.conv_tol}
                      ADDED_MOS {"20 20" if self.spin_polarised else "20"}
                      &DIAGONALIZATION ON
                      &END DIAGONALIZATION
                      &MIXING
                        METHOD BROYDEN_MIXING
                        ALPHA 0.3
                      &END MIXING
                      &SMEAR ON
                        METHOD FERMI_DIRAC
                        ELECTRONIC_TEMPERATURE [K] {self.smearing / units.kB}
                      &END SMEAR
                    &END SCF
                  &END DFT
                &END FORCE_EVAL
            """,
        )

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        """See `Engine.calculate`; the SCF has to converge."""
        try:
            results = super().calculate(atoms, threads)
        except Exception as error:  # ASE tells that the program is gone, its output tells why
            raise RuntimeError(_own_words() or str(error)) from error
        if said := _own_words():
            raise RuntimeError(said)
        return results


def _kinds(atoms: Atoms) -> str:
    """Moments to start from, which CP2K takes by element: their means."""
    start = moments(atoms, polarised=True)
    return "\n".join(
        f"&KIND {symbol}\nMAGNETIZATION {start[atoms.symbols == symbol].mean():g}\n&END KIND"
        for symbol in sorted(set(atoms.symbols))
    )


def _multiplicity(atoms: Atoms) -> int:
    """Of the start, which is without moments otherwise; with smearing it does not stay."""
    moment = int(np.ceil(np.abs(moments(atoms, polarised=True).sum())))
    # cores have even numbers of electrons
    return moment + (moment + int(atoms.numbers.sum())) % 2 + 1


def _own_words() -> str | None:
    """What CP2K's output tells of an SCF that did not converge, or of its end."""
    output = Path(f"{LABEL}.out")
    if not output.is_file():
        return None
    text = output.read_text(encoding="utf-8", errors="replace")
    if "SCF run NOT converged" in text:
        return "SCF run NOT converged"
    box = re.findall(r"\*\s*\[ABORT\](.*?)\*{20}", text, re.DOTALL)
    return " ".join(re.sub(r"[*\\/|_]", " ", box[-1]).split()) if box else None
