"""Cost of one step of an attack, relative to exact evaluations of the same structures.

    python benchmarks/cost_attack.py [--model orb-v3-direct-20 --checkpoint FILE]

Processor time of one batch, alternating to cancel drifts in the speed of the machine; medians over the
rounds. A step is the gradient of U by either method; a whole attack also checks distances and fragments,
proposes steps and writes the frames.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import torch
from ase import Atoms
from ase.build import bulk

from forcedelta import attack, load_model
from forcedelta.force_delta_gradient import GradientEvaluator
from forcedelta.models import LoadedModel

ROUNDS, STARTS, STEPS = 7, 8, 10


def processor_time(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def displaced(atoms: Atoms) -> list[Atoms]:
    copies = [atoms.copy() for _ in range(STARTS)]
    for seed, copy in enumerate(copies):
        copy.rattle(0.02, seed=seed)
    return copies


def measure(model: LoadedModel, atoms: Atoms) -> None:
    structures = displaced(atoms)
    work: dict[str, Callable[[], Any]] = {}
    exact = GradientEvaluator(model, torch.float32)
    work["exact evaluation"] = lambda: exact.batch(structures)
    for method in ("second derivatives", "differences"):
        if method == "second derivatives" and getattr(model.module, "first_order_only", False):
            continue
        evaluator = GradientEvaluator(model, torch.float32, method=method)  # type: ignore[arg-type]
        work[method] = lambda each=evaluator: each.gradient_batch(structures)
    seconds: dict[str, list[float]] = {name: [] for name in [*work, "whole attack, per step"]}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "attack.h5"
        for round_ in range(ROUNDS + 1):
            elapsed = {name: processor_time(each) for name, each in work.items()}
            whole = processor_time(
                lambda: attack(
                    atoms, model, out, starts=STARTS, steps=STEPS, picks=0, mode="overwrite"
                )
            )
            elapsed["whole attack, per step"] = whole / (STEPS + 1)
            if round_ > 0:  # the first one warms up
                for name, value in elapsed.items():
                    seconds[name].append(value)
    print(
        f"\n{model.name}, {STARTS} x {len(atoms)} atoms: {1e3 * statistics.median(seconds['exact evaluation']):.1f} ms"
    )
    for name, values in seconds.items():
        pairs = zip(values, seconds["exact evaluation"], strict=True)
        print(f"  {name:24s} {statistics.median(a / b for a, b in pairs):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", help="architecture of a checkpoint, besides the embedded models")
    parser.add_argument("--checkpoint", type=Path, help="its file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    acetylacetone = ase.io.read(Path(__file__).parents[1] / "examples" / "acetylacetone.xyz")
    measure(load_model("acac"), acetylacetone)
    measure(load_model("mlearn"), bulk("Si", cubic=True))
    measure(load_model("mlearn"), bulk("Si", cubic=True) * (2, 2, 2))
    if given.checkpoint is not None:
        measure(load_model(given.checkpoint, architecture=given.model), bulk("Si", cubic=True))


if __name__ == "__main__":
    main()
