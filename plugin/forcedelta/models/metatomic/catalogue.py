"""The published PETs, by their names in the package upet, which is not imported here.

Each name stands for one fixed version, and thus always for the same weights. Families without a head
for direct forces (pet-spice, pet-mols, pet-mad before 1.1) are left out: they have no Force Delta.
"""

from __future__ import annotations

from forcedelta.installing import command
from forcedelta.models.catalogue import Family, Published

_LICENCE = "BSD-3-Clause"


def _pet(name: str, version: str, elements: str, periodic: bool | None, note: str) -> Published:
    return Published(name, elements, periodic, _LICENCE, f"{name}-v{version}.ckpt", note)


_MAD = "102 elements"
_OMAT = "those of OMat24"
_OLD = "PBEsol; deprecated by its authors"
_OMOL = "ωB97M-V; takes charge and spin if its checkpoint does"

FAMILY = Family(
    key="pet",
    title="PET (upet, metatrain, metatomic)",
    distribution="upet",
    versions=">=0.3.1,<0.4",
    install=command("pet"),
    loader="forcedelta.models.metatomic.checkpoints:load",
    published=(
        _pet("pet-mad-xs", "1.6.0", _MAD, None, "r2SCAN"),
        _pet("pet-mad-s", "1.6.0", _MAD, None, "r2SCAN"),
        _pet("pet-mad-m", "1.6.0", _MAD, None, "r2SCAN"),
        _pet("pet-omat-xs", "1.0.0", _OMAT, True, "PBE"),
        _pet("pet-omat-s", "1.0.0", _OMAT, True, "PBE"),
        _pet("pet-omat-m", "1.0.0", _OMAT, True, "PBE"),
        _pet("pet-omat-l", "1.0.0", _OMAT, True, "PBE"),
        _pet("pet-omat-xl", "1.0.0", _OMAT, True, "PBE"),
        _pet("pet-oam-l", "0.1.0", _OMAT, True, "PBE as in the Materials Project"),
        _pet("pet-oam-xl", "1.0.0", _OMAT, True, "PBE as in the Materials Project"),
        _pet("pet-omatpes-l", "0.1.0", _OMAT, True, "r2SCAN"),
        _pet("pet-omad-xs", "1.0.0", "materials and molecules", None, _OLD),
        _pet("pet-omad-s", "1.0.0", "materials and molecules", None, _OLD),
        _pet("pet-omad-l", "0.1.0", "materials and molecules", None, _OLD),
        _pet("pet-omol-s", "1.0.0", "those of OMol25", False, _OMOL),
        _pet("pet-omol-m", "1.0.0", "those of OMol25", False, _OMOL),
        _pet("pet-omol-l", "1.0.0", "those of OMol25", False, _OMOL),
    ),
    architectures=("pet",),
)
