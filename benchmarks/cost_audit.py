"""Speed of an audit relative to a loop over frames with the calculator: python benchmarks/cost_audit.py

Molecules of 3 to 15 atoms, `acac`, processor time on one thread, alternating; medians over rounds.
The loop also reads the trajectory but writes nothing, whereas the audit judges and records frames.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import torch
from ase import Atoms
from ase.build import molecule

from forcedelta import load_model
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.audit import audit

FRAMES, ROUNDS = 1500, 5
MODEL = load_model("acac")


def processor_time(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def frame_by_frame(path: Path) -> None:
    calculator = ForceDeltaCalculator(MODEL)
    for atoms in ase.io.iread(path):
        calculator.calculate(atoms)


def compare(name: str, atoms: Atoms, folder: Path) -> None:
    path, out = folder / f"{name}.traj", folder / "audit.h5"
    with ase.io.Trajectory(path, "w") as trajectory:
        for seed in range(FRAMES):
            frame = atoms.copy()
            frame.rattle(0.05, seed=seed)
            trajectory.write(frame)
    pairs = [
        (
            processor_time(lambda: frame_by_frame(path)),
            processor_time(lambda: audit(path, MODEL, out, mode="overwrite", flag_above=10.0)),
        )
        for _ in range(ROUNDS)
    ]
    loops, audits = (statistics.median(times) / FRAMES for times in zip(*pairs, strict=True))
    ratios = sorted(loop / batched for loop, batched in pairs)
    print(
        f"{name:14s} {len(atoms):3d} atoms   loop {1e3 * loops:5.2f} ms a frame   audit "
        f"{1e3 * audits:5.2f}   ratio {statistics.median(ratios):.1f} ({ratios[0]:.1f} to "
        f"{ratios[-1]:.1f})",
        flush=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        for formula in ("H2O", "CH3OH", "CH3CH2OH"):
            compare(formula, molecule(formula), Path(temporary))
        start = ase.io.read(Path(__file__).parents[1] / "examples" / "acetylacetone.xyz")
        compare("acetylacetone", start, Path(temporary))
