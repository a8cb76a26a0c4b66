"""``forcedelta audit``: the guard and the recorder of a run, over stored trajectories."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from md_hooks.progress import print_line
from md_hooks.text import one_line

from ..thresholds import AUTO_FLAG_FACTOR, AUTO_STOP_FACTOR, BURN_IN
from .exit_status import ExitStatus, described
from .options import (
    GUARD,
    OUTPUT,
    READING,
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
    Topology,
    Trust,
    TypeMap,
    Workers,
)
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
_ONLY_HERE = {"context", "restart", "overwrite", "json"}


def audit(
    context: typer.Context,
    trajectories: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TRAJ",
            help="Trajectories: files that ASE reads (.traj, extended XYZ, ...), that MDAnalysis reads "
            "with --topology (DCD, XTC, TRR, H5MD, ...), or files of 'forcedelta run'. Optional with --restart.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    architecture: Architecture = None,
    trust: Trust = False,
    compile: Compile = False,
    charge: Charge = None,
    spin: Spin = None,
    topology: Topology = None,
    file_format: FileFormat = None,
    type_map: TypeMap = None,
    no_pbc: NoPbc = False,
    select: Select = None,
    timestep: Annotated[
        float | None,
        typer.Option(
            metavar="FS",
            help="Time between two steps, fs, or between two frames of files without steps. Replaces the "
            "times of the file.",
            rich_help_panel=READING,
            show_default="times of the file",
        ),
    ] = None,
    rattle: Annotated[
        float | None,
        typer.Option(
            metavar="Å",
            help="Displace the atoms at random by this standard deviation, Å, where the forces of an "
            "ideal structure vanish by symmetry.",
            rich_help_panel=READING,
            show_default="none",
        ),
    ] = None,
    start: Annotated[
        int,
        typer.Option(metavar="N", help="First frame, counted from 0.", rich_help_panel=READING),
    ] = 0,
    stop: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Stop before this frame.",
            rich_help_panel=READING,
            show_default="none",
        ),
    ] = None,
    every: Annotated[
        int, typer.Option(metavar="N", help="Audit every Nth frame.", rich_help_panel=READING)
    ] = 1,
    stop_above: StopAbove = None,
    flag_above: FlagAbove = None,
    on: On = "force_delta",
    patience: Patience = "1/1",
    stop_factor: StopFactor = AUTO_STOP_FACTOR,
    flag_factor: FlagFactor = AUTO_FLAG_FACTOR,
    burn_in: BurnIn = BURN_IN,
    calibration: Calibration = None,
    stop_error: StopError = None,
    flag_error: FlagError = None,
    end_at_stop: Annotated[
        bool,
        typer.Option(
            "--end-at-stop",
            help="End at the first frame at which a run would be stopped. Without it, all such frames "
            "are marked and the audit continues.",
            rich_help_panel=GUARD,
        ),
    ] = False,
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE.h5",
            help="File to write, H5MD; with several TRAJ a folder, for one file each.",
            rich_help_panel=OUTPUT,
        ),
    ] = "audit.h5",
    overwrite: Overwrite = False,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Continue in --out an audit that was interrupted or killed, or whose trajectory has "
            "grown.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    record_every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Store positions and forces of every Nth audited frame, and of all marked ones. "
            "Energy (eV), temperature (K) and U (eV/Å) are stored for all.",
            rich_help_panel=OUTPUT,
            show_default="about 10000 frames in all",
        ),
    ] = None,
    flags: Flags = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a report as one HTML file, and its first picture beside it as PNG.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    workers: Workers = 1,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    threads: Threads = 1,
) -> int:
    """Audit trajectories: U (eV/Å) of their frames, the doubtful ones, and a report.

    Trajectories of any origin can be audited: the model evaluates their structures in batches, and
    the guard and the recorder of a run process them.
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
        print_line(lines)
    else:
        print_line(lines, sys.stdout)
    for result in results:
        if result.problem:
            print_line(f"error: {one_line(result.trajectory)}: {one_line(result.problem)}")
    return status


def _status(result: AuditResult) -> ExitStatus:
    if result.reason == "interrupted":
        return ExitStatus.INTERRUPTED
    if result.problem:
        return ExitStatus.BAD_INPUT
    return ExitStatus.STOPPED if result.stops else ExitStatus.DONE


def mode(restart: bool, overwrite: bool) -> Literal["create", "restart", "overwrite"]:
    """The treatment of an existing file.

    Raises:
        ForceDeltaError: both flags are given.
    """
    from ..errors import ForceDeltaError

    if restart and overwrite:
        raise ForceDeltaError("--restart continues --out and --overwrite replaces it: give one")
    return "restart" if restart else "overwrite" if overwrite else "create"
