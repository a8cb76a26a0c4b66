"""A predicted error, and frames to label for one, in words and tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..calibration.predicted_error import PredictedError
from ..calibration.signals import WORDS
from .tables import table

if TYPE_CHECKING:
    from rich.table import Table

    from ..labelling.selection.stratified import Suggestion


def prediction_shown(found: PredictedError) -> list[str | Table]:
    """What ``forcedelta calibrate`` prints of a predicted error."""
    quality, slopes = found.quality, found.fit.slopes
    best = quality["best_single"]
    used = ", ".join(WORDS[name] for name in slopes)
    lines: list[str | Table] = [
        f"predicted error of '{found.model['name']}' from {used}: within a factor of "
        f"{quality['factor']:.2f} of the true one on average, for labels left out of the fit (from "
        f"{WORDS[best['signal']]} alone {best['factor']:.2f})",
        found.guarantee,
    ]
    if found.atoms:
        lines += [
            "",
            table(
                ["error of an atom with", "u 0.1 eV/Å", "interval (90 %)", "coverage", "atoms"],
                [
                    [symbol, f"{e[0]:.3g}", f"{e[1]:.3g} to {e[2]:.3g}", f"{atom.coverage:.3f}",
                     str(atom.atoms)]
                    for symbol, atom in found.atoms.items()
                    for e in [[
                        math.exp(atom.intercept + atom.slope * math.log(0.1) + shift)
                        for shift in (0.0, atom.low, atom.high)
                    ]]
                ],
            ),
        ]  # fmt: skip
    return lines


def suggestion_shown(found: Suggestion) -> list[str | Table]:
    """What ``forcedelta calibrate --suggest`` prints."""
    low, high = found.range
    spread = f"U from {low:.4g} to {high:.4g} eV/Å"
    rest = f"; {found.above} frames lie above all of the suggested ones" if found.above else ""
    where = f"; written to {found.out}, for 'forcedelta recalc'" if found.out else ""
    return [
        f"{len(found.frames)} of {found.population} frames with {spread}{rest}{where}",
        found.guarantee,
        "",
        table(
            ["file", "step", "U (eV/Å)"],
            [[row["file"], str(row["step"]), f"{row['force_delta']:.4g}"] for row in found.frames],
        ),
    ]
