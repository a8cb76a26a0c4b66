"""ASE reader of recorded runs, registered through ASE's entry point for I/O formats.

``ase.io.read("run.h5")`` finds it by the content of the file, not by its name: the extension .h5
belongs to whoever registered it first, and other HDF5 files are none of our business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ase import Atoms
from ase.utils.plugins import ExternalIOFormat

from ..atoms import to_atoms
from .layout import CREATOR
from .trajectory import Trajectory

ase_format = ExternalIOFormat(
    desc="Recorded run (H5MD) with Force Delta",
    code="+S",
    module="md_hooks.h5md.ase_format",
    magic_regex=rb"\x89HDF\r\n\x1a\n.*?" + re.escape(CREATOR.encode()),
)


def read_forcedelta_h5md(filename: str | Path, index: int | slice = -1) -> Iterator[Atoms]:
    """Read recorded frames as ASE atoms; the function that ``ase.io.read`` calls.

    The energy (eV) and the forces (eV/Å) that drove the run are the results of the attached
    single-point calculator, as in ASE's own trajectories: they are a model's predictions. With
    them come the momenta, ``info["step"]``, ``info["time"]`` (fs), ``info["run_id"]``
    (`md_hooks.run_id`), ``info["model"]`` and, where they were computed, ``info["force_delta"]``
    (U, eV/Å), ``info["worst_atom"]`` and the arrays ``force_deltas`` [N], ``direct_forces`` and
    ``conservative_forces`` [N, 3] in eV/Å, with a calibration also ``predicted_errors`` and the ends of
    their intervals [N]; and, where the structure of the run had them,
    ``info["charge"]`` (e), ``info["spin"]`` (2S+1) and the initial magnetic moments.
    Frames of an attack have ``info["path"]`` and ``info["move"]``, those of a nudged elastic band
    ``info["image"]``. The constraints of the structure are set, so that ``get_forces()`` applies them,
    as in other files of ASE; names of constraints that no file keeps are in
    ``info["missing_constraints"]``. ``info["temperature"]`` (K) is that of the run, which may hold
    more fixed, such as the centre of mass; ``get_temperature()`` counts the constraints of the structure.

    Args:
        filename: the file; it may still be growing.
        index: frames wanted, counted from 0.

    Raises:
        HookError: the file is cut off or not a recorded run.
        IndexError: there is no such frame.
    """
    trajectory = Trajectory(filename)
    if isinstance(index, slice):
        indices = range(len(trajectory))[index]
    else:
        chosen = range(len(trajectory))[index]
        indices = range(chosen, chosen + 1)
    model = trajectory.metadata.get("model", {}).get("name")
    run_id = trajectory.run_id
    for frame in trajectory.frames(indices):
        atoms = to_atoms(frame, model)
        atoms.info["run_id"] = run_id
        yield atoms
