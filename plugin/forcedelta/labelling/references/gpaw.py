"""GPAW: plane waves and projector-augmented waves, for crystals."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator

from forcedelta.errors import ForceDeltaError
from forcedelta.labelling.references.base import ReferenceCode, k_points, need_crystal
from forcedelta.labelling.references.magnetism import (
    CHARGE_WORDS,
    charge_and_moment,
    with_moments,
    words,
)


@dataclass(frozen=True)
class GPAW(ReferenceCode):
    """Plane-wave DFT.

    Attributes:
        xc: functional, in GPAW's words.
        cutoff: of the plane waves, eV.
        kpt_density: points per Å⁻¹ of the Gamma-centred mesh in each direction.
        smearing: width of the Fermi-Dirac distribution, eV.
        energy_tolerance: of the SCF, eV per valence electron.
        density_tolerance: of the SCF, electrons per valence electron.
        max_cycle: SCF cycles.
        spin_polarised: whether spins may differ (`forcedelta.labelling.references.magnetism`);
            twice the time.
    """

    key: ClassVar[str] = "gpaw"
    title: ClassVar[str] = "GPAW"
    packages: ClassVar[tuple[str, ...]] = ("gpaw",)
    install: ClassVar[str] = (
        "apt-get install gcc libxc-dev libopenblas-dev && printf \"mpi = False\\ncompiler = 'gcc'\\n"
        "libraries = ['xc', 'blas']\\n\" > siteconfig.py && GPAW_CONFIG=$PWD/siteconfig.py pip "
        "install gpaw gpaw-data"
    )

    xc: str = "PBE"
    cutoff: float = 400.0
    kpt_density: float = 3.5
    smearing: float = 0.05
    energy_tolerance: float = 1e-5
    density_tolerance: float = 1e-5
    max_cycle: int = 200
    spin_polarised: bool = True

    @property
    def level(self) -> str:
        """See `ReferenceCode.level`."""
        return self.xc

    @property
    def details(self) -> str:
        """See `ReferenceCode.details`."""
        return (
            f"PAW, plane waves to {self.cutoff:g} eV, {self.kpt_density:g} k-points per Å⁻¹, "
            f"Fermi-Dirac {self.smearing:g} eV, {words(self.spin_polarised)}, {CHARGE_WORDS}, SCF to "
            f"{self.energy_tolerance:g} eV and {self.density_tolerance:g} electrons per electron"
        )

    @property
    def version(self) -> str:
        """See `ReferenceCode.version`."""
        return version("gpaw")

    def check(self) -> None:
        """See `ReferenceCode.check`."""
        super().check()
        try:
            import gpaw  # noqa: F401
        except ImportError as error:  # a shared library that is gone
            raise ForceDeltaError(f"GPAW cannot be imported ({error}): {self.install}") from error

    def check_structure(self, atoms: Atoms) -> None:
        """See `ReferenceCode.check_structure`."""
        need_crystal(self, atoms)
        charge_and_moment(atoms, self.spin_polarised)
        self._check_setups(atoms)

    def _check_setups(self, atoms: Atoms) -> None:
        from gpaw.setup_data import search_for_file
        from gpaw.xc import XC

        kind = XC(self.xc).get_setup_name()
        for symbol in sorted(set(atoms.symbols)):
            try:
                search_for_file(f"{symbol}.{kind}")
            except (FileNotFoundError, RuntimeError) as error:
                raise ForceDeltaError(
                    f"gpaw: there is no {kind} setup for {symbol}: choose another --xc, or install one "
                    "with 'gpaw install-data'"
                ) from error

    def calculator(self, atoms: Atoms, threads: int) -> Calculator:
        """See `ReferenceCode.calculator`."""
        import gpaw

        charge, moment = charge_and_moment(atoms, self.spin_polarised)
        made: Any = gpaw.GPAW(
            mode=gpaw.PW(self.cutoff),
            xc=self.xc,
            kpts={"size": k_points(atoms, self.kpt_density), "gamma": True},
            occupations=gpaw.FermiDirac(self.smearing, fixmagmom=moment is not None),
            charge=charge,
            convergence={"energy": self.energy_tolerance, "density": self.density_tolerance},
            spinpol=self.spin_polarised,
            maxiter=self.max_cycle,
            txt="-",
        )
        return made

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        """See `ReferenceCode.calculate`; the SCF has to converge."""
        from gpaw import KohnShamConvergenceError

        try:
            _, moment = charge_and_moment(atoms, self.spin_polarised)
            start = with_moments(atoms, self.spin_polarised, moment)
            return super().calculate(start, threads)
        except KohnShamConvergenceError as error:  # it has no text of its own
            raise RuntimeError(f"SCF not converged within max_cycle={self.max_cycle}") from error
