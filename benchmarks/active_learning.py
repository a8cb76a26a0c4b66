"""Whether labels of frames with a large U improve a model more than labels of other frames.

`acac-direct`, with the smaller network of `consistency_weight.py`, is trained on acetylacetone at 300 K.
Half of the frames of acac_train_600K.xyz, drawn at random, is a pool whose labels are hidden. Of it
30 frames are chosen in several ways, and the network is trained again from scratch, with the same
seed, on the frames at 300 K and these. The other half and the held-out frames at 300 K are the test:

    python benchmarks/active_learning.py DATA --keep trained

prints a Markdown table: mean over the seeds and, in brackets, their standard deviation. A seed sets
the pool, the initial weights and the random choice. Finished trainings are kept in a folder, from which
the same command continues; "none added" are the trainings of `consistency_weight.py` with weight 0.

    python benchmarks/active_learning.py DATA --keep trained --labelled picks.xyz

adds a row for training on the labelled frames of a file, such as those of an attack.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from consistency_weight import gains_and_losses, small_recipe, table, trained

from forcedelta.labelling.selection import By, Candidates, select
from forcedelta.training.data import read_labelled, to_batch
from forcedelta.training.quality import Errors, join, measure
from forcedelta.training.tasks import held_out_frames, split

COUNT = 30
COLUMNS = ("MAE", "RMSE", "worst tenth", "MAE, 600 K", "worst tenth, 600 K", "MAE, 300 K")


def chosen_by(by: By, pool: list[Atoms], errors: Errors) -> list[int]:
    """Indices of the frames that `forcedelta recalc --by` would choose from the whole pool."""
    source = Candidates(
        name="pool",
        steps=np.arange(len(pool)),
        times=np.full(len(pool), np.nan),  # decorrelated frames
        force_delta=errors.force_delta,
        worst=np.full(len(pool), np.nan),
        finite=np.ones(len(pool), dtype=bool),
        paths=np.full(len(pool), -1),
        read=lambda indices: [pool[index] for index in indices],
    )
    return select(source, COUNT, lower=0.0, upper=np.inf, spacing=0.0, by=by).indices


def choices(seed: int) -> dict[str, Callable[[list[Atoms], Errors], list[int]]]:
    """The ways to choose from a pool, by name."""

    def at_random(pool: list[Atoms], errors: Errors) -> list[int]:
        rng = np.random.default_rng(seed)
        return [int(index) for index in rng.choice(len(pool), COUNT, replace=False)]

    return {
        "U": lambda pool, errors: chosen_by("u", pool, errors),
        "U times diversity": lambda pool, errors: chosen_by("u-diversity", pool, errors),
        "random": at_random,
        "predicted energy": lambda pool, errors: np.argsort(-errors.energy)[:COUNT].tolist(),
    }


def row(cold: Errors, hot: Errors) -> list[float]:
    """Errors of the direct forces, meV/Å, as in `COLUMNS`; "worst tenth": mean epsilon of these."""

    def worst(errors: Errors) -> float:
        return float(np.sort(errors.epsilon)[-round(0.1 * len(errors.epsilon)) :].mean())

    both = join([cold, hot])
    rmse = float(np.sqrt(np.average(both.epsilon**2, weights=both.atoms)))
    values = (
        both.mae(both.direct_absolute), rmse, worst(both), hot.mae(hot.direct_absolute), worst(hot),
        cold.mae(cold.direct_absolute),
    )  # fmt: skip
    return [1e3 * value for value in values]


def added_frames(
    seed: int, pool: list[Atoms], errors: Errors, labelled: Path | None
) -> dict[str, list[Atoms]]:
    """The frames that each way adds to the training set."""
    added = {
        name: [pool[index] for index in choose(pool, errors)]
        for name, choose in choices(seed).items()
    }
    if labelled is not None:
        added[labelled.stem] = read_labelled(labelled)
    return added


def one_seed(given: argparse.Namespace, seed: int) -> dict[str, list[float]]:
    """The row of each way for one seed."""
    recipe = small_recipe(given.epochs, 0.0, seed)
    cold_frames = given.keep.resolve() / "acac_300K.xyz"
    ase.io.write(cold_frames, split(recipe, given.data)[0])
    frames = read_labelled(given.data / "acac_train_600K.xyz")
    order = np.random.default_rng(seed).permutation(len(frames))
    pool, hot_frames = ([frames[k] for k in half] for half in np.array_split(order, 2))
    cold = [to_batch(atoms, 5.0) for atoms in held_out_frames(recipe, given.data)]
    hot = [to_batch(atoms, 5.0) for atoms in hot_frames]

    start = f"epochs{given.epochs}-weight0-seed{seed}"
    network = trained(given.keep / f"{start}.safetensors", recipe, given.data)
    rows = {"none added": row(measure(network, cold), measure(network, hot))}
    errors = measure(network, [to_batch(atoms, 5.0) for atoms in pool])
    for name, added in added_frames(seed, pool, errors, given.labelled).items():
        digest = hashlib.sha256(b"".join(atoms.positions.tobytes() for atoms in added))
        stem = f"{start}-added-{digest.hexdigest()[:12]}"
        ase.io.write(given.keep / f"{stem}.xyz", added)
        training = [str(cold_frames), str(given.keep.resolve() / f"{stem}.xyz")]
        network = trained(
            given.keep / f"{stem}.safetensors",
            replace(recipe, training=training, validation=0.0),
            given.data,
        )
        rows[name] = row(measure(network, cold), measure(network, hot))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the acac_*.xyz files")
    parser.add_argument("--keep", type=Path, default=Path("trained"), help="folder of the weights")
    parser.add_argument("--labelled", type=Path, help="labelled frames to add as a further row")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=60)
    given = parser.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[list[float]]] = {}
    for seed in given.seeds:
        for name, values in one_seed(given, seed).items():
            rows.setdefault(name, []).append(values)
    print(f"\n{COUNT} frames added to 450, {given.epochs} epochs, seeds {given.seeds}; meV/Å\n")
    print("\n".join(table("added", COLUMNS, rows)), end="\n\n")
    print("\n".join(gains_and_losses(COLUMNS, rows, "random")))


if __name__ == "__main__":
    main()
