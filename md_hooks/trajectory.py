"""Trajectory: reading a recorded run, finished or still growing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from . import layout
from .errors import HookError
from .frame import Frame
from .reading import open_to_read
from .remark import Remark
from .run_id import stored_run_id
from .verdict import Action

BLOCK_VALUES = 200_000  # atoms x frames that are read at a time


class Trajectory:
    """What a Recorder wrote. The file is opened for each access only and never locked.

    Args:
        path: the file.

    Raises:
        HookError: the file does not exist, is cut off, or was not written by a Recorder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._series: dict[str, NDArray[Any]] = {}
        self.refresh()

    def refresh(self) -> int:
        """Look at the file again; only new rows of the series are read.

        Returns:
            the number of new steps (all of them, when the file was cut back in between).
        """
        return open_to_read(self.path, self._read)

    def _read(self, file: h5py.File) -> int:
        if file["h5md/creator"].attrs.get("name") != layout.CREATOR:
            raise HookError(
                f"{self.path} was not written by a Recorder: read it with the program that wrote it"
            )
        runs = file[layout.RUNS]
        self.runs = [
            {name: json.loads(text) for name, text in runs[key].attrs.items()}
            for key in sorted(runs, key=int)
        ]
        """One dict per run that wrote to the file: "info", "policies" and "outcome"."""
        self.creator_version = str(file["h5md/creator"].attrs["version"])
        self._frame_steps = _grown(file, layout.PARTICLES, layout.FRAME_STEP)
        species = f"{layout.PARTICLES}/species/value"
        self._n_atoms = file[species].shape[1] if species in file else 0
        return self._read_series(file)

    def _read_series(self, file: h5py.File) -> int:
        steps = _grown(file, layout.PER_STEP, layout.SERIES_STEP)
        old = self._series.get("step", steps[:0])
        start = len(old)
        if start > len(steps) or not np.array_equal(steps[:start], old):
            start = 0
        stop = len(steps)
        series = {"step": steps, "time": np.empty(0)}
        series.update({name: np.empty(0, dtype) for name, dtype, _ in layout.SERIES})
        group = file[layout.PER_STEP]
        for name in group:
            if name == "step":
                continue
            data = group[name] if name == "time" else group[name]["value"]
            new = data[start:stop]
            if len(new) < stop - start:  # not one of the core series, and not caught up yet
                pad = np.full(
                    stop - start - len(new), layout.fill_value(data.dtype.kind), new.dtype
                )
                new = np.concatenate([new, pad])
            before = self._series.get(name)
            if before is None or start == 0:
                new = data[:stop] if start else new
                series[name] = new
            else:
                series[name] = np.concatenate([before[:start], new])
        self._series = series
        return stop - start

    @property
    def series(self) -> dict[str, NDArray[Any]]:
        """The scalars of every step, arrays of equal length S by name.

        "step", "time" (fs), "potential_energy" (eV), "temperature" (K), "force_delta" and
        "force_delta_max" (eV/Å, U and the largest u_i; NaN where not computed), "worst_atom" (-1
        where not computed), "action" (0 continue, 1 flag, 2 stop), and what else was recorded.
        """
        return self._series

    @property
    def flags(self) -> NDArray[np.int64]:
        """Steps that were flagged."""
        return self._steps_with(Action.FLAG)

    @property
    def stops(self) -> NDArray[np.int64]:
        """Steps at which a run was stopped."""
        return self._steps_with(Action.STOP)

    def _steps_with(self, action: Action) -> NDArray[np.int64]:
        if "action" not in self._series:
            return np.empty(0, dtype=np.int64)
        return self._series["step"][self._series["action"] == action]

    @property
    def metadata(self) -> dict[str, Any]:
        """What the last run said about itself: model, command, seed, settings, versions."""
        return self.runs[-1]["info"] if self.runs else {}

    @property
    def run_id(self) -> str:
        """What tells the frames of this run from those of others, see `md_hooks.run_id`."""
        return open_to_read(self.path, stored_run_id)

    @property
    def outcome(self) -> dict[str, Any]:
        """How the last run ended; {"reason": "running"} while it runs or after it was killed."""
        return self.runs[-1]["outcome"] if self.runs else {}

    @property
    def policies(self) -> list[dict[str, Any]]:
        """The policies of the guards of the last run (`md_hooks.Guard.policy`)."""
        return self.runs[-1]["policies"] if self.runs else []

    @property
    def thresholds(self) -> dict[str, Any]:
        """Of the first guard: "on", "stop" and "flag" in eV/Å, None where there is none (yet)."""
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
        """Steps of the recorded frames."""
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
        """One recorded frame, negative indices count from the end.

        Raises:
            IndexError: there are not so many frames.
        """
        chosen = range(len(self))[index]
        return next(self.frames(range(chosen, chosen + 1)))

    def frames(self, indices: range | None = None) -> Iterator[Frame]:
        """Recorded frames one after the other, read a block at a time.

        The forces come back with the precision of float32.
        """
        indices = range(len(self)) if indices is None else indices
        size = max(1, BLOCK_VALUES // max(1, self._n_atoms))
        for start in range(0, len(indices), size):
            read = partial(_read_frames, indices=indices[start : start + size])
            yield from open_to_read(self.path, read)


def _grown(file: h5py.File, root: str, steps: str) -> NDArray[np.int64]:
    """The steps of a group up to where all its core datasets reach."""
    if steps not in file:
        return np.empty(0, dtype=np.int64)
    lengths = [file[path].shape[0] for path in layout.CORE if path.startswith(root)]
    if root == layout.PARTICLES:
        lengths += [
            file[path].shape[0] for path in layout.CORE if path.startswith(layout.OBSERVABLES)
        ]
    values = file[steps][: min(lengths)]
    unwritten = np.flatnonzero(values < 0)
    return values[: unwritten[0]] if len(unwritten) else values


def _read_frames(file: h5py.File, indices: range) -> list[Frame]:
    low, high = min(indices), max(indices) + 1
    rows = slice(low, high)

    def rows_of(path: str) -> Any:
        name = f"{path}/value"
        return file[name][rows] if name in file else None

    particles, observables = layout.PARTICLES, layout.OBSERVABLES
    species = rows_of(f"{particles}/species").astype(int)
    position = rows_of(f"{particles}/position")
    velocity = rows_of(f"{particles}/velocity")
    force = rows_of(f"{particles}/force").astype("f8") / layout.KJ_PER_MOL
    edges = rows_of(f"{particles}/box/edges")
    per_atom = {
        name: rows_of(f"{particles}/{name}")
        for name in ("direct_forces", "conservative_forces", "force_deltas")
    }
    stress = rows_of(f"{observables}/stress")
    energy = rows_of(f"{observables}/potential_energy")
    temperature = rows_of(f"{observables}/temperature")
    u = rows_of(f"{observables}/force_delta")
    steps = file[layout.FRAME_STEP][rows]
    times = file[layout.FRAME_TIME][rows]
    boundary = file[f"{particles}/box"].attrs["boundary"]
    pbc = np.array([_text(b) == "periodic" for b in boundary])
    masses = file[layout.MASSES][()]
    mass = rows_of(f"{particles}/mass")  # of replays, whose frames may be of different systems
    periodic = rows_of(f"{observables}/pbc")

    def one(i: int) -> Frame:
        atoms = slice(0, int((species[i] >= 0).sum()))
        given: dict[str, Any] = {
            name: None if array is None else _optional(array[i][atoms])
            for name, array in per_atom.items()
        }
        return Frame(
            step=int(steps[i]), time=float(times[i]), numbers=species[i][atoms],
            positions=position[i][atoms], velocities=_optional(velocity[i][atoms]),
            masses=masses if mass is None else mass[i][atoms], cell=edges[i],
            pbc=pbc if periodic is None else periodic[i].astype(bool), energy=float(energy[i]),
            forces=force[i][atoms], temperature=_optional(float(temperature[i])),
            force_delta=_optional(float(u[i])),
            stress=None if stress is None else _optional(stress[i]),
            **given,
        )  # fmt: skip

    return [one(index - low) for index in indices]


def _optional(value: Any) -> Any:
    return None if np.isnan(value).all() else value


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
