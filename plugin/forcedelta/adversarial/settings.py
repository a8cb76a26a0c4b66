"""The settings of an attack, and the ones that a restart must not change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from ase import Atoms
from ase.units import kB

from ..errors import ForceDeltaError
from ..limits import check_types, check_value

FREE = ("device", "threads", "trust", "picks")
"""Settings that a restart may change."""


@dataclass(frozen=True)
class AttackSettings:
    """All settings of an attack; units as in ``forcedelta attack --help``.

    Attributes:
        model: name, or path of a file.
        out: the file of the attack, H5MD.
        starts: paths from each structure, each with random displacements of its own.
        steps: steps of a path.
        optimizer: "plain": eq. 3 as it stands; "adam": the steps of Adam along the gradient of eq. 3.
        alpha: weight of grad U, Å^3/eV.
        beta: weight of grad E, Å^2/eV.
        rate: size of Adam's first step in each coordinate, Å.
        cap: largest displacement of an atom in one step, Å.
        displacement: standard deviation of the displacements at the start, Å.
        strain: the cell is strained, too.
        torsions: four atoms each, counted from 0, or "all": only these torsions change.
        ceiling: energy above that of the structure, eV; None: by the temperature.
        temperature: the ceiling is k T per atom, K.
        closest: shortest distance of two atoms, relative to the sum of their covalent radii.
        dissociation: fragments may come apart.
        seed: of the displacements.
        picks: number of diverse structures with large U to choose at the end; 0: none.
        type_map, no_pbc, file_format, select: see `forcedelta.reading_options.ReadingOptions`.
        architecture, trust: see `forcedelta.load_model`.
        charge: total charge in e, for models that take one; None: that of each structure.
        spin: spin multiplicity 2S + 1, likewise.
        device: of torch.
        dtype: "float32" or "float64".
        threads: of torch, on the CPU.
    """

    model: str
    out: str
    starts: int = 8
    steps: int = 50
    optimizer: Literal["plain", "adam"] = "adam"
    alpha: float = 1.0
    beta: float = 0.01
    rate: float = 0.01
    cap: float = 0.05
    displacement: float = 0.02
    strain: bool = False
    torsions: tuple[tuple[int, int, int, int], ...] | Literal["all"] | None = None
    ceiling: float | None = None
    temperature: float = 1000.0
    closest: float = 0.7
    dissociation: bool = False
    seed: int = 0
    picks: int = 16
    architecture: str | None = None
    trust: bool = False
    charge: int | None = None
    spin: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    type_map: str | None = None
    no_pbc: bool = False
    file_format: str | None = None
    select: str | None = None

    @property
    def reading(self) -> dict[str, Any]:
        """How files are read, see `forcedelta.structures.read_structures`."""
        names = ("type_map", "no_pbc", "file_format", "select")
        return {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """Check the settings without reading any file.

        Raises:
            ForceDeltaError: numbers out of range, or settings that exclude each other.
        """
        for entry in fields(self):
            if entry.name != "torsions":
                check_value(entry.name, getattr(self, entry.name))
        if self.torsions is not None and self.strain:
            raise ForceDeltaError(
                "--torsion moves molecules and --strain crystals: pass only one of them"
            )
        if self.alpha == 0 and self.beta == 0:
            raise ForceDeltaError(
                "--alpha and --beta are both 0, and nothing would move: raise one"
            )

    def rise(self, atoms: Atoms) -> float:
        """Largest energy above that of the structure as given, ``atoms``, eV."""
        return self.ceiling if self.ceiling is not None else len(atoms) * kB * self.temperature

    def stored(self) -> dict[str, Any]:
        """The settings as stored in the file of the attack."""
        values = asdict(self)
        # "steps" is the length of a run to those who read its file
        values["steps_per_path"] = values.pop("steps")
        return {name: value for name, value in values.items() if name not in ("out", "trust")}


def continued(
    settings: AttackSettings, given: set[str] | None, stored: Mapping[str, Any]
) -> AttackSettings:
    """The settings of an attack continued in its file.

    Args:
        settings: those of this call.
        given: names of the settings given in this call; None: all.
        stored: `AttackSettings.stored` of the attack in the file.

    Raises:
        ForceDeltaError: the file is not of an attack, or has other settings.
    """
    if "optimizer" not in stored:
        raise ForceDeltaError(f"{settings.out} is not the file of an attack: give another --out")
    stored = {**stored, "steps": stored.get("steps_per_path")}
    torsions = stored.get("torsions")
    if isinstance(torsions, list):
        stored = {**stored, "torsions": tuple(tuple(four) for four in torsions)}
    known = {entry.name for entry in fields(AttackSettings)} & stored.keys() - {"model"}
    taken = {name: stored[name] for name in known}
    check_types(AttackSettings, {k: v for k, v in taken.items() if k != "torsions"}, settings.out)
    for name in sorted(known - {*FREE}):
        asked = given is None or name in given
        if asked and getattr(settings, name) != stored[name]:
            raise ForceDeltaError(
                f"{name} {getattr(settings, name)} differs from the attack in {settings.out}, which has "
                f"{stored[name]}: omit it to continue that attack, or make a new one with --overwrite "
                "or another --out"
            )
    kept = {name for name in FREE if given is None or name in given}
    return replace(settings, **{name: v for name, v in taken.items() if name not in kept})


def torsions_of(
    texts: Sequence[str],
) -> tuple[tuple[int, int, int, int], ...] | Literal["all"] | None:
    """Torsions from their text: four atoms counted from 0, "1-2-3-4", or "all".

    Raises:
        ForceDeltaError: another text.
    """
    if not texts:
        return None
    if "all" in texts:
        return "all"
    found = []
    for text in texts:
        parts = text.split("-")
        if len(parts) != 4 or not all(part.isdecimal() for part in parts):
            raise ForceDeltaError(
                f"--torsion {text}: give four atoms counted from 0, such as 0-1-2-3, or all"
            )
        a, b, c, d = (int(part) for part in parts)
        found.append((a, b, c, d))
    return tuple(found)
