"""``forcedelta run``: guarded molecular dynamics from a structure file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from md_hooks.progress import print_line

from ..monitoring import counts_in_words
from ..outputs import Named, check_outputs
from ..simulation.settings import RunSettings
from .exit_status import ExitStatus, described
from .options import (
    MODEL,
    OUTPUT,
    Architecture,
    BurnIn,
    Calibration,
    Charge,
    Compile,
    Device,
    Dtype,
    FileFormat,
    FlagAbove,
    FlagError,
    FlagFactor,
    Flags,
    Json,
    Model,
    NoPbc,
    On,
    Overwrite,
    Patience,
    Select,
    Spin,
    StopAbove,
    StopError,
    StopFactor,
    Threads,
    Trust,
    TypeMap,
)
from .printing import print_json
from .settings_file import load_toml
from .threshold_words import every as read_every
from .threshold_words import patience as read_patience
from .threshold_words import threshold

if TYPE_CHECKING:
    from ..simulation.guarded import GuardedRunResult

EPILOG = described(
    ExitStatus.DONE, ExitStatus.BAD_INPUT, ExitStatus.STOPPED, ExitStatus.INTERRUPTED
)

_STATUS = {
    "finished": ExitStatus.DONE,
    "error": ExitStatus.BAD_INPUT,
    "stopped": ExitStatus.STOPPED,
    "interrupted": ExitStatus.INTERRUPTED,
}
_DEFAULTS = RunSettings()
_DYNAMICS = "Dynamics"
_ONLY_HERE = {"config", "context", "json"}


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Use the keys of the file as defaults of the flags."""
    if path is not None:
        context.default_map = load_toml(path, {*RunSettings.__dataclass_fields__, "json"})
    return path


def run(
    context: typer.Context,
    structure: Annotated[
        str | None,
        typer.Argument(
            metavar="STRUCTURE",
            help="Structure file that ASE reads (extended XYZ, CIF, POSCAR, ...); its last frame is used. "
            "Optional with --restart.",
            show_default=False,
        ),
    ] = _DEFAULTS.structure,
    type_map: TypeMap = _DEFAULTS.type_map,
    no_pbc: NoPbc = _DEFAULTS.no_pbc,
    file_format: FileFormat = _DEFAULTS.file_format,
    select: Select = _DEFAULTS.select,
    model: Model = _DEFAULTS.model,
    architecture: Architecture = _DEFAULTS.architecture,
    trust: Trust = _DEFAULTS.trust,
    compile: Compile = _DEFAULTS.compile,
    charge: Charge = _DEFAULTS.charge,
    spin: Spin = _DEFAULTS.spin,
    forces: Annotated[
        Literal["direct", "conservative", "mts"],
        typer.Option(
            help="Forces that drive the run. The conservative ones are the gradient of the energy, "
            "and cost the same while U is computed at every step. mts: multiple time steps, direct "
            "forces at each step and the difference to the conservative ones every --inner steps.",
            rich_help_panel=MODEL,
        ),
    ] = _DEFAULTS.forces,  # type: ignore[assignment]
    every: Annotated[
        str,
        typer.Option(
            metavar="N|adaptive",
            help="Compute U every N steps; the steps between need no gradient. adaptive: where the "
            "work along the path requires it, and at least every 20 steps; a stop or flag is decided by "
            "U itself.",
            rich_help_panel=MODEL,
        ),
    ] = str(_DEFAULTS.every),
    inner: Annotated[
        int,
        typer.Option(
            metavar="M",
            help="Steps per outer step with --forces mts, 2 or more; U is computed at outer steps.",
            rich_help_panel=MODEL,
            show_default=False,
        ),
    ] = _DEFAULTS.inner,
    engine: Annotated[
        Literal["ase", "openmm"],
        typer.Option(
            help="MD engine. openmm: VerletIntegrator (nve), "
            "LangevinMiddleIntegrator (langevin), with MonteCarloBarostat (npt); no bussi. With "
            "--forces mts: MTSIntegrator and MTSLangevinIntegrator, and frames at outer steps only.",
            rich_help_panel=_DYNAMICS,
        ),
    ] = _DEFAULTS.engine,  # type: ignore[assignment]
    ensemble: Annotated[
        Literal["nve", "langevin", "bussi", "npt"],
        typer.Option(
            help="nve: velocity Verlet; direct forces cause heating. langevin, bussi: NVT. npt: "
            "isotropic Langevin, requires a periodic model.",
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
            help="Ramp the temperature linearly to this value, K, from the first step, or from the end of "
            "the burn-in, to the last step.",
            rich_help_panel=_DYNAMICS,
            show_default=False,
        ),
    ] = _DEFAULTS.ramp_to,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Total number of steps, including those before a --restart.",
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
            help="Seed of velocities and thermostat. By default, one is drawn and recorded.",
            rich_help_panel=_DYNAMICS,
            show_default=False,
        ),
    ] = _DEFAULTS.seed,
    stop_above: StopAbove = None,
    flag_above: FlagAbove = None,
    on: On = _DEFAULTS.on,  # type: ignore[assignment]
    patience: Patience = "1/1",
    stop_factor: StopFactor = _DEFAULTS.stop_factor,
    flag_factor: FlagFactor = _DEFAULTS.flag_factor,
    burn_in: BurnIn = _DEFAULTS.burn_in,
    calibration: Calibration = None,
    stop_error: StopError = None,
    flag_error: FlagError = None,
    out: Annotated[
        str,
        typer.Option(metavar="FILE.h5", help="Trajectory to write, H5MD.", rich_help_panel=OUTPUT),
    ] = _DEFAULTS.out,
    overwrite: Overwrite = _DEFAULTS.overwrite,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Append to --out: continue its run from its last checkpoint, exactly as if it had "
            "not been interrupted (with OpenMM's npt a valid continuation, but another one). Settings "
            "are those of that run; --steps, the thresholds, and "
            "the options under Output and Machine may be given anew.",
            rich_help_panel=OUTPUT,
        ),
    ] = _DEFAULTS.restart,
    record_every: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Record a frame every N steps, and all flagged frames. Energy and conserved "
            "energy (eV), temperature (K) and U (eV/Å) are recorded at every step.",
            rich_help_panel=OUTPUT,
        ),
    ] = _DEFAULTS.record_every,
    flags: Flags = _DEFAULTS.flags,
    json: Json = False,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Settings file; its keys are the names of these flags, e.g. ramp_to = 3000. Flags take precedence.",
            is_eager=True,
            callback=_read_config,
            show_default=False,
        ),
    ] = None,
    device: Device = _DEFAULTS.device,
    dtype: Dtype = _DEFAULTS.dtype,  # type: ignore[assignment]
    threads: Threads = _DEFAULTS.threads,
) -> int:
    """Run molecular dynamics of STRUCTURE, guarded by the Force Delta.

    U (eV/Å), the difference between the direct and the conservative forces, is recorded during the
    run and can flag frames or stop the run.
    """
    values = {name: value for name, value in locals().items() if name not in _ONLY_HERE}
    given = {name for name in values if source_of(context, name) in ("COMMANDLINE", "DEFAULT_MAP")}
    check_outputs([Named("--out", out), Named("--flags", flags)], [Named("configuration", config)])
    values["stop_above"] = threshold("stop-above", stop_above)
    values["flag_above"] = threshold("flag-above", flag_above)
    values["patience"] = read_patience(patience)
    values["every"] = read_every(every)
    from ..simulation.guarded import guarded_run

    result = guarded_run(
        **values, progress=True, given=given, command=shlex.join(["forcedelta", *sys.argv[1:]])
    )
    status = _STATUS[result.reason]
    line = _line(result)
    if result.drift is not None:
        print_line(f"drift of the conserved energy: {result.drift}")
    if result.run.monitoring is not None:
        print_line(counts_in_words(result.run.monitoring))
    if json:
        print_json({"reason": result.reason, "status": status, **result.as_dict()})
        print_line(line)
    elif status == ExitStatus.BAD_INPUT:
        print_line(f"error: {line}")
    else:
        print_line(line, sys.stdout)
    return status


def _line(result: GuardedRunResult) -> str:
    """The result as one line of text."""
    run, out = result.run, result.settings.out
    if run.reason == "stopped":
        return f"stopped at {run.message}; that frame is the last one in {out}"
    flags = f", {result.flagged} flagged" if result.flagged else ""
    done = f"step {run.step}, {run.time:.10g} fs{flags}; trajectory in {out}"
    if run.reason == "error":
        return f"{run.message}; {done}"
    if run.reason == "interrupted":
        return f"interrupted after {done}; continue with --restart"
    return f"done: {done}"


def source_of(context: typer.Context, name: str) -> str:
    """Where the value of an option comes from, by the name of click's constant."""
    source: Any = context.get_parameter_source(name)
    return "" if source is None else str(source.name)
