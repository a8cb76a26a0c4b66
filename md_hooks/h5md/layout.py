"""Names, shapes, types and units of what a recorded file holds: H5MD 1.1 and a little more.

::

    /h5md                              H5MD's own: version, author, creator
    /particles/trajectory/             one row per recorded frame, F rows
        species position velocity force direct_forces conservative_forces force_deltas box/edges
        [predicted_errors predicted_errors_low predicted_errors_high magnetic_moments]
                                       each with value, step and time
    /observables/trajectory/           the scalars of the recorded frames, same F rows
        potential_energy temperature force_delta force_delta_max worst_atom action
        [stress charge spin system_particles]
        checksum                       of all that is stored of the frame (`md_hooks.h5md.checksum`)
    /per_step/                         the same scalars of *every* step, S rows, as elements with
                                       value, step and time
    /environment/                      [species position charge molecule cell], of ML/MM runs that
                                       record the other particles of the System, same F rows
    /parameters/                       masses, in runs/<i> what each run was and how it ended, in
                                       checksums those of both, of replays remarks
                                       (`md_hooks.h5md.remark`), and constraints on the atoms
                                       (`md_hooks.h5md.held`)
    /checkpoint/                       two alternating slots, see `md_hooks.h5md.checkpoint`

The per-step series stand outside /observables on purpose. Readers such as MDAnalysis and znh5md
take row k of an observable for frame k whatever its step says, so a series that is denser than
the frames would silently give them the energy of another configuration.

The environment stands outside /particles because readers expect one group there, and because the
model's forces do not act on it.

The group is called "trajectory" because MDAnalysis finds the number of atoms only there; every
element of it has a row for each frame because znh5md refuses others. Elements share one step and
one time dataset (hard links). ``force`` is the force that drives the run, in a unit that MDAnalysis
knows; the others are in eV/Å. NaN (-1 for worst_atom) stands for "not computed at this step".

In a replay of stored frames these may be of different systems. The datasets are then as wide as the
largest of them and filled up with NaN (-1 for species), as H5MD has it, and each frame has masses
and periodicity of its own (mass, pbc); "boundary" and /parameters/masses are those of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from ase import units

from ..frame import Frame
from ..predicted_error import PREDICTED, PREDICTED_ATOMS

GROUP = "trajectory"
PARTICLES = f"/particles/{GROUP}"
OBSERVABLES = f"/observables/{GROUP}"
PER_STEP = "/per_step"
ENVIRONMENT = "/environment"
RUNS = "/parameters/runs"
MASSES = "/parameters/masses"
CREATOR = "forcedelta md_hooks"
"""In /h5md/creator, near the start of the file: ASE recognises our files by it."""

REMARKS = "/parameters/remarks"
CONSTRAINTS = "/parameters/constraints"

KJ_PER_MOL = units.mol / units.kJ
"""eV/Å to kJ mol-1 Å-1."""


def _atoms(frame: Frame) -> int:
    return len(frame.numbers)


def _others(frame: Frame) -> int:
    return 0 if frame.environment is None else len(frame.environment)


@dataclass(frozen=True)
class Element:
    """One time-dependent element: where it lies, what it holds, how a frame gives it.

    ``get`` returns the value in the units of the interface, or None; ``factor`` converts to the
    unit of the file; ``late`` elements are written after the others (see
    `md_hooks.h5md.writer.H5MDFile.append_frames`), ``optional`` ones only once a frame has them,
    ``replayed`` ones only into files whose frames may be of different systems. ``count`` gives the
    number of particles for ``shape``.
    """

    path: str
    dtype: str
    unit: str | None
    shape: Callable[[int], tuple[int, ...]]
    get: Callable[[Frame], Any]
    factor: float = 1.0
    late: bool = False
    optional: bool = False
    replayed: bool = False
    count: Callable[[Frame], int] = _atoms

    @property
    def per_atom(self) -> bool:
        """Whether it has a row for each atom."""
        return self.shape(1) != self.shape(2)


def _vectors(n: int) -> tuple[int, ...]:
    return (n, 3)


def _per_atom(n: int) -> tuple[int, ...]:
    return (n,)


def _scalar(n: int) -> tuple[int, ...]:
    return ()


_FORCE = "eV Angstrom-1"


def _environment(
    name: str, stored: str, dtype: str, unit: str | None, shape: Callable[[int], tuple[int, ...]]
) -> Element:
    """An element of the particles around the frame's atoms."""

    def get(frame: Frame) -> Any:
        return None if frame.environment is None else getattr(frame.environment, name)

    path = f"{ENVIRONMENT}/{stored}"
    return Element(path, dtype, unit, shape, get, optional=True, count=_others)


ENVIRONMENT_ELEMENTS = (
    _environment("numbers", "species", "i2", None, _per_atom),
    _environment("positions", "position", "f8", "Angstrom", _vectors),
    _environment("charges", "charge", "f8", "e", _per_atom),
    _environment("molecules", "molecule", "i4", None, _per_atom),
    _environment("cell", "cell", "f8", "Angstrom", lambda n: (3, 3)),
)
"""Of frames of a part of a System, see `md_hooks.environment`."""

PARTICLE_ELEMENTS = (
    Element(f"{PARTICLES}/velocity", "f8", "Angstrom fs-1", _vectors, lambda f: f.velocities),
    Element(
        f"{PARTICLES}/force", "f4", "kJ mol-1 Angstrom-1", _vectors, lambda f: f.forces, KJ_PER_MOL
    ),
    Element(
        f"{PARTICLES}/direct_forces", "f4", _FORCE, _vectors, lambda f: f.direct_forces,
        optional=True,
    ),
    Element(
        f"{PARTICLES}/conservative_forces", "f4", _FORCE, _vectors,
        lambda f: f.conservative_forces, optional=True,
    ),
    Element(
        f"{PARTICLES}/force_deltas", "f4", _FORCE, _per_atom, lambda f: f.force_deltas,
        optional=True,
    ),
    *(
        Element(f"{PARTICLES}/{name}", "f4", _FORCE, _per_atom, attrgetter(name), optional=True)
        for name in PREDICTED_ATOMS
    ),
    Element(f"{PARTICLES}/box/edges", "f8", "Angstrom", lambda n: (3, 3), lambda f: f.cell),
    Element(f"{OBSERVABLES}/potential_energy", "f8", "eV", _scalar, lambda f: f.energy),
    Element(f"{OBSERVABLES}/temperature", "f8", "K", _scalar, lambda f: f.temperature),
    Element(f"{OBSERVABLES}/force_delta", "f8", _FORCE, _scalar, lambda f: f.force_delta),
    Element(
        f"{OBSERVABLES}/force_delta_max", "f8", _FORCE, _scalar, lambda f: f.worst_force_delta
    ),
    Element(f"{OBSERVABLES}/worst_atom", "i4", None, _scalar, lambda f: f.worst_atom),
    Element(
        f"{OBSERVABLES}/stress", "f8", "eV Angstrom-3", lambda n: (6,), lambda f: f.stress,
        optional=True,
    ),
    # of floats, as NaN stands for a charge that is not said, and -1 is one
    Element(f"{OBSERVABLES}/charge", "f8", "e", _scalar, lambda f: f.charge, optional=True),
    Element(f"{OBSERVABLES}/spin", "f8", None, _scalar, lambda f: f.spin, optional=True),
    Element(
        f"{OBSERVABLES}/system_particles", "f8", None, _scalar, lambda f: f.system_particles,
        optional=True,
    ),
    *ENVIRONMENT_ELEMENTS,
    Element(
        f"{PARTICLES}/magnetic_moments", "f4", None, _per_atom, lambda f: f.magnetic_moments,
        optional=True,
    ),
    Element(
        f"{PARTICLES}/mass", "f8", "amu", _per_atom, lambda f: f.masses, replayed=True
    ),
    Element(f"{OBSERVABLES}/pbc", "i1", None, lambda n: (3,), lambda f: f.pbc, replayed=True),
    Element(f"{PARTICLES}/position", "f8", "Angstrom", _vectors, lambda f: f.positions),
    Element(f"{PARTICLES}/species", "i2", None, _per_atom, lambda f: f.numbers, late=True),
)  # fmt: skip

ACTION = f"{OBSERVABLES}/action"
CHECKSUM = f"{OBSERVABLES}/checksum"
SERIES_CHECKSUM = f"{PER_STEP}/checksum"
CHECKSUMS = "/parameters/checksums"
"""Its attributes are the checksums of what has no rows; files of older versions lack all three."""
FRAME_STEP = f"{PARTICLES}/position/step"
FRAME_TIME = f"{PARTICLES}/position/time"

SERIES: tuple[tuple[str, str, str | None], ...] = (
    ("potential_energy", "f8", "eV"),
    ("temperature", "f8", "K"),
    ("force_delta", "f8", _FORCE),
    ("force_delta_max", "f8", _FORCE),
    ("worst_atom", "i4", None),
    ("action", "i1", None),
)
"""Name, type and unit of the scalars of each step, in the order of a row after step and time."""

EXTRA_UNITS = {
    "conserved_energy": "eV",
    "expected_error": _FORCE,
    "energy_uncertainty": "eV",
    "estimated_force_delta": _FORCE,
    **dict.fromkeys(PREDICTED, _FORCE),
}
"""Units of further scalars of each step, by name (`md_hooks.Frame.extra`)."""

_EXTRA_PREFIXES = {"force_delta_image_": _FORCE, "energy_image_": "eV"}
"""Units of scalars of each image of a nudged elastic band."""


def extra_unit(name: str) -> str | None:
    """Unit of a further scalar of each step; None if it has none, or is not known here."""
    found = (unit for start, unit in _EXTRA_PREFIXES.items() if name.startswith(start))
    return EXTRA_UNITS.get(name) or next(found, None)


SERIES_STEP = f"{PER_STEP}/step"

CORE = frozenset(
    [FRAME_STEP, FRAME_TIME, SERIES_STEP, f"{PER_STEP}/time", f"{ACTION}/value"]
    + [
        f"{element.path}/value"
        for element in PARTICLE_ELEMENTS
        if not (element.optional or element.replayed)
    ]
    + [f"{PER_STEP}/{name}/value" for name, *_ in SERIES]
)
"""The datasets that have a row for each frame or step; the shortest of them counts. Others may
have come later in a run and are filled up."""

FRAME_CHUNK_BYTES = 32768
SERIES_CHUNK_ROWS = 1024


def fill_value(dtype: str) -> Any:
    """What stands for "not computed" in a dataset of this type."""
    return np.nan if dtype.startswith("f") else -1


def stack(element: Element, frames: list[Frame], n_atoms: int) -> np.ndarray | None:
    """The rows of an element for these frames, in the file's unit; None when none has a value.

    Frames of fewer than ``n_atoms`` atoms are filled up.
    """
    values = [element.get(frame) for frame in frames]
    if all(value is None for value in values):
        return None
    shape = element.shape(n_atoms)
    out = np.full((len(frames), *shape), fill_value(element.dtype), dtype=element.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # may not fit into float32
        for row, value in enumerate(values):
            where = (row, slice(element.count(frames[row]))) if element.per_atom else row
            if value is None:
                out[where] = fill_value(element.dtype)
            elif element.factor == 1.0:
                out[where] = value
            else:
                out[where] = np.asarray(value, dtype="f8") * element.factor
    return out
