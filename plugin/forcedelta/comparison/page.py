"""The report of a comparison: one HTML page, and its figures beside it as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forcedelta.comparison.result import Comparison
from forcedelta.errors import ForceDeltaError
from forcedelta.outputs import refuse_existing
from forcedelta.report.html import page_environment
from forcedelta.report.run_figure import png
from forcedelta.versions import __version__
from md_hooks.replacing import replace_files

FIGURES = ("systems", "structures", "starts", "models")
NAMES = {
    "force_delta": "U",
    "energy": "energy per atom",
    "force_rms": "RMS of the direct forces",
    "start_error": "error at the start",
    "move": "number of the move",
    "ensemble": "disagreement of the ensemble",
}
"""Predictors in words."""
_TITLE, _HEAD = b"<title>Force Delta comparison", 400
"""Title, within so many first bytes, by which a report of a comparison is recognised."""


def picture_of(report: Path, figure: str) -> Path:
    """Where a figure beside a report is written."""
    return report.with_name(f"{report.stem}-{figure}.png")


def check_page(report: Path, overwrite: bool) -> list[Path]:
    """Whether a report may be written; a report of a comparison is made again.

    Returns:
        its pictures.

    Raises:
        ForceDeltaError: it, or a picture, exists and is of something else.
    """
    try:
        with report.open("rb") as file:
            again = _TITLE in file.read(_HEAD)
    except OSError:
        again = False
    pictures = [picture_of(report, name) for name in FIGURES]
    for path in (report, *pictures):
        refuse_existing("--report", path, overwrite or again)
    return pictures


def write_page(found: Comparison, report: Path) -> None:
    """Write the report and its figures; existing files are replaced, see `check_page`.

    Raises:
        ForceDeltaError: a file cannot be written.
    """
    from forcedelta.comparison.figures import draw  # Matplotlib takes a second to import

    pictures = {name: png(figure) for name, figure in draw(found).items()}
    page = (
        page_environment()
        .get_template("comparison.html")
        .render(
            found=found,
            pictures=pictures,
            names=NAMES,
            version=__version__,
            families=_families(found),
        )
    )
    fix = "choose another --report"
    replace_files(
        [
            (report, page.encode(errors="replace"), fix),
            *((picture_of(report, name), data, fix) for name, data in pictures.items()),
        ],
        ForceDeltaError,
    )


def _families(found: Comparison) -> list[tuple[Any, str]]:
    return [(family, verdict(family.ensemble)) for family in found.families]


def verdict(ensemble: dict[str, Any] | None) -> str:
    """Which of U and the ensemble ranks better, in words; "" where this is not known."""
    if ensemble is None or ensemble["difference"].value is None:
        return ""
    difference = ensemble["difference"]
    if difference.low is None or difference.low <= 0 <= difference.high:
        return "no difference beyond the uncertainty"
    return "U ranks better" if difference.value > 0 else "the ensemble ranks better"
