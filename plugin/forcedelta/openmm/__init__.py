"""OpenMM: a monitored force for a System, and runs with hooks.

monitor = forcedelta.openmm.add_force_delta(system, "acac", topology)
simulation = app.Simulation(topology, system, integrator)
simulation.context.setPositions(positions)
result = forcedelta.openmm.run(simulation, steps, hooks=[Recorder(...), Guard(...)])

or, for any other way of stepping,

simulation.reporters.append(forcedelta.openmm.ForceDeltaReporter(monitor, hooks=[...]))
simulation.step(steps)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluator import Measurement
    from .force import add_force_delta
    from .monitor import Monitor, find_monitor, find_monitors
    from .reporter import ForceDeltaReporter
    from .runs import run

__all__ = [
    "ForceDeltaReporter",
    "Measurement",
    "Monitor",
    "add_force_delta",
    "find_monitor",
    "find_monitors",
    "run",
]

# openmmml imports `forcedelta.openmm.mlpotential` wherever it is used, and must not pay for torch
_HOMES = {
    "ForceDeltaReporter": "reporter",
    "Measurement": "evaluator",
    "Monitor": "monitor",
    "add_force_delta": "force",
    "find_monitor": "monitor",
    "find_monitors": "monitor",
    "run": "runs",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
