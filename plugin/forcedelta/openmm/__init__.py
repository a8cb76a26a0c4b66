"""OpenMM: a monitored force for a System, and runs with hooks.

monitor = forcedelta.openmm.add_force_delta(system, model, topology)
simulation = app.Simulation(topology, system, integrator)
result = forcedelta.openmm.run(simulation, steps, hooks=[Recorder(...), Guard(...)])
"""

from .evaluator import Evaluation
from .force import add_force_delta
from .monitor import Monitor, find_monitor
from .run import run

__all__ = ["Evaluation", "Monitor", "add_force_delta", "find_monitor", "run"]
