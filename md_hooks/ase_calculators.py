"""Finds the calculator that predicts the Force Delta, also inside ASE's mixers and wrappers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

_WRAPPED = ("dft", "calc", "calculator")
"""Where ASE's wrappers keep the calculator whose results they change: DFTD3, Plumed, loggers."""

_SAME = 1e-6
"""Å; positions that differ less, up to a translation, are the same structure."""


class ForceDeltaSource:
    """The calculator whose U, u_i and forces a run records.

    It is the calculator of the atoms, or the only one with a Force Delta inside it: ASE's
    `SumCalculator`, `LinearCombinationCalculator`, `MixedCalculator` and `AverageCalculator` (nested
    to any depth), and wrappers such as `DFTD3(dft=...)`. What a frame records as U, u_i, direct and
    conservative forces is then that model's own prediction, whatever its weight; energy and forces
    of the frame are those of the whole, which drive the run.

    Args:
        calculator: of the atoms.

    Attributes:
        calculator: the one found; the given one where there is none, or more than one.
    """

    def __init__(self, calculator: Any) -> None:
        self._outer = calculator
        self._behind = ""
        self._given = False
        self._look()

    def _look(self) -> None:
        self._found = list({id(calc): calc for calc in _with_force_delta(self._outer)}.values())
        self.calculator = self._found[0] if len(self._found) == 1 else self._outer

    def is_of(self, calculator: Any) -> bool:
        """Whether this is the source of a calculator, which may have been exchanged in between."""
        return calculator is self._outer

    def results(self, atoms: Atoms) -> Mapping[str, Any]:
        """The results for a structure that hold U where it was computed; empty without.

        A wrapper may hand its calculator other atoms than it has itself, or evaluate it at some steps
        only: such results are those of another structure.

        Args:
            atoms: the structure, as the calculator of the atoms has evaluated it last.
        """
        if not self._found:
            self._look()  # a calculator may declare nothing, and fill in U when it is evaluated
        if len(self._found) != 1:
            return {}
        found = self._found[0]
        self._behind = "" if found is self._outer else _difference(found, atoms)
        if self._behind:
            return {}
        results: Mapping[str, Any] = found.results
        self._given = self._given or results.get("force_delta") is not None
        return results

    def why_missing(self) -> str:
        """Why the last evaluation lacks a U that it should have; "" where none was due.

        A calculator with an attribute ``force_delta_due`` tells whether its last evaluation was to
        give U. Of one without it nothing is known once it has given U.
        """
        name = type(self._outer).__name__
        if not self._found:
            return f"{name} predicts no second force, and holds no calculator that does"
        if len(self._found) > 1:
            several = ", ".join(_name(calc) for calc in self._found)
            return (
                f"{name} holds {len(self._found)} calculators with a Force Delta ({several}) and a "
                "run can watch one"
            )
        if self._behind:
            # one that has given U before may do so again, at a later step
            why = f"{_name(self._found[0])} inside of {name} has evaluated {self._behind}"
            return "" if self._given else why
        if getattr(self._found[0], "force_delta_due", False):
            return f"{_name(self._found[0])} gave none, though this evaluation should have"
        return ""


def _with_force_delta(calculator: Any) -> Iterator[Any]:
    """The calculators with a Force Delta of their own in a tree of mixers and wrappers."""
    mixer = getattr(calculator, "mixer", None)
    if mixer is not None:
        # never the mixer's own sum: U of a sum is not the sum of U
        for part in getattr(mixer, "calcs", ()):
            yield from _with_force_delta(part)
        return
    declared = getattr(calculator, "implemented_properties", None) or ()
    if "force_delta" in declared or "force_delta" in (getattr(calculator, "results", None) or {}):
        yield calculator
        return
    for name in _WRAPPED:
        part = getattr(calculator, name, None)
        if part is not calculator and hasattr(part, "get_property"):
            yield from _with_force_delta(part)


def _difference(calculator: Any, atoms: Atoms) -> str:
    """What a calculator has evaluated instead of these atoms, in words; "" where it was these."""
    evaluated = getattr(calculator, "atoms", None)
    if evaluated is None:
        return ""
    if len(evaluated) != len(atoms):
        return f"{len(evaluated)} atoms, where the run has {len(atoms)}"
    if np.array_equal(evaluated.positions, atoms.positions):
        return ""
    shift = evaluated.positions - atoms.positions
    away = find_mic(shift - shift[0], atoms.cell, atoms.pbc)[1]
    return "" if away.max() < _SAME else "another structure than that of this step"


def _name(calculator: Any) -> str:
    info = getattr(calculator, "model_info", None) or {}
    return str(info.get("name") or type(calculator).__name__)
