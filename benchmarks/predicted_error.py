"""How good the predicted error is on frames whose labels it has not seen, over random splits.

    python benchmarks/predicted_error.py DATA [--splits 200] [--cache evaluations.npz] [--tuned tuned.pt]
                                             [--only TITLE]

where DATA is the folder of the labelled files, which are not part of this project: acetylacetone of
BOTNet-datasets (Batatia et al. 2022, MIT), crystals of mlearn (Zuo et al. 2020, BSD-3-Clause). The
embedded models were trained on parts of them. A model is judged on the frames that its recipe holds out
and, for acetylacetone, on 500 frames of 600 K; ``mlearn, all`` has the frames of the training, too.
Each frame is evaluated once. With ``--tuned`` a model that `forcedelta tune` made of `acac-direct` is judged on the
frames of `acac-direct`, too.

Outliers: ``displaced`` adds `DISPLACED` frames whose atoms are displaced by normal random numbers of 0.02
to 0.3 Å, where U reaches many powers of ten and energies hundreds of eV per atom; all frames of this case
are labelled with the gradient of the other acetylacetone model, as no DFT labels exist. ``energies``
disturbs 5 % of the energies of `acac-direct` by Student-t numbers. ``balanced`` has as many labels and
judged frames of 300 K as of 600 K, 25 each.

Each split draws 20 or 50 labels at random, fits the predicted error, and predicts the rest. Printed are
the means over all splits: the typical factor exp(mean |log predicted - log true|), Spearman's r_s, the
AUROC for the worst tenth, the coverage of the intervals of 90 % with its standard deviation, the median
ratio of their ends to the prediction, and the share of frames outside the calibrated range; then the
factor, r_s and AUROC of the best single signal, where the best is chosen by r_s on the frames judged,
as nobody can in practice; last the smallest factor of a single signal, and the mean difference of the
logarithms of both factors with its standard error: negative where the fit is better.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forcedelta.calibration.fit_error import factor, fit_signals, predicted_error
from forcedelta.calibration.labels import Labels, evaluated
from forcedelta.calibration.signals import ENERGY, FLOOR, WORDS, Signals
from forcedelta.errors import ForceDeltaError
from forcedelta.ranking import auroc, spearman, worst_tenth

if TYPE_CHECKING:
    from ase import Atoms

    from forcedelta.ase import ForceDeltaCalculator

Array = NDArray[np.float64]

LABELS = (20, 50)
DISPLACED = 30
SIZES = (0.02, 0.05, 0.1, 0.2, 0.3)
"""Standard deviations of the displacements, Å."""
HELD_OUT = 50
"""The first frames of acetylacetone are those of 300 K that the recipe holds out, all others of 600 K."""
OTHER = {"acac": "acac-direct", "acac-direct": "acac"}


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
        if title in OTHER:
            reference = ForceDeltaCalculator(OTHER[title], forces="conservative")
            found[f"{title}, displaced"] = with_displaced(held_out, calculator, reference)
    found["acac-direct, energies"] = with_disturbed_energies(found["acac-direct"])
    return dict(sorted(found.items()))


def with_displaced(
    frames: list[Atoms],
    calculator: ForceDeltaCalculator,
    reference: ForceDeltaCalculator,
    count: int = DISPLACED,
) -> Labels:
    """Frames and displaced ones, labelled by another model. Where U is infinite, another is drawn."""
    from ase.calculators.singlepoint import SinglePointCalculator

    def labelled(atoms: Atoms) -> Atoms:
        copy = atoms.copy()
        copy.info.clear()
        forces = reference.get_property("forces", copy)
        copy.calc = SinglePointCalculator(copy, energy=0.0, forces=forces)
        return copy

    rng = np.random.default_rng(0)
    chosen = [labelled(atoms) for atoms in frames]
    while len(chosen) < len(frames) + count:
        atoms = frames[rng.integers(len(frames))].copy()
        size = SIZES[(len(chosen) - len(frames)) % len(SIZES)]
        atoms.positions += size * rng.normal(size=atoms.positions.shape)
        try:
            one = labelled(atoms)
            evaluated([one], calculator)
        except ForceDeltaError:
            continue
        chosen.append(one)
    return evaluated(chosen, calculator)


def with_disturbed_energies(labels: Labels) -> Labels:
    """Labels of which one in twenty has an energy disturbed by tenths of an eV per atom, or far more."""
    assert labels.signals is not None
    rng = np.random.default_rng(0)
    energy = labels.signals.columns[ENERGY].copy()
    hit = rng.random(len(labels)) < 0.05
    energy[hit] += 0.3 * rng.standard_t(1.5, hit.sum())
    columns = {**labels.signals.columns, ENERGY: energy}
    return replace(labels, signals=Signals(columns, labels.signals.compositions))


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


def drawn_and_judged(
    labels: Labels, count: int, seed: int, balanced: bool
) -> tuple[Labels, Labels]:
    """Random labels, and the frames to judge."""
    rng = np.random.default_rng(seed)
    if balanced:
        half = count // 2
        cold, hot = rng.permutation(HELD_OUT), rng.permutation(np.arange(HELD_OUT, len(labels)))
        rows = np.concatenate([cold[:half], hot[:half]])
        judged = np.concatenate([cold[half : 2 * half], hot[half : 2 * half]])
        return labels.subset(rows), labels.subset(judged)
    order = rng.permutation(len(labels))
    return labels.subset(order[:count]), labels.subset(order[count:])


def one_split(
    labels: Labels, count: int, seed: int, balanced: bool
) -> tuple[list[float], dict[str, list[float]]]:
    """Measures of the prediction on the frames left, and those of each single signal."""
    drawn, rest = drawn_and_judged(labels, count, seed, balanced)
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
    parser.add_argument("--only", help="print the cases whose title contains this")
    given = parser.parse_args()
    known = load(given.cache) if given.cache is not None and given.cache.exists() else {}
    labels = evaluate(given.data, given.tuned, known)
    if given.cache is not None:
        save(labels, given.cache)
    cases = [(title, found, count, False) for title, found in labels.items() for count in LABELS]
    cases += [
        (f"{title}, balanced", found, HELD_OUT, True)
        for title, found in labels.items()
        if title == "acac-direct" or (given.tuned is not None and title.endswith(given.tuned.stem))
    ]
    print(
        "| | frames | labels | factor | r_s | AUROC | coverage | times/over | outside | best single "
        "| smallest factor of one | difference |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for title, found, count, balanced in cases:
        if given.only is None or given.only in title:
            line = judged(found, count, given.splits, balanced)
            print(f"| `{title}` | {len(found)} | {count} {line}", flush=True)


def judged(labels: Labels, count: int, splits: int, balanced: bool) -> str:
    """Means over all splits, as cells of a table."""
    found = [one_split(labels, count, seed, balanced) for seed in range(splits)]
    rows = np.array([row for row, _ in found])
    mean, coverage_spread = rows.mean(axis=0), rows[:, 3].std()
    each = {name: np.array([single[name] for _, single in found]) for name in found[0][1]}
    best = max(each, key=lambda name: each[name][:, 1].mean())
    f, r_s, area = each[best].mean(axis=0)
    least = min(each, key=lambda name: np.log(each[name][:, 0]).mean())
    excess = np.log(rows[:, 0]) - np.log(each[least][:, 0])
    noise = excess.std() / np.sqrt(splits)
    return (
        f"| {mean[0]:.3f} | {mean[1]:.3f} | {mean[2]:.3f} "
        f"| {100 * mean[3]:.1f} ± {100 * coverage_spread:.1f} % | {mean[4]:.2f} "
        f"| {100 * mean[5]:.1f} % | {WORDS[best]}: {f:.3f}, {r_s:.3f}, {area:.3f} "
        f"| {WORDS[least]}: {each[least][:, 0].mean():.3f} | {excess.mean():+.3f} ± {noise:.3f} |"
    )


if __name__ == "__main__":
    main()
