"""Structures that differ: farthest points in a descriptor of the whole structure."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from forcedelta.errors import ForceDeltaError
from forcedelta.installing import command_for
from forcedelta.labelling.selection.candidates import FloatArray

CUTOFF = 5.0  # Å
RADIAL, ANGULAR = 6, 4


def descriptors(structures: list[Atoms]) -> FloatArray:
    """[S, D] SOAP power spectra, averaged over the atoms before they are squared, of length 1.

    They do not change when a structure is turned, moved or its atoms are renumbered. Made by
    dscribe with a cutoff of 5 Å, 6 radial and 4 angular functions.

    Raises:
        ForceDeltaError: dscribe is not installed.
    """
    try:
        from dscribe.descriptors import SOAP
    except ModuleNotFoundError as error:
        raise ForceDeltaError(
            f"choosing structures that differ needs the package {error.name}: "
            f"{command_for('recalc', 'dscribe')}"
        ) from error
    species = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    features = []
    for atoms in structures:
        soap = SOAP(
            species=species,
            periodic=bool(atoms.pbc.any()),
            r_cut=CUTOFF,
            n_max=RADIAL,
            l_max=ANGULAR,
            average="inner",
        )
        vector = soap.create(atoms)
        features.append(vector / np.linalg.norm(vector))
    return np.array(features)


def farthest_points(
    features: FloatArray, count: int, weights: FloatArray | None = None
) -> list[int]:
    """Indices of ``count`` points: the first one, then always the one farthest from all chosen.

    With weights, always the one with the largest product of its weight and its distance to the
    nearest chosen one.

    Args:
        features: [S, D], the most wanted one first.
        count: at most S.
        weights: [S], not negative; None: all equal.
    """
    if weights is None:
        weights = np.ones(len(features))
    chosen = [0]
    distance = np.linalg.norm(features - features[0], axis=1)
    while len(chosen) < min(count, len(features)):
        gain = weights * distance
        gain[chosen] = -1.0
        chosen.append(int(np.argmax(gain)))
        distance = np.minimum(distance, np.linalg.norm(features - features[chosen[-1]], axis=1))
    return chosen
