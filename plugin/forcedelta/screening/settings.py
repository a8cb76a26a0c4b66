"""The settings of a screen, and the ones that a restart must not change."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from forcedelta.errors import ForceDeltaError
from forcedelta.limits import check_types, check_value, flag
from forcedelta.reading_options import ReadingOptions

RATTLE = 0.02
"""Å. About the thermal displacement of a light crystal at 50 K: bonds stay, symmetry does not."""

RATTLES = 3

DEFINING = (
    "model", "architecture", "compile", "charge", "spin", "dtype", "rattle", "rattles", "seed",
    "type_map", "no_pbc", "file_format", "select",
)  # fmt: skip
"""Settings that a restart must not change, or its rows would not be comparable."""


@dataclass(frozen=True)
class ScreenSettings:
    """All settings behind the numbers of a screen.

    Attributes:
        model: name, or path of a file.
        architecture, trust, compile: see `forcedelta.load_model`.
        charge: total charge in e, for models that take one; None: that of each structure.
        spin: spin multiplicity, likewise.
        rattle: standard deviation of the displacements along each axis, Å; 0: structures as given.
        rattles: number of displaced copies.
        seed: of the displacements.
        device: of torch.
        dtype: "float32" or "float64".
        threads: of torch, on the CPU.
        type_map, no_pbc, file_format, select: see `forcedelta.reading_options.ReadingOptions`.
    """

    model: str
    architecture: str | None = None
    trust: bool = False
    compile: bool = False
    charge: int | None = None
    spin: int | None = None
    rattle: float = RATTLE
    rattles: int = RATTLES
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    type_map: str | None = None
    no_pbc: bool = False
    file_format: str | None = None
    select: str | None = None

    @property
    def reading(self) -> ReadingOptions:
        """How the files are read."""
        return ReadingOptions(self.file_format, self.type_map, self.no_pbc, self.select)

    @property
    def copies(self) -> int:
        """Number of displaced copies of each structure."""
        return self.rattles if self.rattle > 0 else 0

    def stored(self) -> dict[str, Any]:
        """The settings as stored in the record of the screen."""
        return {name: getattr(self, name) for name in DEFINING}

    def check(self) -> None:
        """Check the settings without reading any file.

        Raises:
            ForceDeltaError: numbers out of range.
        """
        for entry in fields(self):
            check_value(entry.name, getattr(self, entry.name))


def continued(
    settings: ScreenSettings,
    given: Collection[str] | None,
    stored: Mapping[str, Any],
    where: str,
) -> ScreenSettings:
    """The settings of a screen continued from its record.

    Args:
        settings: those of this call.
        given: names of the settings given in this call; None: all.
        stored: `ScreenSettings.stored` of the record.
        where: the record, for error messages.

    Raises:
        ForceDeltaError: the record has other settings.
    """
    check_types(ScreenSettings, stored, where)
    taken = {}
    for name in DEFINING:
        if name not in stored:
            continue
        if given is not None and name not in given:
            taken[name] = stored[name]
        elif getattr(settings, name) != stored[name]:
            raise ForceDeltaError(
                f"{flag(name).removeprefix('--')} {getattr(settings, name)} differs from the screen in {where}, "
                f"which has {stored[name]}: omit it to continue that screen, or make a new one with "
                "--overwrite or another --out"
            )
    return replace(settings, **taken)
