"""Judgement of forces and their derivatives."""

from typing import Any

import numpy as np

from forcedelta.evaluation import ExactEvaluation
from forcedelta.verify import findings as limits
from forcedelta.verify.agreement import Change
from forcedelta.verify.derivatives import DerivativeError
from forcedelta.verify.findings import Finding, Level, changed, percent
from forcedelta.verify.rigid import RigidParts


def heads(given: ExactEvaluation, shaken: ExactEvaluation) -> Finding:
    """Both forces and U, of the structure as given and displaced, and the cosine between them."""
    direct, conservative = _rms(shaken.direct_forces), _rms(shaken.conservative_forces)
    norm = np.linalg.norm(shaken.direct_forces) * np.linalg.norm(shaken.conservative_forces)
    cosine = (
        float((shaken.direct_forces * shaken.conservative_forces).sum() / norm) if norm > 0 else 0.0
    )
    text = (
        f"U {given.force_delta:.3g} eV/Å as given, {shaken.force_delta:.3g} displaced; rms of F_nc "
        f"{direct:.3g}, of F_c {conservative:.3g}; cosine between them {cosine:.3f}"
    )
    level: Level = "ok"
    why = ""
    if not np.isfinite([given.force_delta, shaken.force_delta, shaken.energy]).all():
        level, why = "bad", "energies or forces are not finite on this structure"
    elif shaken.force_delta <= limits.EQUAL_HEADS * max(direct, conservative):
        level = "bad"
        why = (
            "both forces are the same, so that U is zero whatever the error: this model has no "
            "direct forces of its own"
        )
    elif cosine < limits.OPPOSITE:
        level = "bad"
        why = "the forces point against each other: one of them has the wrong sign, and U is their sum"
    elif cosine < limits.UNRELATED:
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
        f"off by {found.error:.2g} eV/Å (finite-difference uncertainty {found.uncertainty:.1g}) of "
        f"{found.size:.3g}; {ways}, steps of {found.step:g} Å"
    )
    level: Level = "ok"
    why = ""
    share = found.error / max(u, 1e-3 * found.size) if found.size > 0 else np.inf
    doubt = found.uncertainty / max(u, 1e-3 * found.size) if found.size > 0 else np.inf
    resolved = found.error > 3.0 * found.uncertainty
    if (
        found.directions
        and resolved
        and (found.relative > limits.WRONG_GRADIENT or share > limits.SPOILT)
    ):
        level = "bad"
        why = (
            f"F_c is not the gradient of the energy: it is off by {percent(found.relative)} of its "
            f"size, {percent(share)} of U. U measures that mistake and says nothing about the model"
        )
    elif not found.directions or max(share, doubt) > limits.SPOILT:
        level = "caveat"
        why = (
            "whether F_c is the gradient of the energy is unresolved: noise or jumps of the energy "
            f"leave the differences uncertain by {percent(doubt)} of U" + _coarse(found)
        )
    elif resolved and found.relative > limits.INEXACT_GRADIENT:
        level = "caveat"
        why = (
            f"F_c is off by {percent(found.relative)} of its size: of U, {found.error:.1g} eV/Å "
            "are the method's own"
        )
    return Finding(
        f"gradient_{graph}", f"F_c = -dE/dr, graph {graph}", text, level, why,
        {**_derivative(found, "eV_per_A"), "error_over_U": float(share)},
    )  # fmt: skip


def stress(found: DerivativeError) -> Finding:
    """The conservative stress against finite differences of the energy."""
    text = (
        f"off by {found.error:.2g} eV/Å^3 (finite-difference uncertainty {found.uncertainty:.1g}) of "
        f"{found.size:.3g}"
    )
    wrong = found.error > max(3.0 * found.uncertainty, limits.WRONG_GRADIENT * found.size)
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
    if missing > max(limits.SPOILT, 3.0 / atoms):
        level = "caveat"
        why = (
            f"{percent(missing)} of U^2 is a net force on the whole structure, which no true force "
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
    if found.force_delta > limits.ORIENTED * u or found.direct > limits.ORIENTED * u:
        level = "caveat"
        why = (
            "the model is not rotation invariant: U depends on how the structure lies, by "
            f"{percent(found.force_delta / u)}"
        )
    return changed("rotation", "rotation", found, level, why)


def _derivative(found: DerivativeError, unit: str) -> dict[str, Any]:
    return {
        f"error_{unit}": found.error, f"uncertainty_{unit}": found.uncertainty,
        f"size_{unit}": found.size, "relative": found.relative, "step": found.step,
        "directions": found.directions, "complete": found.complete, "crossed": found.crossed,
        "energy_resolution_eV": found.resolution,
    }  # fmt: skip


def _coarse(found: DerivativeError) -> str:
    """What to do about energies that are multiples of a step."""
    if found.resolution < limits.COARSE:
        return ""
    return (
        f"; energies are multiples of {found.resolution:.1g} eV: let the model sum in float64 "
        "(--dtype float64), or leave the energies of isolated atoms out of it"
    )


def _rms(forces: Any) -> float:
    return float(np.sqrt(np.mean(np.square(forces))))
