"""What hooks need to know of a dynamics or optimiser of ASE: how it runs and ends, and its settings."""

from __future__ import annotations

import inspect
import math
import sys
from typing import Any, TypeGuard

from ase import units

from .errors import HookError

_ENERGIES = ("temp", "_kT", "kT")
"""Attributes in which dynamics of ASE keep kT, eV."""
_TEMPERATURES = ("temperature_K", "_temperature_K")
"""Those in which others keep the temperature, K."""


def run_arguments(dynamics: Any, steps: int, fmax: float | None) -> dict[str, Any]:
    """Arguments of ``dynamics.run``.

    Raises:
        HookError: it does not take them.
    """
    name = type(dynamics).__name__
    taken = inspect.signature(dynamics.run).parameters if hasattr(dynamics, "run") else {}
    anything = any(known.kind is known.VAR_KEYWORD for known in taken.values())
    if "steps" not in taken and not anything:
        raise HookError(
            f"{name} has no run(steps=...): use attach(dynamics, hooks) as a context, and start it there as "
            "you would without hooks"
        )
    if fmax is None:
        return {"steps": steps}
    if "fmax" not in taken and not anything:
        raise HookError(f"{name} has no convergence criterion: omit fmax, or pass an optimiser")
    return {"steps": steps, "fmax": fmax}


def check_frames(dynamics: Any) -> None:
    """Refuse an optimiser whose steps have no forces."""
    optimisers = sys.modules.get("ase.optimize.sciopt")
    if optimisers and isinstance(dynamics, optimisers.SciPyGradientlessOptimizer):
        raise HookError(
            f"{type(dynamics).__name__} computes no forces at its steps, and hooks need them: use another "
            "optimiser, such as BFGS"
        )


def ending(dynamics: Any, evaluated: bool) -> str:
    """Why a dynamics that nobody ended made no further step: see `md_hooks.RunResult`.

    Args:
        dynamics: after its run.
        evaluated: whether the calculator has the results of the present configuration.
    """
    # ase.optimize loads ASE's file formats, and thereby this package: it cannot be imported before
    from ase.optimize.optimize import Optimizer

    if not isinstance(dynamics, Optimizer) or getattr(dynamics, "fmax", None) is None:
        return "finished"
    if getattr(dynamics.atoms, "remove_rotation_and_translation", False):
        return "finished"  # every request for forces turns such a band, and evaluates it
    if not evaluated:
        return "out of steps"
    converged = dynamics.gradient_converged(dynamics.optimizable.get_gradient())
    return "converged" if converged else "out of steps"


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
