"""The stored form of a predicted error: an entry of a calibration, or a file of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers

from md_hooks.text import one_line, shortened

from ..errors import ForceDeltaError
from ..reading_files import read_json
from .predicted_error import ENERGY_SCALE, AtomError, Coefficients, PredictedError
from .result import FORMAT, FORMAT_ALONE, GIVE, UNIT, read_calibration
from .signals import WORDS

LARGEST = 1e6
"""Largest coefficient or energy per atom; larger ones would overflow."""


def text_of(predicted: PredictedError) -> bytes:
    """A file of a predicted error without a threshold: JSON in UTF-8."""
    entries = {"format": FORMAT_ALONE, "unit": UNIT, "prediction": predicted.as_dict()}
    return (json.dumps(entries, ensure_ascii=False, indent=1) + "\n").encode(
        errors="backslashreplace"
    )


def read_predicted_error(path: str | Path) -> PredictedError:
    """The predicted error in a file of ``forcedelta calibrate``.

    Args:
        path: the file, JSON, with a threshold or without.

    Raises:
        ForceDeltaError: the file is missing, is not one of these, or has an entry of a wrong type
            or out of range.
    """
    entries = read_json(path, GIVE)
    kind = entries.get("format") if isinstance(entries, dict) else None
    if kind == FORMAT:
        found = read_calibration(path).prediction
        if not found:
            raise ForceDeltaError(
                f"{path} has a threshold but no predicted error: run 'forcedelta calibrate' again, "
                "with at least 10 labels"
            )
        return from_dict(found, str(path))
    if kind != FORMAT_ALONE:
        raise ForceDeltaError(f"{path} is not a calibration of this version: {GIVE}")
    return from_dict(entries.get("prediction"), str(path))


def from_dict(entries: Any, where: str) -> PredictedError:
    """The predicted error of `PredictedError.as_dict`.

    Args:
        entries: as read.
        where: file name for error messages.

    Raises:
        ForceDeltaError: an entry is missing, of a wrong type, or out of range.
    """
    read = _Reader(where)
    table = read.table("prediction", entries)
    if table.get("energy_scale") != ENERGY_SCALE:  # other slopes of the energy than ours
        words = f"{ENERGY_SCALE}, as another version made it"
        raise read.wrong("energy_scale", table.get("energy_scale"), words)
    model = read.table("prediction: model", table.get("model"))
    folds = [
        read.coefficients(f"fold {k}", fold)
        for k, fold in enumerate(read.rows("folds", table.get("folds")))
    ]
    residuals = []
    for pair in read.rows("residuals", table.get("residuals"), fewest=10):
        if not (isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int):
            raise read.wrong("residuals", pair, "pairs of a fold and a number")
        if not 0 <= pair[0] < len(folds):
            raise read.wrong("residuals", pair, f"of one of the {len(folds)} folds")
        residuals.append((pair[0], read.number("residuals", pair[1], low=0)))
    ranges = {}
    for name, pair in read.table("ranges", table.get("ranges")).items():
        if name not in WORDS or not (isinstance(pair, list) and len(pair) == 2):
            raise read.wrong("ranges", {name: pair}, "a signal with two numbers")
        low, high = (read.number("ranges", value) for value in pair)
        ranges[name] = (low, high)
    fit = read.coefficients("fit", table.get("fit"))
    if any(name not in ranges for one in [fit, *folds] for name in one.slopes):
        raise read.wrong("ranges", sorted(ranges), "the ranges of all signals of the fit")
    return PredictedError(
        model={
            key: read.string(f"model {key}", model.get(key)) for key in ("name", "weights_hash")
        },
        fit=fit,
        folds=folds,
        residuals=residuals,
        ranges=ranges,
        atoms={
            symbol: read.atom(symbol, entry)
            for symbol, entry in read.table("atoms", table.get("atoms")).items()
        },
        guarantee=read.string("guarantee", table.get("guarantee")),
        quality=read.table("quality", table.get("quality")),
    )


class _Reader:
    """Checked entries of a file.

    Args:
        where: its name.
    """

    def __init__(self, where: str) -> None:
        self._where = where

    def wrong(self, name: str, value: Any, words: str) -> ForceDeltaError:
        shown = shortened(one_line(json.dumps(value, default=str)), 80)
        return ForceDeltaError(
            f"{self._where}: {name} of the predicted error is {shown}, not {words}: {GIVE}"
        )

    def table(self, name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.wrong(name, value, "a table")
        return value

    def rows(self, name: str, value: Any, fewest: int = 1) -> list[Any]:
        if not isinstance(value, list) or len(value) < fewest:
            raise self.wrong(name, value, f"a list of at least {fewest}")
        return value

    def string(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise self.wrong(name, value, "a string")
        return value

    def number(self, name: str, value: Any, low: float = -LARGEST) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (low <= value <= LARGEST and math.isfinite(value)):
            raise self.wrong(name, value, f"a number from {low:g} to {LARGEST:g}")
        return float(value)

    def numbers(self, name: str, value: Any) -> dict[str, float]:
        return {key: self.number(name, entry) for key, entry in self.table(name, value).items()}

    def coefficients(self, name: str, value: Any) -> Coefficients:
        table: Mapping[str, Any] = self.table(name, value)
        slopes = self.numbers(f"slopes of {name}", table.get("slopes"))
        if any(signal not in WORDS for signal in slopes):
            raise self.wrong(f"slopes of {name}", slopes, f"for {', '.join(WORDS)}")
        return Coefficients(
            self.number(f"intercept of {name}", table.get("intercept")),
            slopes,
            self.numbers(f"offsets of {name}", table.get("offsets")),
            self.numbers(f"energies of {name}", table.get("energies")),
        )

    def atom(self, symbol: str, value: Any) -> AtomError:
        if symbol not in atomic_numbers:
            raise self.wrong("atoms", symbol, "a table by the symbols of elements")
        table = self.table(f"atoms {symbol}", value)
        names = ("intercept", "slope", "low", "high", "coverage", "atoms", "frames")
        known = {name: self.number(f"{name} of {symbol}", table.get(name)) for name in names}
        return AtomError(
            **{
                name: int(number) if name in ("atoms", "frames") else number
                for name, number in known.items()
            }  # type: ignore[arg-type]
        )
