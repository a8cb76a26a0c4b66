"""Checks of model descriptions from untrusted files.

The same checks apply to models of other packages and to those in memory.
"""

from __future__ import annotations

import json
import math
import operator
import reprlib
from typing import Any

from ase.data import atomic_numbers, chemical_symbols

from forcedelta.errors import ForceDeltaError

SHORTEST_CUTOFF, LONGEST_CUTOFF = 0.1, 50.0
"""Å; outside this range a neighbour list is empty or exceeds any memory."""


def parse_json(text: str | bytes, where: str) -> Any:
    """Parses JSON of any depth, with numbers of any length.

    Args:
        text: UTF-8.
        where: beginning of the error message, e.g. the path and the part of the file.

    Raises:
        ForceDeltaError: invalid or unreadable JSON.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ForceDeltaError(f"{where} is not readable JSON (nested too deeply)") from error
    except ValueError as error:  # also of numbers with thousands of digits, and of other encodings
        message = str(error).partition(";")[0]
        raise ForceDeltaError(f"{where} is not readable JSON ({message:.120})") from error


def abbreviated(value: Any) -> str:
    """A foreign value for an error message, shortened to one line."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__} of thousands of digits"


def check_cutoff(cutoff: Any, where: str) -> float:
    """A cutoff in Å.

    Raises:
        ForceDeltaError: not a number between `SHORTEST_CUTOFF` and `LONGEST_CUTOFF`.
    """
    wanted = f"a cutoff from {SHORTEST_CUTOFF:g} to {LONGEST_CUTOFF:g} Å"
    if isinstance(cutoff, bool) or not isinstance(cutoff, int | float):
        wanted = "the cutoff in Å"
    elif not (cutoff > 0 and cutoff < math.inf):  # nor NaN
        wanted = "a positive cutoff in Å"
    elif SHORTEST_CUTOFF <= cutoff <= LONGEST_CUTOFF:
        return float(cutoff)
    raise ForceDeltaError(f"{where} must give {wanted}, not {abbreviated(cutoff)}")


def check_symbols(symbols: Any, where: str) -> frozenset[int]:
    """Atomic numbers of a list of symbols.

    Raises:
        ForceDeltaError: not a list, an empty one, or an entry that is not an element.
    """
    if (
        not isinstance(symbols, list)
        or not symbols
        or not all(isinstance(name, str) and atomic_numbers.get(name, 0) > 0 for name in symbols)
    ):
        raise ForceDeltaError(
            f"{where} must give a list of element symbols, not {abbreviated(symbols)}"
        )
    return frozenset(atomic_numbers[name] for name in symbols)


def check_numbers(elements: Any, where: str) -> list[int]:
    """Atomic numbers, each once.

    Raises:
        ForceDeltaError: an entry that is not an atomic number, a repeated one, or an empty list.
    """
    known = range(1, len(chemical_symbols))
    try:
        given = [operator.index(number) for number in elements]
    except TypeError:
        given = []
    if given and len(set(given)) == len(given) and all(number in known for number in given):
        return given
    raise ForceDeltaError(
        f"{where} must give atomic numbers from 1 to {known[-1]}, each once, not {abbreviated(elements)}"
    )


def check_periodic(periodic: Any, where: str) -> bool | None:
    """A periodicity: true, false or absent (None); ForceDeltaError for anything else."""
    if periodic is None or isinstance(periodic, bool):
        return periodic
    raise ForceDeltaError(
        f"{where} must give periodic as true or false, or not at all, not {abbreviated(periodic)}"
    )
