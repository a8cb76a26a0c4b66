"""The published direct-force models of fairchem-core 2.x, which is not imported here."""

from forcedelta.installing import command
from forcedelta.models.catalogue import Family, Published

_LICENCE = "FAIR Chemistry License, to be accepted at {} on the Hugging Face Hub (gated)"
_OMOL = "H to Bi (OMol25, 83 elements)"
_OMOL_LICENCE = _LICENCE.format("facebook/OMol25")
_BOTH = "the checkpoint limits the number of neighbours, and E jumps when one replaces another"

FAMILY = Family(
    key="fairchem",
    title="fairchem-core 2 (eSEN, AllScAIP, EScAIP)",
    distribution="fairchem-core",
    versions=">=2.24,<2.25",
    install=command("fairchem"),
    loader="forcedelta.models.fairchem.loader:load",
    published=(
        Published(
            name="esen-sm-direct-all-omol",
            elements=_OMOL,
            periodic=False,
            licence=_OMOL_LICENCE,
            weights="esen_sm_direct_all.pt",
            note=_BOTH,
            charge_spin=True,
        ),
        Published(
            name="esen-md-direct-all-omol",
            elements=_OMOL,
            periodic=False,
            licence=_OMOL_LICENCE,
            weights="esen_md_direct_all.pt",
            note=_BOTH,
            charge_spin=True,
        ),
        Published(
            name="allscaip-md-direct-all-omol",
            elements=_OMOL,
            periodic=False,
            licence=_OMOL_LICENCE,
            weights="AllScAIP-OMol102M-md-d.pt",
            note="not equivariant, and its direct forces have a net force, which adds to U",
            charge_spin=True,
        ),
        Published(
            name="esen-md-direct-all-oc25",
            elements="those with a reference energy in the checkpoint (OC25, 88 elements)",
            periodic=True,
            licence=_LICENCE.format("facebook/OC25"),
            weights="esen_md_direct.pt",
            note=_BOTH,
        ),
    ),
    architectures=("fairchem",),
    apart=(
        "it shares the import name fairchem.core with fairchem-core 1, which EquiformerV2 needs, and "
        "needs torch 2.13, whereas openmmtorch is built for 2.9: use a separate environment for each"
    ),
)
