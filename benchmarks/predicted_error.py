"""How good the predicted error is on frames whose labels it has not seen, over random splits.

    python benchmarks/predicted_error.py DATA [--splits 200] [--cache evaluations.npz] [--tuned tuned.pt]

where DATA is the folder of the labelled files, which are not part of this project: acetylacetone of
BOTNet-datasets (Batatia et al. 2022, MIT), crystals of mlearn (Zuo et al. 2020, BSD-3-Clause). The
embedded models were trained on parts of them. A model is judged on the frames that its recipe holds out
and, for acetylacetone, on 500 frames of 600 K; ``mlearn, all`` has the frames of the training, too.
Each frame is evaluated once. With ``--tuned`` a model that `forcedelta tune` made of `acac-direct` is judged on the
frames of `acac-direct`, too.

Each split draws 20 or 50 labels at random, fits the predicted error, and predicts the rest. Printed are
the means over all splits: the typical factor exp(mean |log predicted - log true|), Spearman's r_s, the
AUROC for the worst tenth, the coverage of the intervals of 90 % with its standard deviation, the median
ratio of their ends to the prediction, and the share of frames outside the calibrated range; then the
factor, r_s and AUROC of the best single signal, where the best is chosen by r_s on the frames judged,
as nobody can in practice.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forcedelta.calibration.fit_error import factor, fit_signals, predicted_error
from forcedelta.calibration.labels import Labels, evaluated
from forcedelta.calibration.signals import ENERGY, FLOOR, WORDS, Signals
from forcedelta.ranking import auroc, spearman, worst_tenth

Array = NDArray[np.float64]

LABELS = (20, 50)


def evaluate(data: Path, tuned: Path | None, known: dict[str, Labels]) -> dict[str, Labels]:
    """Labels by title; those already known are not evaluated again."""
    from forcedelta.ase import ForceDeltaCalculator
    from forcedelta.training.data import read_labelled
    from forcedelta.training.recipe import read_recipe
    from forcedelta.training.tasks import split

    found = dict(known)
    titles = {"acac": "acac", "acac-direct": "acac-direct", "mlearn": "mlearn"}
    if tuned is not None:
        titles[f"acac-direct, {tuned.stem}"] = str(tuned)
    for title, model in titles.items():
        if title in found:
            continue
        recipe = title.partition(",")[0]
        training, held_out = split(read_recipe(recipe), data)
        calculator = ForceDeltaCalculator(model)
        if recipe == "mlearn":
            found["mlearn, all"] = evaluated(training + held_out, calculator)
        else:
            held_out += read_labelled(data / "acac_train_600K.xyz")
        found[title] = evaluated(held_out, calculator)
    return dict(sorted(found.items()))


def save(labels: dict[str, Labels], path: Path) -> None:
    """Keep signals and errors of all frames."""
    arrays = {}
    for title, found in labels.items():
        assert found.signals is not None
        arrays |= {f"{title}/{name}": column for name, column in found.signals.columns.items()}
        arrays[f"{title}/composition"] = np.array(found.signals.compositions)
        arrays[f"{title}/epsilon"] = found.epsilon
    np.savez(path, **arrays)


def load(path: Path) -> dict[str, Labels]:
    """What `save` kept."""
    arrays = np.load(path)
    found = {}
    for title in sorted({key.split("/")[0] for key in arrays}):
        names = [name for name in WORDS if f"{title}/{name}" in arrays]
        columns = {name: arrays[f"{title}/{name}"] for name in names}
        epsilon, unknown = arrays[f"{title}/epsilon"], np.full(len(columns[ENERGY]), np.nan)
        found[title] = Labels(
            force_delta=columns["force_delta"], epsilon=epsilon, force_rms=columns["force_rms"],
            energy=unknown, source=[None] * len(epsilon), time=unknown,
            model={"name": title, "weights_hash": "unknown"}, reference=None,
            signals=Signals(columns, arrays[f"{title}/composition"].tolist()),
        )  # fmt: skip
    return found


def measures(log_predicted: Array, error: Array) -> list[float]:
    """Factor, r_s and AUROC."""
    return [
        factor(log_predicted - np.log(error)),
        float(spearman(log_predicted, error)),
        float(auroc(log_predicted, worst_tenth(error))),
    ]


def one_split(labels: Labels, count: int, seed: int) -> tuple[list[float], dict[str, list[float]]]:
    """Measures of the prediction on the frames left, and those of each single signal."""
    assert labels.signals is not None
    order = np.random.default_rng(seed).permutation(len(labels))
    drawn, rest = labels.subset(order[:count]), labels.subset(order[count:])
    assert drawn.signals is not None
    assert rest.signals is not None
    found = predicted_error(drawn, seed)
    centre, low, high = found.predict(rest.signals)
    error = np.maximum(rest.epsilon, FLOOR)
    outside = np.any(list(found.outside(rest.signals).values()), axis=0)
    inside = (low <= error) & (error <= high)
    singles = {}
    for name, column in drawn.signals.columns.items():
        single = Signals({name: column}, drawn.signals.compositions)
        fitted = fit_signals(single, np.log(np.maximum(drawn.epsilon, FLOOR)))
        singles[name] = measures(fitted.log_error(rest.signals), error)
    width = float(np.median(np.sqrt(high / low)))
    all_measures = [*measures(np.log(centre), error), inside.mean(), width, np.mean(outside)]
    return [float(value) for value in all_measures], singles


def main() -> None:
    """Print one line for each model and number of labels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--tuned", type=Path, help="file of a model tuned from acac-direct")
    given = parser.parse_args()
    known = load(given.cache) if given.cache is not None and given.cache.exists() else {}
    labels = evaluate(given.data, given.tuned, known)
    if given.cache is not None:
        save(labels, given.cache)
    print(
        "| | frames | labels | factor | r_s | AUROC | coverage | times/over | outside | best single |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for title, found in labels.items():
        for count in LABELS:
            splits = [one_split(found, count, seed) for seed in range(given.splits)]
            rows = np.array([row for row, _ in splits])
            mean, coverage_spread = rows.mean(axis=0), rows[:, 3].std()
            singles = {
                name: np.mean([single[name] for _, single in splits], axis=0)
                for name in splits[0][1]
            }
            best = max(singles, key=lambda name: singles[name][1])
            f, r_s, area = singles[best]
            print(
                f"| `{title}` | {len(found)} | {count} | {mean[0]:.3f} | {mean[1]:.3f} | {mean[2]:.3f} "
                f"| {100 * mean[3]:.1f} ± {100 * coverage_spread:.1f} % | {mean[4]:.2f} "
                f"| {100 * mean[5]:.1f} % | {WORDS[best]}: {f:.3f}, {r_s:.3f}, {area:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
