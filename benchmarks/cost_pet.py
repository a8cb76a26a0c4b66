"""Cost of exact U with a PET, relative to metatomic's own calculators with the same weights.

    python benchmarks/cost_pet.py                    # metatrain's default size, random weights
    python benchmarks/cost_pet.py --model pet.pt

Processor time of one evaluation of 64 and 200 rattled copper atoms on one thread, or of a step with
multiple time steps (the mean over an outer step), alternating within each round; medians over the
rounds. metatomic's direct calculator gives direct forces, its conservative one the gradient. In a
crystal the direct one also runs the backward pass, for the stress; clusters are therefore included.
Needs pip install '.[pet]' metatrain.
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
FORCE = "non_conservative_force"


def random_weights(path: Path) -> Path:
    """A PET as metatrain exports it, untrained."""
    from metatrain.pet import PET
    from metatrain.utils.architectures import get_default_hypers
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info, get_generic_target_info
    from omegaconf import OmegaConf

    direct = OmegaConf.create(
        {
            "quantity": "force",
            "unit": "eV/Angstrom",
            "type": {"cartesian": {"rank": 1}},
            "num_subtargets": 1,
            "sample_kind": "atom",
            "per_atom": True,
            "description": "",
        }
    )
    targets = {
        "energy": get_energy_target_info("energy", {"unit": "eV"}),
        FORCE: get_generic_target_info(FORCE, direct),
    }
    info = DatasetInfo(length_unit="angstrom", atomic_types=[29], targets=targets)
    torch.manual_seed(0)
    PET(get_default_hypers("pet")["model"], info).eval().export().save(path)
    return path


def copper(repeat: tuple[int, int, int], periodic: bool) -> Atoms:
    atoms = bulk("Cu", cubic=True) * repeat
    atoms.rattle(0.05, seed=1)
    atoms.pbc = periodic
    return atoms


def processor_time(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def step_time(calculator: Any, atoms: Atoms) -> float:
    """Processor time of a step: the mean over an outer step with multiple time steps."""
    moved = atoms.copy()
    inner = getattr(calculator, "inner", 1)

    def work() -> None:
        for _ in range(inner):
            moved.positions += 1e-3
            calculator.calculate(moved, ["energy", "forces"], ["positions"])

    return processor_time(work) / inner


def compare(path: Path, atoms: Atoms) -> None:
    from metatomic_ase import MetatomicCalculator

    model = load_model(path)
    conservative = MetatomicCalculator(path, do_gradients_with_energy=False)
    ours = ForceDeltaCalculator(model)
    rows: dict[str, Any] = {
        "metatomic, direct": model.calculator(),
        "metatomic, conservative": conservative,
        "U every step": ours,
        "direct forces only": ForceDeltaCalculator(model, every=10**9),
    }
    for inner in INNER:
        rows[f"mts, inner {inner}"] = ForceDeltaCalculator(model, "mts", inner=inner)
    force_delta, inside = ours._evaluator._force_delta, [0.0]

    def both_passes(*graph: Any, **options: Any) -> Any:
        start = time.process_time()
        result = force_delta(*graph, **options)
        inside[0] = time.process_time() - start
        return result

    ours._evaluator._force_delta = both_passes  # type: ignore[assignment]
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    shares = []
    rng = np.random.default_rng(0)
    for round_ in range(ROUNDS + 3):
        atoms.positions += rng.normal(scale=0.002, size=atoms.positions.shape)
        for name, calculator in rows.items():
            elapsed = step_time(calculator, atoms)
            if round_ > 2:  # the first ones compile
                seconds[name].append(elapsed)
                if calculator is ours:
                    shares.append(1 - inside[0] / elapsed)
    kind = "crystal" if atoms.pbc.all() else "cluster"
    size = sum(parameter.numel() for parameter in model.module.parameters())
    print(f"\n{model.name}, {size / 1e6:.1f} million weights, {len(atoms)} atoms, {kind}")
    for name, values in seconds.items():
        ratios = [
            statistics.median(a / b for a, b in zip(values, seconds[base], strict=True))
            for base in ("metatomic, direct", "metatomic, conservative")
        ]
        print(
            f"  {name:24s} {1e3 * statistics.median(values):7.1f} ms   over direct {ratios[0]:.2f}"
            f"   over conservative {ratios[1]:.2f}",
            flush=True,
        )
    print(f"  outside of the model and its gradient: {100 * statistics.median(shares):.2f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="an exported model; random weights without")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, which are not the subject here
        path = arguments.model or random_weights(Path(folder) / "pet.pt")
        for repeat in ((4, 2, 2), (5, 5, 2)):
            for periodic in (False, True):
                compare(path, copper(repeat, periodic))


if __name__ == "__main__":
    main()
