"""Speed of a screen relative to a loop over structures with the calculator: python benchmarks/cost_screen.py

Crystals of 2 to 64 atoms, `mlearn`, processor time on one thread, alternating; medians over rounds. Both read
the structures and evaluate the same ones: each as given and, in the screen with displacements, three displaced
copies of 16 atoms or more. The loop neither checks, hashes nor records anything.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import torch
from ase import Atoms
from ase.build import bulk

from forcedelta import load_model, screen
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.screening.displaced import displaced, enlarged

STRUCTURES, ROUNDS = 60, 3
MODEL = load_model("mlearn")


def processor_time(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def one_by_one(path: Path, copies: int) -> None:
    calculator = ForceDeltaCalculator(MODEL)
    for k, atoms in enumerate(ase.io.iread(path)):
        for one in [atoms, *displaced(enlarged(atoms), 0.02, copies, k, "0")]:
            calculator.calculate(one)


def compare(name: str, atoms: Atoms, copies: int, folder: Path) -> None:
    path = folder / f"{name}.xyz"
    frames = []
    for seed in range(STRUCTURES):
        frame = atoms.copy()
        frame.rattle(0.05, seed=seed)
        frames.append(frame)
    ase.io.write(path, frames)
    out = folder / "screen.csv"
    settings = {"rattle": 0.02 if copies else 0.0, "rattles": copies or 1}
    pairs = [
        (
            processor_time(lambda: one_by_one(path, copies)),
            processor_time(lambda: screen(path, MODEL, out, mode="overwrite", **settings)),
        )
        for _ in range(ROUNDS)
    ]
    loops, screens = (statistics.median(times) / STRUCTURES for times in zip(*pairs, strict=True))
    ratio = statistics.median(loop / batched for loop, batched in pairs)
    print(
        f"{name:8s} {len(atoms):3d} atoms, {copies} displaced copies   loop {1 / loops:6.1f} "
        f"structures/s   screen {1 / screens:6.1f}   ratio {ratio:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    silicon = bulk("Si", cubic=True)
    with tempfile.TemporaryDirectory() as temporary:
        for copies in (0, 3):
            compare("Si2", bulk("Si"), copies, Path(temporary))
            compare("Si8", silicon, copies, Path(temporary))
            compare("Si64", silicon * 2, copies, Path(temporary))
