"""Labelled frames: the predictions of a model and their errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from tqdm import tqdm

from ..errors import ForceDeltaError
from ..reading_options import ReadingOptions
from .atom_errors import LabelledAtoms
from .labelled_files import LabelledFrame, read_frames, reference_forces
from .predictions import SAME, evaluated_prediction, rms, stored_prediction
from .runs import runs_of
from .signals import ENERGY, RIGID, UNCERTAINTY, Signals, composition, rigid_force

if TYPE_CHECKING:
    from ..ase import ForceDeltaCalculator

Array = NDArray[np.float64]

HASH_PREFIX = "hash:"


@dataclass(frozen=True)
class Labels:
    """Predictions and errors of n labelled frames.

    Attributes:
        force_delta: U [n], eV/Å.
        epsilon: RMS error of the direct forces against the reference [n], eV/Å (eq. 2).
        force_rms: RMS of the direct forces [n], eV/Å.
        energy: predicted energy per atom above the lowest frame of the same composition [n], eV;
            NaN where unknown.
        source: identifies the run of each frame, None where unknown [n].
        time: in that run, fs, or the step; NaN where unknown [n].
        model: name and weights_hash of the model.
        reference: method of the labels, None if unknown.
        signals: from which the error is predicted; None if they were not read.
        atoms: u_i and errors of the atoms of each frame; empty where unknown.
    """

    force_delta: Array
    epsilon: Array
    force_rms: Array
    energy: Array
    source: list[str | None]
    time: Array
    model: dict[str, str]
    reference: str | None
    signals: Signals | None = None
    atoms: list[LabelledAtoms] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.force_delta)

    def subset(self, indices: NDArray[np.int64]) -> Labels:
        """The labels with these ``indices``."""
        arrays = {
            field.name: getattr(self, field.name)[indices]
            for field in fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        return replace(
            self,
            **arrays,
            source=[self.source[index] for index in indices],
            signals=None if self.signals is None else self.signals.subset(indices),
            atoms=[self.atoms[index] for index in indices] if self.atoms else [],
        )


def read_labels(
    paths: Sequence[str | Path],
    calculator: ForceDeltaCalculator | None = None,
    forces_key: str | None = None,
    energy_key: str | None = None,
    reading: ReadingOptions | None = None,
) -> Labels:
    """Labelled frames of files that ASE reads, as ``forcedelta recalc`` writes them.

    Without a calculator, a frame must have ``info["force_delta"]`` (U, eV/Å), ``info["model"]``,
    ``info["weights_hash"]`` and the array ``direct_forces`` [N, 3] eV/Å beside the reference's
    forces. With one, all frames are evaluated again and need only the reference's forces; a bar
    shows the progress on a terminal.

    Args:
        paths: the files.
        calculator: of the model that evaluates all frames.
        forces_key: array of the reference's forces, eV/Å, if not in ASE's results.
        energy_key: field of the reference's energy, which must be a number; it is not used.
        reading: format of the files, and whether their cells are dropped.

    Raises:
        ForceDeltaError: a file cannot be read or holds no frames; frames without forces, with
            numbers that are not finite, without U, of several models or references; structures
            that the model does not support; forces that are the model's own, or zero everywhere.
    """
    return _labels(
        [
            frame
            for path in paths
            for frame in read_frames(Path(path), forces_key, energy_key, reading)
        ],
        calculator,
    )


def evaluated(frames: Iterable[Atoms], calculator: ForceDeltaCalculator) -> Labels:
    """Labels of frames in memory, whose forces are those of the reference.

    Raises:
        ForceDeltaError: as `read_labels`.
    """
    numbered = [(f"frame {index} (counted from 0)", atoms) for index, atoms in enumerate(frames)]
    return _labels(
        [LabelledFrame(atoms, reference_forces(atoms, at), at) for at, atoms in numbered],
        calculator,
    )


def _labels(frames: list[LabelledFrame], calculator: ForceDeltaCalculator | None) -> Labels:
    if not frames:
        raise ForceDeltaError("there are no labelled frames: give at least one")
    _refuse_copies(frames)
    reference = _reference(frames)
    if calculator is None:
        rows = [stored_prediction(frame) for frame in frames]
        model = {
            key: str(_only(key, [frame.atoms.info.get(key) for frame in frames], frames))
            for key in ("model", "weights_hash")
        }
        model = {"name": model["model"], "weights_hash": model["weights_hash"]}
        model["weights_hash"] = model["weights_hash"].removeprefix(HASH_PREFIX)
    else:
        rows = [
            evaluated_prediction(frame, calculator)
            for frame in tqdm(frames, "evaluating", disable=None)
        ]
        model = {
            "name": calculator.model.name,
            "weights_hash": calculator.model.weights_hash,
        }
    errors = [row.direct - frame.forces for row, frame in zip(rows, frames, strict=True)]
    if all(np.abs(error).max() < SAME for error in errors):
        raise ForceDeltaError(
            "the forces of the frames are predictions of the model, not of a reference: label the "
            "frames first (forcedelta recalc)"
        )
    if not any(frame.forces.any() for frame in frames):
        raise ForceDeltaError(
            "the reference forces of all frames are zero: label the frames first (forcedelta recalc)"
        )
    sources, times = runs_of(frames)
    force_delta = np.array([row.force_delta for row in rows])
    force_rms = np.array([rms(row.direct) for row in rows])
    energy = np.array([row.energy for row in rows])
    known = {
        "force_delta": force_delta,
        "worst_atom": np.array([np.nan if row.u is None else row.u.max() for row in rows]),
        ENERGY: energy,
        "force_rms": force_rms,
        RIGID: np.array(
            [
                rigid_force(frame.atoms.positions, row.direct, frame.atoms.pbc)
                for row, frame in zip(rows, frames, strict=True)
            ]
        ),
        "expected_error": np.array([row.expected_error for row in rows]),
        UNCERTAINTY: np.array([row.energy_uncertainty for row in rows]),
    }
    return Labels(
        force_delta=force_delta,
        epsilon=np.array([rms(error) for error in errors]),
        force_rms=force_rms,
        energy=_above_the_lowest([frame.atoms for frame in frames], energy),
        source=sources,
        time=times,
        model=model,
        reference=reference,
        signals=Signals(
            {name: column for name, column in known.items() if np.isfinite(column).all()},
            [composition(frame.atoms.numbers) for frame in frames],
        ),
        atoms=[
            LabelledAtoms(frame.atoms.numbers, row.u, np.sqrt(np.mean(error**2, axis=1)))
            for frame, row, error in zip(frames, rows, errors, strict=True)
            if row.u is not None
        ],
    )


def _refuse_copies(frames: list[LabelledFrame]) -> None:
    """Refuse a structure that occurs twice, as when one file was given twice."""
    seen: dict[tuple[bytes, str, str], str] = {}
    for frame in frames:
        atoms = frame.atoms
        geometry = np.concatenate([atoms.numbers, *atoms.cell, *atoms.positions]).round(6).tobytes()
        # a molecule and its ion are two labels
        key = (geometry, str(atoms.info.get("charge", 0)), str(atoms.info.get("spin")))
        if key in seen:
            raise ForceDeltaError(
                f"{frame.where} is the same structure as {seen[key]} and would count twice: remove it"
            )
        seen[key] = frame.where


def _reference(frames: list[LabelledFrame]) -> str | None:
    """The reference of all frames that name one."""
    named = [frame for frame in frames if "reference" in frame.atoms.info]
    if not named:
        return None
    reference = _only("reference", [frame.atoms.info["reference"] for frame in named], named)
    unnamed = len(frames) - len(named)
    return str(reference) + f", and {unnamed} labels of an unnamed reference" * (unnamed > 0)


def _only(name: str, values: list[Any], frames: list[LabelledFrame]) -> Any:
    """The value common to all frames."""
    for value, frame in zip(values, frames, strict=True):
        if str(value) != str(values[0]):
            raise ForceDeltaError(
                f"{frame.where} has {name} {value}, but {frames[0].where} has {values[0]}: "
                "calibrate each separately"
                + (", or pass --model to evaluate all frames again" if name != "reference" else "")
            )
    return values[0]


def _above_the_lowest(frames: Sequence[Atoms], energy: Array) -> Array:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, atoms in enumerate(frames):
        groups[str(atoms.symbols.formula.reduce()[0].format("hill"))].append(index)
    above = energy.copy()
    for rows in groups.values():
        above[rows] -= energy[rows].min()
    return above
