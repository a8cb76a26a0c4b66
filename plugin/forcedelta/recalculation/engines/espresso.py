"""Quantum ESPRESSO (pw.x), for crystals, with pseudopotentials that the user has."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from subprocess import SubprocessError
from typing import Any, ClassVar

from ase import Atoms, units
from ase.calculators.calculator import Calculator

from forcedelta.errors import ForceDeltaError
from forcedelta.recalculation.engines.base import Engine, executable, k_points, need_crystal
from forcedelta.recalculation.engines.magnetism import with_moments, words

OUTPUT = "espresso.pwo"
RULE = "%%%%%%"


@dataclass(frozen=True)
class Espresso(Engine):
    """Plane-wave DFT with the functional of the pseudopotentials.

    Attributes:
        pseudo_dir: folder of UPF files. Debian packages the program without them.
        pseudopotentials: element symbol to file name; elements that are left out get the one file
            in the folder whose name begins with their symbol.
        cutoff: of the wave functions, eV; what the pseudopotentials ask for.
        density_factor: cutoff of the density over that of the wave functions; 4 is enough for
            norm-conserving pseudopotentials, ultrasoft ones need 8 to 12.
        kpt_density: points per Å⁻¹ of the Gamma-centred mesh in each direction.
        smearing: width of the Marzari-Vanderbilt smearing, eV.
        conv_tol: of the SCF, Ry.
        max_cycle: SCF cycles.
        spin_polarised: whether spins may differ (`forcedelta.recalculation.engines.magnetism`);
            twice the time.
        command: the program.
    """

    key: ClassVar[str] = "espresso"
    title: ClassVar[str] = "Quantum ESPRESSO"
    install: ClassVar[str] = "apt-get install quantum-espresso"

    pseudo_dir: str = ""
    pseudopotentials: dict[str, str] = field(default_factory=dict)
    cutoff: float = 800.0
    density_factor: float = 8.0
    kpt_density: float = 3.5
    smearing: float = 0.05
    conv_tol: float = 1e-9
    max_cycle: int = 100
    spin_polarised: bool = True
    command: str = "pw.x"

    @property
    def level(self) -> str:
        """See `Engine.level`; the file names tell the functional."""
        names = sorted(self.pseudopotentials.values())
        files = ", ".join(names) or f"all in {Path(self.pseudo_dir).name}"
        return f"the functional of the pseudopotentials ({files})"

    @property
    def details(self) -> str:
        """See `Engine.details`."""
        return (
            f"plane waves to {self.cutoff:g} eV, density to {self.density_factor:g} times that, "
            f"{self.kpt_density:g} k-points per Å⁻¹, cold smearing {self.smearing:g} eV, "
            f"{words(self.spin_polarised)}, SCF to {self.conv_tol:g} Ry"
        )

    @cached_property
    def _profile(self) -> Any:
        from ase.calculators.espresso import EspressoProfile

        return EspressoProfile(
            command=self.command, pseudo_dir=str(Path(self.pseudo_dir).absolute())
        )

    @cached_property
    def version(self) -> str:
        """See `Engine.version`."""
        try:
            return str(self._profile.version())
        except (
            AssertionError,
            OSError,
            SubprocessError,
        ):  # the program does not speak as pw.x does
            return "of unknown version"

    def check(self) -> None:
        """See `Engine.check`."""
        executable(self, self.command)
        if not self.pseudo_dir or not Path(self.pseudo_dir).is_dir():
            raise ForceDeltaError(
                f"espresso: pseudo_dir '{self.pseudo_dir}' is no folder: give the one with your UPF "
                "files, --set pseudo_dir=FOLDER"
            )

    def check_structure(self, atoms: Atoms) -> None:
        """See `Engine.check_structure`."""
        need_crystal(self, atoms)
        self._files(atoms)

    def _files(self, atoms: Atoms) -> dict[str, str]:
        """A pseudopotential for each element."""
        folder = Path(self.pseudo_dir)
        files = {}
        for symbol in sorted(set(atoms.symbols)):
            if symbol in self.pseudopotentials:
                name = self.pseudopotentials[symbol]
                if not (folder / name).is_file():
                    raise ForceDeltaError(f"espresso: {folder / name} does not exist")
            else:
                pattern = re.compile(rf"{symbol}(?:[^a-z].*)?\.upf", re.IGNORECASE)
                found = sorted(
                    path.name for path in folder.iterdir() if pattern.fullmatch(path.name)
                )
                if len(found) != 1:
                    raise ForceDeltaError(
                        f"espresso: {folder} holds {len(found)} UPF files whose names begin with "
                        f"{symbol} ({', '.join(found) or 'none'}): say which one, --set "
                        f'\'pseudopotentials={{"{symbol}": "FILE"}}\''
                    )
                name = found[0]
            files[symbol] = name
        return files

    def calculator(self, atoms: Atoms, threads: int) -> Calculator:
        """See `Engine.calculator`."""
        from ase.calculators.espresso import Espresso as Calculator_

        made: Any = Calculator_(
            profile=self._profile,
            pseudopotentials=self._files(atoms),
            kpts=k_points(atoms, self.kpt_density),
            input_data={
                "control": {"tprnfor": True, "tstress": True},
                "system": {
                    "ecutwfc": self.cutoff / units.Ry,
                    "ecutrho": self.density_factor * self.cutoff / units.Ry,
                    "occupations": "smearing",
                    "smearing": "cold",
                    "degauss": self.smearing / units.Ry,
                },
                "electrons": {"conv_thr": self.conv_tol, "electron_maxstep": self.max_cycle},
            },
        )
        return made

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        """See `Engine.calculate`; the SCF has to converge."""
        try:
            results = super().calculate(with_moments(atoms, self.spin_polarised), threads)
        except Exception as error:  # ASE tells the exit status, pw.x tells why in its output
            said = _own_words(Path(OUTPUT))
            raise RuntimeError(said or str(error)) from error
        if "convergence NOT achieved" in Path(OUTPUT).read_text(encoding="utf-8", errors="replace"):
            raise RuntimeError(f"SCF not converged within max_cycle={self.max_cycle}")
        return results


def _own_words(output: Path) -> str | None:
    """The error box of pw.x, or that the SCF did not converge."""
    if not output.is_file():
        return None
    text = output.read_text(encoding="utf-8", errors="replace")
    if "convergence NOT achieved" in text:
        line = next(line for line in text.splitlines() if "convergence NOT achieved" in line)
        return " ".join(line.split())
    boxes = re.findall(rf"{RULE}+\n(.*?)\n\s*{RULE}", text, re.DOTALL)
    return " ".join(boxes[-1].split()) if boxes else None
