"""The codes of reference calculations, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forcedelta.labelling.references.any_ase import AnyCalculator
from forcedelta.labelling.references.base import ReferenceCode
from forcedelta.labelling.references.cp2k import CP2K
from forcedelta.labelling.references.espresso import Espresso
from forcedelta.labelling.references.gpaw import GPAW
from forcedelta.labelling.references.pyscf import PySCF
from forcedelta.labelling.references.tblite import TBLite

RECIPES: dict[str, type[ReferenceCode]] = {
    reference.key: reference for reference in (PySCF, GPAW, Espresso, CP2K, TBLite)
}

__all__ = [
    "CP2K",
    "GPAW",
    "RECIPES",
    "AnyCalculator",
    "Espresso",
    "PySCF",
    "ReferenceCode",
    "TBLite",
    "reference",
]


def reference(name: str, settings: Mapping[str, Any]) -> ReferenceCode:
    """A reference code by name: a recipe of this package, or any ASE calculator; checked.

    Args:
        name: "pyscf", "gpaw", "espresso", "cp2k", "tblite"; else the name of an ASE calculator or
            "package.module:Class".
        settings: what differs from the recipe, or all keywords of the calculator.

    Raises:
        ForceDeltaError: there is no such code, it is not installed, or a setting is wrong.
    """
    recipe = RECIPES.get(name.lower())
    if recipe is None:
        return _checked(AnyCalculator(name=name, keywords=dict(settings)))
    return _checked(recipe.with_settings(settings))


def _checked(made: ReferenceCode) -> ReferenceCode:
    made.check()
    return made
