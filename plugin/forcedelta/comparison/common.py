"""Predictions on the structures that all models evaluate, over which statistics are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forcedelta.comparison.attack import starts
from forcedelta.comparison.statistics import relative_energy
from forcedelta.comparison.structures import Structure
from forcedelta.comparison.table import Predictions, Table

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

VANISHING = 1e-4
"""eV/Å; smaller forces of a reference are those of a crystal at rest."""
PREDICTORS = ("force_delta", "energy", "force_rms")


@dataclass(frozen=True)
class Common:
    """Predictions on structures that all models evaluate.

    Attributes:
        structures: n of them.
        models: the M models.
        values: [M, n] by name: "force_delta" (U), "energy" (per atom, relative to the composition),
            "force_rms", "absolute_energy" (per atom), "epsilon" (NaN without a label).
    """

    structures: list[Structure]
    models: list[Predictions]
    values: Mapping[str, Array]
    rows: NDArray[np.int64]

    @property
    def labelled(self) -> Mask:
        """Mask of the structures with labels [n]."""
        return np.asarray(np.isfinite(self.values["epsilon"]).all(axis=0))

    def subset(self, mask: Mask) -> Common:
        """Some of the structures."""
        return Common(
            [one for one, kept in zip(self.structures, mask, strict=True) if kept],
            self.models,
            {name: values[:, mask] for name, values in self.values.items()},
            self.rows[mask],
        )

    def predictors(self, model: int) -> dict[str, Array]:
        """Values [n] of U and its controls for one model."""
        return {name: self.values[name][model] for name in PREDICTORS}


def common(table: Table) -> tuple[Common, list[str]]:
    """The structures that all models evaluate, and notes on the others.

    A model that evaluates none is left out.
    """
    count = len(table.structures)
    models = [model for model in table.models if model.known.any()]
    notes = [
        f"{model.name} evaluates none of the structures ({model.reasons[0]})"
        for model in table.models
        if not model.known.any()
    ]
    known = np.all([model.known for model in models], axis=0) if models else np.zeros(count, bool)
    for model in models:
        missing = count - int(model.known.sum())
        if missing:
            first = int(np.flatnonzero(~model.known)[0])
            notes.append(
                f"{model.name} evaluates {count - missing} of {count} structures "
                f"({table.structures[first].where}: {model.reasons[first]})"
            )
    if models and not known.any():
        notes.append(
            "no structure is evaluated by all models, and nothing can be compared: leave models out, or "
            "give each kind of structure and model an --out of its own"
        )
    rows = np.flatnonzero(known)
    structures = [table.structures[row] for row in rows]

    def gathered(name: str) -> Array:
        return np.array([getattr(model, name)[rows] for model in models]).reshape(len(models), -1)

    energy = gathered("energy")
    values = {name: gathered(name) for name in ("force_delta", "force_rms", "epsilon")}
    values["absolute_energy"] = energy
    values["energy"] = relative_energy(energy, [one.composition for one in structures])
    return Common(structures, models, values, rows), notes


def settled(structures: Sequence[Structure]) -> Mask:
    """Mask of the structures that no attack has moved: those without a path, and starts."""
    start = starts(structures)
    return (start == -1) | (start == np.arange(len(structures)))


def without_forces(shared: Common) -> str:
    """A note on structures whose forces vanish by symmetry: U and errors are zero there for any model."""
    labelled = np.flatnonzero(shared.labelled)
    count = sum(np.abs(shared.structures[k].forces).max() < VANISHING for k in labelled)  # type: ignore[arg-type]
    if not count:
        return ""
    return (
        f"the reference forces of {count} of {len(labelled)} labelled structures are zero (below "
        f"{VANISHING:g} eV/Å), as in perfect crystals: U and the error vanish there by symmetry, which raises r_s"
    )
