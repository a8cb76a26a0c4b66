"""The rows of a screen: one for each structure, with a verdict or the reason for none."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

TRUST, DOUBT, NOT_EVALUATED, RANKED = "trust", "doubt", "not evaluated", "-"


@dataclass(frozen=True)
class Row:
    """One structure. Numbers are None where there are none.

    Attributes:
        file: its file.
        frame: its number in the file, counted from 0; None for a file that cannot be read.
        formula: in Hill's order.
        atoms: number of atoms N, of the structure as given.
        force_delta: U, eV/Å: the root mean square of F_nc - F_c over the 3N components and all displaced
            copies; that of the structure as given without displacements.
        force_delta_as_given: U of the structure as given, eV/Å.
        worst_atom: atom with the largest u_i, counted from 0.
        worst_force_delta: its u_i, eV/Å, as ``force_delta``.
        energy: of the structure as given, eV.
        largest_force: the largest |F_nc| of its atoms as given, eV/Å.
        symmetric: whether its forces vanish by symmetry (`forcedelta.symmetric`), where U as given is 0 for
            a right and for a wrong model.
        verdict: "trust", "doubt" or "not evaluated"; "-" without a threshold.
        reason: for that verdict.
    """

    file: str
    frame: int | None
    formula: str = ""
    atoms: int | None = None
    force_delta: float | None = None
    force_delta_as_given: float | None = None
    worst_atom: int | None = None
    worst_force_delta: float | None = None
    energy: float | None = None
    largest_force: float | None = None
    symmetric: bool | None = None
    verdict: str = RANKED
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The row, JSON-able."""
        return asdict(self)


def with_verdict(row: Row, stop: float | None, flag: float | None, rattled: bool) -> Row:
    """A row with its verdict.

    Args:
        row: as evaluated.
        stop, flag: thresholds on U, eV/Å. Above either is doubtful, as it is for a guard.
        rattled: whether U is that of displaced copies.
    """
    u = row.force_delta
    if u is None:
        return replace(row, verdict=NOT_EVALUATED)
    if row.symmetric and not rattled:
        return replace(
            row, verdict=NOT_EVALUATED, reason="its forces vanish by symmetry, and U with them: "
            "displace the atoms with --rattle",
        )  # fmt: skip
    for name, threshold in (("--stop-above", stop), ("--flag-above", flag)):
        if threshold is not None and u > threshold:
            return replace(row, verdict=DOUBT, reason=f"U is above {name} {threshold:.4g} eV/Å")
    return row if stop is flag is None else replace(row, verdict=TRUST)


def ranked(rows: Iterable[Row]) -> list[Row]:
    """Rows by U, the largest first; those without U at the end, in their order."""
    return sorted(rows, key=lambda row: math.inf if row.force_delta is None else -row.force_delta)


def as_csv(rows: Iterable[Row]) -> bytes:
    """A table with one line per row under the names of `Row`; what is unknown is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [entry.name for entry in fields(Row)]
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
