"""``forcedelta plot``: a recorded run as a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from md_hooks import Trajectory
from md_hooks.progress import say

from ..errors import ForceDeltaError
from ..outputs import Named, check_outputs, refuse_existing
from ..reading_files import check_regular


def plot(
    path: Annotated[
        Path, typer.Argument(metavar="RUN.h5", help="Recorded run; it may still be growing.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png|FILE.html",
            help="Picture to write; with .html a report, with its picture beside it.",
            show_default="RUN.png",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the picture or report.")
    ] = False,
) -> int:
    """Draw temperature (K), Force Delta (eV/Å) and worst atom of a run over time (fs) as PNG."""
    if path.exists():
        check_regular(path, "give a recorded run")
    if path.is_dir():
        raise ForceDeltaError(f"{path} is a folder: give a recorded run")
    picture = path.with_suffix(".png") if out is None else out
    page = picture.suffix == ".html"
    written = [Named("--out", picture)]
    if page:
        written.append(Named("the report's picture", picture.with_suffix(".png")))
    check_outputs(written, [Named("run", path)])
    for _, file in written:
        refuse_existing("--out", Path(str(file)), overwrite)
    trajectory = Trajectory(path)
    if not len(trajectory.series.get("step", ())):
        raise ForceDeltaError(f"{path} holds no steps yet: wait for the first to be recorded")
    if page:
        from ..report.html import write_report

        write_report([path], picture)
        say(picture, sys.stdout)
        return 0
    from ..report.run_figure import draw, write_png

    if "trajectory" in trajectory.metadata.get("settings", {}):  # an audit, which may have no times
        from ..report.audit_figures import overview
        from ..report.digest import Digest

        figure = overview(Digest(trajectory))
    else:
        figure = draw(trajectory)
    write_png(figure, picture, "choose another with --out")
    say(picture, sys.stdout)
    return 0
