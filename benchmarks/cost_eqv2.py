"""Cost of exact U with EquiformerV2, relative to fairchem's own forward pass of the same weights.

    python benchmarks/cost_eqv2.py CHECKPOINT.pt --atoms 64 200

in the environment of EquiformerV2. Processor time on one thread, in turns within one process;
medians. The library's pass is the work of its calculator per structure: conversion, graph, backbone and
all heads, once with operations on the weights recorded by autograd, as in its code, and once frozen.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from ase import Atoms
from ase.build import bulk

from forcedelta import ForceDelta
from forcedelta.graph import Graphs
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.registry import load_model


def silicon(atoms: int) -> Atoms:
    """A rattled crystal of this number of atoms, a multiple of 8."""
    layers = min((n for n in range(1, 9) if atoms % (8 * n * n) == 0), key=lambda n: abs(n - 3))
    crystal = bulk("Si", cubic=True) * (layers, layers, atoms // (8 * layers * layers))
    crystal.rattle(0.05, seed=1)
    return crystal


def processor_time(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(model: LoadedModel, atoms: Atoms, rounds: int) -> None:
    theirs, frozen = model.calculator(), model.calculator()
    frozen.network.requires_grad_(False)
    device = torch.device("cpu")
    graphs = Graphs(model, torch.float32, device)
    arguments = atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc
    force_delta = ForceDelta(model.module)

    def direct() -> None:
        with torch.no_grad():
            model.module(*graphs.at(*arguments))

    works: dict[str, Callable[[], object]] = {
        "fairchem's own pass": lambda: theirs.calculate(atoms),
        "fairchem's own pass, weights frozen": lambda: frozen.calculate(atoms),
        "direct forces only": direct,
        "exact U": lambda: force_delta(*graphs.at(*arguments)),
        "our graph": lambda: graphs.at(*arguments),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            elapsed = processor_time(work)
            if round_ > 0:  # the first one warms up
                seconds[name].append(elapsed)
    base = statistics.median(seconds["fairchem's own pass"])
    print(f"{model.name}, {len(atoms)} atoms, medians of {rounds}", flush=True)
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"  {name:36s} {1e3 * median:9.1f} ms   ratio {median / base:.3f}", flush=True)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("checkpoint", type=Path, help="a checkpoint of fairchem-core 1.x")
parser.add_argument("--atoms", type=int, nargs="+", default=[64], help="multiples of 8")
parser.add_argument("--rounds", type=int, default=3)
options = parser.parse_args()
torch.set_num_threads(1)
loaded = load_model(options.checkpoint, torch.float32, architecture="eqV2")
for count in options.atoms:
    compare(loaded, silicon(count), options.rounds)
