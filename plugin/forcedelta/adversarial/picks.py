"""The structures of an attack that are worth a reference calculation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from md_hooks import Trajectory
from md_hooks.extxyz import frame_text
from md_hooks.recalculation import candidate
from md_hooks.replacing import replace_file

from ..labelling.selection.diversity import descriptors, farthest_points

POOL = 20
"""This many structures per pick, those with the largest U, are compared."""


def picks_file(out: str | Path) -> Path:
    """The file of the picks of an attack: ``attack-picks.xyz`` for ``attack.h5``."""
    return Path(out).with_name(f"{Path(out).stem}-picks.xyz")


def write_picks(run: str | Path, out: str | Path, count: int) -> int:
    """Choose structures of an attack and write them as extended XYZ, the best one first.

    The first is the one with the largest U; then always the one with the largest product of U and
    distance, in a descriptor of the structure, to the nearest chosen one. Starts are left out.

    Args:
        run: the file of the attack.
        out: file to write.
        count: number of structures.

    Returns:
        the number written; fewer if the attack has fewer.

    Raises:
        ForceDeltaError: dscribe is not installed.
    """
    trajectory = Trajectory(run)
    series = trajectory.series
    moved = np.flatnonzero(np.isfinite(series["force_delta"]) & (series["move"] > 0))
    pool = moved[np.argsort(-series["force_delta"][moved], kind="stable")][: POOL * count]
    if not len(pool):
        return 0
    model = dict(trajectory.metadata.get("model", {}))
    name, weights, level = (model.get(key) for key in ("name", "weights_hash", "level_of_theory"))
    frames = []
    for index in pool.tolist():
        frame = trajectory.frame(index)
        atoms = candidate(frame, Path(run).name, name, weights, trajectory.run_id, level)
        atoms.info |= {key: int(series[key][index]) for key in ("path", "move")}
        frames.append(atoms)
    chosen = [0]
    if len(frames) > 1:
        weights = series["force_delta"][pool]
        chosen = farthest_points(descriptors(frames), count, weights)
    picks = [frames[index] for index in chosen]
    for rank, atoms in enumerate(picks):
        atoms.info["pick"] = rank
    replace_file(Path(out), b"".join(frame_text(atoms) for atoms in picks))
    return len(picks)
