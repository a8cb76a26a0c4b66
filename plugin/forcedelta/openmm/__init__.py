"""OpenMM: a monitored force for a System, and runs with hooks.

monitor = forcedelta.openmm.add_force_delta(system, "acac", topology)
simulation = app.Simulation(topology, system, integrator)
simulation.context.setPositions(positions)
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
    # openmmml imports `forcedelta.openmm.mlpotential` in every process; that must not import torch
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
        # importing the module sets the attribute `run` to the module; set it back to the function
        from .run import run

        globals()["run"] = run
        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
