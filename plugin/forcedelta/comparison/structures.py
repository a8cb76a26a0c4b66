"""The structures of a comparison: read once, with their labels, systems and paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from forcedelta.calibration.labelled_files import LabelledFrame, reference_forces
from forcedelta.calibration.runs import runs_of
from forcedelta.errors import ForceDeltaError
from forcedelta.reading_options import ReadingOptions
from forcedelta.trajectories.ase_readers import RecordedTrajectory
from forcedelta.trajectories.base import StoredFrame, StoredTrajectory
from forcedelta.trajectories.opening import open_trajectory
from md_hooks import Trajectory
from md_hooks.foreign_fields import step_of, text_of

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Structure:
    """One structure of a comparison.

    Attributes:
        file: name of its file, without folder and ending.
        frame: position in the file, counted from 0.
        group: the system that it belongs to.
        numbers: atomic numbers [N].
        positions: [N, 3] Å.
        cell: [3, 3] Å, zeros without a cell.
        composition: reduced formula.
        forces: of the reference [N, 3], eV/Å; None without a label.
        reference: level of theory of the label, None if unknown.
        path: the path of an attack that it belongs to; None if it is of none.
        move: its number on the path; the smallest is the start.
        run: what tells correlated frames from others; None if unknown.
        time: in that run, in any unit; NaN if unknown.
    """

    file: str
    frame: int
    group: str
    numbers: NDArray[np.integer]
    positions: Array
    cell: Array
    composition: str
    forces: Array | None
    reference: str | None
    path: str | None
    move: int | None
    run: str | None
    time: float

    @property
    def where(self) -> str:
        """File and frame, for messages."""
        return f"{self.file}, frame {self.frame} (counted from 0)"


@dataclass(frozen=True)
class StructureFile:
    """The structures of one file.

    Attributes:
        path: as given.
        structures: those that can be read, in their order.
        notes: on labels, frames and groups.
    """

    path: Path
    structures: list[Structure]
    notes: list[str]

    @property
    def stem(self) -> str:
        """Name of the file without folder and ending, which is also that of its audits."""
        return self.path.stem


def check_names(paths: Sequence[Path]) -> None:
    """Refuse files whose audits would have the same name.

    Raises:
        ForceDeltaError: there is no file, or two have the same name.
    """
    if not paths:
        raise ForceDeltaError("no structures: give one or more files")
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise ForceDeltaError(
                f"the audits of {seen[path.stem]} and {path} would both be called {path.stem}.h5: rename one"
            )
        seen[path.stem] = path


def read_structures(
    path: Path,
    group_by: str | None = None,
    forces_key: str | None = None,
    reading: ReadingOptions | None = None,
) -> StructureFile:
    """All structures of a file.

    Args:
        path: a file that `forcedelta.trajectories.opening.open_trajectory` reads.
        group_by: field of the frames that names their system; None: the file is one system.
        forces_key: array of the reference's forces, eV/Å, if not in ASE's results.
        reading: what the file does not say itself.

    Raises:
        ForceDeltaError: the file cannot be read, or holds no readable frame.
    """
    source = open_trajectory(path, options=reading)
    try:
        items = list(source.frames(0, None, 1))
        extras = _extras(path, source, group_by)
    finally:
        source.close()
    frames = [item for item in items if isinstance(item, StoredFrame)]
    if not frames:
        why = f" ({items[0].reason})" if items else ""  # type: ignore[union-attr]
        raise ForceDeltaError(f"{path} holds no readable frame{why}: give a file of structures")
    for frame in frames:
        frame.atoms.info.update(extras.get(frame.step, {}))
    notes = [
        f"{path}: frame {item.index} cannot be read ({item.reason})"
        for item in items
        if not isinstance(item, StoredFrame)
    ]
    labels = _labels(path, frames, forces_key, notes)
    if group_by is not None:
        without = sum(text_of(frame.atoms.info.get(group_by)) is None for frame in frames)
        if without:
            notes.append(
                f"{path}: {without} of {len(frames)} frames have no '{group_by}' and count as system "
                f"'{path.stem}'"
            )
    runs, times = runs_of(
        [LabelledFrame(frame.atoms, np.empty((0, 3)), "", str(path.resolve())) for frame in frames]
    )
    structures = []
    for frame, forces, run, time in zip(frames, labels, runs, times, strict=True):
        atoms = frame.atoms
        on_path = _path_of(atoms, path.stem)
        move = step_of(atoms.info.get("move")) if on_path else None
        structures.append(
            Structure(
                file=path.stem,
                frame=frame.index,
                group=text_of(atoms.info.get(group_by or "")) or path.stem,
                numbers=atoms.numbers,
                positions=atoms.positions,
                cell=atoms.cell.array,
                composition=str(atoms.symbols.formula.reduce()[0].format("hill")),
                forces=forces,
                reference=text_of(atoms.info.get("reference")),
                path=on_path,
                move=move,
                run=run if on_path is None else f"{path.stem}, {on_path}",
                time=float(time) if move is None else float(move),
            )
        )
    return StructureFile(path, structures, notes)


def _extras(
    path: Path, source: StoredTrajectory, group_by: str | None
) -> dict[int | None, dict[str, Any]]:
    """Scalars of a recorded file that belong to its frames, by step."""
    if source.kind != RecordedTrajectory.kind:
        return {}
    series = Trajectory(path).series
    names = [name for name in ("path", "move", group_by) if name in series]
    return {
        int(step): {name: float(series[name][row]) for name in names}
        for row, step in enumerate(series["step"])
    }


def _path_of(atoms: Atoms, file: str) -> str | None:
    """Name of the attack path of a frame: its number, and the file that it was labelled from."""
    number = step_of(atoms.info.get("path"))
    if number is None or step_of(atoms.info.get("move")) is None:
        return None
    source = text_of(atoms.info.get("source"))
    return f"path {number}" + (f" of {source}" if source and Path(source).stem != file else "")


def _labels(
    path: Path, frames: Sequence[StoredFrame], forces_key: str | None, notes: list[str]
) -> list[Array | None]:
    """Forces of the reference [N, 3] eV/Å of each frame, None where there are none."""
    found: list[Array | None] = []
    reasons: list[str] = []
    for frame in frames:
        try:
            where = f"{path}, frame {frame.index} (counted from 0)"
            found.append(reference_forces(frame.atoms, where, forces_key))
        except ForceDeltaError as error:
            found.append(None)
            reasons.append(str(error))
    labelled = len(frames) - len(reasons)
    hinted = [reason for reason in reasons if "--forces-key" in reason or "not finite" in reason]
    if labelled and reasons:
        notes.append(
            f"{path}: {labelled} of {len(frames)} frames have labels, and errors are those of these frames "
            f"({(hinted or reasons)[0]})"
        )
    elif hinted or (reasons and forces_key is not None):
        notes.append(f"{path}: no frame has labels ({(hinted or reasons)[0]})")
    return found
