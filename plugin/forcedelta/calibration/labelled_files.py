"""Files of labelled frames with reference forces under any name.

Forces are read as stored. ASE's `Atoms.get_forces` would set them to zero on fixed atoms, which is
not the force of the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from md_hooks.foreign_fields import number

from ..errors import ForceDeltaError
from ..reading_options import ReadingOptions, without_cell
from ..text_formats.reading import format_named

Array = NDArray[np.float64]

OURS = {"positions", "numbers", "momenta", "velocities", "direct_forces", "conservative_forces"}
"""Arrays of a frame that are never reference forces."""


@dataclass(frozen=True)
class LabelledFrame:
    """A structure and the forces of its reference.

    Attributes:
        atoms: as read.
        forces: [N, 3] eV/Å.
        where: file and frame, for messages.
        file: path of the file; empty for frames in memory.
    """

    atoms: Atoms
    forces: Array
    where: str
    file: str = ""


def read_frames(
    path: Path,
    forces_key: str | None = None,
    energy_key: str | None = None,
    reading: ReadingOptions | None = None,
) -> Iterator[LabelledFrame]:
    """The frames of a file that ASE reads.

    Args:
        path: the file.
        forces_key: array of the frames that holds the forces, instead of ASE's results.
        energy_key: field of the frames that holds the energy, which must then be a number.
        reading: format of the file, and whether cells are dropped.

    Raises:
        ForceDeltaError: the file cannot be read or holds no frames; a frame has no forces, or
            forces or an energy that are not finite.
    """
    if path.is_dir():
        raise ForceDeltaError(f"{path} is a folder: give a file of labelled frames")
    if not path.exists():
        raise ForceDeltaError(f"{path} does not exist: give a file of labelled frames")
    if not path.is_file():
        raise ForceDeltaError(f"{path} is not a regular file: give a file of labelled frames")
    count, reading = 0, reading or ReadingOptions()
    named = None if reading.file_format is None else format_named(reading.file_format)
    try:
        for stored in ase.io.iread(path, ":", named):
            atoms = without_cell(stored) if reading.no_pbc else stored
            where = f"{path}, frame {count} (counted from 0)"
            forces = reference_forces(atoms, where, forces_key)
            if energy_key is not None:
                reference_energy(atoms, where, energy_key)
            yield LabelledFrame(atoms, forces, where, str(path.resolve()))
            count += 1
    except ForceDeltaError:
        raise
    except Exception as error:  # ASE's readers raise whatever their parsers raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ForceDeltaError(
            f"{path} cannot be read after {count} frames ({reason}): give extended XYZ, as "
            "'forcedelta recalc' writes it"
        ) from error
    if count == 0:
        raise ForceDeltaError(f"{path} holds no frames: give a file of labelled frames")


def reference_forces(atoms: Atoms, where: str, key: str | None = None) -> Array:
    """[N, 3] eV/Å, with no constraint applied.

    Raises:
        ForceDeltaError: they are missing or not finite.
    """
    results = {} if atoms.calc is None else atoms.calc.results
    found = results.get(key or "forces")
    if found is None and key is not None:
        found = atoms.arrays.get(key)
    if found is None:
        raise ForceDeltaError(_no_forces(atoms, where, key))
    forces = np.asarray(found)
    if forces.shape != (len(atoms), 3) or forces.dtype.kind not in "fiu":
        raise ForceDeltaError(
            f"{where} does not have three numbers per atom under {key or 'forces'}: pass --forces-key with "
            "the array of the reference forces"
        )
    if not np.isfinite(forces).all():
        raise ForceDeltaError(f"{where} has reference forces that are not finite: remove it")
    return forces.astype(float)


def _no_forces(atoms: Atoms, where: str, key: str | None) -> str:
    vectors = [
        name
        for name, array in atoms.arrays.items()
        if name not in OURS and array.shape == (len(atoms), 3) and array.dtype.kind in "fiu"
    ]
    likely = [name for name in vectors if "force" in name.lower()] or vectors
    if key is None and not likely:
        return f"{where} has no reference forces: label it (forcedelta recalc), or remove it"
    under = f" under '{key}'" if key is not None else ""
    if atoms.calc is not None and "forces" in atoms.calc.results:
        likely = ["forces", *likely]
    names = ", ".join(likely) or "none"
    advice = f": pass --forces-key {likely[0]}" if likely else ""
    return f"{where} has no reference forces{under}; its vector arrays: {names}{advice}"


def reference_energy(atoms: Atoms, where: str, key: str) -> float:
    """The number under a name, which is an energy (eV).

    Raises:
        ForceDeltaError: there is none.
    """
    results = {} if atoms.calc is None else atoms.calc.results
    value = number(results.get(key, atoms.info.get(key)))
    if not np.isfinite(value):
        numbers = [name for name, item in atoms.info.items() if np.isfinite(number(item))]
        names = ", ".join([*(name for name in results if name.endswith("energy")), *numbers])
        raise ForceDeltaError(
            f"{where} has no finite number under '{key}'; its numbers: {names or 'none'}"
        )
    return value
