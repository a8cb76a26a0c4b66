"""The paths of an attack in blocks that are evaluated side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from .coordinates import coordinates_of
from .path import Path
from .plausibility import Plausibility
from .settings import AttackSettings


class Block:
    """Paths that step together.

    Args:
        paths: of this block.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._noted: set[int] = set()

    @property
    def strain(self) -> bool:
        """Whether the derivatives by strain are needed."""
        return self.paths[0].strain

    def trials(self) -> list[tuple[Path, Atoms]]:
        """The structures to evaluate next; none at the end."""
        found = [(path, path.trial()) for path in self.paths]
        return [(path, atoms) for path, atoms in found if atoms is not None]

    def newly_ended(self) -> list[Path]:
        """The paths that ended since the last call."""
        ended = [path for path in self.paths if path.reason and path.number not in self._noted]
        self._noted |= {path.number for path in ended}
        return ended

    def state(self) -> dict[str, Any]:
        """What a restart needs."""
        return {"paths": [path.state() for path in self.paths], "noted": sorted(self._noted)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state`."""
        for path, part in zip(self.paths, state["paths"], strict=True):
            path.load(part)
        self._noted = set(state["noted"])


class Blocks:
    """Makes the blocks of an attack, each from its number alone.

    Args:
        structures: as given.
        settings: of the attack.
        members: (structure, start) of each path of each block.
    """

    def __init__(
        self,
        structures: Sequence[Atoms],
        settings: AttackSettings,
        members: Sequence[Sequence[tuple[int, int]]],
    ) -> None:
        self._structures, self._settings, self._members = structures, settings, members
        # both refuse what cannot be attacked before anything is computed
        self._spaces = [coordinates_of(atoms, settings) for atoms in structures]
        self._limits = [
            Plausibility(atoms, settings.closest, settings.dissociation) for atoms in structures
        ]

    def __len__(self) -> int:
        return len(self._members)

    def block(self, number: int, energies: Sequence[float]) -> Block:
        """The paths of a block at their starts.

        Args:
            number: of the block.
            energies: of the structures as given, eV.
        """
        settings = self._settings
        paths = []
        for structure, start in self._members[number]:
            space = self._spaces[structure]
            random = np.random.default_rng([settings.seed, structure, start])
            shift = random.normal(scale=settings.displacement, size=space.size)
            paths.append(
                Path(
                    structure * settings.starts + start, structure, start,
                    space.moved(self._structures[structure], shift), energies[structure], space,
                    self._limits[structure], settings,
                )
            )  # fmt: skip
        return Block(paths)


def blocks_of(structures: Sequence[Atoms], settings: AttackSettings, most: int) -> Blocks:
    """All paths of an attack in blocks of a limited number of atoms.

    Args:
        structures: as given.
        settings: of the attack.
        most: atoms of a block, unless one path has more (`forcedelta.batch_size`).

    Raises:
        ForceDeltaError: a structure that cannot be attacked in this way.
    """
    members: list[list[tuple[int, int]]] = [[]]
    atoms = 0
    for structure, each in enumerate(structures):
        for start in range(settings.starts):
            if members[-1] and atoms + len(each) > most:
                members.append([])
                atoms = 0
            members[-1].append((structure, start))
            atoms += len(each)
    return Blocks(structures, settings, members)
