"""Descriptions of a frame for messages: step and time, worst atom, values that are not finite."""

from __future__ import annotations

import math

import numpy as np
from ase.data import chemical_symbols

from .foreign_fields import step_of
from .frame import IMAGE, Frame


def not_finite(frame: Frame) -> tuple[str, float] | None:
    """Name and value of the first quantity of a frame that is NaN or infinite, causes first."""
    for name in ("positions", "energy", "forces", "force_delta", "force_deltas", "temperature"):
        value = getattr(frame, name)
        if value is None or (name == "energy" and not frame.energy_known):
            continue
        if not isinstance(value, np.ndarray):
            if not math.isfinite(value):
                return name, float(value)
            continue
        finite = np.isfinite(value)
        if not finite.all():
            return name, float(value[~finite][0])
    return None


def where(frame: Frame) -> str:
    """Step and time, where that is known."""
    image = step_of(frame.extra.get(IMAGE))
    number = "" if image is None else f", image {image}"
    time = "" if math.isnan(frame.time) else f", {frame.time:.10g} fs"
    return f"step {frame.step}{number}{time}"


def worst(frame: Frame) -> str:
    """The worst atom as the end of a sentence; "" if unknown."""
    broken = np.flatnonzero(~np.isfinite(frame.forces).all(axis=1))
    atom = int(broken[0]) if len(broken) else frame.worst_atom
    if atom is None:
        return ""
    return f", worst atom {atom} ({chemical_symbols[int(frame.numbers[atom])]})"
