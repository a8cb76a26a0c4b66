"""``forcedelta compare``: several models on the same structures, with or without labels."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from md_hooks.progress import print_line
from md_hooks.text import one_line

from .exit_status import ExitStatus, described
from .options import (
    MODEL,
    OUTPUT,
    Architecture,
    Compile,
    Device,
    Dtype,
    FileFormat,
    ForcesKey,
    Json,
    NoPbc,
    Select,
    Threads,
    Topology,
    Trust,
    TypeMap,
    Workers,
)
from .printing import print_json

if TYPE_CHECKING:
    from ..comparison.result import Comparison

EPILOG = (
    described(ExitStatus.DONE, ExitStatus.BAD_INPUT, ExitStatus.INTERRUPTED)
    + " The comparison of the other models is printed also where one cannot be loaded or a file cannot be "
    "audited (status 2). Structures that a model does not support do not change the status."
)


def compare(
    structures: Annotated[
        list[Path],
        typer.Argument(
            metavar="STRUCTURES",
            help="Structures that ASE reads, with or without forces of a reference (eV/Å), or recorded files. "
            "Frames with the fields 'path' and 'move' are those of attacks.",
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a model (see 'forcedelta models') or path of its file; repeatable. Without it, "
            "the predictions in --out are compared.",
            rich_help_panel=MODEL,
            show_default=False,
        ),
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MODEL,...",
            help="Models that are compared with their ensemble; repeatable.",
            rich_help_panel=MODEL,
            show_default="the models of each library",
        ),
    ] = None,
    architecture: Architecture = None,
    trust: Trust = False,
    compile: Compile = False,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Field of the frames that names the system of each, e.g. config_type.",
            show_default="each file is a system",
        ),
    ] = None,
    forces_key: ForcesKey = None,
    topology: Topology = None,
    file_format: FileFormat = None,
    type_map: TypeMap = None,
    no_pbc: NoPbc = False,
    select: Select = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the predictions: an audit of each file with each model, used again if it is "
            "there, and structures.csv with all of them.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("comparison"),
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a report as one HTML file, and its figures beside it as PNG.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the audits of --model, and --report.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    json: Json = False,
    workers: Workers = 1,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    threads: Threads = 1,
) -> int:
    """Compare models: U of each on the same structures, and how well it ranks their errors.

    With forces of a reference in the files: the true error of the direct forces, how U, the predicted
    energy and the size of the forces rank it (Spearman's r_s, AUROC of the worst tenth, 95 % bootstrap
    intervals), and U against the disagreement of each family of models. Without them: which model is
    the most self-consistent.

    Models whose libraries exclude each other: run the command in each environment, with the models
    of that environment and the same --out. Each call compares all models whose predictions are there.
    """
    from ..comparison.compare import compare as compared
    from ..reading_options import ReadingOptions
    from .compare_screen import show_comparison

    found = compared(
        structures, model or [], out, family=_families(family), group_by=group_by,
        forces_key=forces_key, report=report, overwrite=overwrite, architecture=architecture,
        reading=ReadingOptions(file_format, type_map, no_pbc, select, topology=topology),
        trust=trust, compile=compile, workers=workers, device=device, dtype=dtype, threads=threads,
        progress=True, command=shlex.join(["forcedelta", *sys.argv[1:]]),
    )  # fmt: skip
    status = ExitStatus.BAD_INPUT if found.problems else ExitStatus.DONE
    if json:
        print_json({"status": status, **found.as_dict()})
    else:
        show_comparison(found)
    _report_problems(found)
    return status


def _report_problems(found: Comparison) -> None:
    for problem in found.problems:
        print_line(f"error: {one_line(problem)}")


def _families(given: list[str] | None) -> dict[str, list[str]] | None:
    """Members by family from NAME=MODEL,MODEL,...

    Raises:
        ForceDeltaError: another form, or a family that is given twice.
    """
    from ..errors import ForceDeltaError

    if not given:
        return None
    families: dict[str, list[str]] = {}
    for entry in given:
        name, equals, members = entry.partition("=")
        if not equals:
            raise ForceDeltaError(f"--family is '{entry}': give NAME=MODEL,MODEL,...")
        if name in families:
            raise ForceDeltaError(f"--family {name} is given twice: give all its models in one")
        families[name] = [member.strip() for member in members.split(",") if member.strip()]
    return families
