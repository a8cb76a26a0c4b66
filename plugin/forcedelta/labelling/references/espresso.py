"""Quantum ESPRESSO (pw.x), for crystals, with pseudopotentials that the user has."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from subprocess import SubprocessError
from typing import Any, ClassVar

from ase import Atoms, units
from ase.calculators.calculator import Calculator

from forcedelta.errors import ForceDeltaError
from forcedelta.labelling.references.base import ReferenceCode, executable, k_points, need_crystal
from forcedelta.labelling.references.magnetism import (
    CHARGE_WORDS,
    charge_and_moment,
    with_moments,
    words,
)
from forcedelta.labelling.references.pseudopotentials import read_upf

OUTPUT = "espresso.pwo"
RULE = "%%%%%%"


@dataclass(frozen=True)
class Espresso(ReferenceCode):
    """Plane-wave DFT with the functional of the pseudopotentials.

    Attributes:
        pseudo_dir: folder of UPF files. Debian packages the program without them.
        pseudopotentials: element symbol to file name; elements that are left out get the one file
            in the folder whose name begins with their symbol.
        cutoff: of the wave functions, eV; what the pseudopotentials ask for.
        density_factor: ratio of the cutoff of the density to that of the wave functions; 4 is enough for
            norm-conserving pseudopotentials, ultrasoft ones need 8 to 12.
        kpt_density: points per Å⁻¹ of the Gamma-centred mesh in each direction.
        smearing: width of the Marzari-Vanderbilt smearing, eV.
        conv_tol: tolerance of the SCF, Ry.
        max_cycle: SCF cycles.
        spin_polarised: whether spins may differ (`forcedelta.labelling.references.magnetism`);
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
        """See `ReferenceCode.level`; the functional is that of the files."""
        folder = Path(self.pseudo_dir)
        names = sorted(self.pseudopotentials.values())
        files = ", ".join(names) or f"all in {folder.name}"
        paths = [folder / name for name in names] or sorted(folder.glob("*.[uU][pP][fF]"))
        functionals = set()
        for path in paths:
            with contextlib.suppress(ForceDeltaError):  # told when a structure needs it
                header = read_upf(path)
                functionals.add(header.functional if header else "")
        if len(functionals) == 1 and "" not in functionals:
            return f"{functionals.pop()}, UPF pseudopotentials ({files})"
        return f"the functional of the pseudopotentials ({files})"

    @property
    def details(self) -> str:
        """See `ReferenceCode.details`."""
        return (
            f"plane waves to {self.cutoff:g} eV, density to {self.density_factor:g} times that, "
            f"{self.kpt_density:g} k-points per Å⁻¹, cold smearing {self.smearing:g} eV, "
            f"{words(self.spin_polarised)}, {CHARGE_WORDS}, SCF to {self.conv_tol:g} Ry"
        )

    @cached_property
    def _profile(self) -> Any:
        from ase.calculators.espresso import EspressoProfile

        return EspressoProfile(
            command=self.command, pseudo_dir=str(Path(self.pseudo_dir).absolute())
        )

    @cached_property
    def version(self) -> str:
        """See `ReferenceCode.version`."""
        try:
            return str(self._profile.version())
        except (
            AssertionError,
            OSError,
            SubprocessError,
        ):  # the program does not speak as pw.x does
            return "of unknown version"

    def check(self) -> None:
        """See `ReferenceCode.check`."""
        executable(self, self.command)
        if not self.pseudo_dir or not Path(self.pseudo_dir).is_dir():
            raise ForceDeltaError(
                f"espresso: pseudo_dir '{self.pseudo_dir}' is no folder: give the one with your UPF "
                "files, --set pseudo_dir=FOLDER"
            )

    def check_structure(self, atoms: Atoms) -> None:
        """See `ReferenceCode.check_structure`."""
        need_crystal(self, atoms)
        self._state(atoms)

    def _state(self, atoms: Atoms) -> tuple[int, int | None]:
        """Charge and total moment, with the valence electrons of the pseudopotentials."""
        folder = Path(self.pseudo_dir)
        found = {symbol: read_upf(folder / name) for symbol, name in self._files(atoms).items()}
        headers = {symbol: header for symbol, header in found.items() if header is not None}
        electrons = None
        if headers.keys() == found.keys():
            electrons = sum(headers[symbol].valence for symbol in atoms.symbols)
        functionals = {header.functional for header in headers.values()}
        if len(functionals) > 1:
            raise ForceDeltaError(
                "espresso: the pseudopotentials were made with different functionals ("
                + ", ".join(f"{symbol}: {head.functional}" for symbol, head in headers.items())
                + "): give files of one functional, --set pseudopotentials=..."
            )
        return charge_and_moment(atoms, self.spin_polarised, electrons)

    def _files(self, atoms: Atoms) -> dict[str, str]:
        """A pseudopotential for each element, of this element."""
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
                        f"{symbol} ({', '.join(found) or 'none'}): choose one with --set "
                        f'\'pseudopotentials={{"{symbol}": "FILE"}}\''
                    )
                name = found[0]
            header = read_upf(folder / name)
            if header is not None and header.symbol != symbol:
                raise ForceDeltaError(
                    f"espresso: {folder / name} is a pseudopotential of {header.symbol}, not of {symbol}: "
                    f'give the right one, --set \'pseudopotentials={{"{symbol}": "FILE"}}\''
                )
            files[symbol] = name
        return files

    def calculator(self, atoms: Atoms, threads: int) -> Calculator:
        """See `ReferenceCode.calculator`."""
        from ase.calculators.espresso import Espresso as Calculator_

        charge, moment = self._state(atoms)
        state: dict[str, float] = {"tot_charge": charge} if charge else {}
        if moment is not None and atoms.get_initial_magnetic_moments().any():
            state["tot_magnetization"] = moment  # without moments there is one spin only
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
                    **state,
                },
                "electrons": {"conv_thr": self.conv_tol, "electron_maxstep": self.max_cycle},
            },
        )
        return made

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        """See `ReferenceCode.calculate`; the SCF has to converge."""
        try:
            _, moment = self._state(atoms)
            start = with_moments(atoms, self.spin_polarised, moment)
            results = super().calculate(start, threads)
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
