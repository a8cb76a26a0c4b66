"""Consistency tuning of `acac-direct` without labels, judged on labelled frames, by reach.

    python benchmarks/tuning.py LABELLED.xyz HOTTER.xyz --keep FOLDER [--temperatures 300 450]

The frames are those of the model's own runs (Langevin, direct forces, 4 ps each, every 20th step), from
examples/acetylacetone.xyz or another start, as ``forcedelta tune --make-frames 400`` makes them.
`forcedelta.tune` trains each reach on them. Two Markdown tables follow: U, errors and ranking of the errors
on both labelled files, before and after, with the controls; and the drift of the total energy in NVE with
multiple time steps (300 K, 0.5 fs, eight inner steps), or how the run ended.

LABELLED.xyz may hold frames that the model was trained on, such as those of acac_train_300K.xyz: their
errors are smaller than those of new frames, which no U can know.
Finished runs and models are kept in a folder, from which the same command continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ase.io

from forcedelta import guarded_run, load_model, tune
from forcedelta.outputs import Named, check_outputs
from forcedelta.tuning.own_runs import TEMPERATURES, OwnRuns, own_frames

MODEL = "acac-direct"
FRAMES = 400  # of each run
INNER, DRIFT_STEPS = 8, 8000
LARGEST = 2.0  # eV/Å: a run that reaches this U has blown up
PREDICTORS = {"force_delta": "U", "energy_per_atom": "energy", "force_rms": "RMS F"}


def tuned(reach: str, runs: list[Path], judges: list[Path], keep: Path, epochs: int) -> Path:
    """The tuned model of a reach, which is trained unless its file is there."""
    out = keep / f"{reach}.pt"
    if not out.exists():
        tune(MODEL, runs, reach, out, judge_on=judges, epochs=epochs)
    return out


def report_of(file: Path) -> dict[str, Any]:
    """What the file of a tuned model says about its tuning."""
    report: dict[str, Any] = load_model(file).metadata["tuned"]["report"]
    return report


def drift(model: str | Path, start: Path, out: Path) -> str:
    """Drift in NVE with multiple time steps, meV/atom/ps, or how the run ended."""
    result = guarded_run(
        start, model, DRIFT_STEPS, out=out, overwrite=True, ensemble="nve", forces="mts",
        inner=INNER, temperature=300, seed=2, stop_above=LARGEST,
    )  # fmt: skip
    if result.reason != "finished" or result.drift is None:
        return f"{result.reason} at {result.run.step * 0.5:.0f} fs"
    return f"{result.drift.value:.2f} +- {result.drift.error:.2f}"


def row(name: str, judgements: list[dict[str, Any]], frames: dict[str, float]) -> str:
    """One line of the first table."""
    cells = [name, f"{1e3 * frames['held_out']:.0f}"]
    for judged in judgements:
        ranking = judged["ranking"]
        cells += [
            f"{1e3 * judged['force_delta']:.0f}",
            f"{1e3 * judged['conservative_error']:.0f}",
            *(
                f"{ranking[key]['spearman']:.3f} / {ranking[key]['auroc_worst_tenth']:.3f}"
                for key in PREDICTORS
            ),
        ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labelled", type=Path, nargs="+", help="labelled frames of acetylacetone")
    parser.add_argument("--keep", type=Path, required=True, help="folder of runs and models")
    parser.add_argument(
        "--start", type=Path, default=Path(__file__).parents[1] / "examples" / "acetylacetone.xyz"
    )
    parser.add_argument("--reach", nargs="+", default=["head", "energy"])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--temperatures", type=float, nargs="+", default=TEMPERATURES, help="K")
    given = parser.parse_args()
    given.keep.mkdir(exist_ok=True)
    pooled = given.keep / "labelled.xyz"
    check_outputs([Named("pooled frames", pooled)], [Named("labelled", f) for f in given.labelled])
    if not pooled.exists():
        frames = [atoms for file in given.labelled for atoms in ase.io.read(file, ":")]
        ase.io.write(pooled, frames)
    judges = [pooled, given.labelled[-1]]
    own = OwnRuns(FRAMES, tuple(given.temperatures))
    runs = own_frames(
        load_model(MODEL),
        [ase.io.read(given.start)],
        own,
        given.keep / "own",
        {"seed": 1},
        reuse=True,
    )
    files = {r: tuned(r, runs, judges, given.keep, given.epochs) for r in given.reach}
    reports = {reach: report_of(file) for reach, file in files.items()}

    heads = ["U", "F_c error", *(f"r_s / AUROC {name}" for name in PREDICTORS.values())]
    columns = ["", "U held out, meV/Å"]
    columns += [f"{place}: {head}" for place in ("pooled", judges[1].stem) for head in heads]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    first = next(iter(reports.values()))
    print(row("as trained", [one["before"] for one in first["judged"]], first["before"]))
    for reach, report in reports.items():
        print(row(reach, [one["after"] for one in report["judged"]], report["after"]))
    print()
    print("| | training, s | NVE drift, meV/atom/ps |")
    print("|---|---|---|")
    print(f"| as trained | - | {drift(MODEL, given.start, given.keep / 'nve.h5')} |")
    for reach, file in files.items():
        found = drift(file, given.start, given.keep / f"nve-{reach}.h5")
        print(f"| {reach} | {reports[reach]['seconds']:.0f} | {found} |")


if __name__ == "__main__":
    main()
