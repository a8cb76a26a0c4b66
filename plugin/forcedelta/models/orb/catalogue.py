"""The published direct models of orb-models; imports neither torch nor orb-models."""

from forcedelta.installing import command
from forcedelta.models.catalogue import Family, Published

_MATERIALS = "89 elements: H to Bi, Ac to Pu"
_MOLECULES = "83 elements: H to Bi"
_LICENCE = "Apache-2.0"
_JUMPS = "20 neighbours: the energy jumps when one replaces another"
_SMOOTH = "120 neighbours: smooth up to 0.13 atoms/Å^3"


def _published(name: str, weights: str, note: str, **more: bool) -> Published:
    elements = _MOLECULES if more.get("charge_spin") else _MATERIALS
    return Published(name, elements, None, _LICENCE, weights, note, **more)


ARCHITECTURES = {
    "orb-v3-direct-20": "orb-v3-direct-20-omat",
    "orb-v3-direct-inf": "orb-v3-direct-inf-omat",
    "orb-v3-direct-omol": "orb-v3-direct-omol",
    "orb-v2": "orb-v2",
    "orb-d3-v2": "orb-d3-v2",
    "orb-d3-sm-v2": "orb-d3-sm-v2",
    "orb-d3-xs-v2": "orb-d3-xs-v2",
}
"""A published model for each architecture: its loader builds the network."""

FAMILY = Family(
    key="orb",
    title="Orb (orb-models)",
    distribution="orb-models",
    versions=">=0.5.5,<0.6",
    install=command("orb"),
    pythons="<3.13",  # orb-models 0.5.5 pins a dm-tree that has no wheel for newer ones
    loader="forcedelta.models.orb.loading:load",
    published=(
        _published(
            "orb-v3-direct-20-omat",
            "orb-v3-direct-20-omat-20250404.ckpt",
            f"trained on OMat24 (PBE); {_JUMPS}",
        ),
        _published(
            "orb-v3-direct-inf-omat",
            "orb-v3-direct-inf-omat-20250404.ckpt",
            f"trained on OMat24 (PBE); {_SMOOTH}",
        ),
        _published(
            "orb-v3-direct-20-mpa",
            "orb-v3-direct-20-mpa-20250404.ckpt",
            f"trained on MPtrj and Alexandria (PBE); {_JUMPS}",
        ),
        _published(
            "orb-v3-direct-inf-mpa",
            "orb-v3-direct-inf-mpa-20250404.ckpt",
            f"trained on MPtrj and Alexandria (PBE); {_SMOOTH}",
        ),
        _published(
            "orb-v3-direct-omol",
            "orb-v3-direct-omol-20250820.ckpt",
            f"trained on molecules, OMol25 (ωB97M-V); {_SMOOTH}",
            charge_spin=True,
        ),
        _published(
            "orb-v2",
            "orb-v2-20241011.ckpt",
            f"trained on MPtrj and Alexandria (PBE); {_JUMPS}",
        ),
        _published(
            "orb-mptraj-only-v2",
            "orb-mptraj-only-v2-20241014.ckpt",
            f"trained on MPtrj (PBE); {_JUMPS}",
        ),
        _published(
            "orb-d3-v2",
            "orb-d3-v2-20241011.ckpt",
            f"trained on MPtrj and Alexandria (PBE) with D3 dispersion; {_JUMPS}",
        ),
        _published(
            "orb-d3-sm-v2",
            "orb-d3-sm-v2-20241011.ckpt",
            f"as orb-d3-v2, 10 layers; {_JUMPS}",
        ),
        _published(
            "orb-d3-xs-v2",
            "orb-d3-xs-v2-20241011.ckpt",
            f"as orb-d3-v2, 5 layers; {_JUMPS}",
        ),
    ),
    architectures=tuple(ARCHITECTURES),
    conservative=(
        "orb-v3-conservative-20-omat",
        "orb-v3-conservative-inf-omat",
        "orb-v3-conservative-20-mpa",
        "orb-v3-conservative-inf-mpa",
        "orb-v3-conservative-omol",
    ),
)
