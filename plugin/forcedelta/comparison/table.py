"""Predictions of all models on all structures, joined from the files of their audits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forcedelta.comparison.audits import differs, source_frames
from forcedelta.comparison.statistics import rms
from forcedelta.comparison.structures import Structure, StructureFile
from forcedelta.errors import ForceDeltaError
from md_hooks import HookError, Trajectory

Array = NDArray[np.float64]

SAME = 1e-5  # eV/Å; direct forces, stored in float32, that agree this well with labels are these labels


@dataclass
class Predictions:
    """What a model predicts for n structures; NaN and the reason where it does not.

    Attributes:
        name: of its folder.
        source: name under which the model was loaded.
        weights_hash: of its weights.
        level_of_theory: of its training set; None if unknown.
        force_delta: U [n], eV/Å.
        energy: per atom [n], eV.
        force_rms: RMS of the direct forces [n], eV/Å.
        epsilon: true error of the direct forces [n], eV/Å; NaN without a label, too.
        direct: direct forces [N, 3] of each structure, eV/Å, or None.
        reasons: why there is no prediction; "" where there is one.
    """

    name: str
    source: str
    weights_hash: str
    level_of_theory: str | None
    force_delta: Array
    energy: Array
    force_rms: Array
    epsilon: Array
    direct: list[NDArray[np.floating] | None]
    reasons: list[str]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Mask of the structures with a prediction [n]."""
        return np.isfinite(self.force_delta)


@dataclass(frozen=True)
class Table:
    """Structures and predictions of a comparison.

    Attributes:
        structures: of all files.
        models: their predictions.
        notes: on labels and unfinished audits.
        problems: audits that cannot be used.
    """

    structures: list[Structure]
    models: list[Predictions]
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def join(folder: Path, files: Sequence[StructureFile]) -> Table:
    """The predictions of all models in a folder.

    Args:
        folder: with a folder of audits for each model.
        files: structures and labels.

    Raises:
        ForceDeltaError: the folder holds no audit of these files.
    """
    structures = [structure for file in files for structure in file.structures]
    names = [
        path.name
        for path in sorted(folder.iterdir())
        if path.is_dir() and any((path / f"{file.stem}.h5").is_file() for file in files)
    ]
    if not names:
        raise ForceDeltaError(
            f"{folder} holds no predictions for {', '.join(file.stem for file in files)}: give --model"
        )
    table = Table(structures, [])
    for name in names:
        predictions = _read_model(folder / name, files, table)
        if predictions is not None:
            table.models.append(predictions)
    if not table.models:
        raise ForceDeltaError("; ".join(table.problems))
    for note in _without_copied_labels(files, table):
        table.notes.append(note)
    return table


def _read_model(folder: Path, files: Sequence[StructureFile], table: Table) -> Predictions | None:
    count = len(table.structures)
    made = Predictions(
        name=folder.name,
        source=folder.name,
        weights_hash="",
        level_of_theory=None,
        force_delta=np.full(count, np.nan),
        energy=np.full(count, np.nan),
        force_rms=np.full(count, np.nan),
        epsilon=np.full(count, np.nan),
        direct=[None] * count,
        reasons=[""] * count,
    )
    start, weights = 0, set()
    for file in files:
        rows = range(start, start := start + len(file.structures))
        path = folder / f"{file.stem}.h5"
        reason = ""
        if not path.is_file():
            reason = f"no audit {path}: pass --model for {folder.name} again"
            table.notes.append(
                f"{reason.split(':')[0]}: pass --model with {folder.name} to make it"
            )
        else:
            try:
                reason = _read_file(path, file, rows, made, table)
            except HookError as error:
                reason = str(error)
            if reason:
                table.problems.append(f"{reason}; it was left out")
            elif made.weights_hash:
                weights.add(made.weights_hash)
        for row in rows:
            if not made.known[row]:
                made.reasons[row] = made.reasons[row] or reason or f"not in {path}"
    if len(weights) > 1:
        table.problems.append(
            f"the audits in {folder} are of several models (weights {', '.join(sorted(weights))}): "
            "remove those of the old one; it was left out"
        )
        return None
    return made


def _read_file(
    path: Path, file: StructureFile, rows: range, made: Predictions, table: Table
) -> str:
    """Take in an audit; what makes it unusable, or ""."""
    audit = Trajectory(path)
    model = audit.metadata.get("model", {})
    if "source_frame" not in audit.series and len(audit.series["step"]):
        return f"{path} is not an audit"
    difference = differs(audit, file) if len(audit.series["step"]) else ""
    if difference:
        return f"{difference}: pass --model {path.parent.name} and --overwrite to make it again"
    made.source = str(model.get("name", made.name))
    made.weights_hash = str(model.get("weights_hash", ""))
    made.level_of_theory = model.get("level_of_theory")
    place = {structure.frame: row for row, structure in zip(rows, file.structures, strict=True)}
    for remark in audit.remarks():
        if remark.kind in ("not audited", "not finite") and remark.frame in place:
            made.reasons[place[remark.frame]] = remark.text
    stored = zip(source_frames(audit), audit.frames(), strict=True) if len(audit) else ()
    for source, frame in stored:
        row = place[source]
        u, forces = frame.force_delta, frame.direct_forces
        if u is None or forces is None or not np.isfinite([u, frame.energy]).all():
            made.reasons[row] = made.reasons[row] or "energy, forces or U are not finite"
            continue
        label = table.structures[row].forces
        made.force_delta[row] = u
        made.energy[row] = frame.energy / len(frame.numbers)
        made.force_rms[row] = rms(forces)
        made.direct[row] = forces
        if label is not None:
            made.epsilon[row] = rms(forces - label)
    reason = audit.outcome.get("reason")
    if reason != "finished":
        done = int(made.known[list(rows)].sum())
        table.notes.append(
            f"{path} is unfinished ({reason}): {done} of {len(rows)} structures; pass --model with "
            f"{path.parent.name} again to continue it"
        )
    return ""


def _without_copied_labels(files: Sequence[StructureFile], table: Table) -> list[str]:
    """Drop the labels of files whose forces are not those of a reference; notes about it."""
    notes, start = [], 0
    for file in files:
        rows = np.arange(start, start := start + len(file.structures))
        labelled = [row for row in rows if table.structures[row].forces is not None]
        if not labelled:
            continue
        for model in table.models:
            errors = model.epsilon[labelled]
            if np.isfinite(errors).any() and np.nanmax(errors) < SAME:
                notes.append(
                    f"the forces in {file.path} are the direct forces of {model.name}, not those of a "
                    "reference: they do not count as labels"
                )
                for other in table.models:
                    other.epsilon[rows] = np.nan
                break
    every = [structure.forces for structure in table.structures if structure.forces is not None]
    if every and not any(forces.any() for forces in every):
        notes.append("the forces in all files are zero: they do not count as labels")
        for model in table.models:
            model.epsilon[:] = np.nan
    return notes
