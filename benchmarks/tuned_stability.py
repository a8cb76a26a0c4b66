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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from numpy.typing import NDArray
from scipy.stats import binomtest, wilcoxon

from forcedelta import attack, guarded_run, load_model, tune
from forcedelta.evaluation import Evaluator
from forcedelta.tuning.frames import read_usable
from md_hooks import Trajectory

Array = NDArray[np.float64]

MODEL = "acac-direct"
OWN_TEMPERATURE, OWN_STEPS, OWN_EVERY = 450.0, 8000, 20
LARGEST = 2.0  # eV/Å; attacks climb beyond it, where the model is of no use
DISPLACEMENT = 0.05  # Å, standard deviation
STRETCHED, ALONE = (
    1.6,
    1.7,
)  # of a bond between heavy atoms; Å from a hydrogen to the next heavy atom
HOT = 3.0  # times the temperature of the thermostat
TIMESTEP, FRICTION_TIME = 0.5, 100.0  # fs


class Intact:
    """Whether molecules are whole.

    Args:
        start: the intact molecule.
        temperature: of the thermostat, K.
    """

    def __init__(self, start: Atoms, temperature: float) -> None:
        self.heavy = np.flatnonzero(start.numbers > 1)
        self.light = np.flatnonzero(start.numbers == 1)
        distances = start.get_all_distances()
        self.first, self.second = np.array(
            [(i, j) for i in self.heavy for j in self.heavy if i < j and distances[i, j] < 1.75]
        ).T
        self.longest = STRETCHED * distances[self.first, self.second]
        self.hottest = HOT * temperature

    def fault(self, positions: Array, temperature: float) -> str | None:
        """What is wrong with a molecule, positions [N, 3] in Å."""
        if not (np.isfinite(positions).all() and np.isfinite(temperature)):
            return "not finite"
        if temperature > self.hottest:
            return f"{temperature:.0f} K"
        bonds = np.linalg.norm(positions[self.first] - positions[self.second], axis=1)
        if (bonds > self.longest).any():
            k = int(np.argmax(bonds / self.longest))
            return f"bond {self.first[k]}-{self.second[k]} {bonds[k]:.2f} Å"
        apart = positions[self.light, None] - positions[self.heavy]
        nearest = np.linalg.norm(apart, axis=2).min(axis=1)
        if nearest.max() > ALONE:
            return f"H{self.light[nearest.argmax()]} {nearest.max():.2f} Å away"
        return None


class Molecule:
    """One run: Langevin dynamics in the BAOAB splitting (Leimkuhler and Matthews, 2013)."""

    def __init__(self, start: Atoms, temperature: float, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.atoms = start.copy()
        self.masses = self.atoms.get_masses()[:, None]
        self.thermal = np.sqrt(units.kB * temperature / self.masses)
        self.velocities = self.thermal * self.rng.normal(size=self.atoms.positions.shape)
        self.dt = TIMESTEP * units.fs
        self.memory = np.exp(-TIMESTEP / FRICTION_TIME)

    @property
    def temperature(self) -> float:
        """Kinetic temperature, K."""
        return float((self.masses * self.velocities**2).mean() / units.kB)

    def begin(self, forces: Array) -> None:
        """First part of a step, up to the new positions; forces [N, 3] eV/Å at the old ones."""
        self.velocities += 0.5 * self.dt * forces / self.masses
        self.atoms.positions += 0.5 * self.dt * self.velocities
        noise = np.sqrt(1 - self.memory**2) * self.thermal * self.rng.normal(size=forces.shape)
        self.velocities = self.memory * self.velocities + noise
        self.atoms.positions += 0.5 * self.dt * self.velocities

    def end(self, forces: Array) -> None:
        """Second part of a step; forces at the new positions."""
        self.velocities += 0.5 * self.dt * forces / self.masses


def simulate(
    model: str | Path, start: Atoms, temperature: float, seeds: Sequence[int], steps: int
) -> dict[int, tuple[int, str]]:
    """Step at which the molecule of each seed broke and how, or the last step and "".

    All molecules are one batch of the model, from which the broken ones are dropped.
    """
    evaluator = Evaluator(load_model(model), torch.float32)
    intact = Intact(start, temperature)

    def forces(going: dict[int, Molecule]) -> dict[int, Array]:
        graph = evaluator.graph_of([molecule.atoms for molecule in going.values()])
        found = evaluator.forward(graph, energy=False)
        return {seed: one.direct_forces for seed, one in zip(going, found, strict=True)}

    going = {seed: Molecule(start, temperature, seed) for seed in seeds}
    ended: dict[int, tuple[int, str]] = {}
    present = forces(going)
    for step in range(1, steps + 1):
        for seed, molecule in list(going.items()):
            molecule.begin(present[seed])
            fault = intact.fault(molecule.atoms.positions, molecule.temperature)
            if fault is not None:
                ended[seed] = (step, fault)
                del going[seed]
        if not going:
            break
        present = forces(going)
        for seed, molecule in going.items():
            molecule.end(present[seed])
    return ended | {seed: (steps, "") for seed in going}


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
    model: str | Path, name: str, given: argparse.Namespace
) -> tuple[list[float], list[str]]:
    """Time in ps of each seed until the molecule broke, or of the whole run, and why it ended."""
    steps = round(1e3 * given.picoseconds / TIMESTEP)
    known = given.keep / f"runs-{name}-{given.temperature:g}K-{steps}.json"
    done: dict[str, list[Any]] = json.loads(known.read_text()) if known.exists() else {}
    seeds = range(1, given.seeds + 1)
    missing = [seed for seed in seeds if str(seed) not in done]
    if missing:
        start = ase.io.read(given.start)
        found = simulate(model, start, given.temperature, missing, steps)
        done |= {str(seed): list(end) for seed, end in found.items()}
        known.write_text(json.dumps(done))
    ends = [done[str(seed)] for seed in seeds]
    return [step * TIMESTEP / 1e3 for step, _ in ends], [reason for _, reason in ends]


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
    parser.add_argument("--temperature", type=float, default=700.0, help="K")
    parser.add_argument("--picoseconds", type=float, default=3.0, help="of each run")
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
        times[name], reasons = lifetimes(model, name.replace(" ", "-"), given)
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
