"""``forcedelta audit``: apply the guard and the recorder of a run to existing trajectories."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from md_hooks.progress import say
from md_hooks.text import one_line

from .exit_status import ExitStatus, described
from .model_options import PANEL, Architecture, Charge, Compile, Spin, Trust
from .printing import print_json
from .run import source_of
from .threshold_words import patience as read_patience
from .threshold_words import threshold

if TYPE_CHECKING:
    from ..audit import AuditResult

EPILOG = (
    described(ExitStatus.DONE, ExitStatus.BAD_INPUT, ExitStatus.STOPPED, ExitStatus.INTERRUPTED)
    + " Frames that cannot be read, or that the model does not support, are counted and do not "
    "change the status."
)
_READING, _GUARD, _OUTPUT, _MACHINE = "Reading", "Guard", "Output", "Machine"
_ONLY_HERE = {"context", "restart", "overwrite", "json"}


def audit(
    context: typer.Context,
    trajectories: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TRAJ",
            help="Trajectories: files that ASE reads (.traj, extended XYZ, ...), that MDAnalysis reads "
            "with --topology (DCD, XTC, TRR, H5MD, ...), or recorded runs. Optional with --restart.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Name of a model (see 'forcedelta models') or path of its file.",
            rich_help_panel=PANEL,
            show_default=False,
        ),
    ] = None,
    architecture: Architecture = None,
    trust: Trust = False,
    compile: Compile = False,
    charge: Charge = None,
    spin: Spin = None,
    topology: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Topology that defines the elements: PDB with its element column, PRMTOP, TPR, PSF, or a "
            "structure that ASE reads. If given, MDAnalysis reads TRAJ.",
            rich_help_panel=_READING,
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        int,
        typer.Option(metavar="N", help="First frame, counted from 0.", rich_help_panel=_READING),
    ] = 0,
    stop: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Stop before this frame.",
            rich_help_panel=_READING,
            show_default="none",
        ),
    ] = None,
    every: Annotated[
        int, typer.Option(metavar="N", help="Audit every Nth frame.", rich_help_panel=_READING)
    ] = 1,
    stop_above: Annotated[
        str | None,
        typer.Option(
            metavar="eV/Å|auto|FILE",
            help="Mark frames above this threshold, eV/Å, as frames at which a run would stop. auto: "
            "--stop-factor times the upper end of the burn-in's usual values; FILE: the threshold of "
            "'forcedelta calibrate'. Frames with values that are not finite are always marked.",
            rich_help_panel=_GUARD,
            show_default="none",
        ),
    ] = None,
    flag_above: Annotated[
        str | None,
        typer.Option(
            metavar="eV/Å|auto|FILE",
            help="Flag frames between this threshold, eV/Å, and --stop-above. auto uses --flag-factor.",
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
    ] = "force_delta",
    patience: Annotated[
        str,
        typer.Option(
            metavar="K/N",
            help="Mark a stop when K of the last N frames are above the threshold.",
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
    ] = 2.0,
    flag_factor: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Multiple of the upper end of the burn-in's usual values used by --flag-above auto.",
            rich_help_panel=_GUARD,
        ),
    ] = 1.5,
    burn_in: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Length of the burn-in for auto, in steps of the trajectory, or in frames if it has no "
            "steps.",
            rich_help_panel=_GUARD,
        ),
    ] = 1000,
    end_at_stop: Annotated[
        bool,
        typer.Option(
            "--end-at-stop",
            help="End at the first frame at which a run would stop. By default, the audit marks all such "
            "frames and continues.",
            rich_help_panel=_GUARD,
        ),
    ] = False,
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE.h5",
            help="H5MD file to write; with several TRAJ, a folder for one file each.",
            rich_help_panel=_OUTPUT,
        ),
    ] = "audit.h5",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out.", rich_help_panel=_OUTPUT)
    ] = False,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Continue the audit in --out after it was interrupted or killed, or after its trajectory "
            "has grown.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    record_every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Store positions and forces of every Nth audited frame and of all marked frames. "
            "Energy (eV), temperature (K) and U (eV/Å) are stored for every frame.",
            rich_help_panel=_OUTPUT,
            show_default="about 10000 frames in total",
        ),
    ] = None,
    flags: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.xyz",
            help="Also write flagged frames to an extended XYZ file; with several TRAJ, to one file next to "
            "each audit.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a report as a single HTML file, and its first figure next to it as PNG.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_OUTPUT)
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Number of processes; each audits one trajectory at a time.",
            rich_help_panel=_MACHINE,
        ),
    ] = 1,
    device: Annotated[
        str,
        typer.Option(help="PyTorch device: cpu, cuda, cuda:1, mps, xpu.", rich_help_panel=_MACHINE),
    ] = "cpu",
    dtype: Annotated[
        Literal["float32", "float64"],
        typer.Option(help="Precision of the model.", rich_help_panel=_MACHINE),
    ] = "float32",
    threads: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="CPU threads of the model, per worker.",
            rich_help_panel=_MACHINE,
        ),
    ] = 1,
) -> int:
    """Audit trajectories: compute U (eV/Å) of their frames and mark the doubtful ones.

    The trajectory may come from any program: only its structures are evaluated. Frames are evaluated
    in batches and pass through the same guard and recorder as those of a run.
    """
    values = {name: value for name, value in locals().items() if name not in _ONLY_HERE}
    given = {name for name in values if source_of(context, name) == "COMMANDLINE"}
    values["trajectories"] = trajectories or []
    values["stop_above"] = threshold("stop-above", stop_above)
    values["flag_above"] = threshold("flag-above", flag_above)
    values["patience"] = read_patience(patience)
    from ..audit.many import audit as audited

    results = audited(
        **values, mode=mode(restart, overwrite), progress=True, given=given,
        command=shlex.join(["forcedelta", *sys.argv[1:]]),
    )  # fmt: skip
    status = max((_status(result) for result in results), default=ExitStatus.DONE)
    lines = "\n".join(result.line for result in results)
    if json:
        print_json({"status": status, "audits": [result.as_dict() for result in results]})
        say(lines)
    else:
        say(lines, sys.stdout)
    for result in results:
        if result.problem:
            say(f"error: {one_line(result.trajectory)}: {one_line(result.problem)}")
    return status


def _status(result: AuditResult) -> ExitStatus:
    if result.reason == "interrupted":
        return ExitStatus.INTERRUPTED
    if result.problem:
        return ExitStatus.BAD_INPUT
    return ExitStatus.STOPPED if result.stops else ExitStatus.DONE


def mode(restart: bool, overwrite: bool) -> Literal["create", "restart", "overwrite"]:
    """How to treat an existing file.

    Raises:
        ForceDeltaError: both flags were given.
    """
    from ..errors import ForceDeltaError

    if restart and overwrite:
        raise ForceDeltaError("--restart continues --out and --overwrite replaces it: give one")
    return "restart" if restart else "overwrite" if overwrite else "create"
