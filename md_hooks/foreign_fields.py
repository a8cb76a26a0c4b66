"""Fields of structure files that other programs wrote: any name, any content.

A ``step``, ``time`` or ``force_delta`` in the header of a frame may be a word, a date or an array.
None of these breaks a reader: a value that is not a number counts as unknown.
"""

from __future__ import annotations

import math

import numpy as np

STEPS = 10**15
"""Upper bound of a step number, about a second of MD; larger integers are hashes or dates."""


def number(value: object) -> float:
    """A field as a number; NaN for text, arrays, truth values and missing fields."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        return math.nan


def number_or_none(value: object) -> float | None:
    """A field as a number, which need not be finite; None for everything else."""
    found = number(value)
    is_float = isinstance(value, float | np.floating)  # a NaN of the file stays NaN
    return None if math.isnan(found) and not is_float else found


def finite(value: object) -> float | None:
    """A field as a finite number; None for everything else."""
    found = number(value)
    return found if math.isfinite(found) else None


def step_of(value: object) -> int | None:
    """A field as the number of an MD step; None for everything else."""
    found = number(value)
    return int(found) if 0 <= found < STEPS and found.is_integer() else None


def has_numbers(array: np.ndarray, *shape: int) -> bool:
    """Whether an array of a structure contains real numbers and has this shape."""
    return array.shape == shape and array.dtype.kind in "fiu"


def text_of(value: object) -> str | None:
    """A field as a name; None if it is missing, empty, or an array."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | np.number):
        return None
    return str(value) or None
