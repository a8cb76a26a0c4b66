"""OpenMM: a monitored force for a System, and runs with hooks.

monitor = forcedelta.openmm.add_force_delta(system, model, topology)
simulation = app.Simulation(topology, system, integrator)
result = forcedelta.openmm.run(simulation, steps, hooks=[Recorder(...), Guard(...)])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluator import Measurement
    from .force import add_force_delta
    from .monitor import Monitor, find_monitor
    from .run import run

__all__ = ["Measurement", "Monitor", "add_force_delta", "find_monitor", "run"]


def __getattr__(name: str) -> Any:
    # openmmml imports `forcedelta.openmm.mlpotential` wherever it is used, and must not pay for torch
    if name in ("Monitor", "find_monitor"):
        from . import monitor

        return getattr(monitor, name)
    if name == "Measurement":
        from .evaluator import Measurement

        return Measurement
    if name == "add_force_delta":
        from .force import add_force_delta

        return add_force_delta
    if name == "run":
        # the module of the same name takes the attribute when it is imported
        from .run import run

        globals()["run"] = run
        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
