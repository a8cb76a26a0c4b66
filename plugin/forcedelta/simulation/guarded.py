"""The guarded run as a function: resolve the settings, build, run, summarise."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from md_hooks import (
    Drift,
    FlagStore,
    HookChain,
    Progress,
    Recorder,
    RunInfo,
    RunResult,
    Trajectory,
    drift_of,
)
from md_hooks.hook import AnyHook
from md_hooks.predicted_error import last_predicted

from ..calibration.error_guard import GivenPrediction, prediction_of
from ..models import LoadedModel
from ..monitoring import Every
from ..outputs import Named, check_outputs
from ..thresholds import (
    AUTO_FLAG_FACTOR,
    AUTO_STOP_FACTOR,
    BURN_IN,
    GivenThreshold,
    Patience,
    explained,
    threshold_of,
)
from .build import Built, build
from .first_look import ThresholdLine, first_look, symmetric_start
from .outer_steps import forces_and_steps, remarks
from .resolve import RunPlan, resolve
from .settings import RunSettings

_log = logging.getLogger(__name__)
_DEFAULTS = RunSettings()


@dataclass(frozen=True)
class GuardedRunResult:
    """How a guarded run ended.

    Attributes:
        run: reason ("finished", "stopped", "interrupted", "error"), last step and its time (fs), last
            U (eV/Å) and its worst atom, message, and number of evaluations.
        settings: all settings, including those read from the file of a continued run.
        policy: policy of the guard; see `md_hooks.Guard.policy`.
        worst_element: symbol of the worst atom; None without U.
        flagged: number of flagged frames in the file.
        drift: drift of the conserved energy over all steps in the file; None for an ensemble without
            one, and for a run that is too short.
        predicted: predicted error of the last step with U; see `md_hooks.predicted_error`. Empty
            without a calibration.
    """

    run: RunResult
    settings: RunSettings
    policy: dict[str, Any]
    worst_element: str | None
    flagged: int
    drift: Drift | None
    predicted: dict[str, float] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Why the run ended."""
        return self.run.reason

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON: time in fs, force_delta and thresholds in eV/Å, drift in meV/atom/ps."""
        run, settings = self.run, self.settings
        return {
            "reason": run.reason,
            "step": run.step,
            "time": run.time,
            "force_delta": run.force_delta,
            "worst_atom": run.worst_atom,
            "worst_element": self.worst_element,
            "stop_threshold": self.policy["stop_threshold"],
            "flag_threshold": self.policy["flag_threshold"],
            **self.predicted,
            "flagged": self.flagged,
            "drift": None if self.drift is None else self.drift.value,
            "drift_error": None if self.drift is None else self.drift.error,
            "message": run.message,
            "evaluations": run.evaluations,
            "monitoring": run.monitoring,
            "seed": settings.seed,
            "model": settings.model,
            "file": settings.out,
            "flags_file": settings.flags,
        }


def guarded_run(
    structure: str | Path | Atoms | None = None,
    model: str | Path | LoadedModel | None = None,
    steps: int | None = None,
    *,
    type_map: str | None = None,
    no_pbc: bool = False,
    file_format: str | None = None,
    select: str | None = None,
    out: str | Path = "run.h5",
    stop_above: GivenThreshold = None,
    flag_above: GivenThreshold = None,
    on: Literal["force_delta", "worst_atom"] = "force_delta",
    patience: Patience = (1, 1),
    stop_factor: float = AUTO_STOP_FACTOR,
    flag_factor: float = AUTO_FLAG_FACTOR,
    burn_in: int = BURN_IN,
    calibration: GivenPrediction = None,
    stop_error: float | None = None,
    flag_error: float | None = None,
    engine: Literal["ase", "openmm"] = "ase",
    ensemble: Literal["nve", "langevin", "bussi", "npt"] = "langevin",
    temperature: float = 300.0,
    ramp_to: float | None = None,
    timestep: float = 0.5,
    tau: float = 100.0,
    pressure: float = 0.0,
    barostat_tau: float = 1000.0,
    seed: int | None = None,
    forces: Literal["direct", "conservative", "mts"] = "direct",
    every: Every = 1,
    inner: int = 1,
    charge: int | None = None,
    spin: int | None = None,
    architecture: str | None = None,
    trust: bool = False,
    compile: bool = False,
    record_every: int = 10,
    flags: str | Path | None = None,
    overwrite: bool = False,
    restart: bool = False,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    threads: int = 1,
    hooks: Iterable[AnyHook] = (),
    progress: bool = False,
    given: Collection[str] | None = None,
    command: str | None = None,
) -> GuardedRunResult:
    """Run molecular dynamics guarded by the Force Delta; the Python form of ``forcedelta run``.

    >>> result = guarded_run("molecule.xyz", "acac", 500, temperature=900, stop_above=0.05, out="hot.h5")
    >>> result.reason, result.run.step
    ('stopped', 17)

    Args:
        structure: a file that ASE reads (its last frame is used), or a structure in memory, which
            is not changed. Optional with ``restart``.
        model: a registered name, the path of a file, or a model in memory.
        type_map, no_pbc, file_format, select: how a structure file is read; see
            `forcedelta.reading_options.ReadingOptions`.
        steps: total number of steps, including those before a restart.
        out: H5MD trajectory to write.
        stop_above, flag_above: thresholds in eV/Å, "auto", a `forcedelta.Calibration` or its file, or None.
        on: compare U of the frame, or the largest u_i of its atoms, with the thresholds.
        patience: (k, n): stop when k of the last n frames with U exceed the threshold.
        stop_factor, flag_factor: multiples of the upper end of the burn-in's usual values, for "auto".
        burn_in: number of initial steps that determine the thresholds for "auto".
        calibration: predicts the error of the direct forces at each frame with U; a file of
            ``forcedelta calibrate``, or a `forcedelta.calibration.predicted_error.PredictedError`.
        stop_error, flag_error: thresholds on the predicted error, eV/Å. With ``flag_error`` frames
            outside the calibrated range are flagged, too.
        engine: MD engine.
        ensemble: see `forcedelta.ensembles.EnsembleSettings`.
        temperature: temperature of the thermostat and the initial velocities, K.
        ramp_to: temperature that the thermostat reaches linearly at the last step, K.
        timestep: step of the integrator, fs.
        tau, barostat_tau: relaxation times of thermostat and barostat, fs.
        pressure: target of the barostat, GPa.
        seed: random seed of velocities and thermostat; drawn and recorded by default.
        forces: the forces that drive the run; "mts": multiple time steps, direct forces at each
            step and their difference to the conservative ones as an impulse at every outer step.
        every: compute U every N steps, or "adaptive": wherever the work along the path requires it,
            at least every 20 steps (`forcedelta.sentinel.Sentinel`).
        inner: steps per outer step with ``forces="mts"``; U is computed at outer steps.
        charge, spin: total charge (e) and multiplicity, for models that accept them.
        architecture, trust, compile: see `forcedelta.load_model`.
        record_every: record a frame every N steps, and all flagged ones.
        flags: extended XYZ file for flagged frames.
        overwrite: replace ``out``.
        restart: continue the run in ``out``.
        device, dtype, threads: settings of torch.
        hooks: additional hooks, such as your own `md_hooks.Hook` or a `md_hooks.RecalculationQueue`. In
            another call they are opened again: for a new run, in which they keep what they know, or
            for the continued one.
        progress: show a progress display on stderr.
        given: names of the arguments that a restart compares with the run in ``out``; by default
            those that differ from their defaults.
        command: command line to record.

    Returns:
        the outcome. A stop by the guard is a normal result; its frame is the last one in ``out``.

    Raises:
        ForceDeltaError, HookError: invalid input; nothing has been overwritten. Errors of the model
            or of a hook during the run, after the file was closed.
    """
    _check_outputs(
        [out, flags], None if restart else structure, model, (stop_above, flag_above, calibration)
    )
    settings = RunSettings(
        structure=None if isinstance(structure, Atoms) else _text(structure),
        type_map=type_map, no_pbc=no_pbc, file_format=file_format, select=select,
        model=model.name if isinstance(model, LoadedModel) else _text(model),
        steps=steps, out=str(out), stop_above=threshold_of(stop_above),
        flag_above=threshold_of(flag_above), on=on, patience=patience, stop_factor=stop_factor,
        flag_factor=flag_factor, burn_in=burn_in, calibration=prediction_of(calibration),
        stop_error=stop_error, flag_error=flag_error, engine=engine, ensemble=ensemble,
        temperature=temperature, ramp_to=ramp_to, timestep=timestep, tau=tau, pressure=pressure,
        barostat_tau=barostat_tau, seed=seed, forces=forces, every=every, inner=inner, charge=charge, spin=spin,
        architecture=architecture, trust=trust, compile=compile, record_every=record_every,
        flags=_text(flags), overwrite=overwrite, restart=restart, device=device, dtype=dtype,
        threads=threads,
    )  # fmt: skip
    if given is None:
        given = {name for name, value in vars(settings).items() if value != vars(_DEFAULTS)[name]}
    plan = resolve(settings, given, has_model=model is not None)
    if plan.complete:
        assert plan.checkpoint is not None
        counts = Trajectory(plan.settings.out).outcome.get("monitoring")
        ended = RunResult("finished", plan.checkpoint.step, plan.checkpoint.time, monitoring=counts)
        return _summarise(plan, plan.settings, ended, None)
    built = build(plan, structure, model if isinstance(model, LoadedModel) else None)
    record = shlex.join(sys.argv) if command is None else command
    result = _run(plan, built, given, [*hooks, *([Progress()] if progress else [])], record)
    return _summarise(plan, built.settings, result, built.atoms)


def _check_outputs(
    outputs: list[str | Path | None],
    structure: str | Path | Atoms | None,
    model: str | Path | LoadedModel | None,
    calibrations: Collection[GivenThreshold | GivenPrediction],
) -> None:
    """Refuse outputs that are inputs, or each other."""
    read = [("structure", structure), ("model", model)]
    read += [("calibration", given) for given in calibrations if given != "auto"]  # type: ignore[misc]
    check_outputs(
        [Named(*pair) for pair in zip(("--out", "--flags"), outputs, strict=True)],
        [Named(name, source) for name, source in read if isinstance(source, str | Path)],
    )


def _run(
    plan: RunPlan, built: Built, given: Collection[str], hooks: list[AnyHook], command: str
) -> RunResult:
    settings, checkpoint = built.settings, plan.checkpoint
    recorder = Recorder(
        settings.out,
        every=settings.record_every,
        mode="append" if settings.restart else "overwrite" if settings.overwrite else "create",
    )
    chain: list[AnyHook] = [
        built.engine.hook,
        plan.guard,
        *plan.error_hooks,
        recorder,
        *hooks,
        ThresholdLine(plan.guard),
    ]
    if settings.flags is not None:
        chain.append(FlagStore(settings.flags))
    done = 0 if checkpoint is None else checkpoint.step
    if checkpoint is None:
        # a model that cannot evaluate this structure raises here, before files change
        u, *forces = built.engine.first_evaluation()
        faults = first_look(u, *forces)
    _log.info(_headline(plan, built))
    for remark in remarks(settings, plan.steps, built.atoms.numbers):
        _log.info(remark)
    if checkpoint is None and faults:
        advice = f"look with 'forcedelta check {settings.model} {settings.structure}'"
        _log.warning("%s; %s", "; ".join(faults), advice)
    for line in explained(settings):
        _log.info(line)
    if checkpoint is None and (symmetric := symmetric_start(built.atoms, *forces)):
        _log.info(symmetric)
    with np.errstate(over="ignore", invalid="ignore"):  # the guard handles explosions
        return built.engine.run(
            plan.steps - done, HookChain(chain), _info(plan, built, given, command), checkpoint
        )


def _info(plan: RunPlan, built: Built, given: Collection[str], command: str) -> RunInfo:
    settings, checkpoint, stored = built.settings, plan.checkpoint, plan.stored
    ramp = plan.ensemble.ramp
    known = stored.get("calibrations", {})
    return RunInfo(
        command=command,
        seed=settings.seed,
        settings={
            **settings.stored(),
            "ramp_steps": [ramp.first_step, ramp.last_step],
            "flags": settings.flags or stored.get("flags"),  # the next restart needs it
            "calibrations": {
                **{key: record for key, record in known.items() if key not in given},
                **{key: found.record() for key, found in plan.calibrations.items()},
            },
        },
        versions={"torch": version("torch")},
        constraints=built.constraints,
        restart_step=None if checkpoint is None else checkpoint.step,
        restart_time=0.0 if checkpoint is None else checkpoint.time,
        new_run=checkpoint is None,  # also with hooks of the user that were used before
    )


def _headline(plan: RunPlan, built: Built) -> str:
    settings, ramp = built.settings, plan.ensemble.ramp
    temperature = f"{ramp.start:g} K"
    if ramp.end != ramp.start:
        temperature += f" to {ramp.end:g} K (steps {ramp.first_step} to {ramp.last_step})"
    stress = ""
    if settings.ensemble == "npt":
        source = "the conservative stress" if settings.engine == "ase" else "trial volumes"
        stress = f", {settings.pressure:g} GPa by {source}"
    engine = "OpenMM's " if settings.engine == "openmm" else ""
    return (
        f"{settings.model}, {engine}{settings.ensemble}, {temperature}{stress}, "
        f"{forces_and_steps(settings)}; {built.velocities}; seed {settings.seed}; writing {settings.out}"
    )


def _summarise(
    plan: RunPlan, settings: RunSettings, result: RunResult, atoms: Atoms | None
) -> GuardedRunResult:
    element = None
    if result.worst_atom is not None and atoms is not None:
        element = chemical_symbols[int(atoms.numbers[result.worst_atom])]
    recorded = Trajectory(settings.out)
    return GuardedRunResult(
        result, settings, plan.guard.policy(), element, len(recorded.flags), drift_of(recorded),
        last_predicted(recorded.series),
    )  # fmt: skip


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
