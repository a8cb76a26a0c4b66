"""``forcedelta audit``: the guard and the recorder of a run, over trajectories that exist already."""

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
            "with --topology (DCD, XTC, TRR, H5MD, ...), or runs of ours. Optional with --restart.",
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
            help="Which elements the atoms are: PDB with its element column, PRMTOP, TPR, PSF, or a "
            "structure that ASE reads. With it MDAnalysis reads TRAJ.",
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
            help="End before this frame.",
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
            help="Mark frames above this, eV/Å, as those at which a run would be stopped. auto: "
            "--stop-factor times the upper end of the burn-in's usual values; a FILE of 'forcedelta "
            "calibrate'. Frames that are not finite are always marked.",
            rich_help_panel=_GUARD,
            show_default="none",
        ),
    ] = None,
    flag_above: Annotated[
        str | None,
        typer.Option(
            metavar="eV/Å|auto|FILE",
            help="Flag frames above this, eV/Å, and not above --stop-above. auto as there, with --flag-factor.",
            rich_help_panel=_GUARD,
            show_default="auto with --stop-above auto, else none",
        ),
    ] = None,
    on: Annotated[
        Literal["force_delta", "worst_atom"],
        typer.Option(
            help="What the thresholds are for: U of the frame, or the largest u_i of its atoms.",
            rich_help_panel=_GUARD,
        ),
    ] = "force_delta",
    patience: Annotated[
        str,
        typer.Option(
            metavar="K/N",
            help="Stop frames are those at which K of the last N frames are above.",
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
            help="Steps of the burn-in for auto, by the steps of the trajectory; frames, where it has "
            "none.",
            rich_help_panel=_GUARD,
        ),
    ] = 1000,
    end_at_stop: Annotated[
        bool,
        typer.Option(
            "--end-at-stop",
            help="End at the first frame at which a run would be stopped. Without it, they are all "
            "marked and the audit goes on.",
            rich_help_panel=_GUARD,
        ),
    ] = False,
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE.h5",
            help="File to write, H5MD; with several TRAJ a folder, for one file each.",
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
            help="Continue in --out an audit that was interrupted or killed, or whose trajectory has "
            "grown since.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    record_every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Store positions and forces of every Nth audited frame, and of all marked ones. "
            "Energy (eV), temperature (K) and U (eV/Å) are stored for all.",
            rich_help_panel=_OUTPUT,
            show_default="about 10000 frames in all",
        ),
    ] = None,
    flags: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.xyz",
            help="Collect flagged frames in an extended XYZ file too; with several TRAJ, in one beside "
            "each audit.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a report as one HTML file, and its first picture beside it as PNG.",
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
            help="Processes; each audits one trajectory at a time.",
            rich_help_panel=_MACHINE,
        ),
    ] = 1,
    device: Annotated[
        str,
        typer.Option(
            help="Device of torch: cpu, cuda, cuda:1, mps, xpu.", rich_help_panel=_MACHINE
        ),
    ] = "cpu",
    dtype: Annotated[
        Literal["float32", "float64"],
        typer.Option(help="Precision of the model.", rich_help_panel=_MACHINE),
    ] = "float32",
    threads: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Threads of the model on the CPU, per worker.",
            rich_help_panel=_MACHINE,
        ),
    ] = 1,
) -> int:
    """Audit trajectories: U (eV/Å) of their frames, which of them to doubt, and a report.

    Any trajectory will do, whatever made it: the model judges its structures. They are evaluated in
    batches, and go through the same guard and recorder as those of a run.
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
    """What is to happen to a file that exists.

    Raises:
        ForceDeltaError: both were said.
    """
    from ..errors import ForceDeltaError

    if restart and overwrite:
        raise ForceDeltaError("--restart continues --out and --overwrite replaces it: give one")
    return "restart" if restart else "overwrite" if overwrite else "create"
