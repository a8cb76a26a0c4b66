"""FlagStore: flagged frames as extended XYZ, with their provenance."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .atoms import bare_atoms
from .errors import HookError
from .extxyz import frame_text
from .flag_file import FlagFile
from .frame import Frame
from .hook import Hook
from .run_id import id_of_content
from .run_info import RunInfo, RunResult
from .verdict import Action, Verdict

HASH_PREFIX = "hash:"
"""Precedes the hash of the weights: a hash of digits only would be read back as a number."""


class FlagStore(Hook):
    """Appends each flagged frame to an extended XYZ file, for recalculation with a reference.

    A frame that stops the run lies above the band of candidates and is not stored here, only in
    the Recorder's file. Each frame carries ``step``, ``time`` (fs), ``force_delta`` (eV/Å),
    ``worst_atom``, ``run_id`` (`md_hooks.run_id`), ``run`` (the recorded file), ``model``,
    ``weights_hash``, ``level_of_theory`` (of the model) and ``reason``, ``charge`` (e) and ``spin``
    (2S+1), and the arrays ``force_deltas``, ``direct_forces``, ``conservative_forces``, predicted errors
    of the atoms, momenta and initial magnetic moments, as far as they are known. The model's energy is
    ``model_energy`` (eV): a flagged frame has no ``energy`` and no ``forces``, lest predictions be taken
    for labels.
    Frames of a replay also have ``audit``, which identifies the file that the replay writes.

    Several runs may share one store, also at the same time. To avoid duplicates, a run that
    continues from a checkpoint first drops its own frames after it. A replay that starts again drops
    all its frames, as does a run that starts again after it was killed before its file held a frame.
    Frames of one run are identified by its id, not by the name of its file.

    Args:
        path: the file.

    Raises:
        HookError: the file cannot be written, or has other content than flagged frames; it is then
            left unchanged.
    """

    shared = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = FlagFile(self.path)
        self._provenance: dict[str, str] = {}
        self._begins_anew = False

    def check_files(self) -> None:
        """Refuse a file that is not a flag store, before a run begins or any file is replaced."""
        self._file.check()

    def holds(self, run_id: str) -> bool:
        """Whether the file is a flag store with frames of the run ``run_id``."""
        if not self.path.is_file():
            return False
        try:
            return any(stored.header().get("run_id") == run_id for stored in self._file.frames())
        except HookError:
            return False

    def open(self, info: RunInfo) -> None:
        """Take the provenance from the run; repair the file and, on a restart, truncate it."""
        self._provenance = {}
        if info.run_file is not None:
            self._provenance["run"] = info.run_file
        if info.run_id:
            self._provenance["run_id"] = info.run_id
        replay = info.planned_frames is not None
        if replay and info.run_file is not None:
            self._provenance["audit"] = id_of_content(
                [os.fsencode(os.path.realpath(info.run_file))]
            )
        if "name" in info.model:
            self._provenance["model"] = str(info.model["name"])
        if "weights_hash" in info.model:
            self._provenance["weights_hash"] = f"{HASH_PREFIX}{info.model['weights_hash']}"
        if info.model.get("level_of_theory") is not None:
            self._provenance["level_of_theory"] = str(info.model["level_of_theory"])
        self._file.repair()
        if info.restart_step is not None:
            self._drop_after(info.restart_step)
        # not yet: a replay that fails at its first frame keeps the stored frames
        self._begins_anew = (replay or info.begins_anew) and info.restart_step is None

    def _drop_after(self, step: int) -> None:
        self._file.drop(lambda stored: self._is_mine(stored.header(), step))

    def _is_mine(self, header: Mapping[str, Any], after: int) -> bool:
        """Whether a frame with this header belongs to this run and to a later step."""
        mine, step = self._provenance, header.get("step")
        if not isinstance(step, int | np.integer) or step <= after:
            return False
        if "run_id" in header and "run_id" in mine:
            return all(header.get(name) == mine.get(name) for name in ("run_id", "audit"))
        return "run" in mine and str(header.get("run")) == mine["run"]  # of runs without an id

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Store the frame when it is flagged."""
        if self._begins_anew:
            self._drop_after(-1)
            self._begins_anew = False
        if verdict.action != Action.FLAG:
            return
        atoms = bare_atoms(frame)
        if frame.energy_known:
            atoms.info["model_energy"] = frame.energy
        atoms.info.update(self._provenance)
        if verdict.reason:
            atoms.info["reason"] = verdict.reason
        self._file.append(frame_text(atoms))

    def close(self, result: RunResult) -> None:
        """Nothing to do: no frame is buffered."""
