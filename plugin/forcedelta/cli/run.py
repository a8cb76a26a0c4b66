"""``forcedelta run``: guarded molecular dynamics from a structure file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from md_hooks.progress import say

from ..outputs import Named, check_outputs
from ..simulation.settings import RunSettings
from .exit_status import ExitStatus, described
from .model_options import PANEL, Architecture, Charge, Compile, Spin, Trust
from .printing import print_json
from .settings_file import load_toml
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
_MODEL, _DYNAMICS, _GUARD, _OUTPUT, _MACHINE = (
    PANEL, "Dynamics", "Guard", "Output", "Machine",
)  # fmt: skip
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
            help="Forces that drive the run. Conservative forces are the negative gradient of the energy, and "
            "add no cost if U is computed at every step.",
            rich_help_panel=_MODEL,
        ),
    ] = _DEFAULTS.forces,  # type: ignore[assignment]
    every: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Compute U every N steps; intermediate steps need no gradient.",
            rich_help_panel=_MODEL,
        ),
    ] = _DEFAULTS.every,
    engine: Annotated[
        Literal["ase", "openmm"],
        typer.Option(
            help="MD engine. openmm: VerletIntegrator (nve), "
            "LangevinMiddleIntegrator (langevin), with MonteCarloBarostat (npt); no bussi.",
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
    stop_above: Annotated[
        str | None,
        typer.Option(
            metavar="eV/Å|auto|FILE",
            help="Stop the run at a frame above this threshold, eV/Å. auto: --stop-factor times the upper end "
            "of the burn-in's usual values; an erratic burn-in ends the run. FILE.json: the "
            "threshold of 'forcedelta calibrate'. Values that are not finite always stop the run.",
            rich_help_panel=_GUARD,
            show_default="none",
        ),
    ] = None,
    flag_above: Annotated[
        str | None,
        typer.Option(
            metavar="eV/Å|auto|FILE",
            help="Flag frames between this threshold, eV/Å, and --stop-above. auto uses --flag-factor; FILE is "
            "a calibration.",
            rich_help_panel=_GUARD,
            show_default="auto with --stop-above auto, else none",
        ),
    ] = None,
    on: Annotated[
        Literal["force_delta", "worst_atom"],
        typer.Option(
            help="Quantity compared with the thresholds: U of the frame, or the largest u_i of its atoms.",
            rich_help_panel=_GUARD,
        ),
    ] = _DEFAULTS.on,  # type: ignore[assignment]
    patience: Annotated[
        str,
        typer.Option(
            metavar="K/N",
            help="Stop when K of the last N frames with U are above the threshold.",
            rich_help_panel=_GUARD,
        ),
    ] = "1/1",
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
            help="Length of the burn-in at the start temperature, in steps, from which auto derives its thresholds.",
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
            help="Append to --out: continue its run from the last checkpoint, exactly as if it had "
            "not been interrupted (OpenMM's npt continues validly, but not identically). The "
            "settings of that run apply; --steps, the thresholds, and "
            "the options under Output and Machine may be changed.",
            rich_help_panel=_OUTPUT,
        ),
    ] = _DEFAULTS.restart,
    record_every: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Record a frame every N steps, and all flagged frames. Energy (eV), temperature (K) "
            "and U (eV/Å) are recorded at every step.",
            rich_help_panel=_OUTPUT,
        ),
    ] = _DEFAULTS.record_every,
    flags: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.xyz",
            help="Also write flagged frames to an extended XYZ file.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = _DEFAULTS.flags,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_OUTPUT),
    ] = False,
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
    device: Annotated[
        str,
        typer.Option(help="PyTorch device: cpu, cuda, cuda:1, mps, xpu.", rich_help_panel=_MACHINE),
    ] = _DEFAULTS.device,
    dtype: Annotated[
        Literal["float32", "float64"],
        typer.Option(help="Precision of the model.", rich_help_panel=_MACHINE),
    ] = _DEFAULTS.dtype,  # type: ignore[assignment]
    threads: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="CPU threads of the model. More than one pays off only for large systems.",
            rich_help_panel=_MACHINE,
        ),
    ] = _DEFAULTS.threads,
) -> int:
    """Run molecular dynamics of STRUCTURE, guarded by the Force Delta.

    U (eV/Å), the difference between the direct and the conservative forces, is recorded during the
    run and can flag frames or stop the run.
    """
    values = {name: value for name, value in locals().items() if name not in _ONLY_HERE}
    given = {name for name in values if source_of(context, name) in ("COMMANDLINE", "DEFAULT_MAP")}
    check_outputs(
        [Named("--out", out), Named("--flags", flags)],
        [
            Named("structure", None if restart else structure),
            Named("model", model),
            Named("configuration", config),
            Named("calibration", stop_above),
            Named("calibration", flag_above),
        ],
    )
    values["stop_above"] = threshold("stop-above", stop_above)
    values["flag_above"] = threshold("flag-above", flag_above)
    values["patience"] = read_patience(patience)
    from ..simulation.guarded import guarded_run

    result = guarded_run(
        **values, progress=True, given=given, command=shlex.join(["forcedelta", *sys.argv[1:]])
    )
    status = _STATUS[result.reason]
    line = _line(result)
    if json:
        print_json({"reason": result.reason, "status": status, **result.as_dict()})
        say(line)
    elif status == ExitStatus.BAD_INPUT:
        say(f"error: {line}")
    else:
        say(line, sys.stdout)
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
