"""The report of a comparison: one HTML page, and its figures beside it as PNG."""

from __future__ import annotations

from pathlib import Path

from forcedelta.comparison.result import PREDICTORS_IN_WORDS, SELF_CONSISTENCY, Comparison, Ranked
from forcedelta.comparison.statistics import better_controls, values_of
from forcedelta.errors import ForceDeltaError
from forcedelta.outputs import refuse_existing
from forcedelta.report.html import page_environment
from forcedelta.report.run_figure import png
from forcedelta.versions import __version__
from md_hooks.replacing import replace_files

FIGURES = ("systems", "structures", "starts", "models")
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
    attacks = {} if found.attack is None else found.attack.ranking
    template = page_environment().get_template("comparison.html")
    page = template.render(
        found=found,
        pictures=pictures,
        names=PREDICTORS_IN_WORDS,
        self_consistency=SELF_CONSISTENCY,
        systems_better=_better(found.systems_ranking),
        attack_better={model: _better(ranked) for model, ranked in attacks.items()},
        version=__version__,
    )
    fix = "choose another --report"
    replace_files(
        [
            (report, page.encode(errors="replace"), fix),
            *((picture_of(report, name), data, fix) for name, data in pictures.items()),
        ],
        ForceDeltaError,
    )


def _better(ranked: Ranked | None) -> list[str]:
    return [] if ranked is None else better_controls(values_of(ranked))
