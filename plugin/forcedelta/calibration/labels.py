"""Labelled frames: predictions of a model and their errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from tqdm import tqdm

from md_hooks.foreign_fields import number

from ..errors import ForceDeltaError
from .labelled_files import LabelledFrame, read_frames, reference_forces
from .runs import runs_of

if TYPE_CHECKING:
    from ..ase import ForceDeltaCalculator

Array = NDArray[np.float64]

HASH_PREFIX = "hash:"
SAME = 1e-6  # eV/Å: forces that agree so well are not those of a model and of its reference


@dataclass(frozen=True)
class Labels:
    """What is known of n labelled frames.

    Attributes:
        force_delta: U [n], eV/Å.
        epsilon: RMS error of the direct forces against the reference [n], eV/Å (eq. 2).
        force_rms: RMS of the direct forces [n], eV/Å.
        energy: predicted energy per atom above the lowest frame of the same composition [n], eV;
            NaN where the prediction is not known.
        source: what is the same for frames of one run and for no others, where the file tells [n].
        time: when in that run, fs, or the step; NaN where the file does not tell [n].
        model: name and weights_hash of the model.
        reference: what made the labels, where the file tells.
    """

    force_delta: Array
    epsilon: Array
    force_rms: Array
    energy: Array
    source: list[str | None]
    time: Array
    model: dict[str, str]
    reference: str | None

    def __len__(self) -> int:
        return len(self.force_delta)

    def subset(self, indices: NDArray[np.int64]) -> Labels:
        """Some of them."""
        arrays = {
            field.name: getattr(self, field.name)[indices]
            for field in fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        return replace(self, **arrays, source=[self.source[index] for index in indices])


def read_labels(
    paths: Sequence[str | Path],
    calculator: ForceDeltaCalculator | None = None,
    forces_key: str | None = None,
    energy_key: str | None = None,
) -> Labels:
    """Labelled frames of files that ASE reads, as `forcedelta recalc` writes them.

    Without a calculator, a frame must have ``info["force_delta"]`` (U, eV/Å), ``info["model"]``,
    ``info["weights_hash"]`` and the array ``direct_forces`` [N, 3] eV/Å beside the reference's
    forces. With one, all frames are evaluated anew and need nothing but the reference's forces; a
    bar shows the progress on a terminal.

    Args:
        paths: the files.
        calculator: of the model that is asked for all frames.
        forces_key: array that holds the reference's forces, eV/Å, if not where ASE has them.
        energy_key: field that holds the reference's energy; checked to be there, nothing more.

    Raises:
        ForceDeltaError: a file cannot be read or holds no frames; frames without forces, with
            numbers that are not finite, without U, of several models or references; structures
            that the model does not support; forces that are the model's own, or zero everywhere.
    """
    return _labels(
        [frame for path in paths for frame in read_frames(Path(path), forces_key, energy_key)],
        calculator,
    )


def evaluated(frames: Iterable[Atoms], calculator: ForceDeltaCalculator) -> Labels:
    """The same for labelled frames in memory: their forces are the reference's.

    Raises:
        ForceDeltaError: as `read_labels` does.
    """
    numbered = [(f"frame {index} (counted from 0)", atoms) for index, atoms in enumerate(frames)]
    return _labels(
        [LabelledFrame(atoms, reference_forces(atoms, at), at) for at, atoms in numbered],
        calculator,
    )


def _labels(frames: list[LabelledFrame], calculator: ForceDeltaCalculator | None) -> Labels:
    if not frames:
        raise ForceDeltaError("no labelled frames: give some")
    _refuse_copies(frames)
    reference = _reference(frames)
    if calculator is None:
        rows = [_stored(frame) for frame in frames]
        model = {
            key: str(_only(key, [frame.atoms.info.get(key) for frame in frames], frames))
            for key in ("model", "weights_hash")
        }
        model = {"name": model["model"], "weights_hash": model["weights_hash"]}
        model["weights_hash"] = model["weights_hash"].removeprefix(HASH_PREFIX)
    else:
        rows = [_evaluated(frame, calculator) for frame in tqdm(frames, "evaluating", disable=None)]
        model = {
            "name": calculator.model.name,
            "weights_hash": calculator.model.weights_hash,
        }
    force_delta, energy, direct = zip(*rows, strict=True)
    errors = [predicted - frame.forces for predicted, frame in zip(direct, frames, strict=True)]
    if all(np.abs(error).max() < SAME for error in errors):
        raise ForceDeltaError(
            "the forces of the frames are the model's own predictions, not those of a reference: label the "
            "frames first (forcedelta recalc)"
        )
    if not any(frame.forces.any() for frame in frames):
        raise ForceDeltaError(
            "the reference forces of all frames are zero, so they are not labels: label the frames first "
            "(forcedelta recalc)"
        )
    sources, times = runs_of(frames)
    return Labels(
        force_delta=np.array(force_delta),
        epsilon=np.array([_rms(error) for error in errors]),
        force_rms=np.array([_rms(predicted) for predicted in direct]),
        energy=_above_the_lowest([frame.atoms for frame in frames], np.array(energy)),
        source=sources,
        time=times,
        model=model,
        reference=reference,
    )


def _stored(frame: LabelledFrame) -> tuple[float, float, Array]:
    """U, the predicted energy per atom and the direct forces that the file has."""
    info, arrays = frame.atoms.info, frame.atoms.arrays
    missing = [name for name in ("force_delta", "model", "weights_hash") if name not in info]
    if "direct_forces" not in arrays:
        missing.append("direct_forces")
    if missing:
        raise ForceDeltaError(
            f"{frame.where} has no {' and no '.join(missing)}: pass --model to evaluate all frames"
        )
    force_delta, direct = number(info["force_delta"]), np.asarray(arrays["direct_forces"])
    if direct.shape != frame.forces.shape or direct.dtype.kind not in "fiu" or force_delta < 0:
        raise ForceDeltaError(
            f"{frame.where} has a force_delta or direct_forces that 'forcedelta' did not write: pass "
            "--model to evaluate all frames"
        )
    if not (np.isfinite(force_delta) and np.isfinite(direct).all()):
        raise ForceDeltaError(f"{frame.where} has a prediction that is not finite: remove it")
    return force_delta, number(info.get("model_energy")) / len(frame.atoms), direct.astype(float)


def _evaluated(
    frame: LabelledFrame, calculator: ForceDeltaCalculator
) -> tuple[float, float, Array]:
    atoms = frame.atoms.copy()
    try:
        calculator.calculate(atoms, ["force_delta"])
    except ForceDeltaError as error:
        raise ForceDeltaError(f"{frame.where}: {error}") from error
    results = calculator.results
    if calculator.problem is not None or not np.isfinite(results["force_delta"]):
        reason = calculator.problem or "U is not finite"
        raise ForceDeltaError(f"{frame.where} cannot be evaluated ({reason}): remove it")
    return results["force_delta"], results["energy"] / len(atoms), results["direct_forces"]


def _refuse_copies(frames: list[LabelledFrame]) -> None:
    """The same structure twice is one label; a file that was given twice is a slip."""
    seen: dict[tuple[bytes, str, str], str] = {}
    for frame in frames:
        atoms = frame.atoms
        geometry = np.concatenate([atoms.numbers, *atoms.cell, *atoms.positions]).round(6).tobytes()
        # a molecule and its ion are two labels
        key = (geometry, str(atoms.info.get("charge", 0)), str(atoms.info.get("spin")))
        if key in seen:
            raise ForceDeltaError(
                f"{frame.where} is the same structure as {seen[key]}, and counts only once: remove it"
            )
        seen[key] = frame.where


def _reference(frames: list[LabelledFrame]) -> str | None:
    """The reference of all frames that name one."""
    told = [frame for frame in frames if "reference" in frame.atoms.info]
    if not told:
        return None
    reference = _only("reference", [frame.atoms.info["reference"] for frame in told], told)
    untold = len(frames) - len(told)
    return str(reference) + (f", and {untold} labels of an unnamed reference" * (untold > 0))


def _only(name: str, values: list[Any], frames: list[LabelledFrame]) -> Any:
    """The value that all frames share."""
    for value, frame in zip(values, frames, strict=True):
        if str(value) != str(values[0]):
            raise ForceDeltaError(
                f"{frame.where} has {name} {value}, but {frames[0].where} has {values[0]}: "
                "calibrate each separately"
                + (", or pass --model to re-evaluate all frames" if name != "reference" else "")
            )
    return values[0]


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(array**2)))


def _above_the_lowest(frames: Sequence[Atoms], energy: Array) -> Array:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, atoms in enumerate(frames):
        groups[str(atoms.symbols.formula.reduce()[0].format("hill"))].append(index)
    above = energy.copy()
    for rows in groups.values():
        above[rows] -= energy[rows].min()
    return above
