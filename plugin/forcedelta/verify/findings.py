"""Findings of a check and all limits that judge them.

A finding is bad if it makes U meaningless or the results those of another model, a caveat if it
limits what the model can be used for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from forcedelta.verify.agreement import Change

WRONG_GRADIENT = 1e-2  # of the gradient: a derivative that is off by more is not one
INEXACT_GRADIENT = 1e-4  # of the gradient: below, nobody will ever notice
SPOILT = 0.1  # of U: an error that is more of it makes it another quantity
NOTICED = 0.01  # of U: less is not worth a word
SAME = 1e-6  # eV per atom, or of the largest force: less is rounding
LIBRARY = 1e-3  # eV per atom, or of the largest force: more is not the same model
EQUAL_HEADS = 1e-5  # U over the forces: below, the heads are one and the same
OPPOSITE = -0.9  # cosine of both forces: below, a sign is wrong
UNRELATED = 0.5  # cosine of both forces: below, one of them is no prediction
FOLLOWS = 0.9  # cosine of both forces: above, one follows the other
TURNED = 0.3  # Frobenius norm: axes that are turned by less may be no more than noise
ABSENT = 1e-3  # of the conservative forces: direct forces that are smaller are none
STILL = 1e-4  # of the direct forces: what changes less does not depend on where the atoms are
FEEBLE = 0.1  # of the forces on all atoms: an element with smaller ones is not judged
FACTOR = (0.8, 1.25)  # direct over conservative forces: outside, one of them has another unit
ELEMENT_FACTOR = (0.6, 1.67)  # the same of one element, which may be of a single atom
SAME_FACTOR = 3e-3  # a factor that differs from 1 by less is not worth a word
EXPLAINED = 0.8  # of U^2: a factor that explains more of it is what U measures
REST = 0.5  # of U^2: turned axes that leave less of it are wrong
DEPENDS_ON_SIZE = 0.1  # a factor between direct forces of one and of two copies
COARSE = 1e-8  # eV: energies with larger steps between them were summed in float32
JUMP = 1e-5  # eV
ORIENTED = 0.02  # of U

Level = Literal["ok", "caveat", "bad", "info"]


@dataclass(frozen=True)
class Finding:
    """One row of a report.

    Attributes:
        key: for programs.
        title: what was measured.
        text: the numbers, with units.
        level: what they mean.
        why: a sentence that says it, empty if all is well.
        numbers: by name with the unit in it.
    """

    key: str
    title: str
    text: str
    level: Level = "ok"
    why: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)


def failure(key: str, title: str, error: Exception, level: Level = "caveat") -> Finding:
    """The finding of a measurement that failed."""
    reason = " ".join(str(error).split()) or type(error).__name__
    why = f"measurement failed ({title}): {reason[:300]}"
    return Finding(key, title, "fails", level, why, {"error": reason})


def changed(key: str, title: str, found: Change, level: Level, why: str) -> Finding:
    """The finding of a transformation that should change nothing."""
    text = (
        f"energy {found.energy:.2g} eV, F_nc {found.direct:.2g}, F_c {found.conservative:.2g}, "
        f"U {found.force_delta:.2g} eV/Å"
    )
    return Finding(key, title, text, level, why, {
        "energy_eV": found.energy, "direct_eV_per_A": found.direct,
        "conservative_eV_per_A": found.conservative, "U_eV_per_A": found.force_delta,
    })  # fmt: skip


def percent(share: float) -> str:
    """A share in percent, with two digits, or all that stand before the point."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
