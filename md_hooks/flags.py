"""FlagStore: flagged frames as extended XYZ, with where they come from."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .chain import RunInfo, RunResult
from .errors import HookError
from .frame import Frame
from .h5md_io import bare_atoms
from .verdict import Action, Verdict

HASH_PREFIX = "hash:"
"""Before the weights' hash: a hash of digits only would be read back as a number."""


class FlagStore:
    """Appends each flagged frame to an extended XYZ file, for recalculation with a reference.

    A frame that stops the run lies above the band of candidates and is not stored here (it is in
    the Recorder's file). Each frame carries ``step``, ``time`` (fs), ``force_delta`` (eV/Å),
    ``worst_atom``, ``run`` (the recorded file), ``model``, ``weights_hash``, ``level_of_theory``
    (of the model) and ``reason``, ``charge`` (e) and ``spin`` (2S+1), and the arrays
    ``force_deltas``, ``direct_forces``, ``conservative_forces``, momenta and initial magnetic
    moments, as far as they are known. The model's energy is ``model_energy`` (eV): a flagged
    frame has no ``energy`` and no ``forces``, so that nothing takes predictions for labels.

    A new run adds to an existing file. A run that continues from a checkpoint first drops the
    frames of the same run file after it, so that none appears twice.

    Args:
        path: the file.

    Raises:
        HookError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._provenance: dict[str, str] = {}

    def open(self, info: RunInfo) -> None:
        """Take the provenance from the run; repair and cut back the file on a restart."""
        self._provenance = {}
        if info.run_file is not None:
            self._provenance["run"] = info.run_file
        if info.run_id:
            self._provenance["run_id"] = info.run_id
        if "name" in info.model:
            self._provenance["model"] = str(info.model["name"])
        if "weights_hash" in info.model:
            self._provenance["weights_hash"] = f"{HASH_PREFIX}{info.model['weights_hash']}"
        if info.model.get("level_of_theory") is not None:
            self._provenance["level_of_theory"] = str(info.model["level_of_theory"])
        if self.path.exists():
            self._cut(info.restart_step)

    def _cut(self, restart_step: int | None) -> None:
        """Drop a frame that a kill left half written, and those after the restart."""
        run = self._provenance.get("run")
        keep: list[bytes] = []
        with open(self.path, "rb") as file:
            for comment, text in _frames(file):
                step = re.search(r"(?:^|\s)step=(\d+)", comment)
                same = re.search(r'(?:^|\s)run=("[^"]*"|\S+)', comment)
                again = (
                    restart_step is not None
                    and step is not None
                    and int(step.group(1)) > restart_step
                    and run == (same.group(1).strip('"') if same else None)
                )
                if not again:
                    keep.append(text)
        if sum(map(len, keep)) != self.path.stat().st_size:
            copy = self.path.with_name(self.path.name + ".part")
            copy.write_bytes(b"".join(keep))
            os.replace(copy, self.path)

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Store the frame when it is flagged."""
        if verdict.action != Action.FLAG:
            return
        from ase.io.extxyz import write_extxyz

        atoms = bare_atoms(frame)
        atoms.info["model_energy"] = frame.energy
        atoms.info.update(self._provenance)
        if verdict.reason:
            atoms.info["reason"] = verdict.reason
        text = io.StringIO()
        write_extxyz(text, [atoms])
        try:
            with open(self.path, "ab") as file:
                file.write(text.getvalue().encode())
        except OSError as error:
            raise HookError(
                f"{self.path} cannot be written to ({error.strerror}): free some space or choose "
                "another file"
            ) from error

    def close(self, result: RunResult) -> None:
        """Nothing is held back, so there is nothing to do."""


def _frames(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Comment line and bytes of each complete frame of an extended XYZ file."""
    while head := file.readline():
        try:
            lines = [head, file.readline(), *(file.readline() for _ in range(int(head)))]
        except ValueError:
            return
        if not lines[-1].endswith(b"\n"):
            return
        yield lines[1].decode(errors="replace"), b"".join(lines)
