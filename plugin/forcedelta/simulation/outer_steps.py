"""What users of multiple time steps should know before the run: the outer step and its limits."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..integrators import RESONANCE
from .settings import RunSettings


def forces_and_steps(settings: RunSettings) -> str:
    """Phrase that names the forces of a run and its time steps."""
    if settings.forces != "mts":
        return f"{settings.forces} forces, {settings.timestep:g} fs"
    outer = settings.inner * settings.timestep
    return (
        f"multiple time steps: direct forces every {settings.timestep:g} fs, conservative ones and U "
        f"every {outer:g} fs"
    )


def remarks(settings: RunSettings, steps: int, numbers: NDArray[np.integer]) -> list[str]:
    """Remarks on the outer step of a run, one phrase each; none without multiple time steps.

    Args:
        settings: settings of the run.
        steps: total number of steps.
        numbers: [N] atomic numbers.
    """
    if settings.forces != "mts":
        return []
    found = []
    inner, outer = settings.inner, settings.inner * settings.timestep
    if outer > RESONANCE and (numbers == 1).any():
        shorter = int(RESONANCE / settings.timestep)
        advice = f"--inner {shorter}" if shorter > 1 else "a shorter --timestep"
        found.append(
            f"outer steps of {outer:g} fs come close to half a vibration of bonds to hydrogen, which "
            f"then gain energy by resonance: use {advice}, and watch the drift of the conserved energy"
        )
    if settings.engine == "openmm":  # it has no frames between outer steps
        recorded = math.lcm(settings.record_every, inner)
        if recorded != settings.record_every:
            found.append(
                f"frames are recorded every {recorded} steps, which are outer steps and multiples of "
                f"--record-every {settings.record_every}"
            )
        return found
    if steps % inner:
        found.append(
            f"{steps} steps are not a multiple of --inner {inner}: the run ends between two outer "
            f"steps, and its last frame has no U; --steps {steps + -steps % inner} ends at one"
        )
    if settings.record_every % inner:
        multiple = settings.record_every + -settings.record_every % inner
        found.append(
            f"recorded frames between outer steps have no U: --record-every {multiple} records outer "
            "steps only"
        )
    return found
