"""Trajectory: reading a recorded run, finished or still growing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..constraints import Records
from ..environment import Environment
from ..frame import Frame
from ..predicted_error import PREDICTED_ATOMS
from ..run_id import stored_run_id
from ..verdict import Action
from . import checksum, held, layout, validation
from .opening import open_to_read
from .recorded_legs import Leg, legs_of
from .remark import Remark

_NAMED = {"step", "time", *(name for name, *_ in layout.SERIES)}
BLOCK_VALUES = 200_000  # particles x frames that are read at a time


class Trajectory:
    """A recorded trajectory. The file is opened for each access only and is never locked.

    >>> recorded = Trajectory("run.h5")
    >>> recorded.series["force_delta"].max(), recorded.outcome["reason"]
    (0.17, 'finished')
    >>> recorded.frame(-1).positions.shape
    (15, 3)

    Args:
        path: the file.

    Raises:
        HookError: the file does not exist, is cut off, or was not written by a Recorder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._series: dict[str, NDArray[Any]] = {}
        self._checked: tuple[int, int] | None = None
        """Device and number of the file whose structure was looked at already."""
        self._held = held.Held()
        self.refresh()

    def refresh(self) -> int:
        """Look at the file again; only new rows of the series are read.

        Returns:
            the number of new steps (all of them, when the file was cut back in between).
        """
        return open_to_read(self.path, self._read)

    def _read(self, file: h5py.File) -> int:
        found = self.path.stat()
        if self._checked != (found.st_dev, found.st_ino):
            validation.check(file, self.path)
            self._checked = (found.st_dev, found.st_ino)
        runs = file[layout.RUNS]
        self.runs = [
            {name: json.loads(text) for name, text in runs[key].attrs.items()}
            for key in sorted(runs, key=int)
        ]
        """One dict per run that wrote to the file: "info", "policies" and "outcome"."""
        self.creator_version = str(file["h5md/creator"].attrs["version"])
        self._frame_steps = _grown(file, layout.PARTICLES, layout.FRAME_STEP)
        validation.check_steps(self.path, self._frame_steps, "frame")
        species = f"{layout.PARTICLES}/species/value"
        self._n_atoms = file[species].shape[1] if species in file else 0
        others = f"{layout.ENVIRONMENT}/species/value"
        self._n_particles = self._n_atoms + (file[others].shape[1] if others in file else 0)
        return self._read_series(file)

    def _read_series(self, file: h5py.File) -> int:
        steps = _grown(file, layout.PER_STEP, layout.SERIES_STEP)
        validation.check_steps(self.path, steps, "row")
        old = self._series.get("step", steps[:0])
        start = len(old)
        if start > len(steps) or not np.array_equal(steps[:start], old):
            start = 0
        added = _read_rows(file, start, len(steps))
        self._verify(added, start)
        self._series = {
            name: new if start == 0 else np.concatenate([self._before(name, new, start), new])
            for name, new in added.items()
        }
        return len(steps) - start

    def _before(self, name: str, new: NDArray[Any], start: int) -> NDArray[Any]:
        """The rows of a series that are known; empty ones of a series that came late."""
        if name in self._series:
            return self._series[name][:start]
        return np.full(start, layout.fill_value(new.dtype.kind), new.dtype)

    def _verify(self, rows: dict[str, NDArray[Any]], start: int) -> None:
        """Check rows of the series, and take the checksums out of them."""
        known = rows.pop("checksum", None)
        if known is not None:
            total = np.zeros(len(rows["step"]), dtype=np.uint64)
            for name, values in rows.items():
                total += checksum.of_rows(name, values, layout.fill_value(values.dtype.kind))
            validation.check_checksums(self.path, "row", start, rows["step"], total, known)
        validation.check_values(self.path, "step", start, rows, self._n_atoms)

    @property
    def series(self) -> dict[str, NDArray[Any]]:
        """The scalars of all S steps, arrays [S] by name.

        "step", "time" (fs), "potential_energy" (eV), "temperature" (K), "force_delta" and
        "force_delta_max" (eV/Å, U and the largest u_i; NaN where not computed), "worst_atom" (-1
        where not computed), "action" (0 continue, 1 flag, 2 stop), and what else was recorded.
        """
        return self._series

    @property
    def flags(self) -> NDArray[np.int64]:
        """Steps that were flagged, [n]."""
        return self._steps_with(Action.FLAG)

    @property
    def stops(self) -> NDArray[np.int64]:
        """Steps at which a run was stopped, [n]."""
        return self._steps_with(Action.STOP)

    def _steps_with(self, action: Action) -> NDArray[np.int64]:
        if "action" not in self._series:
            return np.empty(0, dtype=np.int64)
        return self._series["step"][self._series["action"] == action]

    @property
    def legs(self) -> list[Leg]:
        """The legs of the run: runs with the same hooks one after the other; see `md_hooks.legs`."""
        steps = self._series["step"]
        return legs_of(self.runs, int(steps[-1]) if len(steps) else -1)

    @property
    def metadata(self) -> dict[str, Any]:
        """Model, command, seed, settings and versions of the last run."""
        return self.runs[-1]["info"] if self.runs else {}

    @property
    def run_id(self) -> str:
        """What tells the frames of this run from those of others, see `md_hooks.run_id`."""
        return open_to_read(self.path, stored_run_id)

    @property
    def outcome(self) -> dict[str, Any]:
        """How the last run ended; ``{"reason": "running"}`` while it runs or after it was killed."""
        return self.runs[-1]["outcome"] if self.runs else {}

    @property
    def policies(self) -> list[dict[str, Any]]:
        """The policies of the guards of the last run (`md_hooks.Guard.policy`)."""
        return self.runs[-1]["policies"] if self.runs else []

    @property
    def thresholds(self) -> dict[str, Any]:
        """Thresholds "stop" and "flag" of the first guard, eV/Å, None where there is none (yet), and "on"."""
        for policy in self.policies:
            if "stop_threshold" in policy:
                return {
                    "on": policy["on"],
                    "stop": policy["stop_threshold"],
                    "flag": policy["flag_threshold"],
                }
        return {"on": None, "stop": None, "flag": None}

    @property
    def frame_steps(self) -> NDArray[np.int64]:
        """Steps of the recorded frames, [F]."""
        return self._frame_steps

    def __len__(self) -> int:
        """Number of recorded frames."""
        return len(self._frame_steps)

    def remarks(self) -> list[Remark]:
        """What a replay noted about the frames of its source, in their order; empty for a run."""

        def read(file: h5py.File) -> list[Remark]:
            rows = file[layout.REMARKS][()] if layout.REMARKS in file else ()
            return [Remark.of_row(row) for row in rows]

        return open_to_read(self.path, read)

    def frame(self, index: int) -> Frame:
        """One recorded frame.

        Args:
            index: of the frame among the recorded ones; negative ones count from the end.

        Raises:
            IndexError: there are not so many frames.
        """
        stored = range(len(self))
        if not -len(stored) <= index < len(stored):
            raise IndexError(f"{self.path} has {len(stored)} stored frames, and no frame {index}")
        chosen = stored[index]
        return next(self.frames(range(chosen, chosen + 1)))

    def frames(self, indices: range | None = None) -> Iterator[Frame]:
        """Recorded frames one after the other, read a block at a time.

        The forces come back with the precision of float32, and `Frame.extra` as far as it is in
        the series.

        Args:
            indices: of the frames; by default all of them.
        """
        indices = range(len(self)) if indices is None else indices
        size = max(1, BLOCK_VALUES // max(1, self._n_particles))
        for start in range(0, len(indices), size):
            yield from open_to_read(
                self.path, partial(self._read_frames, indices=indices[start : start + size])
            )

    def _read_frames(self, file: h5py.File, indices: range) -> list[Frame]:
        low, high = min(indices), max(indices) + 1
        stored = _stored_frames(file, slice(low, high))
        known = stored.pop(layout.CHECKSUM, None)
        if known is not None:
            total = np.zeros(high - low, dtype=np.uint64)
            for path, rows in stored.items():
                total += checksum.of_rows(path, rows, layout.fill_value(rows.dtype.kind))
            known = _filled(known, high - low, checksum.UNKNOWN)
            validation.check_checksums(self.path, "frame", low, stored["step"], total, known)
        named = {
            path.rsplit("/", 1)[-1]: rows
            for path, rows in stored.items()
            if not path.startswith(layout.ENVIRONMENT)
        }
        validation.check_values(self.path, "frame", low, named, self._n_atoms)
        lines = held.read(file)
        if lines != self._held.lines:
            self._held = self._constraints_of(lines)
        masses = file[layout.MASSES][()]
        boundary = file[f"{layout.PARTICLES}/box"].attrs["boundary"]
        pbc = np.array([_text(word) == "periodic" for word in boundary])
        return [
            replace(
                _frame(stored, index - low, masses, pbc),
                extra=self._extra(int(self._frame_steps[index])),
                constraints=self._constraints_at(int(self._frame_steps[index])),
            )
            for index in indices
        ]

    def _constraints_of(self, lines: bytes) -> held.Held:
        try:
            return held.Held(lines)
        except held.ConstraintsError as error:
            raise validation.damaged(self.path, str(error)) from error

    def _constraints_at(self, step: int) -> Records:
        """Records of the constraints at a step; earlier versions kept those of a run in its settings."""
        known = self._held.at(step)
        if known is not None or not self.runs:
            return known or ()
        stored = self.runs[0]["info"].get("settings", {}).get("constraints")
        return tuple(one for one in stored if isinstance(one, dict)) if stored else ()

    def _extra(self, step: int) -> dict[str, float]:
        """The further scalars of a step that were recorded."""
        row = int(np.searchsorted(self._series["step"], step))
        if row == len(self._series["step"]) or self._series["step"][row] != step:
            return {}
        values = {name: float(self._series[name][row]) for name in self._series.keys() - _NAMED}
        return {name: value for name, value in values.items() if not np.isnan(value)}


def _grown(file: h5py.File, root: str, steps: str) -> NDArray[np.int64]:
    """The steps of a group up to where all its core datasets reach."""
    if steps not in file:
        return np.empty(0, dtype=np.int64)
    roots = (root, layout.OBSERVABLES) if root == layout.PARTICLES else (root,)
    core = [path for path in layout.CORE if path.startswith(roots)]
    lengths = [file[path].shape[0] if path in file else 0 for path in core]
    values = file[steps][: min(lengths)]
    unwritten = np.flatnonzero(values < 0)
    return values[: unwritten[0]] if len(unwritten) else values


def _read_rows(file: h5py.File, start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Rows of all series by name; those that are not caught up yet are filled up."""
    rows: dict[str, NDArray[Any]] = {"step": np.empty(0, dtype="i8"), "time": np.empty(0)}
    rows.update({name: np.empty(0, dtype) for name, dtype, _ in layout.SERIES})
    group = file[layout.PER_STEP]
    for name in group:
        data = group[name] if name in ("step", "time") else group[name]["value"]
        new = data[start:stop]
        rows[name] = _filled(new, stop - start, layout.fill_value(new.dtype.kind))
    return rows


def _filled(rows: NDArray[Any], count: int, fill: Any) -> NDArray[Any]:
    if len(rows) == count:
        return rows
    return np.concatenate([rows, np.full((count - len(rows), *rows.shape[1:]), fill, rows.dtype)])


def _stored_frames(file: h5py.File, rows: slice) -> dict[str, NDArray[Any]]:
    """What is stored of some frames, by path of the element."""
    stored = {"step": file[layout.FRAME_STEP][rows], "time": file[layout.FRAME_TIME][rows]}
    paths = [element.path for element in layout.PARTICLE_ELEMENTS]
    for path in (*paths, layout.ACTION, layout.CHECKSUM):
        if f"{path}/value" in file:
            found = file[f"{path}/value"][rows]
            fill = layout.fill_value(found.dtype.kind)
            stored[path] = _filled(found, rows.stop - rows.start, fill)
    return stored


def _frame(
    stored: dict[str, NDArray[Any]], row: int, masses: NDArray[Any], pbc: NDArray[np.bool_]
) -> Frame:
    particles, observables = layout.PARTICLES, layout.OBSERVABLES
    species = stored[f"{particles}/species"][row].astype(int)
    atoms = slice(0, int((species >= 0).sum()))

    def value_of(path: str, per_atom: bool = False) -> Any:
        if path not in stored:
            return None
        found = stored[path][row]
        return _optional(found[atoms] if per_atom else found)

    given: dict[str, Any] = {
        name: value_of(f"{particles}/{name}", per_atom=True)
        for name in (
            "direct_forces",
            "conservative_forces",
            "force_deltas",
            "magnetic_moments",
            *PREDICTED_ATOMS,
        )
    }
    for name in ("charge", "spin", "system_particles"):
        told = value_of(f"{observables}/{name}")
        given[name] = None if told is None else int(told)
    own_masses = stored.get(f"{particles}/mass")  # of replays, whose frames may be of
    own_pbc = stored.get(f"{observables}/pbc")  # different systems
    temperature = value_of(f"{observables}/temperature")
    u = value_of(f"{observables}/force_delta")
    energy = float(stored[f"{observables}/potential_energy"][row])
    return Frame(
        step=int(stored["step"][row]),
        time=float(stored["time"][row]),
        numbers=species[atoms],
        positions=stored[f"{particles}/position"][row][atoms],
        velocities=value_of(f"{particles}/velocity", per_atom=True),
        masses=masses if own_masses is None else own_masses[row][atoms],
        cell=stored[f"{particles}/box/edges"][row],
        pbc=pbc if own_pbc is None else own_pbc[row].astype(bool),
        energy=energy,
        energy_known=u is not None or not np.isnan(energy),
        forces=stored[f"{particles}/force"][row][atoms].astype("f8") / layout.KJ_PER_MOL,
        temperature=None if temperature is None else float(temperature),
        force_delta=None if u is None else float(u),
        stress=value_of(f"{observables}/stress"),
        environment=_environment(stored, row),
        **given,
    )


def _environment(stored: dict[str, NDArray[Any]], row: int) -> Environment | None:
    root = layout.ENVIRONMENT
    if f"{root}/species" not in stored:
        return None
    species = stored[f"{root}/species"][row].astype(int)
    particles = slice(0, int((species >= 0).sum()))
    if not particles.stop:
        return None
    return Environment(
        species[particles],
        stored[f"{root}/position"][row][particles],
        stored[f"{root}/charge"][row][particles].astype("f8"),
        stored[f"{root}/molecule"][row][particles].astype(int),
        stored[f"{root}/cell"][row],
    )


def _optional(value: Any) -> Any:
    return None if np.isnan(value).all() else value


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
