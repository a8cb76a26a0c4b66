"""The table of a comparison: one row for each structure and model, as dictionaries and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forcedelta.comparison.common import Common
from forcedelta.comparison.table import Table

COLUMNS = (
    "file", "frame", "system", "path", "move", "composition", "atoms", "model", "family", "force_delta",
    "energy_per_atom", "relative_energy_per_atom", "force_rms", "epsilon", "reason",
)  # fmt: skip


def rows_of(
    table: Table, shared: Common, families: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """A row for each structure and model; None where a number is not known.

    U, RMS and errors in eV/Å, energies in eV per atom. The relative energy, less the mean of the same
    composition, is known for structures that all models evaluate.
    """
    home = {name: family for family, members in families.items() for name in members}
    relative = {
        model.name: dict(zip(shared.rows.tolist(), energies, strict=True))
        for model, energies in zip(shared.models, shared.values["energy"], strict=True)
    }
    return [
        {
            "file": structure.file,
            "frame": structure.frame,
            "system": structure.group,
            "path": structure.path,
            "move": structure.move,
            "composition": structure.composition,
            "atoms": len(structure.numbers),
            "model": model.name,
            "family": home[model.name],
            "force_delta": _known(model.force_delta[row]),
            "energy_per_atom": _known(model.energy[row]),
            "relative_energy_per_atom": _known(relative.get(model.name, {}).get(row, np.nan)),
            "force_rms": _known(model.force_rms[row]),
            "epsilon": _known(model.epsilon[row]),
            "reason": model.reasons[row],
        }
        for row, structure in enumerate(table.structures)
        for model in table.models
    ]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows as CSV with a heading; empty where nothing is known."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(errors="replace")
