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


def table(rows: dict[float, list[list[float]]]) -> list[str]:
    """Markdown: mean and standard deviation over the seeds, for each weight."""
    lines = ["| consistency_weight | " + " | ".join(COLUMNS) + " |", "|---" * 9 + "|"]
    for weight, runs in rows.items():
        means, spreads = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=min(1, len(runs) - 1))
        cells = [
            f"{mean:.1f} ({spread:.1f})" if column.endswith("/Å") else f"{mean:.2f} ({spread:.2f})"
            for column, mean, spread in zip(COLUMNS, means, spreads, strict=True)
        ]
        lines.append(f"| {weight:g} | " + " | ".join(cells) + " |")
    return lines


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
    rows: dict[str, dict[float, list[list[float]]]] = {name: {} for name in sets}
    for seed in given.seeds:
        for weight in given.weights:
            file = given.keep / f"epochs{given.epochs}-weight{weight:g}-seed{seed}.safetensors"
            network = trained(file, small_recipe(given.epochs, weight, seed), given.data)
            for name, parts in sets.items():
                rows[name].setdefault(weight, []).append(row(measure(network, parts)))
    for name, parts in sets.items():
        print(f"\n**{len(parts)} {name}**, {given.epochs} epochs, seeds {given.seeds}\n")
        print("\n".join(table(rows[name])), flush=True)


if __name__ == "__main__":
    main()
