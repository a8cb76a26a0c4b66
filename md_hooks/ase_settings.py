"""What a recorded file says about a dynamics of ASE."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from ase import units

_ENERGIES = ("temp", "_kT", "kT")
"""Attributes in which dynamics of ASE keep kT, eV."""
_TEMPERATURES = ("temperature_K", "_temperature_K")
"""Those in which others keep the temperature, K."""


def settings_of(dynamics: Any) -> dict[str, Any]:
    """Engine, class, time step (fs) and target temperature (K) of a dynamics, as far as it has them.

    Args:
        dynamics: any of `ase.md` or `ase.optimize`.
    """
    known: dict[str, Any] = {"engine": "ase", "dynamics": type(dynamics).__name__}
    timestep = getattr(dynamics, "dt", None)
    if _is_number(timestep) and hasattr(dynamics, "get_time"):
        known["timestep"] = round(timestep / units.fs, 9)
    temperature = _temperature(dynamics)
    if temperature is not None:
        known["temperature"] = round(temperature, 6)
    return known


def _temperature(dynamics: Any) -> float | None:
    for name in _ENERGIES:
        value = getattr(dynamics, name, None)
        if _is_number(value):
            return float(value / units.kB)
    for name in _TEMPERATURES:
        value = getattr(dynamics, name, None)
        if _is_number(value):
            return float(value)
    # ase.md loads ASE's file formats, and thereby this package: it cannot be imported before
    from ase.md.nvtberendsen import NVTBerendsen

    if isinstance(dynamics, NVTBerendsen):
        return float(dynamics.temperature)
    thermostat = getattr(dynamics, "_thermostat", None)  # of Nosé-Hoover chains
    return None if thermostat is None else _temperature(thermostat)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
