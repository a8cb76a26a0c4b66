"""Tables of ``forcedelta compare``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..comparison.page import NAMES, verdict
from ..comparison.result import JOIN, SELF_CONSISTENCY, Comparison
from .tables import show, table

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from ..ranking import Estimate

_MOST_ROWS = 40
"""Rows of the table of systems; all are in the JSON output and the report."""
_STAR = "* ranks the errors better than U does"


def show_comparison(found: Comparison) -> None:
    """Print the tables of a comparison."""
    labelled = found.labelled > 0
    parts: list[str | Table | Text] = [found.line + ".", ""]
    if found.settled < found.common:
        parts += [
            f"Means of models and families: {found.settled} structures that no attack moved.",
            "",
        ]
    parts += [_models(found) if labelled else _unlabelled(found)]
    if labelled:
        parts += [_families(found), *_family_lines(found)]
    if len(found.systems) > 1:
        parts += [_systems(found)]
        if len(found.systems) > _MOST_ROWS:
            parts += [f"The first {_MOST_ROWS} of {len(found.systems)} systems.", ""]
        parts += _systems_line(found)
    if found.attack is not None:
        parts += [_attack(found), *_attack_lines(found)]
    if labelled:
        parts += [_STAR, ""]
    else:
        parts += [SELF_CONSISTENCY, ""]
    parts += [f"note: {note}" for note in found.notes]
    parts += [f"All predictions: {found.out}/structures.csv. {JOIN}"]
    show(*parts)


def _models(found: Comparison) -> Table:
    heads = [
        "model",
        "family",
        "U",
        "RMS F",
        "E/atom",
        "error",
        "r_s of U",
        "AUROC",
        "r_s of E",
        "r_s of RMS F",
    ]
    rows = []
    for model in found.models:
        rank = model.ranking or {}
        rows.append(
            [
                model.name,
                model.family,
                _number(model.force_delta),
                _number(model.force_rms),
                _energy(model.energy),
                _number(model.epsilon),
                _interval(_of(rank, "force_delta")),
                _interval(_of(rank, "force_delta", "auroc_worst_tenth")),
                *(
                    _value(_of(rank, name)) + "*" * (name in model.better)
                    for name in ("energy", "force_rms")
                ),
            ]
        )
    return table(heads, rows)


def _unlabelled(found: Comparison) -> Table:
    rows = [
        [
            str(place + 1), model.name, model.family, _number(model.force_delta),
            _number(model.force_rms), _energy(model.energy), str(model.evaluated),
        ]
        for place, model in enumerate(found.models)
    ]  # fmt: skip
    return table(["rank", "model", "family", "U", "RMS F", "E/atom", "structures"], rows)


def _families(found: Comparison) -> Table:
    heads = [
        "family",
        "models",
        "r_s of U",
        "r_s of E",
        "r_s of RMS F",
        "AUROC of U",
        "r_s of the ensemble",
    ]
    rows = []
    for family in found.families:
        means = [
            _mean(family.spearman[name]) + "*" * (name in family.better)
            for name in ("force_delta", "energy", "force_rms")
        ]
        ensemble = _interval(family.ensemble["ensemble"]) if family.ensemble else "-"
        rows.append(
            [
                family.name,
                str(len(family.models)),
                *means,
                _mean(family.auroc["force_delta"]),
                ensemble,
            ]
        )
    return table(heads, rows)


def _family_lines(found: Comparison) -> list[str]:
    lines = []
    for family in found.families:
        if family.note:
            lines.append(f"{family.name}: {family.note}.")
        elif family.ensemble is not None:
            difference = family.ensemble["difference"]
            lines.append(
                f"{family.name}: mean r_s of U less r_s of the ensemble {_interval(difference)}: "
                f"{verdict(family.ensemble)}. Error of the ensemble's mean {_number(family.ensemble_epsilon)} eV/Å."
            )
            lines += _ensemble_losses(family.ensemble_ranking or {})
        over_models = family.models_spearman.get("force_delta")
        if over_models is not None:
            size = family.models_spearman.get("force_rms")
            lines.append(
                f"{family.name}: mean U and mean error over its {len(family.models)} models: r_s "
                f"{over_models:.2f} (mean RMS F: {'-' if size is None else f'{size:.2f}'})."
            )
    return [*lines, ""]


def _ensemble_losses(ranked: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    """What ranks the error of the ensemble's mean, in one line."""
    values = ", ".join(
        f"{'mean ' if name != 'ensemble' else ''}{NAMES[name]} {_value(measures['spearman'])}"
        for name, measures in ranked.items()
    )
    return [f"  r_s with the error of the ensemble's mean: {values}."] if values else []


def _systems(found: Comparison) -> Table:
    rows = [
        [
            system.name, str(system.structures), _number(system.force_delta),
            _number(system.force_rms), f"{system.energy:+.4f}", _number(system.epsilon),
        ]
        for system in found.systems[:_MOST_ROWS]
    ]  # fmt: skip
    return table(["system", "structures", "U", "RMS F", "rel. E/atom", "error"], rows)


def _systems_line(found: Comparison) -> list[str]:
    ranked = found.systems_ranking
    if ranked is None:
        return []
    own = ranked["force_delta"]["spearman"]
    if own.value is None:
        return ["r_s over the systems: too few systems.", ""]
    others = ", ".join(
        f"{NAMES[name]} {_value(ranked[name]['spearman'])}"
        + "*" * _is_above(ranked[name]["spearman"], own)
        for name in ("energy", "force_rms")
    )
    return [f"r_s over the {len(found.systems)} systems: U {_interval(own)}, {others}.", ""]


def _attack(found: Comparison) -> Table:
    assert found.attack is not None
    names = ("force_delta", "energy", "force_rms", "start_error", "move")
    rows = []
    for score in found.attack.systems[:_MOST_ROWS]:
        cells = [
            ("-" if score.spearman[name] is None else f"{score.spearman[name]:.2f}")
            + "*" * (name in score.better)
            for name in names
        ]
        rows.append(
            [score.model, score.system, str(score.moves), _number(score.start_error), *cells]
        )
    heads = [
        "attacks: model",
        "system",
        "structures",
        "start",
        *(f"r_s of {n}" for n in ("U", "E", "RMS F")),
    ]
    return table([*heads, "start", "move"], rows)


def _attack_lines(found: Comparison) -> list[str]:
    attack = found.attack
    assert attack is not None
    lines = []
    for model, ranked in attack.ranking.items():
        own = ranked["force_delta"]["spearman"]
        others = ", ".join(
            f"{NAMES[name]} {_value(measures['spearman'])}"
            + "*" * _is_above(measures["spearman"], own)
            for name, measures in ranked.items()
            if name != "force_delta"
        )
        start = attack.start_spearman[model]
        lines.append(
            f"{model}: r_s over all {attack.structures} structures of {attack.paths} paths: U {_interval(own)}, "
            f"{others}; r_s(U) against the error at the start: {'-' if start is None else f'{start:.2f}'}."
        )
    return [*lines, ""]


def _is_above(one: Estimate, other: Estimate) -> bool:
    return one.value is not None and (other.value is None or one.value > other.value)


def _of(
    ranked: Mapping[str, Mapping[str, Estimate]], name: str, measure: str = "spearman"
) -> Estimate | None:
    return ranked[name][measure] if name in ranked else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _energy(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _value(estimate: Estimate | None) -> str:
    return "-" if estimate is None or estimate.value is None else f"{estimate.value:.2f}"


def _interval(estimate: Estimate | None) -> str:
    text = _value(estimate)
    if estimate is None or estimate.value is None or estimate.low is None:
        return text
    return f"{text} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _mean(pair: tuple[float | None, float | None]) -> str:
    mean, spread = pair
    if mean is None:
        return "-"
    return f"{mean:.2f}" + ("" if spread is None else f" ± {spread:.2f}")
