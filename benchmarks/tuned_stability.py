"""Does tuning make runs that are driven by the direct forces alone more stable?

    python benchmarks/tuned_stability.py --keep FOLDER [--labelled LABELLED.xyz]

The claim is of a follow-up of the paper that introduced U: tuning on structures that maximise U stabilises
such runs through the shared network. Here `forcedelta.tune` with the reach ``shared`` trains `acac-direct` on as
many structures of three kinds, none of which has labels: structures of attacks (``forcedelta attack``), frames of
its own run (Langevin, 450 K), and these frames with random displacements. Each model then runs with the same
seeds (Langevin, direct forces) until the molecule breaks: a bond between heavy atoms grows by 60 %, a
hydrogen is more than 1.7 Å from every heavy atom, the kinetic temperature passes three times that of the
thermostat, or anything is not finite. None of that depends on U, which tuning changes.

Printed are the time of each run and, for each model, the runs that broke, the median time (runs that
last to the end count with that time, marked >=), and tests of the paired differences to the model as
trained and to that of the attacks: the sign test and Wilcoxon's. Both are two-sided.
Finished models and runs are kept in a folder, from which the same command continues.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from scipy.stats import binomtest, wilcoxon

from forcedelta import attack, guarded_run, load_model, tune
from forcedelta.tuning.frames import read_usable
from md_hooks import Action, Frame, Trajectory, Verdict

MODEL = "acac-direct"
OWN_TEMPERATURE, OWN_STEPS, OWN_EVERY = 450.0, 8000, 20
LARGEST = 2.0  # eV/Å; attacks climb beyond it, where the model is of no use
DISPLACEMENT = 0.05  # Å, standard deviation
STRETCHED, ALONE = (
    1.6,
    1.7,
)  # of a bond between heavy atoms; Å from a hydrogen to the next heavy atom
HOT = 3.0  # times the temperature of the thermostat
TIMESTEP = 0.5  # fs


class Intact:
    """A hook that stops when the molecule breaks."""

    def __init__(self, start: Atoms, temperature: float) -> None:
        self.heavy, self.light = (
            np.flatnonzero(start.numbers > 1),
            np.flatnonzero(start.numbers == 1),
        )
        distances = start.get_all_distances()
        self.bonds = [
            (i, j, distances[i, j])
            for i in self.heavy
            for j in self.heavy
            if i < j and distances[i, j] < 1.75
        ]
        self.hottest = HOT * temperature

    def __call__(self, frame: Frame) -> Verdict | None:
        fault = self.fault(frame)
        return None if fault is None else Verdict(Action.STOP, fault)

    def fault(self, frame: Frame) -> str | None:
        """What is wrong with a frame."""
        positions = frame.positions
        if not (np.isfinite(positions).all() and np.isfinite(frame.temperature)):
            return "not finite"
        if frame.temperature > self.hottest:
            return f"{frame.temperature:.0f} K"
        for i, j, length in self.bonds:
            found = np.linalg.norm(positions[i] - positions[j])
            if found > STRETCHED * length:
                return f"bond {i}-{j} {found:.2f} Å"
        apart = positions[self.light, None] - positions[self.heavy]
        nearest = np.linalg.norm(apart, axis=2).min(axis=1)
        if nearest.max() > ALONE:
            return f"H{self.light[nearest.argmax()]} {nearest.max():.2f} Å away"
        return None


def evenly(frames: list[Atoms], count: int) -> list[Atoms]:
    """That many frames, evenly spaced.

    Raises:
        SystemExit: there are fewer.
    """
    if len(frames) < count:
        raise SystemExit(f"only {len(frames)} structures, fewer than --frames {count}")
    chosen = [frames[int(k)].copy() for k in np.linspace(0, len(frames) - 1, count)]
    for atoms in chosen:
        atoms.info.clear()
    return chosen


def training_files(start: Path, keep: Path, count: int) -> dict[str, Path]:
    """Files of structures to tune on, by kind; made unless they are there."""
    files = {kind: keep / f"{kind}.xyz" for kind in ("attack", "thermal", "displaced")}
    if all(file.exists() for file in files.values()):
        return files
    own, attacked = keep / "own.h5", keep / "attack.h5"
    guarded_run(
        start, MODEL, OWN_STEPS, out=own, temperature=OWN_TEMPERATURE, every=OWN_EVERY,
        record_every=OWN_EVERY, seed=1, stop_above=LARGEST, overwrite=True,
    )  # fmt: skip
    model = load_model(MODEL)
    frames = read_usable(own, model)
    attack(
        [atoms.copy() for atoms in frames[:: len(frames) // 16]], MODEL, attacked, starts=4, steps=30,
        displacement=DISPLACEMENT, mode="overwrite",
    )  # fmt: skip
    deltas = Trajectory(attacked).series["force_delta"]
    found = read_usable(attacked, model)
    kept = [a for a, u in zip(found, deltas, strict=True) if u < LARGEST]
    thermal = evenly(frames, count)
    displaced = [atoms.copy() for atoms in thermal]
    for seed, atoms in enumerate(displaced):
        atoms.rattle(DISPLACEMENT, seed=seed)
    for kind, structures in (
        ("attack", evenly(kept, count)),
        ("thermal", thermal),
        ("displaced", displaced),
    ):
        # in random order: a tenth of successive structures is held out
        order = np.random.default_rng(0).permutation(count)
        ase.io.write(files[kind], [structures[k] for k in order])
    return files


def lifetimes(
    model: str | Path, name: str, start: Path, given: argparse.Namespace
) -> tuple[list[float], list[str]]:
    """Time in ps of each seed until the molecule broke, or of the whole run, and why it ended."""
    known = given.keep / f"runs-{name}-{given.temperature:g}K.json"
    done: dict[str, list[object]] = json.loads(known.read_text()) if known.exists() else {}
    steps = round(1e3 * given.picoseconds / TIMESTEP)
    times, reasons = [], []
    for seed in range(1, given.seeds + 1):
        key = f"{seed}, {steps} steps"
        if key not in done:
            result = guarded_run(
                start, model, steps, out=given.keep / "run.h5", overwrite=True, every=100, record_every=100,
                temperature=given.temperature, timestep=TIMESTEP, seed=seed,
                hooks=[Intact(ase.io.read(start), given.temperature)],
            )  # fmt: skip
            reason = "" if result.reason == "finished" else result.run.message
            done[key] = [result.run.step * TIMESTEP / 1e3, reason]
            known.write_text(json.dumps(done))
        times.append(float(done[key][0]))  # type: ignore[arg-type]
        reasons.append(str(done[key][1]))
    return times, reasons


def compared(times: list[float], reference: list[float]) -> str:
    """Runs that lasted longer and shorter than those of the same seeds, and p of both tests."""
    difference = np.array(times) - np.array(reference)
    longer, shorter = int((difference > 0).sum()), int((difference < 0).sum())
    if longer + shorter == 0:
        return "equal"
    sign = binomtest(longer, longer + shorter).pvalue
    ranks = wilcoxon(difference[difference != 0]).pvalue
    return f"{longer} longer, {shorter} shorter; p {sign:.3f}, {ranks:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, required=True, help="folder of models and runs")
    parser.add_argument("--labelled", type=Path, help="labelled frames: errors of both forces")
    parser.add_argument("--frames", type=int, default=300, help="structures of each kind")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--temperature", type=float, default=600.0, help="K")
    parser.add_argument("--picoseconds", type=float, default=4.0, help="of each run")
    parser.add_argument(
        "--start", type=Path, default=Path(__file__).parents[1] / "examples" / "acetylacetone.xyz"
    )
    given = parser.parse_args()
    given.keep.mkdir(exist_ok=True)
    models: dict[str, str | Path] = {"as trained": MODEL}
    errors: dict[str, str] = {}
    judged = [] if given.labelled is None else [given.labelled]
    for kind, file in training_files(given.start, given.keep, given.frames).items():
        models[kind] = given.keep / f"{kind}-{given.epochs}.pt"
        if not Path(models[kind]).exists():
            tune(
                MODEL, file, "shared", models[kind], epochs=given.epochs, judge_on=judged,
                mode="overwrite",
            )  # fmt: skip
        report = load_model(models[kind]).metadata["tuned"]["report"]
        for when, name in (("before", "as trained"), ("after", kind)):
            found = [one[when] for one in report["judged"]]
            errors[name] = "".join(
                f" {1e3 * one['force_delta']:.0f} | {1e3 * one['direct_error']:.0f} | "
                f"{1e3 * one['conservative_error']:.0f} |"
                for one in found
            )
    times = {}
    for name, model in models.items():
        times[name], reasons = lifetimes(model, name.replace(" ", "-"), given.start, given)
        ends = ", ".join(
            f"{t:.2f}" + (f" ({reason})" if reason else "")
            for t, reason in zip(times[name], reasons, strict=True)
        )
        print(f"{name}, ps: {ends}", flush=True)
    print()
    labels = " U, meV/Å | F_nc error | F_c error |" if given.labelled is not None else ""
    print(f"| tuned on |{labels} broken | median, ps | against as trained | against attack |")
    print("|---" * (5 + 3 * bool(labels)) + "|")
    for name, found in times.items():
        broken = sum(t < given.picoseconds for t in found)
        median = float(np.median(found))
        more = ">= " if median >= given.picoseconds else ""
        against = [
            "-" if name == other else compared(found, times[other])
            for other in ("as trained", "attack")
        ]
        print(
            f"| {name} |{errors.get(name, '') if labels else ''} {broken} of {len(found)} | "
            f"{more}{median:.2f} | {' | '.join(against)} |"
        )


if __name__ == "__main__":
    main()
