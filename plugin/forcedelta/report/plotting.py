"""A recorded run or audit as a picture or a report."""

from __future__ import annotations

from pathlib import Path

from md_hooks import Trajectory

from ..errors import ForceDeltaError
from ..outputs import Named, check_outputs, refuse_existing
from ..reading_files import check_regular


def plot_run(
    path: str | Path, out: str | Path | None = None, *, overwrite: bool = False
) -> list[Path]:
    """Draw temperature (K), U (eV/Å) and worst atom over time (fs); ``forcedelta plot`` in Python.

    Args:
        path: the recorded file; it may still be growing.
        out: picture to write; with ".html" a report, its picture beside it. None: the file's name with
            ".png".
        overwrite: replace what exists.

    Returns:
        the written files, the one that was asked for first.

    Raises:
        ForceDeltaError, HookError: not a recorded file, one without steps, or a file that exists.
    """
    path = Path(path)
    if path.exists():
        check_regular(path, "give a recorded run")
    if path.is_dir():
        raise ForceDeltaError(f"{path} is a folder: give a recorded run")
    picture = path.with_suffix(".png") if out is None else Path(out)
    files = [picture]
    written = [Named("--out", picture)]
    if picture.suffix == ".html":
        files.append(picture.with_suffix(".png"))
        written.append(Named("the report's picture", files[1]))
    check_outputs(written, [Named("run", path)])
    for file in files:
        refuse_existing("--out", file, overwrite)
    trajectory = Trajectory(path)
    if not len(trajectory.series.get("step", ())):
        raise ForceDeltaError(f"{path} holds no steps yet: wait for the first to be recorded")
    if len(files) > 1:
        from .html import write_report

        write_report([path], picture)
        return files
    from .attack_figure import attack_figure, is_attack
    from .run_figure import draw, write_png

    if is_attack(trajectory):
        figure = attack_figure(trajectory)
    elif "trajectory" in trajectory.metadata.get(
        "settings", {}
    ):  # an audit, which may have no times
        from .audit_figures import overview
        from .digest import Digest

        figure = overview(Digest(trajectory))
    else:
        figure = draw(trajectory)
    write_png(figure, picture, "choose another with --out")
    return files
