"""Levels of theory: parsed from text, and compared between a model and its labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

FUNCTIONALS = (
    "r2scan-3c", "pbeh-3c", "b97-3c", "hf-3c", "r2scan", "rscan", "scan", "pbesol", "revpbe", "rpbe", "pbe0", "pbe",
    "hse06", "b3lyp", "blyp", "bp86", "wb97m-v", "wb97m", "wb97x-v", "wb97x", "wb97", "m06-2x", "m06", "revtpss",
    "tpss", "lda", "pw91", "optb88", "beef-vdw", "gfn2-xtb", "gfn1-xtb", "ccsd(t)", "mp2",
)  # fmt: skip
"""Longer names precede the names that they contain."""

DISPERSION = (
    (r"d3\s*\(?m(bj)?\)?(?![a-z0-9])|d3(bj|zero)m(?![a-z])", "d3m"),
    (r"d3\s*\(bj\)|d3-?bj", "d3(bj)"),
    (r"d3\s*\((0|zero)\)|d3-?(zero|0)(?![0-9])", "d3(0)"),
    (r"(?<![a-z0-9])d3(?![a-z0-9])", "d3"),
    (r"(?<![a-z0-9])d4(?![a-z0-9])", "d4"),
    (r"(?<![a-z0-9])d2(?![a-z0-9])|(?<=[a-z0-9])-d(?![a-z0-9])", "d2"),
    (r"(?<![a-z0-9])(vv10|rvv10)(?![a-z0-9])|-v(?![a-z0-9])", "vv10"),
    (r"(?<![a-z0-9])mbd(?![a-z0-9])", "mbd"),
    (r"(?<![a-z0-9])ts(?![a-z0-9])", "ts"),
)  # fmt: skip
"""Spellings of dispersion corrections and their kind; "d3" alone leaves the damping open."""

BASIS = (
    r"(?:ma-)?def2-[a-z]+|6-31[0-9a-z+*(),]*|(?:aug-)?cc-p[a-z0-9]+(?:-pp)?|sto-3g|lanl[0-9a-z]+|"
    r"[a-z0-9]+-molopt[a-z-]*"
)

HUBBARD = r"\+\s*u(?![a-z])|(?<![a-z])ldau(?![a-z])|hubbard"
SOMETIMES = r"\(\s*\+\s*u\s*\)|pbe\s*(?:/|and|or|,)\s*pbe\s*\+\s*u"
VALUES = r"(?<![A-Za-z])([A-Z][a-z]?)[ =:]+(\d+(?:\.\d+)?)\s*eV"

CORES = (
    ("all-electron", r"all[- ]electron|fhi-aims"),
    ("GTH pseudopotentials", r"(?<![a-z])gth(?![a-z])|molopt"),
    ("PAW", r"(?<![a-z])(g?paw|vasp)(?![a-z])"),
    ("pseudopotentials", r"norm-conserving|ultrasoft|oncv|pseudo-?dojo|sg15|gbrv|\.upf|pseudopotential"),
    ("effective core potentials", r"(?<![a-z])ecps?(?![a-z])|effective core|def2-|lanl|cc-p[a-z0-9]+-pp"),
    ("all-electron", r"6-31|sto-3g|cc-p|pcseg"),
)  # fmt: skip
"""Treatments of the core electrons; the first match in this order counts."""

UNPOLARISED = (
    r"no spin polari[sz]ation|(?:non|not|un|without)[- ]?(?:spin[- ])?(?:polari[sz]ed|spins?(?![a-z]))|"
    r"spin[- ](?:un|non-?)polari[sz]ed|non-?magnetic|ispin\s*=\s*1"
)
EMBEDDED = r"point charges|electrostatic embedding"
POLARISED = r"spin[- ]polari[sz]ed|unrestricted|(?<![a-z])u(?:ks|hf|dft)(?![a-z])|ispin\s*=\s*2"


@dataclass(frozen=True)
class Level:
    """A level of theory as far as a text specifies it; None where it does not.

    Attributes:
        functional: e.g. "pbe".
        dispersion: "d3(bj)", "d3(0)", "d3" with unknown damping, ...; "" without a correction.
        basis: basis set of atom-centred functions, e.g. "def2-svp".
        hubbard: whether a Hubbard U is used; None: for some structures only.
        u: values of the Hubbard U in eV by element, as far as specified.
        core: treatment of the core electrons.
        polarised: whether the calculation is spin-polarised.
        embedded: whether it is in the field of point charges.
    """

    functional: str | None
    dispersion: str
    basis: str | None
    hubbard: bool | None = False
    u: Mapping[str, float] = field(default_factory=dict)
    core: str | None = None
    polarised: bool | None = None
    embedded: bool = False


def read_level(text: str) -> Level:
    """Parse a description such as "UHF PBE+D3/def2-SVP (ORCA 5)"."""
    low = text.lower().replace("ω", "w").replace("_", "-")
    functional = next(
        (
            name
            for name in FUNCTIONALS
            if re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", low)
        ),
        None,
    )
    basis = re.search(BASIS, low)
    hubbard: bool | None = re.search(HUBBARD, low) is not None
    if re.search(SOMETIMES, low):
        hubbard = None
    polarised = None
    if re.search(UNPOLARISED, low):
        polarised = False
    elif re.search(POLARISED, low):
        polarised = True
    return Level(
        functional,
        next((kind for pattern, kind in DISPERSION if re.search(pattern, low)), ""),
        basis and basis.group(0),
        hubbard,
        {name: float(value) for name, value in re.findall(VALUES, text)} if hubbard else {},
        next((core for core, pattern in CORES if re.search(pattern, low)), None),
        polarised,
        re.search(EMBEDDED, low) is not None,
    )


def difference(model: str, reference: str) -> str | None:
    """Differences that make labels incompatible with the training set of a model, or None.

    If only one of the two specifies the functional, dispersion correction, Hubbard U or basis set,
    this counts as a difference; for core electrons and spin polarisation it does not.

    Args:
        model: level of theory of the training set, as the model states it.
        reference: level of theory of the labels.
    """
    trained, wanted = read_level(model), read_level(reference)
    parts = []
    if trained.functional != wanted.functional:
        parts.append("functional")
    if not _same_dispersion(trained.dispersion, wanted.dispersion):
        parts.append("dispersion")
    if trained.basis != wanted.basis:
        parts.append("basis")
    if not _same_hubbard(trained, wanted):
        parts.append("Hubbard U")
    if trained.core and wanted.core and trained.core != wanted.core:
        parts.append("treatment of core electrons")
    if None not in (trained.polarised, wanted.polarised) and trained.polarised != wanted.polarised:
        parts.append("spin polarisation")
    if trained.embedded != wanted.embedded:
        parts.append("environment")
    return " and ".join(parts) or None


def _same_dispersion(one: str, other: str) -> bool:
    """Whether two corrections may be the same; D3 with unspecified damping matches any D3."""
    return one == other or ("d3" in (one, other) and one[:2] == other[:2])


def _same_hubbard(one: Level, other: Level) -> bool:
    if one.hubbard is None or other.hubbard is None:
        return True
    common = one.u.keys() & other.u.keys()
    return one.hubbard == other.hubbard and all(one.u[name] == other.u[name] for name in common)
