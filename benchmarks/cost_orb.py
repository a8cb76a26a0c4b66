"""Cost of exact U of an Orb model, relative to orb-models' own calculator with direct forces only.

Processor time of one evaluation of the same structure, or of a step with multiple time steps (the
mean over an outer step), alternating to cancel drifts in the speed of the machine; medians over the
rounds. The network has its real size and random weights, which do not affect the time, unless a
checkpoint is passed: --model FILE.

With --compile both are also compiled by torch, which takes minutes before the first round, and all
are compared with orb-models' eager and compiled calculators. Needs orb-models: pip install '.[orb]'.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.models import load_model

ROUNDS = 9
INNER = (4, 8)


def silicon(repeat: tuple[int, int, int]) -> Atoms:
    atoms = bulk("Si", cubic=True) * repeat
    atoms.rattle(0.05, seed=1)
    return atoms


def random_weights(folder: Path, architecture: str) -> Path:
    """A checkpoint as orb-models' training writes it."""
    from orb_models.forcefield import pretrained

    torch.manual_seed(0)
    if architecture.startswith("orb-v3"):
        network = pretrained.orb_v3_direct_architecture(device="cpu")
    else:
        layers = {"orb-d3-sm-v2": 10, "orb-d3-xs-v2": 5}.get(architecture, 15)
        network = pretrained.orb_v2_architecture(layers, device="cpu")
    path = folder / "random.ckpt"
    torch.save(network.state_dict(), path)
    return path


def processor_time(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def outside(calculator: ForceDeltaCalculator, atoms: Atoms) -> Callable[[], float]:
    """Make one evaluation and return its share of time outside of the model and its gradient."""
    inside = [0.0]
    evaluator = calculator._evaluator
    force_delta = evaluator._force_delta

    def timed(*graph: Any, **options: Any) -> Any:
        start = time.process_time()
        result = force_delta(*graph, **options)
        inside[0] = time.process_time() - start
        return result

    def share() -> float:
        evaluator._force_delta = timed  # type: ignore[assignment]
        whole = processor_time(lambda: calculator.calculate(atoms))
        evaluator._force_delta = force_delta
        return 1 - inside[0] / whole

    return share


def step_time(calculator: Any, atoms: Atoms) -> float:
    """Processor time of a step: the mean over an outer step with multiple time steps."""
    moved = atoms.copy()
    inner = getattr(calculator, "inner", 1)

    def work() -> None:
        for _ in range(inner):
            moved.positions += 1e-3
            calculator.calculate(moved)

    return processor_time(work) / inner


def compare(path: Path, architecture: str, atoms: Atoms, compiled: bool) -> None:
    model = load_model(path, architecture=architecture)
    rows: dict[str, Any] = {
        "orb-models, eager": model.calculator(),
        "U every step, eager": ForceDeltaCalculator(model),
        "direct forces only, eager": ForceDeltaCalculator(model, every=10**9),
    }
    for inner in INNER:
        rows[f"mts, inner {inner}, eager"] = ForceDeltaCalculator(model, "mts", inner=inner)
    if compiled:
        faster = load_model(path, architecture=architecture, compile=True)
        rows["orb-models, compiled"] = faster.calculator()
        rows["U every step, compiled"] = ForceDeltaCalculator(faster)
    share = outside(rows["U every step, eager"], atoms)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    shares = []
    rng = np.random.default_rng(0)
    for round_ in range(ROUNDS + 2):
        atoms.positions += rng.normal(scale=0.002, size=atoms.positions.shape)
        for name, calculator in rows.items():
            elapsed = step_time(calculator, atoms)
            if round_ > 1:  # the first ones warm up
                seconds[name].append(elapsed)
        atoms.positions += rng.normal(scale=0.002, size=atoms.positions.shape)
        shares.append(share())
    print(f"\n{architecture}, {len(atoms)} atoms, processor time over that of orb-models")
    bases = [name for name in rows if name.startswith("orb-models")]
    for name, values in seconds.items():
        ratios = (
            statistics.median(a / b for a, b in zip(values, seconds[base], strict=True))
            for base in bases
        )
        text = "   ".join(
            f"{base.split()[1]} {ratio:.2f}" for base, ratio in zip(bases, ratios, strict=True)
        )
        print(f"  {name:28s} {statistics.median(values):7.3f} s   {text}")
    print(f"  outside of the model and its gradient: {100 * statistics.median(shares):.2f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="orb-v3-direct-20")
    parser.add_argument("--model", type=Path, help="checkpoint of this architecture")
    parser.add_argument("--compile", action="store_true", help="also compiled; slow to start")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, which are not the subject here
        path = arguments.model or random_weights(Path(folder), arguments.architecture)
        for repeat in ((2, 2, 2), (5, 5, 1)):
            compare(path, arguments.architecture, silicon(repeat), arguments.compile)


if __name__ == "__main__":
    main()
