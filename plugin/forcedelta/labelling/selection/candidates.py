"""Frames to choose from: a recorded run or audit, an extended-XYZ file, or a journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from md_hooks import Trajectory
from md_hooks.constraints import take_from_info
from md_hooks.electronic_state import INITIAL_MOMENTS, ElectronicState
from md_hooks.environment import Surroundings
from md_hooks.errors import HookError
from md_hooks.foreign_fields import has_numbers, number, number_or_none, step_of, text_of
from md_hooks.predicted_error import OUTSIDE, PREDICTED
from md_hooks.recalculation import Journal, candidate
from md_hooks.recalculation.journal import START
from md_hooks.recalculation.labelled import PREDICTIONS

FloatArray = NDArray[np.float64]

_FIELDS: dict[tuple[str, ...], Callable[[object], Any]] = {
    ("step", "worst_atom", "path", "move", "image"): step_of,
    (
        "time",
        "force_delta",
        "model_energy",
        "expected_error",
        "energy_uncertainty",
        *PREDICTED,
        OUTSIDE,
    ): number_or_none,
    ("run", "source", "run_id", "model", "weights_hash", "level_of_theory"): text_of,
}
"""Fields of a flagged frame, and what they must be to be used."""

HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Candidates:
    """Frames with their Force Delta; the structures are read when they are asked for.

    Attributes:
        name: of the file.
        steps: [F].
        times: [F] fs; NaN where the file has no time, and along the path of an attack.
        force_delta: [F] U, eV/Å; NaN where it was not computed.
        worst: [F] the largest u_i, eV/Å; NaN where it was not computed.
        finite: [F] whether the model's energy is finite.
        paths: [F] frames of one path of an attack share a number; -1 for all others.
        series: step and U and largest u_i (eV/Å) of all steps of the run, recorded or not.
        read: gives the structures of some frames, as `md_hooks.recalculation.candidate` makes
            them.
        picked: whether the file holds the picks of an attack, which need no further selection.
        thresholds: "on", "flag", "stop" (eV/Å) as `md_hooks.Trajectory.thresholds`.
        model: name, weights_hash and whatever else the file tells of the model.
    """

    name: str
    steps: NDArray[np.int64]
    times: FloatArray
    force_delta: FloatArray
    worst: FloatArray
    finite: NDArray[np.bool_]
    paths: NDArray[np.int64]
    read: Callable[[list[int]], list[Atoms]]
    series: dict[str, NDArray[Any]] = field(default_factory=dict)
    picked: bool = False
    thresholds: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.steps)


def open_candidates(path: str | Path) -> Candidates:
    """Open a file of frames; which kind it is, is told by its content.

    Raises:
        ForceDeltaError: it does not exist or is of no kind that can be used.
        HookError: it is a damaged recorded run or journal.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ForceDeltaError(f"{path} is not a file: give one of 'forcedelta run' or 'audit'")
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise ForceDeltaError(
            f"{path} cannot be read ({error.strerror}): give a file of 'forcedelta run' or "
            "'forcedelta audit', or an extended XYZ file of flagged frames"
        ) from error
    if start == HDF5:
        return _recorded(path)
    if start.startswith(START):
        journal = Journal(path)
        journal.close()
        return _structures(path, list(journal.frames.values()))
    return _structures(path, _xyz(path))


def _recorded(path: Path) -> Candidates:
    trajectory = Trajectory(path)
    series = trajectory.series
    steps = trajectory.frame_steps
    at = np.searchsorted(series["step"], steps)
    paths = _numbered(
        [step_of(value) for value in series["path"][at]] if "path" in series else [None] * len(at)
    )
    model = dict(trajectory.metadata.get("model", {}))
    run_id = trajectory.run_id
    times = np.where(paths >= 0, np.nan, _known_times(series["time"][at]))

    def read(indices: list[int]) -> list[Atoms]:
        frames = []
        for index in indices:
            atoms = candidate(
                trajectory.frame(index),
                path.name,
                model.get("name"),
                model.get("weights_hash"),
                run_id,
                model.get("level_of_theory"),
            )
            if paths[index] < 0 and np.isnan(times[index]):
                atoms.info.pop("time", None)
            frames.append(atoms)
        return frames

    return Candidates(
        name=path.name,
        steps=steps,
        times=times,
        force_delta=series["force_delta"][at],
        worst=series["force_delta_max"][at],
        finite=np.isfinite(series["potential_energy"][at]),
        paths=paths,
        read=read,
        series={name: series[name] for name in ("step", "force_delta", "force_delta_max")},
        thresholds=trajectory.thresholds,
        model=model,
    )


def _known_times(times: FloatArray) -> FloatArray:
    """[F] the times, fs; NaN if all are equal, as in an audit of frames without times."""
    return np.full_like(times, np.nan) if len(times) > 1 and np.ptp(times) == 0 else times


def _numbered(keys: Iterable[Hashable | None]) -> NDArray[np.int64]:
    """[F] a number for each different key, -1 for None."""
    numbers: dict[Hashable, int] = {}
    return np.array(
        [-1 if key is None else numbers.setdefault(key, len(numbers)) for key in keys],
        dtype=np.int64,
    )


def _xyz(path: Path) -> list[Atoms]:
    try:
        frames = ase.io.read(path, ":", format="extxyz")
    except Exception as error:  # the reader raises whatever its parser raises
        raise ForceDeltaError(
            f"{path} is neither a recorded run nor a journal, and cannot be read as extended XYZ "
            f"({error}): give one of these"
        ) from error
    if isinstance(frames, Atoms) or not frames:
        raise ForceDeltaError(f"{path} holds no frames: nothing was flagged")
    for index, atoms in enumerate(frames):
        try:
            _as_candidate(atoms, path.name)
        except HookError as error:
            raise ForceDeltaError(f"{path}, frame {index} (counted from 0): {error}") from error
    return frames


def _as_candidate(atoms: Atoms, name: str) -> None:
    """Make the names of a file of flagged frames those of `candidate`, in place."""
    _drop_unusable(atoms)
    take_from_info(atoms)
    info = atoms.info
    info["source"] = info.pop("run", info.get("source", name))
    if atoms.calc is not None and "model_energy" not in info:
        with contextlib.suppress(PropertyNotImplementedError):
            info["model_energy"] = atoms.get_potential_energy()
    ElectronicState.of(atoms).put(atoms)
    atoms.calc = None
    kept = {"numbers", "positions", "masses", INITIAL_MOMENTS, *PREDICTIONS}
    for array in set(atoms.arrays) - kept:
        del atoms.arrays[array]


def _drop_unusable(atoms: Atoms) -> None:
    """Forget the fields that have our names and can be nothing that we write there."""
    info = atoms.info
    for names, meaning in _FIELDS.items():
        for name in names:
            found = meaning(info.pop(name, None))
            if found is not None:
                info[name] = found
    for name in {*PREDICTIONS, "masses"} & atoms.arrays.keys():
        shape = (len(atoms), 3) if name.endswith("_forces") else (len(atoms),)
        if not has_numbers(atoms.arrays[name], *shape):
            del atoms.arrays[name]
    Surroundings.usable(atoms).put(atoms)


def _structures(path: Path, frames: list[Atoms]) -> Candidates:
    for atoms in frames:
        _drop_unusable(atoms)

    def values(name: str) -> FloatArray:
        return np.array([number(atoms.info.get(name)) for atoms in frames])

    steps = values("step")
    numbered = bool(np.isfinite(steps).all())
    worst = [
        float(atoms.get_array("force_deltas").max()) if atoms.has("force_deltas") else np.nan
        for atoms in frames
    ]
    paths = _numbered(
        [
            tuple(atoms.info.get(name) for name in ("run_id", "source", "path"))
            if "path" in atoms.info
            else None
            for atoms in frames
        ]
    )
    told = ("model", "weights_hash", "level_of_theory")
    models = {tuple(atoms.info.get(name) for name in told) for atoms in frames}
    model = {}
    if len(models) == 1:
        model = dict(zip(("name", *told[1:]), models.pop(), strict=True))
    return Candidates(
        name=path.name,
        steps=steps.astype(np.int64) if numbered else np.arange(len(frames)),
        times=np.where(paths >= 0, np.nan, values("time")),
        force_delta=values("force_delta"),
        worst=np.array(worst),
        finite=np.array([bool(np.isfinite(a.info.get("model_energy", 0.0))) for a in frames]),
        paths=paths,
        read=lambda indices: [frames[index].copy() for index in indices],
        picked=all("pick" in atoms.info for atoms in frames),
        model=model,
    )
