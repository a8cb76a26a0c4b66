"""Any other calculator of ASE, by name and keywords."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import packages_distributions, version
from typing import Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator, get_calculator_class
from ase.calculators.names import names

from forcedelta.errors import ForceDeltaError
from forcedelta.labelling.references.base import ReferenceCode, charge_and_multiplicity
from md_hooks.electronic_state import ElectronicState

READ_BY = frozenset({"fairchem", "forcedelta", "orb_models", "tblite"})
"""Packages whose calculators take charge and spin from the atoms themselves."""


@dataclass(frozen=True)
class AnyCalculator(ReferenceCode):
    """A calculator as it is, with the keywords that are given.

    Attributes:
        name: one of ASE's, or "package.module:Class"; a function that makes a calculator will do.
        keywords: of its constructor.
    """

    key: ClassVar[str] = "any"
    title: ClassVar[str] = "ASE calculator"

    name: str = ""
    keywords: dict[str, Any] = field(default_factory=dict)

    def _class(self) -> type[Calculator]:
        if ":" in self.name:
            module, _, attribute = self.name.partition(":")
            return getattr(import_module(module), attribute)
        return get_calculator_class(self.name)

    @property
    def level(self) -> str:
        """See `ReferenceCode.level`."""
        words = [f"{key}={value}" for key, value in sorted(self.keywords.items())]
        return ", ".join([self.name, *words])

    @property
    def details(self) -> str:
        """See `ReferenceCode.details`."""
        return "its own defaults for the rest"

    @property
    def version(self) -> str:
        """See `ReferenceCode.version`."""
        package = self._class().__module__.partition(".")[0]
        distributions = packages_distributions().get(package)
        return f"of {package} {version(distributions[0])}" if distributions else f"of {package}"

    def check(self) -> None:
        """See `ReferenceCode.check`."""
        try:
            found = self._class()
        except (Exception, SystemExit) as error:  # a module runs whatever it likes when imported
            known = ", ".join(sorted(names))
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ForceDeltaError(
                f"no calculator is called '{self.name}' ({reason}): give a recipe of 'forcedelta "
                f"recalc --help', package.module:Class, or one of ASE's ({known})"
            ) from error
        if not (inspect.isfunction(found) or (inspect.isclass(found) and _calculates(found))):
            raise ForceDeltaError(
                f"'{self.name}' is no calculator of ASE: give package.module:Class of one, or of a "
                "function that makes one"
            )

    def check_structure(self, atoms: Atoms) -> None:
        """See `ReferenceCode.check_structure`: charge and spin must not be lost on the way."""
        if self._class().__module__.partition(".")[0] in READ_BY:
            return
        charge, multiplicity = charge_and_multiplicity(atoms, None, None)
        unpaired = ElectronicState.of(atoms).spin is not None and multiplicity > 2
        for name, value, matters, words in (
            ("charge", charge, charge != 0, ("charge",)),
            ("spin", multiplicity, unpaired, ("spin", "mult", "magmom", "nspin", "uks")),
        ):
            told = any(word in keyword.lower() for keyword in self.keywords for word in words)
            if matters and not told:
                raise ForceDeltaError(
                    f"{self.name} takes no {name} from a frame, and {atoms.symbols} has {value}: give "
                    f"its own keyword, e.g. --set {words[-1 if name == 'charge' else 1]}={value}, or "
                    f"pass --{name} {0 if name == 'charge' else 1 + (multiplicity - 1) % 2} to label "
                    "without"
                )

    def calculator(self, atoms: Atoms, threads: int) -> Calculator:
        """See `ReferenceCode.calculator`."""
        made = self._class()(**self.keywords)
        if not _calculates(made):
            raise ForceDeltaError(
                f"{self.name} makes a {type(made).__name__}, no calculator of ASE"
            )
        return made


def _calculates(found: object) -> bool:
    return callable(getattr(found, "get_potential_energy", None))
