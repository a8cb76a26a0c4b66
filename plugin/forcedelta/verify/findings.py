"""From numbers to what they mean for somebody who is going to trust U: all limits are here.

A finding is bad if it makes U meaningless or the results those of another model, a caveat if it
limits what the model can be used for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from forcedelta.verify.agreement import Change
from forcedelta.verify.cost import Cost
from forcedelta.verify.counting import Count
from forcedelta.verify.derivatives import DerivativeError
from forcedelta.verify.jumps import Jump
from forcedelta.verify.probe import Evaluation
from forcedelta.verify.rigid import RigidParts

WRONG_GRADIENT = 1e-2  # of the gradient: a derivative that is off by more is not one
INEXACT_GRADIENT = 1e-4  # of the gradient: below, nobody will ever notice
SPOILT = 0.1  # of U: an error that is more of it makes it another quantity
NOTICED = 0.01  # of U: less is not worth a word
SAME = 1e-6  # eV per atom, or of the largest force: less is rounding
LIBRARY = 1e-3  # eV per atom, or of the largest force: more is not the same model
EQUAL_HEADS = 1e-5  # U over the forces: below, the heads are one and the same
UNRELATED = 0.5  # cosine of both forces: below, one of them is no prediction
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


def heads(given: Evaluation, shaken: Evaluation) -> Finding:
    """Both forces and U, of the structure as given and displaced, and the cosine between them."""
    direct, conservative = _rms(shaken.direct), _rms(shaken.conservative)
    norm = np.linalg.norm(shaken.direct) * np.linalg.norm(shaken.conservative)
    cosine = float((shaken.direct * shaken.conservative).sum() / norm) if norm > 0 else 0.0
    text = (
        f"U {given.force_delta:.3g} eV/Å as given, {shaken.force_delta:.3g} displaced; rms of F_nc "
        f"{direct:.3g}, of F_c {conservative:.3g}; cosine between them {cosine:.3f}"
    )
    level: Level = "ok"
    why = ""
    if not np.isfinite([given.force_delta, shaken.force_delta, shaken.energy]).all():
        level, why = "bad", "energies or forces are not finite on this structure"
    elif shaken.force_delta <= EQUAL_HEADS * max(direct, conservative):
        level = "bad"
        why = (
            "both forces are the same, so that U is zero whatever the error: this model has no "
            "direct forces of its own"
        )
    elif cosine < -UNRELATED:
        level = "bad"
        why = "the forces point against each other: one of them has the wrong sign, and U is their sum"
    elif cosine < UNRELATED:
        level = "caveat"
        why = (
            "the forces have little to do with each other on this structure: the model is untrained, "
            "or knows nothing about such structures"
        )
    return Finding("forces", "direct and conservative forces", text, level, why, {
        "U_given_eV_per_A": given.force_delta, "U_displaced_eV_per_A": shaken.force_delta,
        "rms_direct_eV_per_A": direct, "rms_conservative_eV_per_A": conservative,
        "cosine": cosine,
    })  # fmt: skip


def gradient(found: DerivativeError, u: float, graph: str) -> Finding:
    """F_c against finite differences of the energy."""
    ways = (
        f"all {found.directions} coordinates"
        if found.complete
        else f"{found.directions} directions"
    )
    if found.crossed:
        ways += f", {found.crossed} left out where neighbours change at once"
    text = (
        f"off by {found.error:.2g} eV/Å (differences are good for {found.uncertainty:.1g}) of "
        f"{found.size:.3g}; {ways}, steps of {found.step:g} Å"
    )
    level: Level = "ok"
    why = ""
    share = found.error / max(u, 1e-3 * found.size) if found.size > 0 else np.inf
    doubt = found.uncertainty / max(u, 1e-3 * found.size) if found.size > 0 else np.inf
    resolved = found.error > 3.0 * found.uncertainty
    if found.directions and resolved and (found.relative > WRONG_GRADIENT or share > SPOILT):
        level = "bad"
        why = (
            f"F_c is not the gradient of the energy: it is off by {_percent(found.relative)} of its "
            f"size, {_percent(share)} of U. U measures that mistake and says nothing about the model"
        )
    elif not found.directions or max(share, doubt) > SPOILT:
        level = "caveat"
        why = (
            "whether F_c is the gradient of the energy cannot be told: noise or jumps of the energy "
            f"leave the differences uncertain by {_percent(doubt)} of U"
        )
    elif resolved and found.relative > INEXACT_GRADIENT:
        level = "caveat"
        why = (
            f"F_c is off by {_percent(found.relative)} of its size: of U, {found.error:.1g} eV/Å "
            "are the method's own"
        )
    return Finding(
        f"gradient_{graph}", f"F_c = -dE/dr, graph {graph}", text, level, why,
        {**_derivative(found, "eV_per_A"), "error_over_U": float(share)},
    )  # fmt: skip


def stress(found: DerivativeError) -> Finding:
    """The conservative stress against finite differences of the energy."""
    text = (
        f"off by {found.error:.2g} eV/Å^3 (differences are good for {found.uncertainty:.1g}) of "
        f"{found.size:.3g}"
    )
    wrong = found.error > max(3.0 * found.uncertainty, WRONG_GRADIENT * found.size)
    why = (
        "the stress is not the strain derivative of the energy: no constant pressure"
        if wrong
        else ""
    )
    level: Level = "caveat" if wrong else "ok"
    numbers = _derivative(found, "eV_per_A3")
    return Finding("stress", "stress = dE/d(strain)/V", text, level, why, numbers)


def rigid(parts: RigidParts, atoms: int) -> Finding:
    """Net force and torque of both forces, and U without the mean force."""
    text = (
        f"net force of F_nc {parts.net_direct:.2g}, of F_c {parts.net_conservative:.2g} eV/Å; "
        f"U without the mean force {parts.without_mean:.3g} eV/Å"
    )
    if parts.torque_direct is not None:
        text = text.replace(
            "; U", f"; torque {parts.torque_direct:.2g}, {parts.torque_conservative:.2g} eV; U"
        )
    missing = 1.0 - (parts.without_mean / parts.force_delta) ** 2 if parts.force_delta > 0 else 0.0
    level: Level = "ok"
    why = ""
    # three of 3N components are of the mean, and have their share of errors that are random
    if missing > max(SPOILT, 3.0 / atoms):
        level = "caveat"
        why = (
            f"{_percent(missing)} of U^2 is a net force on the whole structure, which no true force "
            "has"
        )
    return Finding("rigid", "net force and torque", text, level, why, {
        "net_direct_eV_per_A": parts.net_direct,
        "net_conservative_eV_per_A": parts.net_conservative,
        "torque_direct_eV": parts.torque_direct,
        "torque_conservative_eV": parts.torque_conservative,
        "U_without_mean_force_eV_per_A": parts.without_mean,
    })  # fmt: skip


def rotation(found: Change, u: float) -> Finding:
    """Turned structures."""
    level: Level = "ok"
    why = ""
    if found.force_delta > ORIENTED * u or found.direct > ORIENTED * u:
        level = "caveat"
        why = (
            "the model is not rotation invariant: U depends on how the structure lies, by "
            f"{_percent(found.force_delta / u)}"
        )
    return _changed("rotation", "rotation", found, level, why)


def repetition(found: Change, size: float, atoms: int, u: float) -> Finding:
    """The same evaluation again."""
    title = "repeated evaluation"
    level: Level = "ok"
    why = ""
    if found.energy > SAME * atoms or found.forces > SAME * size:
        level = "bad" if found.force_delta > SPOILT * u else "caveat"
        why = (
            f"evaluations of the same structure differ by {found.energy:.1g} eV, and by "
            f"{found.force_delta:.1g} eV/Å in U: the model draws random numbers, or remembers"
        )
    return _changed("repetition", title, found, level, why)


def symmetry(
    key: str, title: str, found: Change, noise: Change, size: float, atoms: int, u: float
) -> Finding:
    """What must change nothing: translation, order of atoms, images, batch.

    ``noise`` is that of repeated evaluations, which is not to be blamed on the symmetry.
    """
    level: Level = "ok"
    why = ""
    energy, forces = found.energy - 5.0 * noise.energy, found.forces - 5.0 * noise.forces
    if energy > SAME * atoms or forces > SAME * size:
        level = "bad" if found.force_delta > SPOILT * u + 5.0 * noise.force_delta else "caveat"
        why = (
            f"results change with what is no property of a structure ({title}): by "
            f"{found.energy:.1g} eV, forces by {found.forces:.1g} eV/Å"
        )
    return _changed(key, title, found, level, why)


def frames(found: Change, u: float) -> Finding:
    """Random local frames of EquiformerV2."""
    level: Level = "ok"
    why = ""
    if found.force_delta > NOTICED * u or found.conservative > SPOILT * u:
        level = "caveat"
        why = (
            "the random local frames of the network are a noise in U of "
            f"{found.force_delta:.1g} eV/Å and in F_c of {found.conservative:.1g} eV/Å"
        )
    return _changed("frames", "random local frames", found, level, why)


def neighbour(found: Jump | None, noise: Change, reach: float) -> Finding:
    """The next change of the pairs that the model sees."""
    title = "next change of neighbours"
    if found is None:
        return Finding("neighbours", title, f"none within {reach:g} Å", "info")
    what = "an atom swaps a neighbour" if found.swap else f"{found.pairs} pairs cross the cutoff"
    return _jump("neighbours", title, f"after {found.at:.2g} Å {what}: ", found, noise)


def line(found: Jump, noise: Change, reach: float) -> Finding:
    """The largest jump along a line."""
    return _jump("line", "jumps along a line", f"worst of {reach:g} Å: ", found, noise)


def precision(found: Change, u: float) -> Finding:
    """float32 against float64."""
    level: Level = "ok"
    why = ""
    if found.force_delta > SPOILT * u:
        level, why = "caveat", "U is not converged in float32: take float64"
    return _changed("precision", "float32 against float64", found, level, why)


def library(found: Change, size: float, atoms: int) -> Finding:
    """The library's own calculator."""
    level: Level = "ok"
    why = ""
    if found.energy > LIBRARY * atoms or found.direct > LIBRARY * size:
        level, why = "bad", "energy and direct forces are not those of the library's own calculator"
    text = f"energy {found.energy:.2g} eV, direct forces {found.direct:.2g} eV/Å apart"
    return Finding("library", "the library's calculator", text, level, why, {
        "energy_eV": found.energy, "direct_eV_per_A": found.direct,
    })  # fmt: skip


def passes(count: Count, trainable: int) -> Finding:
    """How often the network runs."""
    text = f"{count.forwards} forward, {count.backwards} backward"
    level: Level = "ok"
    whys = []
    if count != Count(1, 1, ()):
        whys.append("the network runs more often than once forward and once backward")
    if trainable:
        whys.append(f"{trainable} parameters ask for gradients")
    if whys:
        level = "caveat"
    return Finding("passes", "passes for one U", text, level, "; ".join(whys), {
        "forwards": count.forwards, "backwards": count.backwards,
        "repeated_parts": list(count.repeated), "parameters_with_gradient": trainable,
    })  # fmt: skip


def settings(loading: list[str], evaluating: list[str]) -> Finding:
    """Settings of the process that the model changed."""
    parts = [
        f"{when} changes {', '.join(names)}"
        for when, names in (("loading", loading), ("an evaluation", evaluating))
        if names
    ]
    level: Level = "ok"
    why = ""
    if parts:
        level = "caveat"
        why = "; ".join(parts) + ": other models, or the thermostat, will behave differently"
    return Finding("settings", "settings of the process", "; ".join(parts) or "unchanged", level, why, {
        "loading": loading, "evaluation": evaluating,
    })  # fmt: skip


def costs(found: Cost) -> Finding:
    """Exact U over a forward pass, and over the library's own calculator."""
    text = f"{found.over_forward:.2f} times one forward pass of {1e3 * found.forward:.3g} ms"
    if found.over_library is not None:
        text += f"; {found.over_library:.2f} times the library's own calculator"
    return Finding("cost", "cost of exact U", text, "info", "", {
        "forward_s": found.forward, "exact_s": found.exact, "calculator_s": found.calculator,
        "library_s": found.library, "over_forward": found.over_forward,
        "over_library": found.over_library,
    })  # fmt: skip


def failure(key: str, title: str, error: Exception, level: Level = "caveat") -> Finding:
    """A measurement that the model did not survive."""
    reason = " ".join(str(error).split()) or type(error).__name__
    why = f"{title} cannot be had: {reason[:300]}"
    return Finding(key, title, "fails", level, why, {"error": reason})


def _changed(key: str, title: str, found: Change, level: Level, why: str) -> Finding:
    text = (
        f"energy {found.energy:.2g} eV, F_nc {found.direct:.2g}, F_c {found.conservative:.2g}, "
        f"U {found.force_delta:.2g} eV/Å"
    )
    return Finding(key, title, text, level, why, {
        "energy_eV": found.energy, "direct_eV_per_A": found.direct,
        "conservative_eV_per_A": found.conservative, "U_eV_per_A": found.force_delta,
    })  # fmt: skip


def _jump(key: str, title: str, where: str, found: Jump, noise: Change) -> Finding:
    text = (
        f"{where}energy jumps by {found.energy:.2g} eV, F_nc by {found.change.direct:.2g}, F_c by "
        f"{found.change.conservative:.2g}, U by {found.change.force_delta:.2g} eV/Å"
    )
    level: Level = "ok"
    why = ""
    if found.energy - 5.0 * noise.energy > JUMP:
        level = "caveat"
        why = (
            f"the energy jumps by {found.energy:.1g} eV when neighbours change: no forces conserve "
            "it, and F_c cannot see it"
        )
    return Finding(key, title, text, level, why, {
        "energy_eV": found.energy, "direct_eV_per_A": found.change.direct,
        "conservative_eV_per_A": found.change.conservative,
        "U_eV_per_A": found.change.force_delta, "at_A": found.at, "width_A": found.width,
        "pairs": found.pairs, "swap": found.swap,
    })  # fmt: skip


def _derivative(found: DerivativeError, unit: str) -> dict[str, Any]:
    return {
        f"error_{unit}": found.error, f"uncertainty_{unit}": found.uncertainty,
        f"size_{unit}": found.size, "relative": found.relative, "step": found.step,
        "directions": found.directions, "complete": found.complete, "crossed": found.crossed,
    }  # fmt: skip


def _rms(forces: Any) -> float:
    return float(np.sqrt(np.mean(np.square(forces))))


def _percent(share: float) -> str:
    return f"{100 * share:.{2 if share < 1 else 3}g} %"
