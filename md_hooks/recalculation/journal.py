"""The journal: what was asked for and what came of it, one JSON record a line.

A record is on disk (fsync) before the next one is begun, so that kill -9 loses the calculation
that was running and nothing else. A line that a kill cut off is dropped when the file is opened.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.jsonio import decode, encode

from ..constraints import constraint_records, put_constraints
from ..electronic_state import ElectronicState
from ..environment import Surroundings
from ..errors import HookError
from ..locking import LockHeldError, lock_alone, warn_unlocked
from .job import Failure, Label

START = b'{"'
"""With this every record begins."""


def key_of(atoms: Atoms) -> str:
    """The same key for the same ``atoms`` (to 1e-6 Å), charge, spin, magnetic moments and environment.

    Nothing said counts as a charge of 0 and as no moments.

    Raises:
        HookError: see `md_hooks.electronic_state.ElectronicState.of`.
    """
    known = ElectronicState.of(atoms)
    state = [known.charge or 0, known.spin or 0]
    digest = hashlib.sha256()
    for array in (atoms.numbers, atoms.pbc, state):
        digest.update(np.asarray(array, dtype="i8").tobytes())
    for array in (atoms.positions, atoms.cell.array):
        digest.update(np.rint(np.asarray(array) * 1e6).astype("i8").tobytes())
    moments = known.magnetic_moments
    if moments is not None and moments.any():
        digest.update(np.rint(moments * 1e3).astype("i8").tobytes())
    around = Surroundings.usable(atoms).environment
    if around is not None:
        for array in (around.positions, around.charges, around.cell):
            digest.update(np.rint(array * 1e6).astype("i8").tobytes())
    return digest.hexdigest()[:16]


class Journal:
    """Frames that were queued and their labels, in a file that one process at a time may write.

    Args:
        path: the file; it is made, or continued. A file that ends in a half-written line loses it.
        reference: description of the reference; None to read only.

    Attributes:
        frames: queued structures by key, in the order in which they were queued.
        labels: labels by key.
        failures: the last failure by key, of those that have no label.

    Raises:
        HookError: the file cannot be used, is in use by another process, is no journal, or holds
            labels of another reference.
    """

    def __init__(self, path: str | Path, reference: str | None = None) -> None:
        self.path = Path(path)
        self.reference = reference
        self.frames: dict[str, Atoms] = {}
        self.labels: dict[str, Label] = {}
        self.failures: dict[str, Failure] = {}
        self._recorded: dict[str, str] = {}  # key in the file -> key of the structure
        if self.path.exists() and not self.path.is_file():
            raise HookError(f"{self.path} is no regular file: give another")
        try:
            # unbuffered: what could not be written must not come back when the file is closed
            self._file = open(self.path, "rb" if reference is None else "a+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise HookError(
                f"{self.path} cannot be opened ({error.strerror}): give a journal in a folder of "
                "yours"
            ) from error
        try:
            if reference is not None:
                self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            problem = lock_alone(self._file.fileno())
        except LockHeldError as error:
            raise HookError(
                f"{self.path} is in use by another process that labels frames: wait for it, or "
                "give another file"
            ) from error
        warn_unlocked(self.path, problem)

    def _read(self) -> None:
        self._file.seek(0)
        if not START.startswith(self._file.read(len(START))):  # before all of it is read
            raise self._no_journal(1)
        self._file.seek(0)
        *lines, rest = self._file.read().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                self._take(json.loads(line))
            except HookError:
                raise
            except Exception as error:  # ASE's decoder raises whatever a strange record makes it
                raise self._no_journal(number) from error
        if rest and self.reference is not None:
            if not rest.startswith(START[: len(rest)]):
                raise self._no_journal(len(lines) + 1)
            self._file.truncate(self._file.tell() - len(rest))

    def _no_journal(self, line: int) -> HookError:
        return HookError(
            f"{self.path} is no journal of reference calculations (line {line}): give another file"
        )

    def _take(self, record: dict[str, Any]) -> None:
        """Take in one record.

        Keys become names of folders that are removed, so that the one in the file only says which
        records belong together; the one that counts is made from the structure.
        """
        if record["kind"] == "frame":
            atoms = decode(record["atoms"])
            if not isinstance(atoms, Atoms):
                raise TypeError(f"{type(atoms).__name__} instead of a structure")
            put_constraints(atoms, record.get("constraints", ()))
            key = self._recorded[record["key"]] = key_of(atoms)
            self.frames.setdefault(key, atoms)
            return
        key = self._recorded[record["key"]]
        if record["kind"] == "label":
            if self.reference is not None and record["reference"] != self.reference:
                raise HookError(
                    f"{self.path} holds labels of another reference ({record['reference']}) than "
                    f"the one asked for ({self.reference}): give another output file, so that two "
                    "levels of theory are not mixed"
                )
            self.labels[key] = _label(record, len(self.frames[key]))
            self.failures.pop(key, None)
        elif record["kind"] == "failure":
            self.failures[key] = Failure(str(record["message"]), float(record["seconds"]))
        else:
            raise ValueError(record["kind"])

    @property
    def pending(self) -> list[str]:
        """Keys of the frames that have no label, in order."""
        return [key for key in self.frames if key not in self.labels]

    def add_frame(self, atoms: Atoms) -> str:
        """Queue a structure, ``atoms`` with its provenance; the same one again is no second frame.

        Returns:
            its key.
        """
        key = key_of(atoms)
        if key not in self.frames:
            bare = atoms.copy()
            bare.set_constraint()  # ASE's encoding of them is not complete
            record: dict[str, Any] = {"kind": "frame", "key": key, "atoms": encode(bare)}
            if atoms.constraints:
                record["constraints"] = constraint_records(atoms.constraints)
                bare.set_constraint(atoms.constraints)
            self._write(record)
            self.frames[key] = bare
            self._recorded[key] = key
        return key

    def add_outcome(self, key: str, outcome: Label | Failure) -> None:
        """Note the ``outcome`` of the calculation of the frame ``key``."""
        record: dict[str, Any] = {"key": key, "reference": self.reference}
        record["seconds"] = round(outcome.seconds, 2)
        if isinstance(outcome, Label):
            stress = outcome.stress
            record |= {
                "kind": "label",
                "energy": outcome.energy,
                "forces": outcome.forces.tolist(),
                "stress": None if stress is None else stress.tolist(),
                "free_energy": outcome.free_energy,
                "point_charges": outcome.point_charges,
            }
        else:
            record |= {"kind": "failure", "message": outcome.message}
        # first, as Ctrl-C comes when the record is on disk: the labelled file is made from these
        if isinstance(outcome, Label):
            self.labels[key] = outcome
            self.failures.pop(key, None)
        else:
            self.failures[key] = outcome
        self._write(record)

    def _write(self, record: dict[str, Any]) -> None:
        data = json.dumps(record).encode() + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # then the next process drops the half line
                self._file.truncate(end)
            raise HookError(
                f"{self.path} cannot be written to ({error.strerror}): free some space; what is in "
                "it is kept, so that the same command continues"
            ) from error

    def close(self) -> None:
        """Let other processes have the file."""
        self._file.close()


def _label(record: dict[str, Any], n_atoms: int) -> Label:
    """The label of a record.

    Raises:
        ValueError: it is none for so many atoms.
    """
    energy, stress = float(record["energy"]), record["stress"]
    free_energy = record.get("free_energy")  # earlier versions did not keep it
    forces = np.array(record["forces"], dtype=float)
    stress = None if stress is None else np.array(stress, dtype=float)
    if forces.shape != (n_atoms, 3) or (stress is not None and stress.shape != (6,)):
        raise ValueError("forces or stress of another shape")
    free_energy = None if free_energy is None else float(free_energy)
    if not (
        np.isfinite(energy)
        and np.isfinite(forces).all()
        and (free_energy is None or np.isfinite(free_energy))
    ):
        raise ValueError("numbers that are not finite")
    charges = int(record.get("point_charges", 0))
    return Label(energy, forces, stress, float(record["seconds"]), free_energy, charges)
