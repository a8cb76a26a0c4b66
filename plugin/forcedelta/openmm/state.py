"""The state of a Context: its degrees of freedom, and its checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray

from md_hooks import Checkpoint

from ..errors import ForceDeltaError
from .monitor import Monitor


def degrees_of_freedom(system: openmm.System, atoms: NDArray[np.int64]) -> int:
    """Degrees of freedom of some particles of a System.

    Three for each particle with a mass, minus the constraints among them, minus three for the
    centre of mass if a CMMotionRemover fixes it and the particles are the whole System.
    """
    chosen = {int(i) for i in atoms}
    mobile = {i for i in chosen if system.getParticleMass(i)._value > 0}
    freedom = 3 * len(mobile)
    for index in range(system.getNumConstraints()):
        first, second, _ = system.getConstraintParameters(index)
        if first in mobile and second in mobile:
            freedom -= 1
    if len(chosen) == system.getNumParticles() and any(
        isinstance(force, openmm.CMMotionRemover) for force in system.getForces()
    ):
        freedom -= 3
    return freedom


def capture(context: openmm.Context, monitor: Monitor) -> dict[str, Any]:
    """OpenMM's own checkpoint, with the settings that a restart must match.

    Args:
        context: between two steps.
        monitor: of the force in its System.
    """
    return {
        "engine": "openmm",
        "platform": context.getPlatform().getName(),
        "integrator": type(context.getIntegrator()).__name__,
        "particles": context.getSystem().getNumParticles(),
        "inner": monitor.inner,
        "atoms": monitor.atoms,
        "context": np.frombuffer(context.createCheckpoint(), dtype=np.uint8),
    }


def restore(context: openmm.Context, monitor: Monitor, checkpoint: Checkpoint) -> None:
    """Put a context into the state of a checkpoint, bit for bit.

    Raises:
        ForceDeltaError: the checkpoint is from another engine, platform, integrator or System.
    """
    state = checkpoint.state
    if state.get("engine") != "openmm":
        raise ForceDeltaError(
            "the checkpoint was not written by OpenMM: continue with the engine that wrote it"
        )
    here = capture(context, monitor)
    for name in ("platform", "integrator", "particles", "inner"):
        before = state.get(name, 1)  # earlier checkpoints lack inner
        if before != here[name]:
            raise ForceDeltaError(
                f"the checkpoint was written with {name} {before}, but the simulation has "
                f"{here[name]}: continue with the same"
            )
    if len(checkpoint.positions) != len(monitor.atoms):
        raise ForceDeltaError(
            f"the model has {len(checkpoint.positions)} atoms in the checkpoint, but "
            f"{len(monitor.atoms)} in the simulation: continue with the same atoms"
        )
    before = state.get("atoms", monitor.atoms)  # earlier checkpoints lack them
    if not np.array_equal(before, monitor.atoms):
        raise ForceDeltaError(
            f"the checkpoint is of another region, with particle {before[0]} first, not "
            f"{monitor.atoms[0]}: continue each region with its own file"
        )
    try:
        context.loadCheckpoint(state["context"].tobytes())
    except openmm.OpenMMException as error:
        raise ForceDeltaError(
            f"OpenMM refuses the checkpoint ({error}): continue on the same type of machine with the "
            "same version of OpenMM"
        ) from error
