"""Statistics along the paths of adversarial attacks: figures 1b, 1c and 2, and table 2 of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from forcedelta.comparison.result import AttackScore, PathScore
from forcedelta.comparison.statistics import FEWEST, better_controls, correlate, r_s, worth
from forcedelta.comparison.structures import Structure

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


def starts(structures: Sequence[Structure]) -> Rows:
    """Row [n] of the start of the path of each structure, that with the smallest move; -1 without a path."""
    found = np.full(len(structures), -1)
    for rows in _paths(structures).values():
        found[rows] = min(rows, key=lambda row: structures[row].move or 0)
    return found


def attack_score(
    structures: Sequence[Structure],
    predictors: Mapping[str, Mapping[str, Array]],
    errors: Mapping[str, Array],
) -> AttackScore:
    """Rank correlations on structures that all are on paths and have labels.

    Args:
        structures: n of them.
        predictors: values [n] by name, "force_delta" first, by model.
        errors: true errors of the direct forces [n], eV/Å, by model.
    """
    paths = _paths(structures)
    start = starts(structures)
    moves = np.array([structure.move for structure in structures], float)
    by_system: dict[str, list[int]] = {}
    for row, structure in enumerate(structures):
        by_system.setdefault(structure.group, []).append(row)
    runs = [structure.run for structure in structures]
    systems, each, ranked, start_spearman = [], [], {}, {}
    for model, error in errors.items():
        columns = {**predictors[model], "start_error": error[start], "move": moves}

        of_systems = [
            _score(model, system, None, rows, columns, error, start)
            for system, rows in by_system.items()
        ]
        of_paths = [
            _score(model, system, path, rows, columns, error, start)
            for (system, path), rows in paths.items()
        ]
        systems += of_systems
        each += of_paths
        independent = worth(columns["force_delta"], error, runs, moves)
        ranked[model] = correlate(columns, error, independent)
        over = of_systems if len(of_systems) >= FEWEST else of_paths
        start_spearman[model] = r_s(
            np.array([one.start_error for one in over]),
            np.array([one.spearman["force_delta"] for one in over], float),
        )
    return AttackScore(
        len(structures), len(paths), systems, each, ranked,
        "systems" if len(by_system) >= FEWEST else "paths", start_spearman,
    )  # fmt: skip


def _score(
    model: str, system: str, path: str | None, rows: Sequence[int], columns: Mapping[str, Array],
    error: Array, start: Rows,
) -> PathScore:  # fmt: skip
    chosen = np.array(rows)
    found = {name: r_s(values[chosen], error[chosen]) for name, values in columns.items()}
    first = float(error[np.unique(start[chosen])].mean())
    return PathScore(model, system, path, len(rows), first, found, better_controls(found))


def _paths(structures: Sequence[Structure]) -> dict[tuple[str, str], list[int]]:
    """Rows of each path, by system and name."""
    found: dict[tuple[str, str], list[int]] = {}
    for row, structure in enumerate(structures):
        if structure.path is not None:
            name = f"{structure.file}, {structure.path}"
            found.setdefault((structure.group, name), []).append(row)
    return found
