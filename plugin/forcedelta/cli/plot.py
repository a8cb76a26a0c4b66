"""``forcedelta plot``: plot a recorded run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from md_hooks.progress import print_line

from .exit_status import ExitStatus
from .printing import print_json


def plot(
    path: Annotated[
        Path, typer.Argument(metavar="RUN.h5", help="Recorded run; it may still be growing.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png|FILE.html",
            help="Figure to write; with .html, a report with its figure next to it.",
            show_default="RUN.png",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the figure or report.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the written files as JSON.")] = False,
) -> int:
    """Plot temperature (K), Force Delta (eV/Å), worst atom and conserved energy (eV) of a run as PNG."""
    from ..report.plotting import plot_run

    written = plot_run(path, out, overwrite=overwrite)
    if json:
        print_json({"files": [str(file) for file in written]})
    else:
        print_line(written[0], sys.stdout)
    return ExitStatus.DONE
