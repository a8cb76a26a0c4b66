"""EquiformerV2 in guarded molecular dynamics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from eqv2_files import write_checkpoint
from systems import acetaldehyde

import md_hooks
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.models.eqv2.catalogue import FAMILY
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.registry import load_model
from md_hooks import FlagStore, Guard, Recorder

if FAMILY.problem():
    pytest.skip(f"EquiformerV2: {FAMILY.problem()}", allow_module_level=True)

STEPS = 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = tmp_path_factory.mktemp("eqv2") / "small.pt"
    write_checkpoint(path)
    return load_model(path, torch.float32, architecture="eqV2")


def langevin(model: LoadedModel, atoms: Atoms) -> Langevin:
    atoms.calc = ForceDeltaCalculator(model)
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(1))
    return Langevin(
        atoms,
        0.5 * units.fs,
        temperature_K=300,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=np.random.RandomState(2),
    )


@pytest.mark.parametrize("make", [acetaldehyde, lambda: bulk("Si", cubic=True)])
def test_twenty_guarded_steps(model: LoadedModel, tmp_path: Path, make: object) -> None:
    dynamics = langevin(model, make())
    hooks = [Guard(stop_above=1e3), Recorder(tmp_path / "run.h5"), FlagStore(tmp_path / "f.xyz")]
    result = md_hooks.run(dynamics, STEPS, hooks)
    assert result.reason == "finished"
    assert dynamics.atoms.calc.evaluations == STEPS + 1
    assert dynamics.atoms.calc.results["force_delta"] > 0.01


def test_the_guard_stops_where_u_is_too_large(model: LoadedModel) -> None:
    dynamics = langevin(model, bulk("Si", cubic=True))
    result = md_hooks.run(dynamics, STEPS, [Guard(stop_above=0.01)])
    assert result.step < STEPS


def test_a_run_draws_the_random_numbers_that_it_would_with_another_model(
    model: LoadedModel,
) -> None:
    """numpy's are the thermostat's in ASE; torch's are another engine's."""
    dynamics = langevin(model, acetaldehyde())
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(4), np.random.random(4)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    dynamics.run(3)
    assert torch.equal(torch.rand(4), expected[0])
    assert np.array_equal(np.random.random(4), expected[1])  # noqa: NPY002


def test_a_run_repeats_itself(model: LoadedModel) -> None:
    first, second = (langevin(model, acetaldehyde()) for _ in range(2))
    first.run(5)
    second.run(5)
    assert np.array_equal(first.atoms.positions, second.atoms.positions)
