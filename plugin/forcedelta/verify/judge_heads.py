"""Judgement of the comparison of direct and conservative forces."""

from forcedelta.verify import findings as limits
from forcedelta.verify.findings import Finding, Level, percent
from forcedelta.verify.heads import Comparison, Heads


def by_element(found: Heads) -> Finding:
    """Signs, factors and axes of the direct forces, of all atoms and of each element."""
    rows = "; ".join(
        f"{symbol} {one.cosine:.3f}, {one.ratio:.3f}" for symbol, one in found.elements.items()
    )
    level, why = _judged(found)
    return Finding("heads", "F_nc over F_c by element", f"cosine, ratio: {rows}", level, why, {
        "cosine": found.all.cosine, "ratio": found.all.ratio,
        "explained_by_ratio": found.all.explained, "cosine_turned": found.turned.cosine,
        "elements": {symbol: vars(one) for symbol, one in found.elements.items()},
    })  # fmt: skip


def _judged(found: Heads) -> tuple[Level, str]:
    both = found.all
    strong = [symbol for symbol in found.others if found.elements[symbol].size > limits.FEEBLE]
    if both.direct < limits.ABSENT:
        return (
            "bad",
            "the direct forces are zero beside the conservative ones: U is the size of F_c",
        )
    absent = [symbol for symbol in strong if found.elements[symbol].direct < limits.ABSENT]
    if absent:
        return "bad", f"there are no direct forces on {', '.join(absent)}"
    if found.moving < limits.STILL:
        return "bad", "the direct forces do not depend on where the atoms are"
    opposite = [symbol for symbol in strong if _is_opposite(found, symbol)]
    if opposite:
        return "bad", (
            f"the forces on {', '.join(opposite)} point against each other, and on other elements "
            "they do not: one of them has the wrong sign there"
        )
    if (
        found.turn > limits.TURNED
        and found.rest < limits.REST
        and found.turned.cosine > limits.FOLLOWS
        and both.cosine > limits.OPPOSITE  # otherwise the sign is wrong
    ):
        return "bad", (
            "the direct forces agree with the conservative ones only if they are turned or "
            f"mirrored as a whole (cosine {found.turned.cosine:.3f}): their axes are wrong"
        )
    if both.cosine < limits.UNRELATED:
        return "ok", ""  # an untrained model, which the finding on the forces tells
    scaled = [s for s in strong if _is_factor(found.elements[s], limits.ELEMENT_FACTOR)]
    if scaled and len(scaled) < len(found.elements):
        ratios = ", ".join(f"{found.elements[symbol].ratio:.4g} on {symbol}" for symbol in scaled)
        return "bad", f"the direct forces are {ratios} times the conservative ones: wrong scale"
    if _is_factor(both, limits.FACTOR):
        return "bad", (
            f"the direct forces are {both.ratio:.4g} times the conservative ones: they have "
            "another unit or scale, and U measures that"
        )
    if abs(both.ratio - 1.0) > limits.SAME_FACTOR and both.explained > limits.EXPLAINED:
        return "caveat", (
            f"{percent(both.explained)} of U^2 is a constant factor of {both.ratio:.4g} between the "
            "forces, and not the doubt of the model"
        )
    unrelated = [symbol for symbol in strong if _is_unrelated(found, symbol)]
    if unrelated:
        return "caveat", (
            f"the forces on {', '.join(unrelated)} have little to do with each other, and on other "
            "elements they agree: the model knows little about these"
        )
    return "ok", ""


def _is_opposite(found: Heads, symbol: str) -> bool:
    return (
        found.elements[symbol].cosine < limits.OPPOSITE
        and found.others[symbol].cosine > limits.UNRELATED
    )


def _is_unrelated(found: Heads, symbol: str) -> bool:
    return (
        found.elements[symbol].cosine < limits.UNRELATED
        and found.others[symbol].cosine > limits.FOLLOWS
    )


def _is_factor(one: Comparison, allowed: tuple[float, float]) -> bool:
    """Whether one force is the other times a constant that is out of bounds."""
    inside = allowed[0] <= one.ratio <= allowed[1]
    return not inside and one.cosine > limits.FOLLOWS
