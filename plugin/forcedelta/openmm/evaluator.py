"""Evaluations of a model in OpenMM's units, each configuration once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ForceDeltaError
from ..force_delta import ForceDelta
from ..graph import Graph, Graphs
from ..models import LoadedModel
from .units import EV, EV_PER_ANGSTROM, NM

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """What a model said about one configuration of N atoms.

    Attributes:
        positions: [N, 3] nm, exactly as OpenMM gave them.
        box: [3, 3] nm, rows are the vectors; None without periodicity.
        energy: eV.
        forces: [N, 3] eV/Å, those that drive the run.
        direct_forces: [N, 3] eV/Å; None where they were not computed.
        conservative_forces: [N, 3] eV/Å; None between two exact evaluations with ``every=k``.
        force_deltas: [N] u_i, eV/Å; None likewise.
        force_delta: U, eV/Å; None likewise.
        openmm_energy: kJ/mol.
        openmm_forces: [N, 3] kJ/(mol nm), those that drive the run.
        expected_errors: [N] eV/Å, the force errors that the model itself expects; None of models
            that expect none.
    """

    positions: FloatArray
    box: FloatArray | None
    energy: float
    forces: FloatArray
    direct_forces: FloatArray | None
    conservative_forces: FloatArray | None
    force_deltas: FloatArray | None
    force_delta: float | None
    openmm_energy: float
    openmm_forces: FloatArray
    expected_errors: FloatArray | None = None

    def is_at(self, positions: FloatArray, box: FloatArray | None) -> bool:
        """Whether this is the configuration, bit for bit."""
        if not np.array_equal(self.positions, positions):
            return False
        if self.box is None or box is None:
            return self.box is box
        return bool(np.array_equal(self.box, box))


class Evaluator:
    """Evaluates a model for OpenMM and remembers its last two configurations.

    A run that explodes gives NaN where no neighbour list exists any more; at the first
    configuration that is an error.

    Two, because a barostat tries another volume and may come back. The memory is what makes
    reporters that ask for energies or forces, barostats and the monitor itself cost nothing for a
    configuration that was evaluated already.

    Args:
        model: loaded with this dtype and device; OpenMM's platform is independent of the device.
        numbers: [N] atomic numbers.
        periodic: whether the box counts.
        forces: "direct" or "conservative", those that drive the run.
        dtype: of the model.
        device: of the model.
        charge_spin: total charge (e) and spin multiplicity, for models that take them.

    Attributes:
        evaluations: passes of the model so far.
    """

    def __init__(
        self,
        model: LoadedModel,
        numbers: NDArray[np.integer],
        periodic: bool,
        forces: Literal["direct", "conservative"],
        dtype: torch.dtype,
        device: torch.device,
        charge_spin: tuple[float, float] | None = None,
    ) -> None:
        self.model = model
        self.forces = forces
        self.evaluations = 0
        self._module = model.module
        self._force_delta = ForceDelta(model.module)
        self._graphs = Graphs(model, dtype, device)
        self._numbers = np.asarray(numbers, dtype=np.int64)
        self._pbc = np.full(3, periodic)
        self._charge_spin = charge_spin
        self._memory: list[Evaluation] = []

    def known(self, positions: FloatArray, box: FloatArray | None) -> Evaluation | None:
        """The evaluation of a configuration, where it is remembered."""
        for index, known in enumerate(self._memory):
            if known.is_at(positions, box):
                self._memory.insert(0, self._memory.pop(index))
                return known
        return None

    def evaluate(self, positions: FloatArray, box: FloatArray | None, full: bool) -> Evaluation:
        """The model at a configuration.

        Args:
            positions: [N, 3] nm.
            box: [3, 3] nm, or None.
            full: with U. Conservative runs have it anyway.
        """
        known = self.known(positions, box)
        if known is not None and (known.force_delta is not None or not full):
            return known
        full = full or self.forces == "conservative"
        new = self._compute(np.array(positions), None if box is None else np.array(box), full)
        others = self._memory if known is None else self._memory[1:]
        self._memory = [new, *others[:1]]
        return new

    def _compute(self, positions: FloatArray, box: FloatArray | None, full: bool) -> Evaluation:
        try:
            inputs = self._inputs(positions, box)
        except ForceDeltaError:
            if self.evaluations == 0:
                raise
            return _not_finite(positions, box, full)
        self.evaluations += 1
        if full:
            raw = self._force_delta(*inputs)
            energy, direct = raw["energy"], raw["direct_forces"]
            conservative: FloatArray | None = _array(raw["conservative_forces"])
            deltas: FloatArray | None = _array(raw["force_deltas"])
            u: float | None = float(raw["force_delta"])
            expected = raw.get("expected_errors")
        else:
            with torch.no_grad():
                energy, direct, *more = self._module(*inputs)
            expected = more[0] if more else None
            conservative = deltas = u = None
        direct_forces = _array(direct)
        driving = conservative if self.forces == "conservative" else direct_forces
        assert driving is not None
        return replace(
            _evaluation(
                positions, box, float(energy), driving, direct_forces, conservative, deltas, u
            ),
            expected_errors=None if expected is None else _array(expected),
        )

    def _inputs(self, positions: FloatArray, box: FloatArray | None) -> Graph:
        cell = np.zeros((3, 3)) if box is None else box * NM
        return self._graphs.at(positions * NM, self._numbers, cell, self._pbc, self._charge_spin)


def _not_finite(positions: FloatArray, box: FloatArray | None, full: bool) -> Evaluation:
    """NaN for a run that explodes, so that a guard sees it."""
    nan = np.full(positions.shape, np.nan)
    if not full:
        return _evaluation(positions, box, np.nan, nan, nan, None, None, None)
    return _evaluation(positions, box, np.nan, nan, nan, nan, np.full(len(nan), np.nan), np.nan)


def _evaluation(
    positions: FloatArray,
    box: FloatArray | None,
    energy: float,
    forces: FloatArray,
    direct: FloatArray | None,
    conservative: FloatArray | None,
    deltas: FloatArray | None,
    u: float | None,
) -> Evaluation:
    for array in (forces, direct, conservative, deltas):
        if array is not None:
            array.flags.writeable = False
    return Evaluation(
        positions, box, energy, forces, direct, conservative, deltas, u,
        energy * EV, forces * EV_PER_ANGSTROM,
    )  # fmt: skip


def _array(tensor: torch.Tensor) -> FloatArray:
    return tensor.detach().to("cpu", torch.float64).numpy()
