"""Evaluations of a model in OpenMM's units, one for each configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ForceDeltaError
from ..evaluation import Evaluation, Evaluator, FloatArray, not_finite
from ..graph import Graph
from ..models import LoadedModel
from .units import EV, EV_PER_ANGSTROM, NM


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement(Evaluation):
    """An evaluation of N atoms at a configuration of OpenMM.

    Attributes:
        positions: [N, 3] nm, exactly as OpenMM gave them.
        box: [3, 3] nm, rows are the vectors; None without periodicity.
        forces: [N, 3] eV/Å, those that drive the run.
        openmm_energy: kJ/mol.
        openmm_forces: [N, 3] kJ/(mol nm), those that drive the run; with multiple time steps the
            direct ones, which drive the inner steps.
    """

    positions: FloatArray
    box: FloatArray | None
    forces: FloatArray
    openmm_energy: float
    openmm_forces: FloatArray

    @classmethod
    def of(
        cls,
        evaluation: Evaluation,
        driving: Literal["direct", "conservative", "mts"],
        positions: FloatArray,
        box: FloatArray | None,
    ) -> Measurement:
        """An evaluation with its configuration; the arrays become read-only.

        Args:
            evaluation: exact if the conservative forces drive the run.
            driving: the forces that drive the run, or "mts".
            positions: [N, 3] nm.
            box: [3, 3] nm, or None.
        """
        direct, conservative = evaluation.direct_forces, evaluation.conservative_forces
        forces = conservative if driving == "conservative" else direct
        assert forces is not None
        for array in (direct, conservative, evaluation.force_deltas):
            if array is not None:
                array.flags.writeable = False
        return cls(
            **vars(evaluation),
            positions=positions,
            box=box,
            forces=forces,
            openmm_energy=evaluation.energy * EV,
            openmm_forces=forces * EV_PER_ANGSTROM,
        )

    @property
    def openmm_slow_forces(self) -> FloatArray:
        """F_c - F_nc [N, 3], kJ/(mol nm), of an exact evaluation."""
        assert self.conservative_forces is not None
        return (self.conservative_forces - self.direct_forces) * EV_PER_ANGSTROM

    def has(self, full: bool, energy: bool) -> bool:
        """Whether the measurement gives U, if ``full``, and the energy, if ``energy``."""
        return (self.exact or not full) and (self.energy_known or not energy)

    def with_energy(self, energy: float) -> Measurement:
        """The same with the energy (eV), which it lacks."""
        return replace(self, energy=energy, openmm_energy=energy * EV, energy_known=True)

    def is_at(self, positions: FloatArray, box: FloatArray | None) -> bool:
        """Whether the measurement was made at ``positions`` [n, 3] and ``box`` [3, 3], nm, bit for bit."""
        if not np.array_equal(self.positions, positions):
            return False
        if self.box is None or box is None:
            return self.box is box
        return bool(np.array_equal(self.box, box))


class RememberingEvaluator:
    """Evaluates a model for OpenMM and remembers its last two configurations.

    When a run explodes and no neighbour list can be built, the result is NaN; at the first
    configuration it is an error.

    Two configurations, because a barostat tries another volume and may return to the first.
    Reporters that request energies or forces, barostats and the monitor itself therefore cost
    nothing at a configuration that has been evaluated.

    Args:
        model: loaded with this dtype and device; OpenMM's platform is independent of the device.
        numbers: [N] atomic numbers.
        periodic: whether the model sees periodic images.
        forces: "direct" or "conservative", those that drive the run, or "mts".
        dtype: of the model.
        device: of the model.
        charge_spin: total charge (e) and spin multiplicity, for models that take them.
    """

    def __init__(
        self,
        model: LoadedModel,
        numbers: NDArray[np.integer],
        periodic: bool,
        forces: Literal["direct", "conservative", "mts"],
        dtype: torch.dtype,
        device: torch.device,
        charge_spin: tuple[float, float] | None = None,
    ) -> None:
        self.model = model
        self.forces = forces
        self._evaluator = Evaluator(model, dtype, device)
        self._numbers = np.asarray(numbers, dtype=np.int64)
        self._pbc = np.full(3, periodic)
        self._charge_spin = charge_spin
        self._memory: list[Measurement] = []

    @property
    def evaluations(self) -> int:
        """Passes of the model so far."""
        return self._evaluator.passes

    @property
    def separate_energy(self) -> bool:
        """Whether the energy takes a forward pass of its own."""
        return self._evaluator.separate_energy

    def known(self, positions: FloatArray, box: FloatArray | None) -> Measurement | None:
        """The remembered evaluation of a configuration, if any."""
        for index, known in enumerate(self._memory):
            if known.is_at(positions, box):
                self._memory.insert(0, self._memory.pop(index))
                return known
        return None

    def evaluate(
        self, positions: FloatArray, box: FloatArray | None, full: bool, energy: bool = True
    ) -> Measurement:
        """The model at a configuration.

        Args:
            positions: [N, 3] nm.
            box: [3, 3] nm, or None.
            full: with U. Conservative runs always compute it.
            energy: with the energy, see `Evaluator.forward`; always with U. Where it alone is missing,
                it is added.
        """
        known = self.known(positions, box)
        if known is not None and known.has(full, energy):
            return known
        if known is not None and known.has(full, False):
            graph = self._graph(known.positions, known.box)
            new = known.with_energy(self._evaluator.energies(graph)[0])
        else:
            full = full or self.forces == "conservative"
            box = None if box is None else np.array(box)
            new = self._compute(np.array(positions), box, full, energy)
        others = self._memory if known is None else self._memory[1:]
        self._memory = [new, *others[:1]]
        return new

    def _graph(self, positions: FloatArray, box: FloatArray | None) -> Graph:
        cell = np.zeros((3, 3)) if box is None else box * NM
        return self._evaluator.graph_at(
            positions * NM, self._numbers, cell, self._pbc, self._charge_spin
        )

    def _compute(
        self, positions: FloatArray, box: FloatArray | None, full: bool, energy: bool
    ) -> Measurement:
        try:
            graph = self._graph(positions, box)
        except ForceDeltaError:
            if self.evaluations == 0:
                raise
            found: Evaluation = not_finite(len(positions), full)
        else:
            found = (
                self._evaluator.evaluate(graph)[0]
                if full
                else self._evaluator.forward(graph, energy)[0]
            )
        return Measurement.of(found, self.forces, positions, box)
