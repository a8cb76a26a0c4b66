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
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.labelling.references.base import (
    ReferenceCode,
    executable,
    k_points,
    need_crystal,
    words_of,
)
from forcedelta.labelling.references.magnetism import (
    CHARGE_WORDS,
    charge_and_moment,
    moments,
    with_moments,
    words,
)
from forcedelta.labelling.references.pseudopotentials import gth_potential

LABEL = "cp2k"
GAMMA = (1, 1, 1)
OPPOSED = 0.25
"""Bohr magnetons: moments below are those of atoms without any."""

_KPOINTS = """
                    &KPOINTS
                      SCHEME MONKHORST-PACK {}
                      SYMMETRY OFF
                      FULL_GRID OFF
                    &END KPOINTS
"""
GTH_FUNCTIONALS = ("BLYP", "BP", "LDA", "PADE", "PBE")


@dataclass(frozen=True)
class CP2K(ReferenceCode):
    """DFT with MOLOPT functions and GTH pseudopotentials.

    Attributes:
        xc: functional, in CP2K's words; its GTH pseudopotentials are taken, those of PBE where it
            has none, for as many electrons of each element as the basis set is made for.
        basis: basis set, of BASIS_MOLOPT.
        cutoff: of the density grid, eV.
        relative_cutoff: of a Gaussian on that grid, eV.
        kpt_density: points per Å⁻¹ of the mesh in each direction.
        smearing: electronic temperature of the Fermi-Dirac distribution as an energy, eV.
        conv_tol: tolerance of the SCF (EPS_SCF).
        max_cycle: SCF cycles.
        spin_polarised: whether spins may differ (`forcedelta.labelling.references.magnetism`);
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
        """See `ReferenceCode.level`."""
        return f"{self.xc}/{self.basis}"

    @property
    def details(self) -> str:
        """See `ReferenceCode.details`."""
        return (
            f"{self._family} pseudopotentials, grid to {self.cutoff:g} eV ({self.relative_cutoff:g} eV "
            f"relative), {self.kpt_density:g} k-points per Å⁻¹, Fermi-Dirac {self.smearing:g} eV, "
            f"{words(self.spin_polarised)}, {CHARGE_WORDS}, SCF to {self.conv_tol:g}"
        )

    @cached_property
    def version(self) -> str:
        """See `ReferenceCode.version`."""
        answer = subprocess.run(
            [*words_of(self, self.command), "--version"],
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.search(r"CP2K version (\S+)", answer.stdout)
        return found.group(1) if found else "of unknown version"

    def check(self) -> None:
        """See `ReferenceCode.check`."""
        executable(self, self.command)

    def check_structure(self, atoms: Atoms) -> None:
        """See `ReferenceCode.check_structure`."""
        need_crystal(self, atoms)
        self._potentials(atoms)
        self._fixed_moment(atoms)
        start = self._start(atoms)
        for symbol in sorted(set(atoms.symbols)):
            own = start[atoms.symbols == symbol]
            if own.min() < -OPPOSED and own.max() > OPPOSED:
                raise ForceDeltaError(
                    f"cp2k takes one moment for each element here, and those of {symbol} are opposed "
                    f"({own.min():g} and {own.max():g}): use espresso or gpaw"
                )

    def _fixed_moment(self, atoms: Atoms) -> int | None:
        """The total moment that has to be held; a start without moments keeps zero by itself."""
        _, moment = charge_and_moment(atoms, self.spin_polarised)
        if moment is None or not self._start(atoms).any():
            return None
        if k_points(atoms, self.kpt_density) != GAMMA:
            raise ForceDeltaError(
                f"cp2k cannot hold the multiplicity {moment + 1} of {atoms.symbols} with k-points: use "
                "espresso or gpaw, a larger cell, or --set kpt_density=0.1 for the Gamma point alone"
            )
        return moment

    def _start(self, atoms: Atoms) -> NDArray[np.float64]:
        """[N] Bohr magnetons."""
        _, moment = charge_and_moment(atoms, self.spin_polarised)
        start: NDArray[np.float64] = with_moments(
            atoms, self.spin_polarised, moment
        ).get_initial_magnetic_moments()
        return start

    @property
    def _family(self) -> str:
        """The potentials of the functional."""
        name = self.xc.upper()
        return f"GTH-{name}" if name in GTH_FUNCTIONALS else "GTH-PBE"

    def _potentials(self, atoms: Atoms) -> dict[str, str]:
        return {
            symbol: gth_potential(symbol, self.basis, self._family)
            for symbol in sorted(set(atoms.symbols))
        }

    def calculator(self, atoms: Atoms, threads: int) -> Calculator:
        """See `ReferenceCode.calculator`."""
        from ase.calculators import cp2k

        charge, moment = charge_and_moment(atoms, self.spin_polarised)
        fixed = self._fixed_moment(atoms)
        mesh = " ".join(str(number) for number in k_points(atoms, self.kpt_density))
        return cp2k.CP2K(
            command=shlex.join(words_of(self, self.command)),  # ASE gives it to a shell
            label=LABEL,
            xc=self.xc,
            basis_set_file="BASIS_MOLOPT",
            basis_set="",  # of each element, below
            pseudo_potential="",
            cutoff=self.cutoff,
            max_scf=self.max_cycle,
            stress_tensor=True,
            uks=self.spin_polarised,
            charge=charge,
            multiplicity=_multiplicity(atoms, charge, moment) if self.spin_polarised else 0,
            inp=f"""
                &FORCE_EVAL
                  &SUBSYS
                    {self._kinds(atoms)}
                  &END SUBSYS
                  &DFT
                    &MGRID
                      REL_CUTOFF [eV] {self.relative_cutoff}
                    &END MGRID
                    {_KPOINTS.format(mesh) if fixed is None else ""}
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
                        {"" if fixed is None else f"FIXED_MAGNETIC_MOMENT {fixed}"}
                      &END SMEAR
                    &END SCF
                  &END DFT
                &END FORCE_EVAL
            """,
        )

    def _kinds(self, atoms: Atoms) -> str:
        """Basis set, potential and moment to start from of each element: the mean of its atoms."""
        start = self._start(atoms)
        return "\n".join(
            f"&KIND {symbol}\nBASIS_SET {self.basis}\nPOTENTIAL {potential}\n"
            f"MAGNETIZATION {start[atoms.symbols == symbol].mean():g}\n&END KIND"
            for symbol, potential in self._potentials(atoms).items()
        )

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        """See `ReferenceCode.calculate`; the SCF has to converge."""
        try:
            results = super().calculate(atoms, threads)
        except Exception as error:  # ASE tells that the program is gone, its output tells why
            raise RuntimeError(_own_words() or str(error)) from error
        if said := _own_words():
            raise RuntimeError(said)
        return results


def _multiplicity(atoms: Atoms, charge: int, moment: int | None) -> int:
    """Of the start, which is without moments otherwise; with smearing it does not stay."""
    if moment is not None:
        return moment + 1
    start = int(np.ceil(np.abs(moments(atoms, polarised=True).sum())))
    # cores have even numbers of electrons
    return start + (start + int(atoms.numbers.sum()) - charge) % 2 + 1


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
