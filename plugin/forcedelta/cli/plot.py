"""``forcedelta plot``: a recorded run as a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from md_hooks import Trajectory
from md_hooks.progress import say

from ..errors import ForceDeltaError


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
) -> int:
    """Draw temperature (K), Force Delta (eV/Å) and worst atom of a run over time (fs) as PNG."""
    trajectory = Trajectory(path)
    if not len(trajectory.series.get("step", ())):
        raise ForceDeltaError(f"{path} holds no steps yet: wait for the first to be recorded")
    if out is not None and out.suffix == ".html":
        from ..audit.report import write_report

        write_report([path], out)
        say(out, sys.stdout)
        return 0
    picture = path.with_suffix(".png") if out is None else out
    if "trajectory" in trajectory.metadata.get("settings", {}):  # an audit, which may have no times
        from ..audit.digest import Digest
        from ..audit.figures import overview

        figure = overview(Digest(trajectory))
    else:
        from ..pictures import draw

        figure = draw(trajectory)
    try:
        figure.savefig(picture, dpi=150, format="png")
    except OSError as error:
        raise ForceDeltaError(
            f"{picture} cannot be written ({error.strerror}): choose another with --out"
        ) from error
    say(picture, sys.stdout)
    return 0
