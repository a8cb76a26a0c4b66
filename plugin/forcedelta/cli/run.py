"""``forcedelta run``: guarded molecular dynamics from a structure file."""

from __future__ import annotations

import json as json_module
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from md_hooks.progress import say

from ..outputs import Named, check_outputs
from ..simulation.settings import RunSettings, load_toml
from .model_options import PANEL, Architecture, Charge, Compile, Spin, Trust

EPILOG = (
    "Exit status: 0 all steps done; 3 stopped by the guard, with that frame as the last one of "
    "--out; 2 bad input, one line on stderr; 130 interrupted by Ctrl-C or SIGTERM after a complete "
    "step, with --out closed and ready for --restart."
)

_DEFAULTS = RunSettings()
_MODEL, _DYNAMICS, _GUARD, _OUTPUT, _MACHINE = (
    PANEL, "Dynamics", "Guard", "Output", "Machine",
)  # fmt: skip
_ONLY_HERE = {"config", "context"}


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Let the keys of the file stand in for flags that are not given."""
    if path is not None:
        known = {name for name in RunSettings.__dataclass_fields__ if name not in _ONLY_HERE}
        context.default_map = load_toml(path, known)
    return path


def run(
    context: typer.Context,
    structure: Annotated[
        str | None,
        typer.Argument(
            metavar="STRUCTURE",
            help="Structure file that ASE reads (extended XYZ, CIF, POSCAR, ...); its last frame. "
            "Optional with --restart.",
            show_default=False,
        ),
    ] = _DEFAULTS.structure,
    model: Annotated[
        str | None,
        typer.Option(
            help="Name of a model (see 'forcedelta models') or path of its file.",
            rich_help_panel=_MODEL,
            show_default=False,
        ),
    ] = _DEFAULTS.model,
    architecture: Architecture = _DEFAULTS.architecture,
    trust: Trust = _DEFAULTS.trust,
    compile: Compile = _DEFAULTS.compile,
    charge: Charge = _DEFAULTS.charge,
    spin: Spin = _DEFAULTS.spin,
    forces: Annotated[
        Literal["direct", "conservative"],
        typer.Option(
            help="Forces that drive the run. The conservative ones are the gradient of the energy, "
            "and cost the same while U is computed at every step.",
            rich_help_panel=_MODEL,
        ),
    ] = _DEFAULTS.forces,  # type: ignore[assignment]
    every: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Compute U every N steps; the steps between need no gradient.",
            rich_help_panel=_MODEL,
        ),
    ] = _DEFAULTS.every,
    engine: Annotated[
        Literal["ase", "openmm"],
        typer.Option(
            help="Engine whose integrators move the atoms. openmm: VerletIntegrator (nve), "
            "LangevinMiddleIntegrator (langevin), with MonteCarloBarostat (npt); no bussi.",
            rich_help_panel=_DYNAMICS,
        ),
    ] = _DEFAULTS.engine,  # type: ignore[assignment]
    ensemble: Annotated[
        Literal["nve", "langevin", "bussi", "npt"],
        typer.Option(
            help="nve: velocity Verlet; direct forces heat it up. langevin, bussi: NVT. npt: "
            "Langevin, isotropic, needs a periodic model.",
            rich_help_panel=_DYNAMICS,
        ),
    ] = _DEFAULTS.ensemble,  # type: ignore[assignment]
    temperature: Annotated[
        float,
        typer.Option(
            metavar="K",
            help="Temperature of the thermostat and of the initial velocities, K. A structure with "
            "momenta keeps them.",
            rich_help_panel=_DYNAMICS,
        ),
    ] = _DEFAULTS.temperature,
    ramp_to: Annotated[
        float | None,
        typer.Option(
            metavar="K",
            help="Change the temperature linearly to this one, K, from the first step, or from the "
            "end of the burn-in, to the last one.",
            rich_help_panel=_DYNAMICS,
            show_default=False,
        ),
    ] = _DEFAULTS.ramp_to,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Total number of steps, those before a --restart included.",
            rich_help_panel=_DYNAMICS,
            show_default=False,
        ),
    ] = _DEFAULTS.steps,
    timestep: Annotated[
        float, typer.Option(metavar="fs", help="Time step, fs.", rich_help_panel=_DYNAMICS)
    ] = _DEFAULTS.timestep,
    tau: Annotated[
        float,
        typer.Option(
            metavar="fs",
            help="Relaxation time of the thermostat, fs; the Langevin friction is 1/tau.",
            rich_help_panel=_DYNAMICS,
        ),
    ] = _DEFAULTS.tau,
    pressure: Annotated[
        float, typer.Option(metavar="GPa", help="Pressure of npt, GPa.", rich_help_panel=_DYNAMICS)
    ] = _DEFAULTS.pressure,
    barostat_tau: Annotated[
        float,
        typer.Option(
            metavar="fs",
            help="Relaxation time of the volume in npt, fs.",
            rich_help_panel=_DYNAMICS,
        ),
    ] = _DEFAULTS.barostat_tau,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Seed of velocities and thermostat. Without it, one is drawn and recorded.",
            rich_help_panel=_DYNAMICS,
            show_default=False,
        ),
    ] = _DEFAULTS.seed,
    stop_above: Annotated[
        str | None,
        typer.Option(
            metavar="eV/Å|auto|FILE",
            help="Stop the run at a frame above this, eV/Å. auto: --stop-factor times the upper end of "
            "the usual values of the burn-in, which ends the run where it is not calm. FILE.json: the "
            "threshold of 'forcedelta calibrate'. Values that are not finite always stop the run.",
            rich_help_panel=_GUARD,
            show_default="none",
        ),
    ] = _DEFAULTS.stop_above,
    flag_above: Annotated[
        str | None,
        typer.Option(
            metavar="eV/Å|auto|FILE",
            help="Flag frames above this, eV/Å, and not above --stop-above. auto as there, with "
            "--flag-factor, or the file of a calibration.",
            rich_help_panel=_GUARD,
            show_default="auto with --stop-above auto, else none",
        ),
    ] = _DEFAULTS.flag_above,
    on: Annotated[
        Literal["force_delta", "worst_atom"],
        typer.Option(
            help="What the thresholds are for: U of the frame, or the largest u_i of its atoms.",
            rich_help_panel=_GUARD,
        ),
    ] = _DEFAULTS.on,  # type: ignore[assignment]
    patience: Annotated[
        str,
        typer.Option(
            metavar="K/N",
            help="Stop when K of the last N frames with U are above.",
            rich_help_panel=_GUARD,
        ),
    ] = _DEFAULTS.patience,
    stop_factor: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Multiple of the upper end of the burn-in's usual values used by --stop-above auto.",
            rich_help_panel=_GUARD,
        ),
    ] = _DEFAULTS.stop_factor,
    flag_factor: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Multiple of the upper end of the burn-in's usual values used by --flag-above auto.",
            rich_help_panel=_GUARD,
        ),
    ] = _DEFAULTS.flag_factor,
    burn_in: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Steps of the burn-in, at the start temperature, from which auto takes its thresholds.",
            rich_help_panel=_GUARD,
        ),
    ] = _DEFAULTS.burn_in,
    out: Annotated[
        str,
        typer.Option(metavar="FILE.h5", help="Trajectory to write, H5MD.", rich_help_panel=_OUTPUT),
    ] = _DEFAULTS.out,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out.", rich_help_panel=_OUTPUT)
    ] = _DEFAULTS.overwrite,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Append to --out: continue its run from its last checkpoint, exactly as if it had "
            "not been interrupted (with OpenMM's npt a valid continuation, but another one). Settings "
            "are those of that run; --steps, the thresholds, and "
            "the options under Output and Machine may be given anew.",
            rich_help_panel=_OUTPUT,
        ),
    ] = _DEFAULTS.restart,
    record_every: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Record a frame every N steps, and all flagged ones. Energy (eV), temperature (K) "
            "and U (eV/Å) are recorded at every step.",
            rich_help_panel=_OUTPUT,
        ),
    ] = _DEFAULTS.record_every,
    flags: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.xyz",
            help="Collect flagged frames in an extended XYZ file too.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = _DEFAULTS.flags,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_OUTPUT),
    ] = _DEFAULTS.json,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Settings by the names of these flags, e.g. ramp_to = 3000; flags win.",
            is_eager=True,
            callback=_read_config,
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Device of torch: cpu, cuda, cuda:1, mps, xpu.", rich_help_panel=_MACHINE
        ),
    ] = _DEFAULTS.device,
    dtype: Annotated[
        Literal["float32", "float64"],
        typer.Option(help="Precision of the model.", rich_help_panel=_MACHINE),
    ] = _DEFAULTS.dtype,  # type: ignore[assignment]
    threads: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Threads of the model on the CPU. More than one pays off only for large systems.",
            rich_help_panel=_MACHINE,
        ),
    ] = _DEFAULTS.threads,
) -> int:
    """Run molecular dynamics of STRUCTURE, guarded by the Force Delta.

    U (eV/Å), how far the direct forces are from the gradient of the energy, is recorded along
    the run, and can flag frames or stop the run.
    """
    values = {name: value for name, value in locals().items() if name not in _ONLY_HERE}
    settings = RunSettings(**values)
    given = {name for name in values if source_of(context, name) in ("COMMANDLINE", "DEFAULT_MAP")}
    check_outputs(
        [Named("--out", settings.out), Named("--flags", settings.flags)],
        [
            Named("structure", None if settings.restart else settings.structure),
            Named("model", settings.model),
            Named("configuration", config),
            Named("calibration", settings.stop_above),
            Named("calibration", settings.flag_above),
        ],
    )
    from ..simulation.guarded import simulate

    ending = simulate(settings, given, shlex.join(["forcedelta", *sys.argv[1:]]))
    if settings.json:
        say(json_module.dumps(ending.facts(), ensure_ascii=False), sys.stdout)
        say(ending.line)
    elif ending.result.reason == "error":
        say(f"error: {ending.line}")
    else:
        say(ending.line, sys.stdout)
    return ending.status


def source_of(context: typer.Context, name: str) -> str:
    """Where the value of an option comes from, by the name of click's constant."""
    source: Any = context.get_parameter_source(name)
    return "" if source is None else str(source.name)
