"""Elements that files name, never guessed where two readings are possible."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ase.data import atomic_numbers

from forcedelta.errors import ForceDeltaError

HYDROGENS = {"D": 2.014, "T": 3.016}
"""Symbols of hydrogen's isotopes, with their masses in amu."""


def element_of_name(name: str) -> str | None:
    """The element of an atom name such as ``OW`` or ``HW1``; None where it is ambiguous.

    ``CA`` may be an alpha carbon or calcium.
    """
    found = re.match(r"\d*([A-Za-z]+)", name.strip())
    if found is None:
        return None
    letters = found[1]
    one, two = letters[0].upper(), letters[:2].capitalize()
    candidates = {symbol for symbol in (one, two) if symbol in atomic_numbers and symbol != "X"}
    return candidates.pop() if len(candidates) == 1 else None


def read_type_map(text: str) -> dict[int, str]:
    """The elements of LAMMPS's atom types, as in ``1=Si,2=O``.

    Raises:
        ForceDeltaError: it is not of this form.
    """
    elements: dict[int, str] = {}
    for part in text.split(","):
        number, _, symbol = (word.strip() for word in part.partition("="))
        if not number.isdigit() or symbol not in atomic_numbers or symbol == "X":
            raise ForceDeltaError(f"--type-map {text}: give types and elements as in 1=Si,2=O")
        if elements.setdefault(int(number), symbol) != symbol:
            raise ForceDeltaError(f"--type-map {text} gives type {number} two elements: give one")
    return elements


def type_map_text(elements: Mapping[int, str]) -> str:
    """The inverse of `read_type_map`."""
    return ",".join(f"{number}={symbol}" for number, symbol in sorted(elements.items()))
