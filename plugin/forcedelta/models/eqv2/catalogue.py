"""The published EquiformerV2 models of OMat24 and their library; imports nothing heavy."""

from forcedelta.installing import command
from forcedelta.models.catalogue import Family, Published

HUB = "facebook/OMAT24"
PAGE = f"https://huggingface.co/{HUB}"

_ELEMENTS = "most elements, as found in inorganic crystals"
_LICENCE = f"Meta Research, to be accepted at {PAGE}"
_TRAINED = {
    "mp": "PBE(+U), crystals of the Materials Project (MPtrj)",
    "omat": "PBE(+U) with the pseudopotentials of OMat24: not to be mixed with Materials Project energies",
    "omat_mp_salex": "OMat24, then fine-tuned on MPtrj and sAlex: energies of the Materials Project",
}


def _published(size: str, trained: str, denoising: bool = False) -> Published:
    name = f"eqV2_{'dens_' if denoising else ''}{size}_{trained}"
    note = _TRAINED[trained] + ("; with denoising as a second task (DeNS)" if denoising else "")
    return Published(
        name=name,
        elements=_ELEMENTS,
        periodic=None,
        licence=_LICENCE,
        weights=f"{name}.pt",
        note=note,
    )


FAMILY = Family(
    key="eqv2",
    title="EquiformerV2 (fairchem-core 1.10)",
    distribution="fairchem-core",
    versions=">=1.10,<1.11",
    install=f"{command('eqv2')} && pip install --no-deps 'fairchem-core==1.10.*'",
    loader="forcedelta.models.eqv2.loading:load",
    published=(
        _published("31M", "mp", denoising=True),
        _published("86M", "mp", denoising=True),
        _published("153M", "mp", denoising=True),
        _published("31M", "mp"),
        _published("31M", "omat"),
        _published("86M", "omat"),
        _published("153M", "omat"),
        _published("31M", "omat_mp_salex"),
        _published("86M", "omat_mp_salex"),
        _published("153M", "omat_mp_salex"),
    ),
    architectures=("eqV2",),
    apart=(
        "in a separate environment: fairchem-core 2.x, which has no EquiformerV2, has the same import "
        "name"
    ),
)
