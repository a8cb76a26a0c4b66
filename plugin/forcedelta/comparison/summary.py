"""From predictions and labels to the scores of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from forcedelta.comparison.attack import attack_score
from forcedelta.comparison.common import PREDICTORS, Common
from forcedelta.comparison.result import (
    AttackScore,
    EnsembleScore,
    FamilyScore,
    ModelScore,
    Ranked,
    SystemScore,
)
from forcedelta.comparison.statistics import (
    FEWEST,
    MEASURES,
    against_ensemble,
    better_controls,
    correlate,
    ensemble,
    group_means,
    mean_and_spread,
    r_s,
    values_of,
    within_groups,
    worth,
)
from forcedelta.comparison.table import Table

Array = NDArray[np.float64]


def model_scores(
    table: Table, shared: Common, calm: Common, families: Mapping[str, Sequence[str]]
) -> list[ModelScore]:
    """A score for each model, in ascending order of mean U.

    Args:
        table: everything.
        shared: structures that all models evaluate.
        calm: the settled ones of these, over which the means are taken.
        families: members by name.
    """
    home = {name: family for family, members in families.items() for name in members}
    labelled = calm.subset(calm.labelled)
    place = {model.name: row for row, model in enumerate(calm.models)}
    found = []
    for model in table.models:
        row = place.get(model.name)
        ranked = within = None
        if row is not None and len(labelled.structures):
            ranked, within = _ranked(labelled, row), _within(labelled, row)
        found.append(
            ModelScore(
                name=model.name,
                family=home[model.name],
                weights_hash=model.weights_hash,
                level_of_theory=model.level_of_theory,
                evaluated=int(model.known.sum()),
                force_delta=_mean(calm, "force_delta", row),
                force_rms=_mean(calm, "force_rms", row),
                energy=_mean(calm, "absolute_energy", row),
                epsilon=_mean(labelled, "epsilon", row),
                ranking=ranked,
                better=better_controls(values_of(ranked)) if ranked else [],
                within=within,
            )
        )
    return sorted(found, key=lambda one: (one.force_delta is None, one.force_delta or 0.0))


def _mean(chosen: Common, name: str, row: int | None) -> float | None:
    if row is None or not len(chosen.structures):
        return None
    return float(chosen.values[name][row].mean())


def _ranked(labelled: Common, row: int) -> Ranked:
    error = labelled.values["epsilon"][row]
    return correlate(labelled.predictors(row), error, _worth(labelled, row))


def _within(labelled: Common, row: int) -> dict[str, float | None] | None:
    groups = [one.group for one in labelled.structures]
    if len(set(groups)) < 2:
        return None
    error = labelled.values["epsilon"][row]
    predictors = labelled.predictors(row)
    return {name: within_groups(values, error, groups) for name, values in predictors.items()}


def _worth(labelled: Common, row: int) -> float:
    runs = [one.run for one in labelled.structures]
    times = np.array([one.time for one in labelled.structures])
    predictor, error = labelled.values["force_delta"][row], labelled.values["epsilon"][row]
    return worth(predictor, error, runs, times)


def family_scores(
    calm: Common, families: Mapping[str, Sequence[str]], scores: Sequence[ModelScore]
) -> list[FamilyScore]:
    """U of single models against the ensemble of each family, on settled and labelled structures."""
    labelled = calm.subset(calm.labelled)
    by_name = {score.name: score for score in scores}
    place = {model.name: row for row, model in enumerate(calm.models)}
    found = []
    for family, members in families.items():
        rows = [place[name] for name in members if name in place]
        ranked = [one for name in members if (one := by_name[name].ranking) is not None]
        spearman, auroc = (
            {
                predictor: mean_and_spread([one[predictor][measure].value for one in ranked])
                for predictor in PREDICTORS
            }
            for measure in MEASURES
        )
        note = ""
        if len(rows) < 2:
            note = "a family of one model has no ensemble"
            if len(members) > 1:
                note = "fewer than two of its models evaluate any structure: no ensemble"
        elif len(labelled.structures) < FEWEST:
            note = f"{len(labelled.structures)} labelled structures, at least {FEWEST} are needed"
        found.append(
            FamilyScore(
                name=family,
                models=list(members),
                spearman=spearman,
                auroc=auroc,
                better=better_controls({name: mean for name, (mean, _) in spearman.items()}),
                models_spearman={
                    name: r_s(_means(labelled, name, rows), _means(labelled, "epsilon", rows))
                    for name in ("force_delta", "force_rms")
                },
                ensemble=None if note else _ensemble(labelled, rows),
                note=note,
            )
        )
    return found


def _means(chosen: Common, name: str, rows: Sequence[int]) -> Array:
    if not len(chosen.structures):
        return np.empty(0)
    return np.asarray(chosen.values[name][list(rows)].mean(axis=1))


def _ensemble(labelled: Common, rows: Sequence[int]) -> EnsembleScore:
    members = [labelled.models[row] for row in rows]
    pairs = []
    for place, structure in zip(labelled.rows, labelled.structures, strict=True):
        forces = np.array([member.direct[place] for member in members])
        pairs.append(ensemble(forces, structure.forces))
    spread, error = np.array(pairs).T
    chosen = {name: labelled.values[name][list(rows)] for name in (*PREDICTORS, "epsilon")}
    independent = min(_worth(labelled, row) for row in rows)
    means = {name: chosen[name].mean(axis=0) for name in PREDICTORS}
    ranked = correlate({"ensemble": spread, **means}, error, independent)
    return EnsembleScore(
        **against_ensemble(chosen["force_delta"], chosen["epsilon"], spread, error, independent),
        ranking=ranked,
        better=better_controls(values_of(ranked), "ensemble"),
        epsilon=float(error.mean()),
    )


def system_scores(calm: Common) -> tuple[list[SystemScore], Ranked | None]:
    """Means over models and structures of each system, and how those of U rank those of the errors.

    Args:
        calm: settled structures. With labels, a system is averaged over its labelled ones. Energies are
            known where systems share a composition.
    """
    labelled = calm.subset(calm.labelled)
    chosen = labelled if len(labelled.structures) else calm
    if not chosen.structures:
        return [], None
    groups = [one.group for one in chosen.structures]
    means = {name: group_means(values, groups) for name, values in chosen.values.items()}
    names = list(dict.fromkeys(groups))
    homes: dict[str, set[str]] = {}
    for one in chosen.structures:
        homes.setdefault(one.composition, set()).add(one.group)
    if all(len(systems) == 1 for systems in homes.values()):
        means["energy"] = np.full(len(names), np.nan)  # relative to the system itself
    known = bool(len(labelled.structures))
    scores = [
        SystemScore(
            name=name,
            structures=groups.count(name),
            force_delta=float(means["force_delta"][k]),
            energy=_finite(means["energy"][k]),
            force_rms=float(means["force_rms"][k]),
            epsilon=float(means["epsilon"][k]) if known else None,
        )
        for k, name in enumerate(names)
    ]
    if not known:
        return scores, None
    return scores, correlate({name: means[name] for name in PREDICTORS}, means["epsilon"])


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def attack(shared: Common) -> AttackScore | None:
    """Statistics on paths of attacks, if there are labelled structures on paths."""
    on_path = np.array([one.path is not None for one in shared.structures], bool)
    chosen = shared.subset(on_path & shared.labelled)
    if not chosen.structures:
        return None
    models = [model.name for model in chosen.models]
    return attack_score(
        chosen.structures,
        {name: chosen.predictors(row) for row, name in enumerate(models)},
        {name: chosen.values["epsilon"][row] for row, name in enumerate(models)},
    )
