"""Parsing of thresholds, patience and the interval of U on the command line."""

from __future__ import annotations

from pathlib import Path

from md_hooks.text import one_line

from ..errors import ForceDeltaError
from ..limits import check_number
from ..monitoring import ADAPTIVE, Every
from ..thresholds import GivenThreshold, Patience


def threshold(name: str, text: str | None) -> GivenThreshold:
    """A threshold from a number in eV/Å, "auto", "none", or the file of a calibration.

    Args:
        name: of the flag, without its dashes.
        text: as given.

    Raises:
        ForceDeltaError: the text is none of these.
    """
    if text is None or text == "none":
        return None
    if text == "auto":
        return "auto"
    if text.endswith(".json"):
        return Path(text)
    try:
        value = float(text)
    except ValueError:
        raise ForceDeltaError(
            f"--{name} {one_line(text)}: give a number in eV/Å, auto or none, or a file of 'forcedelta "
            "calibrate' (FILE.json)"
        ) from None
    if not value >= 0:
        raise ForceDeltaError(f"--{name} is {text}: give a number >= 0 in eV/Å, or auto")
    check_number(name.replace("-", "_"), value, f"--{name}")
    return value


def patience(text: str) -> Patience:
    """(k, n) from "k/n".

    Raises:
        ForceDeltaError: the text has another form.
    """
    try:
        k, n = (int(part) for part in text.split("/"))
    except ValueError:
        raise ForceDeltaError(
            f"--patience {one_line(text)}: expected k/n, for example 3/5"
        ) from None
    if not 1 <= k <= n:
        raise ForceDeltaError(
            f"--patience {one_line(text)}: give k/n with 1 <= k <= n, k of the last n frames with U"
        )
    check_number("patience", n, "--patience")
    return k, n


def every(text: str) -> Every:
    """Steps between two exact evaluations, or "adaptive".

    Raises:
        ForceDeltaError: the text is neither.
    """
    if text == ADAPTIVE:
        return ADAPTIVE
    try:
        number = int(text)
    except ValueError:
        raise ForceDeltaError(
            f"--every {one_line(text)}: give a whole number of steps of 1 or more, or adaptive"
        ) from None
    check_number("every", number, "--every")
    return number
