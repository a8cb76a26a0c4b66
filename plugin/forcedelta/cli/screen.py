"""``forcedelta screen``: structures ranked by U, one row each."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from md_hooks.progress import print_line

from .audit import mode
from .exit_status import ExitStatus, described
from .options import (
    GUARD,
    OUTPUT,
    Architecture,
    Charge,
    Compile,
    Device,
    Dtype,
    FileFormat,
    Json,
    Model,
    NoPbc,
    Overwrite,
    Select,
    Spin,
    Threads,
    Trust,
    TypeMap,
    Workers,
)
from .printing import print_json
from .run import source_of
from .tables import show, table
from .threshold_words import threshold

if TYPE_CHECKING:
    from rich.table import Table

    from ..screening.result import ScreenResult
    from ..screening.rows import Row

EPILOG = (
    described(ExitStatus.DONE, ExitStatus.BAD_INPUT, ExitStatus.STOPPED, ExitStatus.INTERRUPTED)
    + " Structures that cannot be read or evaluated have rows with the reason and do not change the "
    "status, unless there is no other."
)
_DISPLACEMENTS = "Displacements"
_ONLY_HERE = {"context", "restart", "overwrite", "json"}
_SHOWN = 20  # rows on the terminal


def screen(
    context: typer.Context,
    structures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE|FOLDER",
            help="Files that ASE reads, with all their frames, and folders, with all such files below them.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    architecture: Architecture = None,
    trust: Trust = False,
    compile: Compile = False,
    charge: Charge = None,
    spin: Spin = None,
    type_map: TypeMap = None,
    no_pbc: NoPbc = False,
    file_format: FileFormat = None,
    select: Select = None,
    rattle: Annotated[
        float,
        typer.Option(
            metavar="Å",
            help="Standard deviation of the random displacements along each axis. 0: U of the structures as "
            "given, which is 0 wherever forces vanish by symmetry.",
            rich_help_panel=_DISPLACEMENTS,
        ),
    ] = 0.02,
    rattles: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Displaced copies of each structure. U is the root mean square over them.",
            rich_help_panel=_DISPLACEMENTS,
        ),
    ] = 3,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Seed of the displacements, which depend on it and on the structure alone.",
            rich_help_panel=_DISPLACEMENTS,
        ),
    ] = 0,
    stop_above: Annotated[
        str | None,
        typer.Option(
            metavar="eV/Å|FILE",
            help="Doubt structures whose U is above, and end with status 3 if there are any: a number, or "
            "FILE.json of 'forcedelta calibrate'.",
            rich_help_panel=GUARD,
            show_default="none",
        ),
    ] = None,
    flag_above: Annotated[
        str | None,
        typer.Option(
            metavar="eV/Å|FILE",
            help="Doubt structures whose U is above, without a change of the status. Below --stop-above.",
            rich_help_panel=GUARD,
            show_default="none",
        ),
    ] = None,
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE.csv",
            help="Table to write. Its record, FILE.rows.jsonl, is beside it.",
            rich_help_panel=OUTPUT,
        ),
    ] = "screen.csv",
    overwrite: Overwrite = False,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Continue from the record beside --out a screen that was interrupted or killed, or whose "
            "folders have more files now.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write the ranking as one HTML file, and its picture beside it as PNG.",
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
    """Rank structures by U (eV/Å): one row each, the least trustworthy first.

    In most ideal crystals the forces vanish by symmetry, in both predictions of any model, and U
    with them. U is therefore that of displaced copies; U of the structure as given has a column
    of its own. Without a threshold there is only the ranking, since the size of U is not that
    of the error.
    """
    values = {name: value for name, value in locals().items() if name not in _ONLY_HERE}
    given = {name for name in values if source_of(context, name) == "COMMANDLINE"}
    values["structures"] = structures or []
    values["stop_above"] = threshold("stop-above", stop_above)
    values["flag_above"] = threshold("flag-above", flag_above)
    from ..screening.many import screen as screened

    result = screened(
        **values, mode=mode(restart, overwrite), progress=True, given=given,
        command=shlex.join(["forcedelta", *sys.argv[1:]]),
    )  # fmt: skip
    status = _status(result)
    if json:
        print_json({"status": status, **result.as_dict()})
        print_line(result.line)
    else:
        if result.rows:
            show(*_shown(result))
        print_line(result.line, sys.stdout)
    if result.problem:
        print_line(f"error: {result.problem}")
    return status


def _status(result: ScreenResult) -> ExitStatus:
    if result.reason == "interrupted":
        return ExitStatus.INTERRUPTED
    if result.problem:
        return ExitStatus.BAD_INPUT
    return ExitStatus.STOPPED if result.stops else ExitStatus.DONE


def _shown(result: ScreenResult) -> list[Table | str]:
    """The first rows with U, then reasons of those without."""
    with_u = [row for row in result.rows if row.force_delta is not None]
    without = result.rows[len(with_u) :]
    heads = ("U", "as given", "worst atom", "|F|", "E (eV)", "verdict", "structure")
    parts: list[Table | str] = []
    if with_u:
        parts.append(table(heads, map(_cells, with_u[:_SHOWN])))
    if len(with_u) > _SHOWN:
        parts.append(f"... and {len(with_u) - _SHOWN} more in the table")
    parts += [f"{row.verdict}: {_place(row)}: {row.reason}" for row in without[:_SHOWN]]
    if len(without) > _SHOWN:
        parts.append(f"... and {len(without) - _SHOWN} more not evaluated")
    return parts


def _cells(row: Row) -> list[str]:
    symmetric = " (forces vanish by symmetry)" if row.symmetric else ""
    return [
        *(f"{value:.3g}" for value in (row.force_delta, row.force_delta_as_given)),
        f"{row.worst_atom} ({row.worst_force_delta:.3g})", f"{row.largest_force:.3g}",
        f"{row.energy:.4f}", row.verdict, f"{_place(row)} {row.formula}{symmetric}",
    ]  # fmt: skip


def _place(row: Row) -> str:
    return row.file if row.frame is None else f"{row.file} {row.frame}"
