"""Whether a step of OpenMM uses the energy of the model's force.

OpenMM always requests energy and forces of an `openmm.PythonForce` together and does not say which of
them it uses. A step of most integrators uses the forces alone.
"""

from __future__ import annotations

import re
from typing import Any

import openmm

from .monitor import Monitor, names_in

_FORCES_ALONE = (
    "BrownianIntegrator",
    "DPDIntegrator",
    "LangevinIntegrator",
    "LangevinMiddleIntegrator",
    "NoseHooverIntegrator",
    "VariableLangevinIntegrator",
    "VariableVerletIntegrator",
    "VerletIntegrator",
)
"""OpenMM's integrators that never look at the potential energy."""


class EnergyUse:
    """Tells whether steps can omit the energy of the model at configurations without U.

    Args:
        simulation: an `openmm.app.Simulation`.
        monitor: of a force in its System.
    """

    def __init__(self, simulation: Any, monitor: Monitor) -> None:
        self._context: openmm.Context = simulation.context
        self._monitor = monitor
        self._possible = monitor.separate_energy and not _integrator_uses_it(simulation.integrator)

    @property
    def can_be_omitted(self) -> bool:
        """Whether the next step saves a pass that it does not use; a barostat may have joined the System."""
        return self._possible and not any(
            _force_uses_it(force, self._monitor) for force in self._context.getSystem().getForces()
        )


def _integrator_uses_it(integrator: openmm.Integrator) -> bool:
    if not isinstance(integrator, openmm.CustomIntegrator):
        return type(integrator).__name__ not in _FORCES_ALONE
    steps = range(integrator.getNumComputations())
    text = " ".join(integrator.getComputationStep(step)[2] for step in steps)
    return re.search(r"\benergy\d*\b", text) is not None


def _force_uses_it(force: openmm.Force, monitor: Monitor) -> bool:
    if type(force) is openmm.Force:  # of a plug-in, such as PLUMED, which may bias the energy
        return True
    if isinstance(force, openmm.ATMForce):  # may hold the model's force
        return True
    if isinstance(force, openmm.CustomCVForce):
        return any(name.endswith(monitor.token) for name in names_in(force))
    # it compares energies at the begin of a step, which with multiple time steps has U
    return "Barostat" in type(force).__name__ and monitor.forces != "mts"
