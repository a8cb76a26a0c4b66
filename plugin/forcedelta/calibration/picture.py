"""A calibration as a picture: errors over U, and the risk of every threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.stats import beta

from md_hooks.text import printable

from ..report.run_figure import png
from .labels import Labels
from .result import Calibration

LABEL_COLOUR, BAD_COLOUR, LINE_COLOUR = "#1f5a99", "#c1272d", "#555555"


def picture(labels: Labels, found: Calibration) -> bytes:
    """A calibration as the bytes of a PNG file."""
    return png(draw(labels, found))


def draw(labels: Labels, found: Calibration) -> Figure:
    """The figure, including labels that were thinned out."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    u, error = labels.force_delta, labels.epsilon
    bad = error > found.tolerance
    _errors(left, u, error, bad, found)
    _risks(right, u, bad, found)
    left.axhline(found.tolerance, color=LINE_COLOUR, linestyle=":", label="tolerance")
    for axes in (left, right):
        axes.axvline(
            found.threshold, color=LINE_COLOUR, linestyle="--",
            label=f"threshold {found.threshold!r} eV/Å",
        )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlim(max(u.min(), 1e-2 * found.threshold), 1.2 * u.max())
        axes.set_xlabel("Force Delta $U$ (eV/Å)")
        _ticks(axes.xaxis)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    title = printable(f"{found.model['name']}, {len(labels)} labels", keep="")
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def _ticks(axis: Any) -> None:
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _errors(axes: Any, u: Any, error: Any, bad: Any, found: Calibration) -> None:
    axes.scatter(u[~bad], error[~bad], s=8, color=LABEL_COLOUR, linewidths=0)
    axes.scatter(u[bad], error[bad], s=8, color=BAD_COLOUR, linewidths=0, label="error > tolerance")
    axes.set_yscale("log")
    axes.set_ylim(max(error.min(), 1e-2 * found.tolerance), 1.2 * error.max())
    _ticks(axes.yaxis)
    axes.set_ylabel("RMS error of the direct forces (eV/Å)")


def _risks(axes: Any, u: Any, bad: Any, found: Calibration) -> None:
    order = np.argsort(u)
    passing = np.arange(1, len(u) + 1)
    failing = np.cumsum(bad[order])
    # the Clopper-Pearson bound on the share, for each threshold separately
    weight = min(1.0, found.labels["used"] / len(u))
    bound = beta.ppf(
        found.confidence, weight * failing + 1, np.maximum(weight * (passing - failing), 1e-9)
    )
    axes.step(u[order], failing / passing, where="post", color=LABEL_COLOUR, label="of the labels")
    axes.step(
        u[order], bound, where="post", color=LABEL_COLOUR, alpha=0.4,
        label=f"bound at {found.confidence:g}",
    )  # fmt: skip
    axes.axhline(found.risk, color=LINE_COLOUR, linestyle=":", label="risk")
    axes.set_ylim(0, min(1.0, max(4 * found.risk, 1.2 * failing[-1] / passing[-1])))
    axes.set_ylabel("P(error > tolerance | $U$ <= threshold)")
