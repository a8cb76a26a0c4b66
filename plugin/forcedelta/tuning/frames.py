"""Frames for tuning: read from trajectories, split into training and held-out ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from ..checks import check_structure
from ..errors import ForceDeltaError
from ..graph import charge_and_spin
from ..models.loaded import LoadedModel
from ..reading_options import ReadingOptions
from ..trajectories.base import StoredFrame
from ..trajectories.opening import open_trajectory

BLOCKS = 10
"""The held-out frames are one of this many blocks of each trajectory."""

DISPLACEMENT = 0.05
"""Å, standard deviation of `displaced`: about that of the atoms of a molecule at room temperature."""

_log = logging.getLogger(__name__)


def read_usable(
    path: str | Path,
    model: LoadedModel,
    every: int = 1,
    charge: int | None = None,
    spin: int | None = None,
    reading: ReadingOptions | None = None,
) -> list[Atoms]:
    """The sound frames of a trajectory: readable, supported, and without atoms on top of each other.

    A warning gives the number of the others, with the reason for the first of them.

    Args:
        path: any trajectory that an audit reads.
        model: that will be evaluated.
        every: read every Nth frame.
        charge, spin: of all frames, for models that take them; None: those of each frame.
        reading: what the file does not say itself.

    Raises:
        ForceDeltaError: the file cannot be read, or has no such frame.
    """
    trajectory = open_trajectory(path, options=reading)
    usable: list[Atoms] = []
    reasons: list[str] = []
    try:
        for frame in trajectory.frames(0, None, every):
            if not isinstance(frame, StoredFrame):
                reasons.append(f"frame {frame.index}: {frame.reason}")
                continue
            atoms = frame.atoms
            for name, value in (("charge", charge), ("spin", spin)):
                if value is not None:
                    atoms.info[name] = value
            try:
                check_structure(atoms, model)
                charge_and_spin(atoms, model)
            except ForceDeltaError as error:
                reasons.append(f"frame {frame.index}: {error}")
            else:
                usable.append(atoms)
    finally:
        trajectory.close()
    if not usable:
        why = f" ({reasons[0]})" if reasons else ""
        raise ForceDeltaError(
            f"{path} has no frame that the model supports{why}: give another file"
        )
    if reasons:
        _log.warning("%s: %d frames left out (%s)", path, len(reasons), reasons[0])
    return usable


def split(trajectories: Sequence[Sequence[Atoms]], seed: int) -> tuple[list[Atoms], list[Atoms]]:
    """Training and held-out frames.

    Neighbouring frames of a run are alike. So a contiguous tenth of each trajectory is held out, at
    a random place; trajectories of fewer than ten frames are used for training as a whole.

    Raises:
        ForceDeltaError: no trajectory has ten frames.
    """
    rng = np.random.default_rng(seed)
    training: list[Atoms] = []
    held_out: list[Atoms] = []
    for frames in trajectories:
        size = len(frames) // BLOCKS
        first = int(rng.integers(0, len(frames) - size + 1))
        held_out += frames[first : first + size]
        training += [*frames[:first], *frames[first + size :]]
    if not held_out:
        raise ForceDeltaError(
            f"no trajectory has {BLOCKS} frames, of which a tenth is held out: give more frames, in one "
            "file, or pass --make-frames 400, with which the model makes them from the structure given"
        )
    return training, held_out


def displaced(frames: Sequence[Atoms], seed: int) -> list[Atoms]:
    """Copies without labels, with random displacements of all atoms, off the paths of the runs."""
    rng = np.random.default_rng(seed)
    copies = []
    for atoms in frames:
        copy = atoms.copy()
        copy.positions += rng.normal(scale=DISPLACEMENT, size=copy.positions.shape)
        copies.append(copy)
    return copies
