"""Guarded dynamics: each frame is what the calculator says of its positions."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.conformance.base import ModelTests, Record
from forcedelta.ensembles import EnsembleSettings, Ramp, prepare
from forcedelta.evaluation import ExactEvaluation
from forcedelta.verify.agreement import change, largest
from md_hooks import Frame, HookChain, RunInfo, run

_STEPS = 3


class EngineTests(ModelTests):
    """Both engines. OpenMM's test needs OpenMM."""

    def test_dynamics_in_ase(self, atoms: Atoms, record_property: Record) -> None:
        """Each frame of a run in ASE has the results of its positions, at one evaluation per step."""
        moving = atoms.copy()
        moving.calc = ForceDeltaCalculator(self.probe().model, dtype="float64")
        frames: list[Frame] = []
        run(VelocityVerlet(moving, 0.5 * units.fs), _STEPS, [frames.append])
        assert moving.calc.evaluations == _STEPS + 1
        self._frames_are_right(atoms, frames, record_property)

    def test_dynamics_in_openmm(self, atoms: Atoms, record_property: Record) -> None:
        """Each frame of a run in OpenMM has the results of its positions."""
        pytest.importorskip("openmm")
        from forcedelta.openmm.engine import OpenMMEngine

        settings = EnsembleSettings(
            name="langevin", ramp=Ramp(300, 300, 0, 0), timestep=0.5, tau=100.0,
            pressure=0.0, barostat_tau=1000.0, seed=1,
        )  # fmt: skip
        moving = atoms.copy()
        prepare(moving, settings)
        asked = self.probe().model.takes_charge_spin
        charge, spin = (int(atoms.info[name]) if asked else None for name in ("charge", "spin"))
        engine = OpenMMEngine(
            moving, settings, self.probe().model, dtype="float64", charge=charge, spin=spin
        )
        frames: list[Frame] = []
        engine.run(_STEPS, HookChain([engine, frames.append]), RunInfo())
        self._frames_are_right(atoms, frames, record_property)

    def _frames_are_right(self, atoms: Atoms, frames: list[Frame], record_property: Record) -> None:
        assert [frame.step for frame in frames] == list(range(_STEPS + 1))
        changes = []
        for frame in frames:
            still = atoms.copy()
            still.set_cell(frame.cell)
            still.positions = frame.positions
            there = self.calculate(still, torch.float64)
            changes.append(change(_evaluation(frame), there))
        self.check(largest(changes), atoms, self.tolerances.same, record_property)
        assert not np.array_equal(frames[0].positions, frames[-1].positions)


def _evaluation(frame: Frame) -> ExactEvaluation:
    assert frame.force_delta is not None
    direct, conservative, deltas = (
        np.asarray(array, np.float64)
        for array in (frame.direct_forces, frame.conservative_forces, frame.force_deltas)
    )
    return ExactEvaluation(frame.energy, direct, conservative, deltas, frame.force_delta)
