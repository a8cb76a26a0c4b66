"""Any other calculator of ASE, by name and keywords."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import packages_distributions, version
from typing import Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator, get_calculator_class
from ase.calculators.names import names

from forcedelta.errors import ForceDeltaError
from forcedelta.recalculation.engines.base import Engine


@dataclass(frozen=True)
class AnyCalculator(Engine):
    """A calculator as it is, with the keywords that are given.

    Attributes:
        name: one of ASE's, or "package.module:Class".
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
        """See `Engine.level`."""
        words = [f"{key}={value}" for key, value in sorted(self.keywords.items())]
        return ", ".join([self.name, *words])

    @property
    def details(self) -> str:
        """See `Engine.details`."""
        return "its own defaults for the rest"

    @property
    def version(self) -> str:
        """See `Engine.version`."""
        package = self._class().__module__.partition(".")[0]
        distributions = packages_distributions().get(package)
        return f"of {package} {version(distributions[0])}" if distributions else f"of {package}"

    def check(self) -> None:
        """See `Engine.check`."""
        try:
            self._class()
        except (ImportError, AttributeError, KeyError, ValueError) as error:
            known = ", ".join(sorted(names))
            raise ForceDeltaError(
                f"no calculator is called '{self.name}' ({error}): give a recipe of 'forcedelta "
                f"recalc --help', package.module:Class, or one of ASE's ({known})"
            ) from error

    def calculator(self, atoms: Atoms, threads: int) -> Calculator:
        """See `Engine.calculator`."""
        return self._class()(**self.keywords)
