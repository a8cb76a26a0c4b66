"""Cost of exact U."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.force_delta import ForceDelta
from forcedelta.verify.probe import Probe

SECONDS = 1.0
"""Rounds go on for so long, and for at least `ROUNDS`."""
ROUNDS = 5
MOST_ROUNDS = 200


@dataclass(frozen=True)
class Cost:
    """Seconds of one evaluation: medians over rounds in which all take turns.

    Processor time of all threads on a CPU, elapsed time on other devices.

    Attributes:
        forward: the bare model without gradient, on a graph that is there.
        exact: energy, both forces and U, on the same graph.
        calculator: `ForceDeltaCalculator` with U, from atoms to results.
        library: the library's own calculator, from atoms to energy and forces; None without one.
    """

    forward: float
    exact: float
    calculator: float
    library: float | None

    @property
    def over_forward(self) -> float:
        """Exact U over one forward pass."""
        return self.exact / self.forward

    @property
    def over_library(self) -> float | None:
        """A step with exact U over one of the library's calculator."""
        return None if self.library is None else self.calculator / self.library


def cost(
    probe: Probe,
    atoms: Atoms,
    library: Calculator | None = None,
    clock: Callable[[], float] | None = None,
) -> Cost:
    """Time one evaluation of each kind, in turns.

    Args:
        probe: the model.
        atoms: the structure.
        library: the library's own calculator, if it has one.
        clock: what an evaluation costs is its difference over the evaluation; by default the
            processor time of all threads on a CPU, elapsed time on other devices, both in seconds.
    """
    graph = probe.graph(atoms)
    force_delta = ForceDelta(probe.model.module)
    name = "float64" if probe.dtype == torch.float64 else "float32"
    ours = ForceDeltaCalculator(probe.model, device=str(probe.device), dtype=name)  # type: ignore[arg-type]
    still = atoms.copy()
    still.set_constraint()

    def forward() -> None:
        probe.energy(graph)

    def exact() -> None:
        force_delta(*graph)

    def calculated(calculator: Calculator) -> None:
        calculator.calculate(still, ["energy", "forces"], all_changes)

    def calculator() -> None:
        ours.results = {}
        calculated(ours)

    ways: list[Callable[[], None]] = [forward, exact, calculator]
    if library is not None:
        ways.append(lambda: calculated(library))
    for way in ways:
        way()  # the first of each kind is slower
    on_cpu = probe.device.type == "cpu"
    if clock is None:
        clock = time.process_time if on_cpu else time.perf_counter
    rows: list[list[float]] = []
    end = time.monotonic() + SECONDS
    while len(rows) < ROUNDS or (time.monotonic() < end and len(rows) < MOST_ROUNDS):
        row = []
        for way in ways:
            start = clock()
            way()
            if not on_cpu:
                torch.accelerator.synchronize()
            row.append(clock() - start)
        rows.append(row)
    medians = [float(value) for value in np.median(rows, axis=0)]
    return Cost(medians[0], medians[1], medians[2], medians[3] if library is not None else None)
