"""What `forcedelta tune` makes of `acac-direct` without labels, judged on labelled frames, by reach and seed.

    python benchmarks/tuning.py DATA --keep FOLDER [--seeds 0 1] [--reach energy head]

The models are those of ``forcedelta tune acac-direct examples/acetylacetone.xyz --make-frames 400 --seed SEED``
with its default settings; further reaches are tuned on the own frames that the first one made.

DATA is the folder of the labelled files, which are not part of this project (BOTNet-datasets, Batatia et al.
2022, MIT). Judged are the frames of 300 K that the recipe of `acac-direct` holds out, and all of
acac_train_600K.xyz; no model saw any of them. "Pooled" counts each frame of 300 K as often as makes both
temperatures equally frequent.

Two Markdown tables follow. The first has U, the error of F_c, and how U ranks the errors of F_nc: Spearman's
r_s and AUROC for the worst tenth, for the pooled frames with 95 % intervals of the bootstrap over frames; the
controls that tuning leaves alone are those of the model as trained. The second has the drift of the total
energy in NVE with multiple time steps (300 K, 0.5 fs, eight inner steps), or how the run ended.
Finished models and runs are kept in a folder, from which the same command continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from forcedelta import Evaluator, guarded_run, load_model, tune
from forcedelta.evaluation import DTYPES
from forcedelta.ranking import auroc, spearman, worst_tenth
from forcedelta.rigid_force import rigid_force
from forcedelta.training.data import read_labelled
from forcedelta.training.recipe import read_recipe
from forcedelta.training.tasks import split
from forcedelta.tuning.judge import evaluate
from forcedelta.tuning.own_runs import OwnRuns, files_of

Array = NDArray[np.float64]

MODEL = "acac-direct"
FRAMES = 400  # of each run
INNER, DRIFT_STEPS = 8, 8000
LARGEST = 2.0  # eV/Å: a run that reaches this U has blown up
DRAWS = 500  # of the bootstrap


def tuned(start: Path, keep: Path, reaches: list[str], seed: int) -> dict[str, Path]:
    """The tuned models of a seed by reach, trained unless their files are there."""
    files = {reach: keep / f"{reach}-{seed}.pt" for reach in reaches}
    first = files[reaches[0]]
    own = files_of(first, 1, OwnRuns(FRAMES))
    for reach, file in files.items():
        if file.exists():
            continue
        if file == first:
            tune(MODEL, start, reach, file, make_frames=FRAMES, seed=seed, mode="overwrite")
        else:
            tune(MODEL, own, reach, file, seed=seed, mode="overwrite")
    return files


def rms(values: Array) -> Array:
    """RMS over the components of forces [M, N, 3] -> [M]."""
    return np.asarray(np.sqrt(np.mean(np.square(values), axis=(1, 2))))


class Frames:
    """Labelled frames of one temperature with the predictions of a model."""

    def __init__(self, model: str | Path, frames: list[Atoms]) -> None:
        found = evaluate(Evaluator(load_model(model), DTYPES["float32"]), frames)
        labels = np.array([atoms.get_forces() for atoms in frames])
        direct = np.array([one.direct_forces for one in found])
        conservative = np.array([one.conservative_forces for one in found])
        self.error = rms(direct - labels)
        self.conservative_error = float(np.sqrt(np.mean(np.square(conservative - labels))))
        self.predictors = {
            "U": rms(direct - conservative),
            "energy": np.array([one.energy for one in found]),
            "RMS F": rms(direct),
            "net force and torque": np.array(
                [
                    rigid_force(atoms.positions, one.direct_forces, atoms.pbc)
                    for atoms, one in zip(frames, found, strict=True)
                ]
            ),
        }


def ranked(values: Array, error: Array) -> tuple[float, float]:
    """Spearman's r_s and AUROC for the worst tenth."""
    return float(spearman(values, error)), float(auroc(values, worst_tenth(error)))


def pooled(cold: Frames, hot: Frames, name: str) -> str:
    """Both measures on the pooled frames, with their 95 % intervals."""
    copies = len(hot.error) // len(cold.error)

    def measured(first: NDArray[np.int64], second: NDArray[np.int64]) -> tuple[float, float]:
        columns = [
            np.concatenate([np.repeat(one[first], copies), other[second]])
            for one, other in (
                (cold.predictors[name], hot.predictors[name]),
                (cold.error, hot.error),
            )
        ]
        return ranked(*columns)

    rng = np.random.default_rng(0)
    sizes = len(cold.error), len(hot.error)
    found = measured(*(np.arange(size) for size in sizes))
    drawn = [measured(*(rng.integers(size, size=size) for size in sizes)) for _ in range(DRAWS)]
    ends = np.quantile(drawn, [0.025, 0.975], axis=0)
    return " / ".join(
        f"{value:.3f} ({low:.3f} to {high:.3f})"
        for value, low, high in zip(found, *ends, strict=True)
    )


def row(name: str, cold: Frames, hot: Frames, predictor: str) -> str:
    """One line of the first table."""
    u = [1e3 * one.predictors["U"].mean() for one in (cold, hot)]
    errors = [1e3 * one.conservative_error for one in (cold, hot)]
    r_s, area = ranked(hot.predictors[predictor], hot.error)
    return (
        f"| {name} | {u[0]:.0f} / {u[1]:.0f} | {errors[0]:.0f} / {errors[1]:.0f} | {predictor} "
        f"| {r_s:.3f} / {area:.3f} | {pooled(cold, hot, predictor)} |"
    )


def drift(model: str | Path, start: Path, out: Path) -> str:
    """Drift in NVE with multiple time steps, meV/atom/ps, or how the run ended."""
    result = guarded_run(
        start, model, DRIFT_STEPS, out=out, overwrite=True, ensemble="nve", forces="mts",
        inner=INNER, temperature=300, seed=2, stop_above=LARGEST,
    )  # fmt: skip
    if result.reason != "finished" or result.drift is None:
        return f"{result.reason} at {result.run.step * 0.5:.0f} fs"
    return f"{result.drift.value:.2f} ± {result.drift.error:.2f}"


def training(file: Path) -> str:
    """Duration in s, epoch kept and number of epochs, as the file of a tuned model tells them."""
    report: dict[str, Any] = load_model(file).metadata["tuned"]["report"]
    return f"{report['seconds']:.0f} | {report['best_epoch']} of {report['epochs']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the labelled files")
    parser.add_argument("--keep", type=Path, required=True, help="folder of runs and models")
    parser.add_argument(
        "--start", type=Path, default=Path(__file__).parents[1] / "examples" / "acetylacetone.xyz"
    )
    parser.add_argument("--reach", nargs="+", default=["energy", "head"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = parser.parse_args()
    given.keep.mkdir(exist_ok=True)
    files = {
        f"`{reach}`, seed {seed}": file
        for seed in given.seeds
        for reach, file in tuned(given.start, given.keep, given.reach, seed).items()
    }
    sets = (
        split(read_recipe(MODEL), given.data)[1],
        read_labelled(given.data / "acac_train_600K.xyz"),
    )

    print(
        "| | U at 300 / 600 K, meV/Å | F_c error at 300 / 600 K, meV/Å | ranked by "
        "| 600 K: r_s / AUROC | pooled: r_s / AUROC |"
    )
    print("|---" * 6 + "|")
    trained = [Frames(MODEL, frames) for frames in sets]
    for predictor in trained[0].predictors:
        print(row("as trained", *trained, predictor))
    for name, file in files.items():
        judged = [Frames(file, frames) for frames in sets]
        for predictor in ("U", "energy"):
            print(row(name, *judged, predictor), flush=True)
    print()
    print("| | training, s | epoch kept | NVE drift, meV/atom/ps |")
    print("|---|---|---|---|")
    print(f"| as trained | - | - | {drift(MODEL, given.start, given.keep / 'nve.h5')} |")
    for name, file in files.items():
        found = drift(file, given.start, file.with_suffix(".h5"))
        print(f"| {name} | {training(file)} | {found} |", flush=True)


if __name__ == "__main__":
    main()
