"""Frames as a browser shows them in three dimensions, of bounded size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from md_hooks import Frame

MOST_VIEWED = 20_000
"""Atoms of all frames of a page together, about 30 bytes each."""

MOST_ATOMS = 1500
"""Of a frame; of larger ones the surroundings of the worst atom are shown."""

COLOURS = "YlOrRd"
"""Of u_i from 0 to the largest of the frame; in pictures as well."""

_AROUND = 9.0  # Å
_SHADES = 32


@dataclass(frozen=True)
class StructureView:
    """What is shown of a frame.

    Attributes:
        step: of the frame.
        force_delta: U, eV/Å.
        symbols: [M] elements.
        indices: [M] numbers of the atoms in the frame.
        positions: [M][3] Å.
        deltas: [M] u_i, eV/Å.
        errors: [M] predicted errors with their intervals, in words, "" where none is known; empty if the
            frame has none.
        cell: [3][3] Å; None for a molecule, and where not all atoms are shown.
        atoms: number of atoms of the whole frame.
    """

    step: int
    force_delta: float
    symbols: list[str]
    indices: list[int]
    positions: list[list[float]]
    deltas: list[float]
    errors: list[str]
    cell: list[list[float]] | None
    atoms: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def view_of(frame: Frame) -> StructureView:
    """The atoms of a frame with finite u_i, rounded to what can be seen."""
    assert frame.force_deltas is not None
    chosen = atoms_shown(frame)
    whole = len(chosen) == len(frame.numbers)
    positions = frame.positions[chosen].astype(float)
    return StructureView(
        step=frame.step,
        force_delta=_rounded(frame.force_delta or 0.0),
        symbols=[chemical_symbols[int(number)] for number in frame.numbers[chosen]],
        indices=chosen.tolist(),
        positions=np.round(positions, 3).tolist(),
        deltas=[_rounded(float(value)) for value in frame.force_deltas[chosen]],
        errors=[]
        if frame.predicted_errors is None
        else [frame.predicted_error_of(atom) for atom in chosen.tolist()],
        cell=np.round(frame.cell.astype(float), 3).tolist() if whole and frame.pbc.any() else None,
        atoms=len(frame.numbers),
    )


def atoms_shown(frame: Frame) -> NDArray[np.int64]:
    """The atoms that are drawn: all, or those around the worst one in a large system."""
    if len(frame.numbers) <= MOST_ATOMS:
        return np.arange(len(frame.numbers))
    atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
    worst = int(frame.worst_atom or 0)
    distances = atoms.get_distances(worst, np.arange(len(atoms)), mic=bool(frame.pbc.any()))
    return np.flatnonzero(distances < _AROUND)


def within(views: Iterable[StructureView], most: int) -> list[StructureView]:
    """The first views with at most so many atoms together, by step."""
    kept = []
    for view in views:
        most -= len(view.symbols)
        if most < 0:
            break
        kept.append(view)
    return sorted(kept, key=lambda view: view.step)


def palette() -> list[str]:
    """Colours of u_i from 0 to the largest, as ``#rrggbb``."""
    shades = colormaps[COLOURS](np.linspace(0.0, 1.0, _SHADES))
    return [to_hex(shade) for shade in shades]


@cache
def viewer_library() -> str:
    """3Dmol.js (Rego & Koes, Bioinformatics 31, 1322, 2015) with its licences, for a page of its own."""
    folder = files("forcedelta.report") / "viewer"
    licence = (folder / "LICENSE.txt").read_text(encoding="utf-8")
    code = (folder / "3Dmol-min.js").read_text(encoding="utf-8")
    return f"/*\n{licence}\n*/\n{code}"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
