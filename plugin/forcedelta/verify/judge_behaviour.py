"""Judgement of symmetries, jumps, precision, settings and cost."""

from forcedelta.verify import findings as limits
from forcedelta.verify.agreement import Change, Copies
from forcedelta.verify.cost import Cost
from forcedelta.verify.counting import Count
from forcedelta.verify.findings import Finding, Level, changed
from forcedelta.verify.jumps import Jump


def repetition(found: Change, size: float, atoms: int, u: float) -> Finding:
    """The same evaluation again."""
    title = "repeated evaluation"
    level: Level = "ok"
    why = ""
    if found.energy > limits.SAME * atoms or found.forces > limits.SAME * size:
        level = "bad" if found.force_delta > limits.SPOILT * u else "caveat"
        why = (
            f"evaluations of the same structure differ by {found.energy:.1g} eV, and by "
            f"{found.force_delta:.1g} eV/Å in U: the model draws random numbers, or remembers"
        )
    return changed("repetition", title, found, level, why)


def symmetry(
    key: str, title: str, found: Change, noise: Change, size: float, atoms: int, u: float
) -> Finding:
    """What must change nothing: translation, order of atoms, images, batch.

    ``noise`` is that of repeated evaluations, which is not to be blamed on the symmetry.
    """
    level: Level = "ok"
    why = ""
    energy, forces = found.energy - 5.0 * noise.energy, found.forces - 5.0 * noise.forces
    if energy > limits.SAME * atoms or forces > limits.SAME * size:
        level = (
            "bad" if found.force_delta > limits.SPOILT * u + 5.0 * noise.force_delta else "caveat"
        )
        why = (
            f"results change with what is no property of a structure ({title}): by "
            f"{found.energy:.1g} eV, forces by {found.forces:.1g} eV/Å"
        )
    return changed(key, title, found, level, why)


def copies(found: Copies, noise: Change, size: float, atoms: int, periodic: bool) -> Finding:
    """Twice the structure, which has twice the energy."""
    what = "a doubled cell" if periodic else "two copies out of reach"
    off = found.change
    energy, conservative = (
        off.energy - 5.0 * noise.energy,
        off.conservative - 5.0 * noise.conservative,
    )
    level: Level = "ok"
    why = ""
    if energy > limits.SAME * atoms or conservative > limits.SAME * size:
        level = "bad" if conservative > limits.WRONG_GRADIENT * size else "caveat"
        why = (
            f"the energy is not extensive: of {what} it is {off.energy:.1g} eV off twice its value, "
            f"and F_c changes by {off.conservative:.1g} eV/Å"
        )
    elif off.direct - 5.0 * noise.direct > limits.SAME * size:
        scaled = abs(found.direct_ratio - 1.0) > limits.DEPENDS_ON_SIZE
        level = "bad" if scaled else "caveat"
        why = (
            f"the direct forces on {what} change by {off.direct:.1g} eV/Å"
            + (f", to {found.direct_ratio:.3g} times what they were" if scaled else "")
            + ": they depend on the whole system, and U with them"
        )
    return changed("copies", "twice the structure", off, level, why)


def history(found: Change, noise: Change, size: float, atoms: int, u: float) -> Finding:
    """An evaluation after one of another structure."""
    level: Level = "ok"
    why = ""
    energy, forces = found.energy - 5.0 * noise.energy, found.forces - 5.0 * noise.forces
    if energy > limits.SAME * atoms or forces > limits.SAME * size:
        level = "bad" if found.force_delta > limits.SPOILT * u else "caveat"
        why = (
            f"results depend on what was evaluated before, by {found.energy:.1g} eV and "
            f"{found.forces:.1g} eV/Å: the model remembers"
        )
    return changed("history", "after another structure", found, level, why)


def escaped(finite: bool, symbol: str) -> Finding:
    """An atom out of reach of the others."""
    why = (
        ""
        if finite
        else f"energy or forces are not finite once an atom ({symbol}) has no neighbour"
    )
    return Finding(
        "escaped", "an atom out of reach", "finite" if finite else "not finite",
        "ok" if finite else "caveat", why, {"finite": finite},
    )  # fmt: skip


def charged(found: Change) -> Finding:
    """Another charge and spin of the same atoms."""
    ignored = found.energy == 0.0 and found.forces == 0.0
    why = "charge and spin change nothing, though the model asks for them" if ignored else ""
    return changed("charge", "one more charge", found, "caveat" if ignored else "ok", why)


def skipped(names: list[str]) -> Finding:
    """What a quick check does not measure."""
    return Finding(
        "skipped", "left out by --quick", "; ".join(names), "info", "", {"skipped": names}
    )


def frames(found: Change, u: float) -> Finding:
    """Random local frames of EquiformerV2."""
    level: Level = "ok"
    why = ""
    if found.force_delta > limits.NOTICED * u or found.conservative > limits.SPOILT * u:
        level = "caveat"
        why = (
            "the random local frames of the network are a noise in U of "
            f"{found.force_delta:.1g} eV/Å and in F_c of {found.conservative:.1g} eV/Å"
        )
    return changed("frames", "random local frames", found, level, why)


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
    if found.force_delta > limits.SPOILT * u:
        level, why = "caveat", "U is not converged in float32: take float64"
    return changed("precision", "float32 against float64", found, level, why)


def library(found: Change, noise: Change, size: float, atoms: int) -> Finding:
    """The library's own calculator.

    ``noise`` is that of random local frames, which the library draws anew at each evaluation.
    """
    level: Level = "ok"
    why = ""
    energy, direct = found.energy - 5.0 * noise.energy, found.direct - 5.0 * noise.direct
    if energy > limits.LIBRARY * atoms or direct > limits.LIBRARY * size:
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


def _jump(key: str, title: str, where: str, found: Jump, noise: Change) -> Finding:
    text = (
        f"{where}energy jumps by {found.energy:.2g} eV, F_nc by {found.change.direct:.2g}, F_c by "
        f"{found.change.conservative:.2g}, U by {found.change.force_delta:.2g} eV/Å"
    )
    level: Level = "ok"
    why = ""
    if found.energy - 5.0 * noise.energy > limits.JUMP:
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
