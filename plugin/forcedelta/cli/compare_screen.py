"""Tables of ``forcedelta compare``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ..comparison.result import (
    JOIN,
    PREDICTORS_IN_WORDS,
    SELF_CONSISTENCY,
    AttackScore,
    Comparison,
    FamilyScore,
)
from ..comparison.statistics import better_controls, values_of
from .tables import show, table

if TYPE_CHECKING:
    from rich.table import Table

    from ..comparison.result import Ranked
    from ..ranking import Estimate

_MOST_ROWS = 40
"""Rows of a table of systems; all are in the JSON output."""
_LEGEND = (
    "U, F (RMS of the direct forces) and the error of the direct forces in eV/Å, E (predicted energy) in eV per "
    "atom; r_s: Spearman's rank correlation with the error; AUROC of U for the worst tenth; "
    "within: mean of r_s(U) within each system. * ranks the errors "
    "better than U. 95 % intervals; frames of one run or path count as fewer independent ones."
)


def show_comparison(found: Comparison) -> None:
    """Print the tables of a comparison."""
    parts: list[str | Table] = [f"{found.line}."]
    if found.settled < found.common:
        parts += [
            f"Models, families and systems: {found.settled} structures that no attack has moved."
        ]
    if found.labelled:
        parts += [
            _models(found),
            _families(found),
            *(line for family in found.families for line in _family_lines(family)),
        ]
    else:
        parts += [_ranking_by_u(found)]
    if len(found.systems) > 1:
        parts += [_systems(found), *_over_systems(found)]
    if found.attack is not None:
        parts += [_attack(found.attack), *_over_attacks(found.attack)]
    parts += ["", _LEGEND if found.labelled else SELF_CONSISTENCY]
    parts += [f"note: {note}" for note in found.notes]
    parts += [f"All predictions are in {found.out}/structures.csv. {JOIN}"]
    show(*parts)


def _models(found: Comparison) -> Table:
    rows = []
    for model in found.models:
        ranked = model.ranking or {}
        own, spearman = ranked.get("force_delta", {}), values_of(ranked)
        rows.append(
            [
                model.name,
                _number(model.force_delta),
                _number(model.force_rms),
                _energy(model.energy),
                _number(model.epsilon),
                _interval(own.get("spearman")),
                _interval(own.get("auroc_worst_tenth")),
                *(_marked(spearman, name, model.better) for name in ("energy", "force_rms")),
                _plain((model.within or {}).get("force_delta")),
            ]
        )
    heads = ["model", "U", "F", "E", "error", "r_s(U)", "AUROC", "r_s(E)", "r_s(F)", "within"]
    return table(heads, rows)


def _ranking_by_u(found: Comparison) -> Table:
    rows = [
        [
            str(place), model.name, model.family, _number(model.force_delta), _number(model.force_rms),
            _energy(model.energy), str(model.evaluated),
        ]
        for place, model in enumerate(found.models, 1)
    ]  # fmt: skip
    heads = [
        "rank",
        "model",
        "family",
        "U (eV/Å)",
        "RMS F (eV/Å)",
        "energy (eV/atom)",
        "structures",
    ]
    return table(heads, rows)


def _families(found: Comparison) -> Table:
    rows = []
    for family in found.families:
        rows.append(
            [
                family.name,
                str(len(family.models)),
                *(
                    _mean(family.spearman[name]) + "*" * (name in family.better)
                    for name in ("force_delta", "energy", "force_rms")
                ),
                _mean(family.auroc["force_delta"]),
                _interval(None if family.ensemble is None else family.ensemble.ensemble),
            ]
        )
    heads = [
        "family",
        "models",
        "r_s(U)",
        "r_s(E)",
        "r_s(F)",
        "AUROC",
        "r_s(U_var, ensemble)",
    ]
    return table(heads, rows)


def _family_lines(family: FamilyScore) -> list[str]:
    lines = []
    made = family.ensemble
    if family.note:
        lines.append(f"{family.name}: {family.note}.")
    if made is not None:
        lines.append(
            f"{family.name}: mean r_s(U) less r_s(U_var) is {_interval(made.difference)}: {made.verdict}. Error of the "
            f"mean forces {_number(made.epsilon)} eV/Å; r_s with it: {_listed(made.ranking, made.better)}."
        )
    over = family.models_spearman
    if over["force_delta"] is not None:
        lines.append(
            f"{family.name}: r_s of mean U and mean error over {len(family.models)} models "
            f"{over['force_delta']:.2f}; of mean RMS F and mean error {_plain(over['force_rms'])}."
        )
    return lines


def _systems(found: Comparison) -> Table:
    rows = [
        [
            system.name, str(system.structures), _number(system.force_delta), _number(system.force_rms),
            "-" if system.energy is None else f"{system.energy:+.4f}", _number(system.epsilon),
        ]
        for system in found.systems[:_MOST_ROWS]
    ]  # fmt: skip
    return table(["system", "structures", "U", "F", "relative energy", "error"], rows)


def _over_systems(found: Comparison) -> list[str]:
    lines = []
    if len(found.systems) > _MOST_ROWS:
        lines.append(f"The first {_MOST_ROWS} of {len(found.systems)} systems.")
    ranked = found.systems_ranking
    if ranked is not None and ranked["force_delta"]["spearman"].value is not None:
        better = better_controls(values_of(ranked))
        lines.append(
            f"r_s over {len(found.systems)} systems, means over models: {_listed(ranked, better)}."
        )
    return lines


def _attack(attack: AttackScore) -> Table:
    names = ("force_delta", "energy", "force_rms", "start_error", "move")
    rows = [
        [
            score.model, score.system, str(score.moves), _number(score.start_error),
            *(_marked(score.spearman, name, score.better) for name in names),
        ]
        for score in attack.systems[:_MOST_ROWS]
    ]  # fmt: skip
    heads = [
        "model",
        "attacked system",
        "structures",
        "start error",
        "r_s(U)",
        "r_s(E)",
        "r_s(F)",
    ]
    return table([*heads, "r_s(start)", "r_s(move)"], rows)


def _over_attacks(attack: AttackScore) -> list[str]:
    return [
        f"{model}, {attack.structures} structures on {attack.paths} paths: r_s of "
        f"{_listed(ranked, better_controls(values_of(ranked)))}; over the {attack.over}, r_s(U) against the "
        f"error at the start has r_s {_plain(attack.start_spearman[model])}."
        for model, ranked in attack.ranking.items()
    ]


def _listed(ranked: Ranked, better: Collection[str]) -> str:
    """r_s of each predictor, the first one with its interval."""
    parts = []
    for place, (name, measures) in enumerate(ranked.items()):
        value = measures["spearman"]
        text = _interval(value) if place == 0 else _plain(value.value)
        parts.append(f"{PREDICTORS_IN_WORDS[name]} {text}" + "*" * (name in better))
    return ", ".join(parts)


def _marked(values: Mapping[str, float | None], name: str, better: Collection[str]) -> str:
    return _plain(values.get(name)) + "*" * (name in better)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _energy(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "-"
    if estimate.low is None:
        return _plain(estimate.value)
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _mean(pair: tuple[float | None, float | None]) -> str:
    mean, spread = pair
    return _plain(mean) + ("" if spread is None else f" ± {spread:.2f}")
