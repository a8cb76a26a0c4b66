"""Many structures in one evaluation, in batches of a size that is found while they are worked on."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from forcedelta.errors import ForceDeltaError
from forcedelta.force_delta import ForceDelta, is_out_of_memory
from forcedelta.graph import Graphs
from forcedelta.models.loaded import LoadedModel

_VOIGT = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])
_WORTH = 0.97  # a larger batch has to be at least this much faster
_ROUNDS = 2  # each size is timed so often, and the better time counts
_LONGEST = 1.0  # s; a kill or Ctrl-C costs no more than this, and the progress bar moves
_MOST_MEMORY = 0.25  # of what is free


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model says of one structure of N atoms; see `forcedelta.ForceDelta` for the units.

    Attributes:
        energy: eV.
        direct_forces: [N, 3] eV/Å.
        conservative_forces: [N, 3] eV/Å.
        force_deltas: [N] u_i, eV/Å.
        force_delta: U, eV/Å.
        stress: [6] eV/Å^3 in ASE's order, of structures with a volume.
        expected_errors: [N] eV/Å, of models that have them.
    """

    energy: float
    direct_forces: NDArray[np.float64]
    conservative_forces: NDArray[np.float64]
    force_deltas: NDArray[np.float64]
    force_delta: float
    stress: NDArray[np.float64] | None = None
    expected_errors: NDArray[np.float64] | None = None


class BatchEvaluator:
    """Evaluates structures side by side; the numbers are those of single evaluations to rounding.

    Args:
        model: as loaded.
        dtype: of positions and weights.
        device: of torch.
    """

    def __init__(self, model: LoadedModel, dtype: torch.dtype, device: torch.device) -> None:
        self._model = model
        self._graphs = Graphs(model, dtype, device)
        self._force_delta = ForceDelta(model.module)

    def __call__(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        """One forward and one backward pass; halves of the batch where the memory does not suffice.

        Raises:
            ForceDeltaError: as `forcedelta.graph.Graphs.batch`, and a structure that is too large
                for the memory.
        """
        try:
            return self._evaluate(structures)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(structures) == 1:
                raise ForceDeltaError(
                    f"the memory does not suffice for a structure of {len(structures[0])} atoms: "
                    "use a device with more, or a smaller model"
                ) from error
        half = len(structures) // 2
        return self(structures[:half]) + self(structures[half:])

    def _evaluate(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        volumes = [bool(atoms.pbc.all()) for atoms in structures]
        stress = self._model.stress and any(volumes)
        output = self._force_delta(*self._graphs.batch(structures), stress=stress)
        arrays = {
            name: value.detach().to("cpu", torch.float64).numpy() for name, value in output.items()
        }
        ends = np.cumsum([len(atoms) for atoms in structures])
        evaluations = []
        for k, atoms in enumerate(structures):
            rows = slice(ends[k] - len(atoms), ends[k])
            expected = arrays.get("expected_errors")
            evaluations.append(
                Evaluation(
                    energy=float(arrays["energy"][k]),
                    direct_forces=arrays["direct_forces"][rows],
                    conservative_forces=arrays["conservative_forces"][rows],
                    force_deltas=arrays["force_deltas"][rows],
                    force_delta=float(arrays["force_delta"][k]),
                    stress=arrays["stress"][k][_VOIGT] if stress and volumes[k] else None,
                    expected_errors=None if expected is None else expected[rows],
                )
            )
        return evaluations


class BatchSize:
    """How many atoms to put into a batch: as many as pay off.

    The size is doubled until that has twice not made an atom cheaper by some per cent, or a batch
    takes about a second, or another doubling might, by the growth of the process so far, take too
    much of the machine's free memory. All of it is learned from batches that have to be evaluated
    anyway. On one thread of a CPU its own time counts, so that what else runs there does not.

    Attributes:
        atoms: so many atoms are to be in the next batch, or a single structure.
        settled: the size is found.
    """

    def __init__(self, device: torch.device) -> None:
        self.atoms = 1
        self.settled = False
        self._device = device
        own = device.type == "cpu" and torch.get_num_threads() == 1
        self._clock = time.thread_time if own else time.perf_counter
        self._best: tuple[float, int] = (np.inf, 1)
        self._failures = 0
        self._times: list[float] = []
        self._started = 0.0
        self._memory = 0.0

    def start(self) -> None:
        """Before a batch is evaluated."""
        self._started, self._memory = self._clock(), self._used()

    def done(self, atoms: int) -> None:
        """After a batch of so many atoms was evaluated."""
        if self.settled:
            return
        elapsed = self._clock() - self._started
        self._times.append(elapsed / atoms)
        if len(self._times) < _ROUNDS and elapsed < _LONGEST:
            return
        pace, size = min(self._times), max(self.atoms, atoms)
        self._times = []
        if pace < _WORTH * self._best[0]:
            self._best, self._failures = (pace, size), 0
        else:
            self._failures += 1
        grown = self._used() - self._memory
        if (
            self._failures < 2
            and elapsed < _LONGEST / 2
            and grown < _MOST_MEMORY * self._free() / 2
        ):
            self.atoms = 2 * size
        else:
            self.atoms, self.settled = self._best[1], True

    def _used(self) -> float:
        """The most bytes that were in use so far."""
        if self._device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self._device))
        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def _free(self) -> float:
        if self._device.type == "cuda":
            return float(torch.cuda.mem_get_info(self._device)[0])
        try:
            text = Path("/proc/meminfo").read_text(encoding="utf-8")
            return 1024.0 * float(text.split("MemAvailable:")[1].split()[0])
        except (OSError, IndexError):
            return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
