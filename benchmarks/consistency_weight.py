"""What the term M(F_nc - F_c) of the training loss does to the errors and to their ranking by U.

The recipe `acac-direct` (energy and direct forces of acetylacetone at 300 K), with a smaller network
and fewer epochs, is trained with several values of ``consistency_weight`` and several seeds. The
networks are judged on the frames that the recipe holds out and on those of acac_train_600K.xyz,
which no training sees:

    python benchmarks/consistency_weight.py DATA --keep trained

prints a Markdown table: mean over the seeds and, in brackets, their standard deviation. Finished
trainings are kept in a folder, from which the same command continues.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from forcedelta.models.network import DirectForceNetwork
from forcedelta.models.registry import load_model
from forcedelta.training.data import read_labelled, to_batch
from forcedelta.training.quality import Errors, measure, predictors, ranked
from forcedelta.training.recipe import Recipe, read_recipe
from forcedelta.training.tasks import held_out_frames, network_of, train_recipe

COLUMNS = (
    "direct MAE, meV/Å", "conservative MAE, meV/Å", "energy MAE, meV/atom", "U, meV/Å",
    "r_s(U, eps)", "AUROC of U, worst tenth", "r_s(energy, eps)", "r_s(RMS F, eps)",
)  # fmt: skip


def small_recipe(epochs: int, weight: float, seed: int) -> Recipe:
    """`acac-direct` with a network of a sixth of the parameters, fewer epochs and this weight."""
    recipe = read_recipe("acac-direct")
    return replace(
        recipe,
        network={"cutoff": 5.0, "features": 64, "channels": 16, "layers": 2},
        settings=replace(recipe.settings, epochs=epochs, consistency_weight=weight, seed=seed),
    )


def trained(file: Path, recipe: Recipe, data: Path) -> DirectForceNetwork:
    """The network of a recipe, which is trained unless its file is there."""
    if not file.exists():
        seconds = train_recipe(recipe, data, out=file).seconds
        print(f"{file.name}: trained in {seconds / 60:.1f} min", file=sys.stderr, flush=True)
    return network_of(load_model(file))


def row(errors: Errors) -> list[float]:
    """The numbers of one network, as in `COLUMNS`."""
    ranks = ranked(predictors(errors), errors.epsilon)
    u = ranks["Force Delta U"]
    return [
        1e3 * errors.mae(errors.direct_absolute),
        1e3 * errors.mae(errors.conservative_absolute),
        1e3 * float(errors.energy_per_atom_error.mean()),
        1e3 * float(errors.force_delta.mean()),
        u["spearman"],
        u["auroc"],
        ranks["predicted energy"]["spearman"],
        ranks["RMS of predicted forces"]["spearman"],
    ]


def decimals(column: str) -> int:
    """Decimals of a column: of correlations, of energies per atom, and of forces."""
    return 3 if column.startswith(("r_s", "AUROC")) else 2 if "atom" in column else 1


def table(title: str, columns: Sequence[str], rows: Mapping[str, list[list[float]]]) -> list[str]:
    """Markdown: mean and standard deviation over the seeds, one row for each name."""
    lines = ["| " + " | ".join([title, *columns]) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, runs in rows.items():
        means, spreads = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=min(1, len(runs) - 1))
        cells = [
            f"{mean:.{digits}f} ({spread:.{digits}f})"
            for mean, spread, digits in zip(means, spreads, map(decimals, columns), strict=True)
        ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return lines


def gains_and_losses(
    columns: Sequence[str], rows: Mapping[str, list[list[float]]], base: str
) -> list[str]:
    """What is better, worse or mixed in all seeds in comparison with a row, a line for each other.

    Large values are good for r_s and AUROC of U, small ones for errors; others do not count.
    """
    signs = {
        index: 1.0 if "U" in name else -1.0
        for index, name in enumerate(columns)
        if not name.startswith(("U,", "r_s(energy", "r_s(RMS"))
    }
    lines = []
    for name in rows:
        if name == base:
            continue
        gains = np.array(rows[name]) - np.array(rows[base])
        told: dict[str, list[str]] = {"better": [], "worse": [], "mixed": []}
        for index, sign in signs.items():
            gain = sign * gains[:, index]
            word = "better" if (gain > 0).all() else "worse" if (gain < 0).all() else "mixed"
            told[word].append(f"{columns[index]} ({gains[:, index].mean():+.3g})")
        words = "; ".join(f"{word}: {', '.join(found)}" for word, found in told.items() if found)
        lines.append(f"- {name} against {base}, seed by seed: {words}")
    return lines


def u_against_energy(rows: Mapping[str, list[list[float]]]) -> str:
    """Whether U or the predicted energy, which costs nothing, ranks the errors better."""
    u, energy = COLUMNS.index("r_s(U, eps)"), COLUMNS.index("r_s(energy, eps)")
    words = []
    for name, runs in rows.items():
        better = sum(run[u] > run[energy] for run in runs)
        words.append(f"weight {name} in {better} of {len(runs)} seeds")
    return f"- U has a larger r_s than the predicted energy: {', '.join(words)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the acac_*.xyz files")
    parser.add_argument("--keep", type=Path, default=Path("trained"), help="folder of the weights")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.1, 0.3, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=60)
    given = parser.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    files = {
        "held-out frames at 300 K": held_out_frames("acac-direct", given.data),
        "frames at 600 K": read_labelled(given.data / "acac_train_600K.xyz"),
    }
    sets = {name: [to_batch(atoms, 5.0) for atoms in frames] for name, frames in files.items()}
    rows: dict[str, dict[str, list[list[float]]]] = {name: {} for name in sets}
    for seed in given.seeds:
        for weight in given.weights:
            file = given.keep / f"epochs{given.epochs}-weight{weight:g}-seed{seed}.safetensors"
            network = trained(file, small_recipe(given.epochs, weight, seed), given.data)
            for name, parts in sets.items():
                rows[name].setdefault(f"{weight:g}", []).append(row(measure(network, parts)))
    for name, parts in sets.items():
        print(f"\n**{len(parts)} {name}**, {given.epochs} epochs, seeds {given.seeds}\n")
        print("\n".join(table("consistency_weight", COLUMNS, rows[name])), end="\n\n")
        base = f"{given.weights[0]:g}"
        print("\n".join(gains_and_losses(COLUMNS, rows[name], base)))
        print(u_against_energy(rows[name]), flush=True)


if __name__ == "__main__":
    main()
