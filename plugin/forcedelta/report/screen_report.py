"""A report on a screen: one HTML page, and its picture as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from forcedelta.errors import ForceDeltaError
from forcedelta.report.audit_figures import png
from forcedelta.report.html import page_environment, picture_of
from forcedelta.report.run_figure import FLAG_COLOUR, STOP_COLOUR, U_COLOUR
from forcedelta.versions import __version__
from md_hooks.replacing import replace_files

MOST_ROWS = 1000
"""Rows on the page: those with the largest U, and the first ones without U."""


def write_screen_report(result: Any, report: Path) -> None:
    """Write the ranking as a page; existing files are replaced (see `forcedelta.report.html.check_report`).

    Args:
        result: a finished screen.
        report: the HTML page. Its picture goes beside it, with ``.png``.

    Raises:
        ForceDeltaError: it cannot be written.
    """
    picture = png(ranking(result))
    with_u = [row for row in result.rows if row.force_delta is not None]
    without = [row for row in result.rows if row.force_delta is None]
    page = page_environment().get_template("screen.html").render(
        result=result, picture=picture, version=__version__, most_rows=MOST_ROWS,
        with_u=with_u, without=without,
    )  # fmt: skip
    fix = "choose another file for the report"
    written = [
        (report, page.encode(errors="replace"), fix),
        (picture_of(report), picture, fix),
    ]
    replace_files(written, ForceDeltaError)


def ranking(result: Any) -> Figure:
    """U of all structures in the order of their rank, of displaced copies and as given."""
    rows = [row for row in result.rows if row.force_delta is not None]
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    rank = np.arange(1, len(rows) + 1)
    as_given = np.array([row.force_delta_as_given for row in rows], dtype=float)
    symmetric = np.array([bool(row.symmetric) for row in rows], dtype=bool)
    drawn = np.array([row.force_delta for row in rows], dtype=float)
    positive = drawn[drawn > 0]
    lowest = max(positive.min(initial=1.0) / 10, 1e-6)
    size = 14 if len(rows) < 300 else 5
    for mask, colour, name in (
        (~symmetric, "#8a94a0", "as given"),
        (symmetric, FLAG_COLOUR, "as given, 0 by symmetry (at the lower edge)"),
    ):
        if mask.any():
            axes.scatter(
                rank[mask],
                np.maximum(as_given[mask], lowest),
                s=size,
                color=colour,
                marker="x",
                label=name,
            )
    axes.scatter(rank, drawn, s=size, color=U_COLOUR, label="U of the ranking")
    for value, colour, name in (
        (result.flag_threshold, FLAG_COLOUR, "flag"),
        (result.stop_threshold, STOP_COLOUR, "stop"),
    ):
        if value is not None:
            axes.axhline(value, color=colour, linestyle="--", linewidth=1, label=f"{name} above")
    if len(positive):
        axes.set_yscale("log")
        axes.set_ylim(bottom=lowest / 1.5)
    axes.set_xlabel("rank")
    axes.set_ylabel("U (eV/Å)")
    axes.grid(alpha=0.25)
    if len(rows):
        figure.legend(fontsize=8, loc="outside upper center", ncols=5, frameon=False)
    return figure
