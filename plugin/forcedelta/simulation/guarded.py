"""What ``forcedelta run`` does: structure, model, ensemble and hooks put together and run.

Imported by the command only when it runs, as PyTorch takes long to import.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from md_hooks import (
    Checkpoint,
    FlagStore,
    Guard,
    HookChain,
    Progress,
    Recorder,
    RunInfo,
    RunResult,
    Trajectory,
    load_checkpoint,
    restore,
    run,
)
from md_hooks.h5md.ase_format import bare_atoms
from md_hooks.progress import say
from md_hooks.text import one_line

from ..ase import ForceDeltaCalculator, usable_device
from ..checks import check_structure, check_takes_charge
from ..ensembles import Ensemble, EnsembleSettings, Ramp, prepare
from ..errors import ForceDeltaError
from ..graph import charge_and_spin
from ..installing import command
from ..models import LoadedModel, load_model
from ..restarts import check_stored_model, flags_to_go_on_with
from .first_look import ThresholdLine, first_look
from .settings import (
    RunSettings,
    check_factors,
    continued,
    patience,
    threshold,
    with_calibrations,
)
from .structures import constraints_of, continued_structure, read_structure

if TYPE_CHECKING:
    from ..openmm.engine import OpenMMEngine

_STATUS = {"finished": 0, "error": 2, "stopped": 3, "interrupted": 130}


@dataclass(frozen=True)
class Ending:
    """How the command ends.

    Attributes:
        result: of the run.
        settings: all of them, those taken from a stored run included.
        guard: policy of the guard, `md_hooks.Guard.policy`.
        element: symbol of the worst atom, None where U was not computed.
        flagged: number of flagged frames in the file.
    """

    result: RunResult
    settings: RunSettings
    guard: dict[str, Any]
    element: str | None
    flagged: int

    @property
    def status(self) -> int:
        """The exit status."""
        return _STATUS[self.result.reason]

    @property
    def line(self) -> str:
        """The one line for people."""
        result, out = self.result, self.settings.out
        if result.reason == "stopped":
            return f"stopped at {result.message}; that frame is the last one in {out}"
        flags = f", {self.flagged} flagged" if self.flagged else ""
        done = f"step {result.step}, {result.time:.10g} fs{flags}; trajectory in {out}"
        if result.reason == "error":
            return f"{result.message}; {done}"
        if result.reason == "interrupted":
            return f"interrupted after {done}; continue with --restart"
        return f"done: {done}"

    def facts(self) -> dict[str, Any]:
        """The same for machines: JSON-able, time in fs, force_delta and thresholds in eV/Å."""
        return {
            "reason": self.result.reason,
            "status": self.status,
            "step": self.result.step,
            "time": self.result.time,
            "force_delta": self.result.force_delta,
            "worst_atom": self.result.worst_atom,
            "worst_element": self.element,
            "stop_threshold": self.guard["stop_threshold"],
            "flag_threshold": self.guard["flag_threshold"],
            "flagged": self.flagged,
            "message": self.result.message,
            "evaluations": self.result.evaluations,
            "seed": self.settings.seed,
            "model": self.settings.model,
            "file": self.settings.out,
            "flags_file": self.settings.flags,
        }


def simulate(settings: RunSettings, given: set[str], command: str) -> Ending:
    """Make the run that the settings describe.

    Args:
        settings: of this call.
        given: names of the settings that the user gave.
        command: the command line, for the record.

    Raises:
        ForceDeltaError, HookError: input that is not right; nothing was overwritten then.
    """
    checkpoint, stored = None, {}
    if settings.restart:
        begun = Trajectory(settings.out)
        stored = begun.metadata.get("settings", {})
        settings = continued(settings, given, stored)
        if "model" not in given and settings.model is not None:
            check_stored_model(settings.model, settings.architecture, settings.out)
        flags = flags_to_go_on_with(settings.flags, stored.get("flags"), begun)
        settings = replace(settings, flags=flags)
        checkpoint = load_checkpoint(settings.out)
    settings, calibrations = with_calibrations(settings)
    _check(settings)
    if settings.seed is None:
        settings = replace(settings, seed=secrets.randbelow(2**32))
    assert settings.steps is not None
    assert settings.seed is not None
    ramp = _ramp(settings, stored.get("ramp_steps"))
    guard = _guard(settings, _burn_in_temperature(settings, ramp, stored, checkpoint))
    ensemble_settings = EnsembleSettings(
        name=settings.ensemble,
        ramp=ramp,
        timestep=settings.timestep,
        tau=settings.tau,
        pressure=settings.pressure,
        barostat_tau=settings.barostat_tau,
        seed=settings.seed,
    )
    if checkpoint is not None and checkpoint.step >= settings.steps:
        result = RunResult("finished", checkpoint.step, checkpoint.time)
        return _ending(result, settings, guard, None)

    began_as = None
    if checkpoint is None:
        atoms = read_structure(settings.structure)
    else:
        atoms = continued_structure(settings.structure, settings.out, stored.get("constraints"))
        began_as = bare_atoms(Trajectory(settings.out).frame(0))
    constraints = constraints_of(atoms)
    calculator = _calculator(settings)
    for found in calibrations.values():
        found.check_use(
            calculator.model.name, calculator.model.weights_hash, settings.on, settings.forces
        )
    settings = _with_charge_and_spin(settings, atoms, calculator.model)
    assert settings.steps is not None
    atoms.calc = calculator
    if checkpoint is None:
        check_structure(atoms, calculator.model)
    velocities = prepare(atoms, ensemble_settings, began_as)
    ensemble: Ensemble | OpenMMEngine
    if settings.engine == "openmm":
        ensemble = _openmm(atoms, ensemble_settings, calculator.model, settings)
    else:
        ensemble = Ensemble(atoms, ensemble_settings)
    recorder = Recorder(
        settings.out,
        every=settings.record_every,
        mode="append" if settings.restart else "overwrite" if settings.overwrite else "create",
    )
    hooks: list[Any] = [ensemble, guard, recorder, Progress(), ThresholdLine(guard)]
    if settings.flags is not None:
        hooks.append(FlagStore(settings.flags))
    chain = HookChain(hooks)
    if checkpoint is None:
        done = 0
        if isinstance(ensemble, Ensemble):
            atoms.get_forces()  # a model that cannot do this structure says so before files change
    else:
        done = checkpoint.step
        velocities = f"continued from step {done}"
        if isinstance(ensemble, Ensemble):
            restore(ensemble.dynamics, checkpoint)
            calculator.count_from(done)
            chain.load_state_dict(checkpoint.hooks)
    known = stored.get("calibrations", {})
    info = RunInfo(
        command=command,
        seed=settings.seed,
        settings={
            **settings.stored(),
            "ramp_steps": [ramp.first_step, ramp.last_step],
            "flags": settings.flags or stored.get("flags"),  # so that the next restart asks again
            "constraints": constraints,
            "calibrations": {
                **{key: facts for key, facts in known.items() if key not in given},
                **{key: found.record() for key, found in calibrations.items()},
            },
        },
        versions={"torch": version("torch")},
        restart_step=None if checkpoint is None else checkpoint.step,
        restart_time=0.0 if checkpoint is None else checkpoint.time,
    )
    say(_headline(settings, ramp, velocities))
    if checkpoint is None:
        _warn(atoms, ensemble, settings)
    for found in calibrations.values():
        say(found.guarantee)
    with np.errstate(over="ignore", invalid="ignore"):  # an explosion is the guard's business
        if isinstance(ensemble, Ensemble):
            result = run(ensemble.dynamics, settings.steps - done, chain, info)
        else:
            result = ensemble.run(settings.steps - done, chain, info, checkpoint)
    return _ending(result, settings, guard, atoms)


# --- the parts ---------------------------------------------------------------------------------


def _check(settings: RunSettings) -> None:
    """What can be said without reading or loading anything large."""
    out = Path(settings.out)
    if settings.restart and settings.overwrite:
        raise ForceDeltaError("--restart continues --out and --overwrite replaces it: give one")
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
    if settings.model is None:
        raise ForceDeltaError("no model: give --model with a name of 'forcedelta models' or a path")
    if settings.steps is None:
        raise ForceDeltaError("no number of steps: give --steps")
    if settings.engine == "openmm" and settings.barostat_tau != RunSettings().barostat_tau:
        raise ForceDeltaError(
            "--barostat-tau has no meaning with OpenMM, whose barostat tries volumes at random: omit it"
        )


def _burn_in_temperature(
    settings: RunSettings, ramp: Ramp, stored: dict[str, Any], checkpoint: Checkpoint | None
) -> float | None:
    """What the thermostat asks for in the burn-in, K; None without a thermostat."""
    if settings.ensemble == "nve":
        return None
    begun = "auto" in (stored.get("stop_above"), stored.get("flag_above"))
    if checkpoint is None or begun:
        return ramp.start
    # a burn-in that begins with this part of the run may lie on the ramp
    steps = (checkpoint.step, checkpoint.step + settings.burn_in)
    return max(ramp.temperature(step) for step in steps)


def _warn(atoms: Atoms, ensemble: Ensemble | OpenMMEngine, settings: RunSettings) -> None:
    """Say what is wrong with the first evaluation, which the run makes anyway."""
    if isinstance(ensemble, Ensemble):
        results = atoms.calc.results
        names = ("force_delta", "direct_forces", "conservative_forces")
        found = first_look(*(results[name] for name in names))
    else:
        first = ensemble.monitor.measure(ensemble.simulation.context)
        assert first.force_delta is not None
        assert first.direct_forces is not None
        assert first.conservative_forces is not None
        found = first_look(first.force_delta, first.direct_forces, first.conservative_forces)
    if found:
        advice = f"look with 'forcedelta check {settings.model} {settings.structure}'"
        say(f"warning: {'; '.join(found)}; {advice}")


def _guard(settings: RunSettings, temperature: float | None) -> Guard:
    stop = threshold("stop-above", settings.stop_above)
    flag = threshold("flag-above", settings.flag_above)
    check_factors(stop, flag, settings)
    guard = Guard(
        stop,
        flag,
        on=settings.on,  # type: ignore[arg-type]
        patience=patience(settings.patience),
        factor=settings.stop_factor,
        flag_factor=settings.flag_factor,
        burn_in=settings.burn_in,
        temperature=temperature,
    )
    if "auto" in (stop, flag) and (settings.steps or 0) <= settings.burn_in:
        raise ForceDeltaError(
            f"an automatic threshold is known after the burn-in of {settings.burn_in} steps only: "
            "give more --steps, or a shorter --burn-in"
        )
    return guard


def _ramp(settings: RunSettings, steps: Any) -> Ramp:
    """The ramp; that of a continued run stays where it was, also when steps are added."""
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


def _calculator(settings: RunSettings) -> ForceDeltaCalculator:
    torch.set_num_threads(settings.threads)
    assert settings.model is not None
    model = load_model(
        settings.model,
        getattr(torch, settings.dtype),
        usable_device(settings.device),
        architecture=settings.architecture,
        trust=settings.trust,
        compile=settings.compile,
    )
    return ForceDeltaCalculator(
        model,
        forces=settings.forces,  # type: ignore[arg-type]
        every=settings.every,
        device=settings.device,
        dtype=settings.dtype,  # type: ignore[arg-type]
    )


def _with_charge_and_spin(settings: RunSettings, atoms: Atoms, model: LoadedModel) -> RunSettings:
    """Charge and spin from the flags, or else from the structure, set in both."""
    if not model.takes_charge_spin:
        check_takes_charge(model, settings.charge, settings.spin)
        return settings
    given = {"charge": settings.charge, "spin": settings.spin}
    for name, value in given.items():
        told = atoms.info.get(name)
        if None not in (value, told) and value != told:
            say(f"warning: --{name} {value} is taken, and not the {name} {told} of the structure")
    atoms.info.update({name: value for name, value in given.items() if value is not None})
    charge_spin = charge_and_spin(atoms, model)
    assert charge_spin is not None
    charge, spin = (int(value) for value in charge_spin)
    return replace(settings, charge=charge, spin=spin)


def _openmm(
    atoms: Atoms, ensemble: EnsembleSettings, model: LoadedModel, settings: RunSettings
) -> OpenMMEngine:
    try:
        from ..openmm.engine import OpenMMEngine
    except ModuleNotFoundError as error:
        raise ForceDeltaError(
            f"--engine openmm needs the package {error.name}: {command('openmm')}"
        ) from error
    return OpenMMEngine(
        atoms,
        ensemble,
        model,
        forces=settings.forces,  # type: ignore[arg-type]
        every=settings.every,
        device=settings.device,
        dtype=settings.dtype,
        charge=settings.charge,
        spin=settings.spin,
    )


def _headline(settings: RunSettings, ramp: Ramp, velocities: str) -> str:
    temperature = f"{ramp.start:g} K"
    if ramp.end != ramp.start:
        temperature += f" to {ramp.end:g} K (steps {ramp.first_step} to {ramp.last_step})"
    stress = ""
    if settings.ensemble == "npt":
        source = "the conservative stress" if settings.engine == "ase" else "trial volumes"
        stress = f", {settings.pressure:g} GPa by {source}"
    engine = "OpenMM's " if settings.engine == "openmm" else ""
    return (
        f"{settings.model}, {engine}{settings.ensemble}, {temperature}{stress}, {settings.forces} forces, "
        f"{settings.timestep:g} fs; {velocities}; seed {settings.seed}; writing {settings.out}"
    )


def _ending(result: RunResult, settings: RunSettings, guard: Guard, atoms: Atoms | None) -> Ending:
    element = None
    if result.worst_atom is not None and atoms is not None:
        element = chemical_symbols[int(atoms.numbers[result.worst_atom])]
    flagged = len(Trajectory(settings.out).flags)
    return Ending(result, settings, guard.policy(), element, flagged)
