"""``forcedelta recalc``: label doubtful frames with reference calculations."""

from __future__ import annotations

import ast
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from md_hooks.progress import print_line
from md_hooks.text import one_line

from ..errors import ForceDeltaError
from ..outputs import Named, check_outputs
from ..reading_files import read_toml
from .exit_status import ExitStatus, described
from .options import MACHINE, OUTPUT, Json, NoPbc
from .printing import print_json

EPILOG = described(
    ExitStatus.DONE, ExitStatus.BAD_INPUT, ExitStatus.UNLABELLED, ExitStatus.INTERRUPTED
)
_CHOICE, _REFERENCE = "Choice of frames", "Reference"


def recalc(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="File of 'forcedelta run' or 'forcedelta audit', an extended XYZ file of flagged "
            "frames, or the journal (.journal) of the queue of a run.",
        ),
    ],
    calculator: Annotated[
        str,
        typer.Option(
            help="pyscf (molecules, PBE-D3(BJ)/def2-SVP), gpaw, espresso, cp2k (crystals, PBE), vasp "
            "(writes input sets of the Materials Project, collects finished runs), tblite "
            "(xTB, for tests), or any ASE calculator: its name, or package.module:Class.",
            rich_help_panel=_REFERENCE,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.xyz",
            help="Labelled frames, extended XYZ. Beside it are the journal (FILE.journal), from which "
            "the same command continues, and the folders of failed jobs (FILE.jobs).",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("labelled.xyz"),
    select: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of frames to select.",
            show_default="20; all of a journal or of picks",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    flag_above: Annotated[
        float | None,
        typer.Option(
            metavar="eV/Å",
            help="Lower bound on U of candidate frames, eV/Å.",
            show_default="the run's flag threshold, else the 90th percentile of U",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    stop_above: Annotated[
        float | None,
        typer.Option(
            metavar="eV/Å",
            help="Frames above this are unphysical and omitted, eV/Å.",
            show_default="the run's stop threshold, else 10 times the median of U",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    spacing: Annotated[
        float,
        typer.Option(
            metavar="fs",
            help="Smallest time between two frames, fs; longer flagged intervals are divided.",
            rich_help_panel=_CHOICE,
        ),
    ] = 50.0,
    by: Annotated[
        Literal["diversity", "u", "u-diversity"],
        typer.Option(
            help="After the frame with the highest U: the structure farthest from all chosen ones, the next "
            "highest U, or the largest product of U and the distance to the nearest chosen structure.",
            rich_help_panel=_CHOICE,
        ),
    ] = "diversity",
    xc: Annotated[
        str | None,
        typer.Option(
            help="Functional; same as --set xc=...",
            show_default=False,
            rich_help_panel=_REFERENCE,
        ),
    ] = None,
    basis: Annotated[
        str | None,
        typer.Option(
            help="Basis set; same as --set basis=...",
            show_default=False,
            rich_help_panel=_REFERENCE,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the reference, or a keyword of the ASE calculator; may be repeated. An "
            "unknown name lists the valid ones. VASP: mp=exact keeps the exact settings of the "
            "Materials Project.",
            show_default=False,
            rich_help_panel=_REFERENCE,
        ),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="The same keys in a file; --set, --xc and --basis take precedence.",
            show_default=False,
            rich_help_panel=_REFERENCE,
        ),
    ] = None,
    charge: Annotated[
        int | None,
        typer.Option(
            metavar="e",
            help="Total charge of the frames, e.",
            show_default="that of each frame, else 0",
            rich_help_panel=_REFERENCE,
        ),
    ] = None,
    spin: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="2S+1",
            help="Spin multiplicity of the frames.",
            show_default="that of each frame; else the lowest or that of the magnetic moments for molecules, "
            "and the result of the SCF for crystals",
            rich_help_panel=_REFERENCE,
        ),
    ] = None,
    no_pbc: NoPbc = False,
    threads: Annotated[
        int,
        typer.Option(metavar="N", help="Threads of each calculation.", rich_help_panel=MACHINE),
    ] = 1,
    workers: Annotated[
        int, typer.Option(metavar="N", help="Calculations at a time.", rich_help_panel=MACHINE)
    ] = 1,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Choose and check frames, write nothing.", rich_help_panel=OUTPUT
        ),
    ] = False,
    json: Json = False,
) -> int:
    """Select doubtful frames of SOURCE and label them with a reference calculation.

    Candidates lie between the flag and the stop threshold. Of each flagged interval one is taken,
    apart in time and diverse in structure; of each path of an attack one, or more if --select exceeds
    the number of paths. Frames with overlapping atoms are left out. No label is computed twice:
    repeating the command continues after kill -9 or a failure.
    """
    changed = read_toml(settings, "give a TOML file of settings") if settings is not None else {}
    changed |= dict(_pair(text) for text in set_ or [])
    changed |= {name: value for name, value in (("xc", xc), ("basis", basis)) if value is not None}
    if not dry_run:
        written = [Named("--out", out), Named("the journal of --out", Path(f"{out}.journal"))]
        check_outputs(written, [Named("settings", settings)])
    from ..labelling.label_frames import label

    try:
        result = label(
            source, calculator, out=out, settings=changed, select=select, flag_above=flag_above,
            stop_above=stop_above, spacing=spacing, by=by, charge=charge, spin=spin, no_pbc=no_pbc, threads=threads,
            workers=workers, dry_run=dry_run,
            report=print_line if json else partial(print_line, stream=sys.stdout),
        )  # fmt: skip
    except KeyboardInterrupt:
        print_line(
            f"interrupted; finished frames are in {out}; repeat the same command to continue"
        )
        return ExitStatus.INTERRUPTED
    status = ExitStatus.DONE if result.complete else ExitStatus.UNLABELLED
    if json:
        print_json({"status": status, **result.as_dict()})
    return status


def _pair(text: str) -> tuple[str, Any]:
    """Name and value of "key=value"; the value is a Python literal, or else a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ForceDeltaError(
            f"--set {one_line(text)}: expected KEY=VALUE, for example --set max_cycle=200"
        )
    try:
        return name.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: deep nesting
        if value.lower() in ("true", "false"):
            return name.strip(), value.lower() == "true"
        return name.strip(), value
