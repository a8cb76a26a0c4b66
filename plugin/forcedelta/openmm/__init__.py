"""OpenMM: a monitored force for a System, and runs with hooks.

monitor = forcedelta.openmm.add_force_delta(system, "acac", topology)
simulation = app.Simulation(topology, system, integrator)
simulation.context.setPositions(positions)
result = forcedelta.openmm.run(simulation, steps, hooks=[Recorder(...), Guard(...)])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluator import Measurement
    from .force import add_force_delta
    from .monitor import Monitor, find_monitor
    from .stepping import run

__all__ = ["Measurement", "Monitor", "add_force_delta", "find_monitor", "run"]

# openmmml imports `forcedelta.openmm.mlpotential` wherever it is used, and must not pay for torch
_HOMES = {
    "Measurement": "evaluator",
    "Monitor": "monitor",
    "add_force_delta": "force",
    "find_monitor": "monitor",
    "run": "stepping",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
