"""Passes of a model with a tuned copy of the energy: none of the copy where the energy is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from command_line import untrained_network
from systems import acetaldehyde

from forcedelta import ForceDeltaCalculator, guarded_run, load_model, tune
from forcedelta.models.loaded import LoadedModel
from forcedelta.report.digest import Digest
from md_hooks import Frame, Trajectory

STEPS = 24


class Passes:
    """Counts the forward passes of both networks of a tuned model."""

    def __init__(self, model: LoadedModel) -> None:
        self.base = self.path = 0
        module: Any = model.module
        module.base.register_forward_hook(lambda *_: self._count("base"))
        module.path.register_forward_hook(lambda *_: self._count("path"))

    def _count(self, name: str) -> None:
        setattr(self, name, getattr(self, name) + 1)


@pytest.fixture
def tuned(here: Path) -> Path:
    base = untrained_network(here / "base.safetensors", [1, 6, 8], periodic=None)
    ase.io.write("frames.xyz", [acetaldehyde(seed) for seed in range(20)])
    tune(base, "frames.xyz", "energy", "tuned.pt", epochs=1)
    return here / "tuned.pt"


def moving(model: LoadedModel, **settings: Any) -> tuple[Atoms, Passes]:
    atoms = acetaldehyde(0)
    atoms.calc = ForceDeltaCalculator(model, **settings)
    return atoms, Passes(model)


@pytest.mark.parametrize(
    ("settings", "exact"),
    [
        ({}, STEPS + 1),
        ({"every": 6}, STEPS // 6 + 1),
        ({"forces": "mts", "inner": 4}, STEPS // 4 + 1),
        ({"every": "adaptive"}, STEPS + 1),  # its estimates need every energy
    ],
)
def test_the_copy_is_evaluated_where_u_is_due(
    tuned: Path, settings: dict[str, Any], exact: int
) -> None:
    model = load_model(tuned)
    passes = Passes(model)
    frames: list[Frame] = []
    guarded_run(
        acetaldehyde(0), model, STEPS, temperature=10, timestep=0.1, seed=1, record_every=1, hooks=[frames.append],
        stop_above=1e3, **settings,
    )  # fmt: skip
    assert passes.base == STEPS + 1
    assert passes.path == exact
    known = [frame.energy_known for frame in frames]
    assert known == [bool(np.isfinite(frame.energy)) for frame in frames]
    assert sum(known) == exact
    assert all(frame.energy_known for frame in frames if frame.force_delta is not None)
    recorded = Trajectory("run.h5")
    assert int(np.isfinite(recorded.series["potential_energy"]).sum()) == exact
    assert [frame.energy_known for frame in recorded.frames()] == known
    assert Digest(recorded).not_finite == ""


def test_the_path_is_that_of_exact_steps(tuned: Path) -> None:
    ends = []
    for every in (1, 6):
        guarded_run(
            acetaldehyde(0), tuned, STEPS, out=f"{every}.h5", temperature=300, seed=1, every=every, record_every=1,
        )  # fmt: skip
        ends.append(Trajectory(f"{every}.h5"))
    exact, direct = ends
    for one, other in zip(exact.frames(), direct.frames(), strict=True):
        assert np.array_equal(one.positions, other.positions)
        assert np.array_equal(one.forces, other.forces)
    energies = [run.series["potential_energy"][::6] for run in ends]
    assert np.array_equal(*energies)


def test_an_energy_that_is_requested_is_computed_and_counts_as_no_step(tuned: Path) -> None:
    model = load_model(tuned)
    atoms, passes = moving(model, every=3)
    wanted, u = [], []
    for _ in range(7):
        atoms.positions[0] += 0.01
        atoms.get_forces()
        u.append("force_delta" in atoms.calc.results)
        wanted.append(atoms.get_potential_energy())
    assert u == [True, False, False, True, False, False, True]
    assert passes.path == 7
    reference = ForceDeltaCalculator(str(tuned))
    copy = acetaldehyde(0)
    copy.calc = reference
    for energy in wanted:
        copy.positions[0] += 0.01
        assert energy == pytest.approx(copy.get_potential_energy(), abs=1e-5)


def test_openmm_omits_the_energy_at_inner_steps_of_a_run(tuned: Path) -> None:
    pytest.importorskip("openmm", reason="needs OpenMM")
    model = load_model(tuned)
    passes = Passes(model)
    frames: list[Frame] = []
    guarded_run(
        acetaldehyde(0), model, STEPS, engine="openmm", ensemble="nve", forces="mts", inner=4, temperature=10,
        timestep=0.1, seed=1, hooks=[frames.append],
    )  # fmt: skip
    assert passes.base == STEPS + 1
    assert passes.path == STEPS // 4 + 1
    assert all(np.isfinite(frame.energy) for frame in frames)


def test_openmm_omits_the_energy_between_exact_evaluations(tuned: Path) -> None:
    pytest.importorskip("openmm", reason="needs OpenMM")
    ends = []
    for every in (1, 6):
        model = load_model(tuned)
        passes = Passes(model)
        guarded_run(
            acetaldehyde(0), model, STEPS, out=f"{every}.h5", engine="openmm", every=every, seed=1, record_every=1,
            stop_above=1e3,
        )  # fmt: skip
        ends.append(Trajectory(f"{every}.h5"))
        assert passes.base == STEPS + 1
        assert passes.path == STEPS // every + 1
    exact, direct = ends
    for one, other in zip(exact.frames(), direct.frames(), strict=True):
        assert np.array_equal(one.positions, other.positions)
        assert np.array_equal(one.forces, other.forces)
        assert other.energy_known == (other.step % 6 == 0)
    energies = [run.series["potential_energy"] for run in ends]
    assert np.array_equal(energies[0][::6], energies[1][::6])
    assert int(np.isfinite(energies[1]).sum()) == STEPS // 6 + 1
    assert Digest(direct).not_finite == ""
