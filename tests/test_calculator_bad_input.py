"""The ASE calculator on bad input, and in runs that go bad."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from systems import (
    DIRECT_KEYS,
    KEYS,
    acetaldehyde,
    calculator,
    calm_network,
    slab,
    small_crystal,
    with_calculator,
)

from forcedelta import ForceDelta, ForceDeltaError, LoadedModel, load_model
from forcedelta.ase import ForceDeltaCalculator

pytestmark = pytest.mark.usefixtures("silent")


def limited(periodic: bool | None) -> LoadedModel:
    return replace(load_model(ForceDelta(calm_network())), periodic=periodic, name="toy")


def spoilt(atoms: Atoms, value: float) -> Atoms:
    atoms.positions[2, 1] = value
    return atoms


@pytest.mark.parametrize(
    ("atoms", "periodic", "message"),
    [
        (Atoms(), None, "the structure is empty"),
        (Atoms("NO", [[0, 0, 0], [0, 0, 1.2]]), None, "does not support N"),
        (spoilt(acetaldehyde(), np.nan), None, "position of atom 2"),
        (spoilt(acetaldehyde(), np.inf), None, "position of atom 2"),
        (Atoms("Si", pbc=True), True, "cell vectors of periodic directions are missing"),
        (small_crystal(), False, "made for molecules"),
        (slab(), True, "periodic in three directions, not in 2"),
    ],
    ids=str,
)
def test_bad_structures(atoms: Atoms, periodic: bool | None, message: str) -> None:
    atoms = atoms.copy()
    atoms.calc = ForceDeltaCalculator(limited(periodic))
    for _ in range(2):
        with pytest.raises(ForceDeltaError, match=message) as caught:
            atoms.get_forces()
        assert "\n" not in str(caught.value)
    assert atoms.calc.evaluations == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forces": "both"}, "forces must be 'direct', 'conservative' or 'mts', not 'both'"),
        ({"dtype": "float16"}, "dtype must be 'float32' or 'float64'"),
        ({"device": "gpu"}, "device 'gpu' cannot be used here"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here .* try 'cpu'"),
    ],
)
def test_bad_arguments(options: dict[str, str], message: str) -> None:
    with pytest.raises(ForceDeltaError, match=message) as caught:
        ForceDeltaCalculator(ForceDelta(calm_network()), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e20])
def test_run_whose_positions_are_lost_gives_nan(value: float) -> None:
    """For a guard to stop on, with the frame on disk; an exception would end it elsewhere."""
    atoms = with_calculator(small_crystal())
    atoms.get_forces()
    assert atoms.calc.problem is None
    good = atoms.positions.copy()
    atoms.positions[1, 2] = value
    assert np.isnan(atoms.get_potential_energy())
    results = atoms.calc.results
    assert set(results) == KEYS | {"stress"}
    assert np.isnan(results["force_delta"])
    for key in ("forces", "direct_forces", "conservative_forces"):
        assert results[key].shape == (2, 3)
        assert np.isnan(results[key]).all()
    assert "position of atom 1" in atoms.calc.problem
    atoms.positions = good
    assert np.isfinite(atoms.get_forces()).all()
    assert atoms.calc.problem is None
    assert atoms.calc.evaluations == 2


def test_cell_that_collapses_within_a_run_gives_nan() -> None:
    atoms = with_calculator(small_crystal())
    atoms.get_stress()
    atoms.set_cell(atoms.cell * 0.05, scale_atoms=True)
    assert np.isnan(atoms.get_stress()).all()
    assert "an unphysical density" in atoms.calc.problem


def test_lost_positions_between_exact_steps() -> None:
    atoms = with_calculator(acetaldehyde(), every=2)
    atoms.get_forces()
    atoms.positions[0] = np.nan
    assert np.isnan(atoms.get_forces()).all()
    assert set(atoms.calc.results) == DIRECT_KEYS


def test_atoms_on_top_of_each_other_give_numbers() -> None:
    """As happens in a run that explodes; the start of a run is checked elsewhere."""
    atoms = with_calculator(acetaldehyde())
    atoms.positions[1] = atoms.positions[0]
    assert np.isfinite(atoms.get_forces()).all()
    assert np.isfinite(atoms.calc.results["force_delta"])


def test_far_from_the_origin_float32_loses_nothing() -> None:
    atoms = acetaldehyde()
    near = with_calculator(atoms.copy())
    atoms.positions += 1e5
    far = with_calculator(atoms)
    assert np.allclose(near.get_forces(), far.get_forces(), atol=1e-6)


def test_one_calculator_for_several_structures() -> None:
    calc = calculator()
    structures = [acetaldehyde(), small_crystal(), acetaldehyde(1), small_crystal(1)]
    expected = [with_calculator(atoms.copy()).get_forces() for atoms in structures]
    for _ in range(2):
        for atoms, forces in zip(structures, expected, strict=True):
            atoms.calc = calc
            assert np.array_equal(atoms.get_forces(), forces)
            assert ("stress" in calc.results) == bool(atoms.pbc.all())
