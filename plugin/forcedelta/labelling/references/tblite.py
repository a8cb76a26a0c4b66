"""Extended tight binding (GFN1-xTB, GFN2-xTB) by tblite: milliseconds, for trying things out."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator

from forcedelta.errors import ForceDeltaError
from forcedelta.installing import command_for
from forcedelta.labelling.references.base import (
    ReferenceCode,
    charge_and_multiplicity,
    charge_words,
    out_of_box,
)

LAST_ELEMENT = 86


@dataclass(frozen=True)
class TBLite(ReferenceCode):
    """Semi-empirical tight binding; molecules and crystals.

    Attributes:
        method: "GFN2-xTB" or "GFN1-xTB".
        accuracy: tblite's scale of all tolerances.
        electronic_temperature: K.
        max_iterations: SCF cycles.
        charge: total charge in e; None: that of the frame, else 0.
        spin: multiplicity 2S+1; None: that of the frame, else the lowest.
    """

    key: ClassVar[str] = "tblite"
    title: ClassVar[str] = "tblite"
    packages: ClassVar[tuple[str, ...]] = ("tblite",)
    install: ClassVar[str] = command_for("recalc", "tblite")

    method: str = "GFN2-xTB"
    accuracy: float = 1.0
    electronic_temperature: float = 300.0
    max_iterations: int = 250
    charge: int | None = None
    spin: int | None = None

    @property
    def level(self) -> str:
        """See `ReferenceCode.level`."""
        return self.method

    @property
    def details(self) -> str:
        """See `ReferenceCode.details`."""
        scales = [f"accuracy {self.accuracy:g}", f"{self.electronic_temperature:g} K"]
        return ", ".join([*scales, *charge_words(self.charge, self.spin)])

    @property
    def version(self) -> str:
        """See `ReferenceCode.version`."""
        return version("tblite")

    def check_structure(self, atoms: Atoms) -> None:
        """See `ReferenceCode.check_structure`."""
        charge_and_multiplicity(atoms, self.charge, self.spin)
        beyond = sorted({symbol for symbol, z in zip(atoms.symbols, atoms.numbers, strict=True)
                         if z > LAST_ELEMENT})  # fmt: skip
        if beyond:
            raise ForceDeltaError(
                f"tblite: {self.method} has parameters up to radon, not for {', '.join(beyond)}: "
                "use another reference"
            )

    def calculate(self, atoms: Atoms, threads: int) -> dict[str, Any]:
        """See `ReferenceCode.calculate`."""
        return super().calculate(out_of_box(atoms), threads)

    def calculator(self, atoms: Atoms, threads: int) -> Calculator:
        """See `ReferenceCode.calculator`."""
        from tblite.ase import TBLite as Calculator_

        charge, multiplicity = charge_and_multiplicity(atoms, self.charge, self.spin)
        return Calculator_(
            method=self.method,
            charge=charge,
            multiplicity=multiplicity,
            accuracy=self.accuracy,
            electronic_temperature=self.electronic_temperature,
            max_iterations=self.max_iterations,
        )
