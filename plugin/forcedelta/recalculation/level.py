"""Levels of theory: what two of them have to share for their labels to go together."""

from __future__ import annotations

import re
from dataclasses import dataclass

FUNCTIONALS = (
    "r2scan", "scan", "pbesol", "revpbe", "rpbe", "pbe0", "pbe", "hse06", "b3lyp", "blyp", "bp86",
    "wb97m-v", "wb97m", "wb97x", "wb97", "m06-2x", "m06", "tpss", "lda", "pw91",
    "gfn2-xtb", "gfn1-xtb", "ccsd(t)", "mp2",
)  # fmt: skip
"""Longer names before those that they contain."""

DISPERSION = r"(?<![a-z0-9])(d2|d3|d4|vv10|mbd|ts)(?![a-z0-9])|d3bj|d3\(bj\)|-v(?![a-z0-9])"
BASIS = r"def2-[a-z]+|6-31[0-9a-z+*(),]*|(?:aug-)?cc-p[a-z]+|sto-3g|[a-z]+-molopt[a-z-]*"


@dataclass(frozen=True)
class Level:
    """What a text tells of a level of theory; None where it tells nothing.

    Attributes:
        functional: e.g. "pbe".
        dispersion: "d3", ... ; "" for none.
        basis: of atom-centred functions, e.g. "def2-svp".
    """

    functional: str | None
    dispersion: str
    basis: str | None


def read_level(text: str) -> Level:
    """The parts of a level of theory in words such as "UHF PBE+D3/def2-SVP (ORCA 5)"."""
    low = text.lower().replace("ω", "w").replace("_", "-")
    functional = next(
        (
            name
            for name in FUNCTIONALS
            if re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", low)
        ),
        None,
    )
    dispersion = re.search(DISPERSION, low)
    basis = re.search(BASIS, low)
    kind = "" if dispersion is None else dispersion.group(0)
    return Level(functional, "d3" if kind.startswith("d3") else kind, basis and basis.group(0))


def difference(model: str, reference: str) -> str | None:
    """Why labels at one level do not go together with a model trained at another, or None.

    Args:
        model: level of theory of the training set, in the words of the model.
        reference: level of theory of the labels.
    """
    trained, wanted = read_level(model), read_level(reference)
    parts = []
    if trained.functional != wanted.functional:
        parts.append("functional")
    if trained.dispersion != wanted.dispersion:
        parts.append("dispersion")
    if trained.basis != wanted.basis:
        parts.append("basis")
    return " and ".join(parts) or None
