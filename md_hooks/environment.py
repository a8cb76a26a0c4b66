"""The rest of a System of which a frame holds a part, as point charges.

A model that sees a part of a System (ML/MM) makes frames of that part. Labels of such frames are those
of the part in vacuum, unless the reference gets the charges around it. A frame therefore tells that it is
a part, and may carry the other particles; in structures of ASE both are fields of ``info``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from .errors import HookError
from .foreign_fields import has_numbers, step_of

SYSTEM_PARTICLES = "system_particles"
"""Name in ``info`` of the number of particles of the System."""

ENVIRONMENT = "environment"
"""Name in ``info`` of the other particles: [M, 6] atomic number, charge (e), x, y, z (Å), molecule."""

ENVIRONMENT_CELL = "environment_cell"
"""Name in ``info`` of the cell [3, 3] of the System, Å; missing without one."""

_LAST_ELEMENT = 118


@dataclass(frozen=True, eq=False)
class Environment:
    """The particles of a System that a frame leaves out.

    Attributes:
        numbers: [M] atomic numbers; 0 for a charge without an element, such as a virtual site.
        positions: [M, 3] Å.
        charges: [M] e.
        molecules: [M] particles of one molecule share a number.
        cell: [3, 3] Å, periodic in three directions; zeros without periodicity.
    """

    numbers: NDArray[np.integer]
    positions: NDArray[np.floating]
    charges: NDArray[np.floating]
    molecules: NDArray[np.integer]
    cell: NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.numbers)

    @classmethod
    def of(cls, atoms: Atoms) -> Environment | None:
        """The environment in the ``info`` of ``atoms``; None if it has none.

        Raises:
            HookError: the field holds something else.
        """
        table = atoms.info.get(ENVIRONMENT)
        if table is None:
            return None
        table, cell = (
            np.asarray(table),
            np.asarray(atoms.info.get(ENVIRONMENT_CELL, np.zeros((3, 3)))),
        )
        if not (
            table.ndim == 2
            and has_numbers(table, len(table), 6)
            and has_numbers(cell, 3, 3)
            and np.isfinite(table).all()
            and np.isfinite(cell).all()
            and np.isin(table[:, 0], np.arange(_LAST_ELEMENT + 1)).all()
        ):
            raise HookError(
                f"the structure's '{ENVIRONMENT}' does not have an atomic number, charge, position and "
                "molecule for each particle: remove that field"
            )
        return cls(
            table[:, 0].astype(int),
            table[:, 2:5].astype(float),
            table[:, 1].astype(float),
            table[:, 5].astype(int),
            cell.astype(float),
        )

    def put(self, atoms: Atoms) -> None:
        """Write the environment into the ``info`` of ``atoms``."""
        atoms.info[ENVIRONMENT] = np.column_stack(
            [self.numbers, self.charges, self.positions, self.molecules]
        ).astype(float)
        if self.cell.any():
            atoms.info[ENVIRONMENT_CELL] = np.array(self.cell, dtype=float)


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a frame says of the System around it.

    Attributes:
        atoms: number of atoms of the frame.
        system_particles: number of particles of the System of which the frame is a part; None for a
            frame of a whole System.
        environment: the other particles, if they are recorded.
    """

    atoms: int

    system_particles: int | None = None
    environment: Environment | None = None

    @property
    def others(self) -> int | None:
        """Number of particles of the System that are not in the frame; None for a whole System."""
        if self.environment is not None:
            return len(self.environment)
        return None if self.system_particles is None else self.system_particles - self.atoms

    @classmethod
    def usable(cls, atoms: Atoms) -> Surroundings:
        """What the ``info`` of a structure says, without fields of other programs with these names."""
        try:
            environment = Environment.of(atoms)
        except HookError:
            environment = None
        total = step_of(atoms.info.get(SYSTEM_PARTICLES))
        if total is not None and total <= len(atoms):
            total = None
        return cls(len(atoms), total, environment)

    def put(self, atoms: Atoms) -> None:
        """Write what is known into ``info`` of a structure, and remove what is not."""
        for name in (SYSTEM_PARTICLES, ENVIRONMENT, ENVIRONMENT_CELL):
            atoms.info.pop(name, None)
        if self.system_particles is not None:
            atoms.info[SYSTEM_PARTICLES] = self.system_particles
        if self.environment is not None:
            self.environment.put(atoms)

    def frame_fields(self) -> dict[str, Any]:
        """The arguments of a `md_hooks.Frame`."""
        return {"system_particles": self.system_particles, "environment": self.environment}
