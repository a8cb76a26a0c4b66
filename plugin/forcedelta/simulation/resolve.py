"""First stage of a guarded run: resolve all settings before the model is loaded."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from md_hooks import Checkpoint, Guard, Hook, Trajectory, load_checkpoint
from md_hooks.text import one_line

from ..calibration.error_guard import error_hooks
from ..calibration.result import Calibration
from ..ensembles import EnsembleSettings, Ramp
from ..errors import ForceDeltaError
from ..integrators import check_inner
from ..monitoring import ADAPTIVE, check_every
from ..restarts import check_stored_model, continued_flags
from ..thresholds import calibrations_of, guard_of
from .anew import new_run
from .settings import RunSettings, continued


@dataclass(frozen=True)
class RunPlan:
    """Everything that defines a run except structure and model.

    Attributes:
        settings: all settings, including those read from the file of a continued run.
        ensemble: settings of the ensemble.
        guard: the guard with its thresholds.
        error_hooks: hooks that predict the error of the direct forces and guard on it.
        calibrations: calibrations that define thresholds, by setting.
        checkpoint: starting point of a continued run; None for a new one.
        stored: settings in the file of a continued run.
    """

    settings: RunSettings
    ensemble: EnsembleSettings
    guard: Guard
    error_hooks: list[Hook]
    calibrations: dict[str, Calibration]
    checkpoint: Checkpoint | None
    stored: dict[str, Any]

    @property
    def steps(self) -> int:
        """Total number of steps, including those before a restart."""
        assert self.settings.steps is not None
        return self.settings.steps

    @property
    def complete(self) -> bool:
        """Whether the run to be continued already has all its steps."""
        return self.checkpoint is not None and self.checkpoint.step >= self.steps


def resolve(settings: RunSettings, given: Collection[str], has_model: bool) -> RunPlan:
    """Complete the settings of a run and check them against each other and its files.

    Args:
        settings: settings of this call.
        given: names of the settings passed in this call.
        has_model: whether a model in memory was passed.

    Raises:
        ForceDeltaError, HookError: invalid input; nothing has been written.
    """
    checkpoint, stored = None, {}
    if settings.restart:
        begun = Trajectory(settings.out)
        stored = begun.metadata.get("settings", {})
        settings = continued(settings, given, stored, lambda: new_run(settings, given, begun))
        if "model" not in given and settings.model is not None:
            check_stored_model(settings.model, settings.architecture, settings.out)
        flags = continued_flags(settings.flags, stored.get("flags"), begun)
        settings = replace(settings, flags=flags)
        checkpoint = load_checkpoint(settings.out)
    calibrations = calibrations_of(settings)
    _check(settings, has_model)
    seed = secrets.randbelow(2**32) if settings.seed is None else settings.seed
    settings = replace(settings, seed=seed)
    ramp = _ramp(settings, stored.get("ramp_steps"))
    guard = guard_of(settings, _burn_in_temperature(settings, ramp, stored, checkpoint))
    predicting = error_hooks(settings)
    if "auto" in (settings.stop_above, settings.flag_above) and (
        (settings.steps or 0) <= settings.burn_in
    ):
        raise ForceDeltaError(
            f"an automatic threshold needs a burn-in of {settings.burn_in} steps and steps after it: "
            "pass more --steps, or a shorter --burn-in"
        )
    ensemble = EnsembleSettings(
        name=settings.ensemble,
        ramp=ramp,
        timestep=settings.timestep,
        tau=settings.tau,
        pressure=settings.pressure,
        barostat_tau=settings.barostat_tau,
        seed=seed,
    )
    return RunPlan(settings, ensemble, guard, predicting, calibrations, checkpoint, stored)


def _check(settings: RunSettings, has_model: bool) -> None:
    """Checks that need neither structure nor model."""
    out = Path(settings.out)
    if settings.restart and settings.overwrite:
        raise ForceDeltaError(
            "--restart continues --out and --overwrite replaces it: pass only one of them"
        )
    if not settings.restart and not settings.overwrite and out.exists():
        raise ForceDeltaError(
            f"{out} exists: pass --restart to continue it (append), --overwrite to replace it, or "
            "give another --out"
        )
    for path in (out, *([] if settings.flags is None else [Path(settings.flags)])):
        folder = path.parent
        if not folder.is_dir():
            raise ForceDeltaError(f"{path} cannot be written: make the folder {folder} first")
        if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
            raise ForceDeltaError(f"{path} cannot be written: choose a file in a folder of yours")
    if settings.model is None and not has_model:
        raise ForceDeltaError(
            "no model: pass --model with a path or a name listed by 'forcedelta models'"
        )
    if settings.steps is None:
        raise ForceDeltaError("no number of steps: pass --steps")
    every = check_every(settings.every, settings.forces)
    if every == ADAPTIVE and settings.ensemble == "npt" and settings.engine == "ase":
        raise ForceDeltaError(
            "--every adaptive has no stress between exact evaluations, which ensemble npt needs at "
            "each step: choose langevin or bussi, or --every 1"
        )
    check_inner(settings.forces, settings.inner, settings.every)
    if settings.forces == "mts" and settings.ensemble == "npt" and settings.engine == "ase":
        raise ForceDeltaError(
            "--forces mts has no stress at inner steps, which ensemble npt needs at each step: choose "
            "langevin or bussi, or --forces direct"
        )
    if settings.engine == "openmm" and settings.barostat_tau != RunSettings().barostat_tau:
        raise ForceDeltaError(
            "--barostat-tau has no meaning with OpenMM's Monte Carlo barostat: omit it"
        )


def _ramp(settings: RunSettings, steps: Any) -> Ramp:
    """The temperature ramp; a continued run keeps the recorded steps even if it is extended."""
    if steps is None:
        auto = "auto" in (settings.stop_above, settings.flag_above)
        steps = [settings.burn_in if auto else 0, settings.steps or 0]
    elif not (
        isinstance(steps, list)
        and len(steps) == 2
        and all(isinstance(step, int) and step >= 0 for step in steps)
    ):
        raise ForceDeltaError(
            f"{settings.out}: ramp_steps is {one_line(steps)}, not two steps: start a new run with "
            "another --out"
        )
    end = settings.temperature if settings.ramp_to is None else settings.ramp_to
    return Ramp(settings.temperature, end, *steps)


def _burn_in_temperature(
    settings: RunSettings, ramp: Ramp, stored: dict[str, Any], checkpoint: Checkpoint | None
) -> float | None:
    """Target of the thermostat in the burn-in, K; None without a thermostat."""
    if settings.ensemble == "nve":
        return None
    begun = "auto" in (stored.get("stop_above"), stored.get("flag_above"))
    if checkpoint is None or begun:
        return ramp.start
    # a burn-in that begins at the restart may lie on the ramp
    steps = (checkpoint.step, checkpoint.step + settings.burn_in)
    return max(ramp.temperature(step) for step in steps)
