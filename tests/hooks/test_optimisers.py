"""Every optimiser of ASE under hooks: how it ended, its frames, and no evaluation more than without."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import optimize
from ase.filters import (
    ExpCellFilter,
    Filter,
    FrechetCellFilter,
    StrainFilter,
    UnitCellFilter,
)
from ase.optimize.cellawarebfgs import CellAwareBFGS
from ase.optimize.fire2 import FIRE2
from ase.optimize.ode import ODE12r
from ase.optimize.oldqn import GoodOldQuasiNewton
from ase.optimize.precon import PreconFIRE, PreconLBFGS
from ase.optimize.rfo import RFO
from ase.optimize.sciopt import SciPyFmin, SciPyFminBFGS, SciPyFminCG, SciPyFminPowell
from helpers import argon

from md_hooks import Action, Hook, HookError, Recorder, Trajectory, attach, run

OPTIMISERS = [
    optimize.BFGS, optimize.LBFGS, optimize.BFGSLineSearch, optimize.LBFGSLineSearch, optimize.FIRE, FIRE2,
    optimize.MDMin, optimize.GPMin, GoodOldQuasiNewton, ODE12r, RFO, SciPyFminCG, SciPyFminBFGS, PreconLBFGS,
    PreconFIRE,
]  # fmt: skip


class Witness(Hook):
    def __init__(self):
        self.frames = []

    def observe(self, frame, verdict):
        self.frames.append(frame)


class StopAtThree(Hook):
    def __call__(self, frame):
        return Action.STOP if frame.step == 3 else None


def rattled():
    atoms = argon(error=0.0)
    atoms.rattle(0.3, seed=1)
    return atoms


def made(kind, moved):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about preconditioners and deprecated filters
        return kind(moved, logfile=None)


@pytest.mark.parametrize("kind", OPTIMISERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("reason", "steps", "fmax", "hooks"),
    [
        ("converged", 300, 0.02, []),
        ("out of steps", 5, 1e-9, []),
        ("stopped", 20, 1e-9, [StopAtThree()]),
    ],
    ids=["converged", "out of steps", "stopped"],
)
@pytest.mark.filterwarnings("ignore:The system is likely too small")
def test_how_it_ended(kind, reason, steps, fmax, hooks, tmp_path):
    atoms, bare, seen = rattled(), rattled(), Witness()
    path = tmp_path / "r.h5"
    hooks = [type(hook)() for hook in hooks]
    result = run(made(kind, atoms), steps, [*hooks, seen, Recorder(path)], fmax=fmax)
    assert result.reason == Trajectory(path).outcome["reason"] == reason
    assert result.completed == (reason != "stopped")
    assert [frame.step for frame in seen.frames] == list(range(result.step + 1))
    largest = np.linalg.norm(seen.frames[-1].forces, axis=1).max()
    assert (largest < fmax) == (reason == "converged")
    np.testing.assert_array_equal(seen.frames[-1].positions, atoms.positions)
    if reason == "stopped":
        assert result.step == 3
        return
    made(kind, bare).run(fmax=fmax, steps=steps)
    assert atoms.calc.evaluations == bare.calc.evaluations
    np.testing.assert_allclose(atoms.positions, bare.positions, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("around", "kind"),
    [
        (FrechetCellFilter, optimize.BFGS), (ExpCellFilter, optimize.FIRE), (UnitCellFilter, CellAwareBFGS),
        (StrainFilter, optimize.FIRE),
    ],
)  # fmt: skip
def test_filters_of_cells(around, kind):
    def strained():
        atoms = argon(error=0.0, periodic=True)
        atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)
        atoms.rattle(0.05, seed=2)
        return atoms

    for fmax, steps, reason in ((0.005, 300, "converged"), (1e-12, 3, "out of steps")):
        atoms, bare, seen = strained(), strained(), Witness()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            around_atoms, around_bare = around(atoms), around(bare)
        result = run(made(kind, around_atoms), steps, [seen], fmax=fmax)
        assert result.reason == reason
        np.testing.assert_array_equal(seen.frames[-1].cell, atoms.cell.array)
        made(kind, around_bare).run(fmax=fmax, steps=steps)
        assert atoms.calc.evaluations == bare.calc.evaluations


def test_a_filter_of_some_atoms():
    atoms, seen = rattled(), Witness()
    start = atoms.positions.copy()
    result = run(optimize.BFGS(Filter(atoms, indices=[0, 1]), logfile=None), 3, [seen], fmax=1e-9)
    assert result.reason == "out of steps"
    moved = np.abs(seen.frames[-1].positions - start).max(axis=1) > 0
    assert list(np.flatnonzero(moved)) == [0, 1]


@pytest.mark.parametrize("kind", [SciPyFmin, SciPyFminPowell])
def test_optimisers_without_forces_are_refused(kind):
    with pytest.raises(HookError, match=f"{kind.__name__} computes no forces"):
        attach(kind(rattled(), logfile=None), [Witness()])


def test_a_converged_structure_needs_no_step():
    atoms, hooks = rattled(), [Witness()]
    for _ in range(2):
        result = run(optimize.BFGS(atoms, logfile=None), 100, hooks, fmax=0.02)
        assert result.reason == "converged"
    assert [frame.step for frame in hooks[0].frames] == list(range(result.step + 1))


def test_attach_and_irun():
    atoms, seen = rattled(), Witness()
    optimiser = optimize.FIRE(atoms, logfile=None)
    handle = attach(optimiser, [seen])
    for _ in optimiser.irun(fmax=1e-9, steps=4):
        pass
    assert handle.close().reason == "out of steps"
    handle = attach(optimiser, [seen])
    for _ in optimiser.irun(fmax=0.02, steps=100):
        pass
    assert handle.close().reason == "converged"
    assert [frame.step for frame in seen.frames] == list(range(len(seen.frames)))
    assert atoms.calc.evaluations == len(seen.frames)
