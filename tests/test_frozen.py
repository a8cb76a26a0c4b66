"""`forcedelta.ase.frozen`: U, u_i and both forces in the files of ASE."""

from __future__ import annotations

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixAtoms
from systems import acetaldehyde, small_crystal, small_network

from forcedelta import LoadedModel
from forcedelta.ase import ForceDeltaCalculator, frozen
from md_hooks import HookError, Recorder, attach

ARRAYS = ("force_deltas", "direct_forces", "conservative_forces")


def guarded(atoms: Atoms, **settings: object) -> Atoms:
    network = small_network()
    model = LoadedModel(network, "small", "1234", None, network.cutoff, None, "none")
    atoms.calc = ForceDeltaCalculator(model, dtype="float64", **settings)
    return atoms


def assert_same(found: Atoms, atoms: Atoms, atol: float = 0.0) -> None:
    """The structure has what its calculator predicted."""
    results = atoms.calc.results
    assert found.info["force_delta"] == pytest.approx(results["force_delta"], abs=0)
    assert found.info["worst_atom"] == results["force_deltas"].argmax()
    assert found.info["model"] == "small"
    assert found.info["weights_hash"] == "hash:1234"
    for name in ARRAYS:
        np.testing.assert_allclose(found.arrays[name], results[name], 0, atol)
    raw = found.get_forces(apply_constraint=False)
    np.testing.assert_allclose(raw, results["forces"], 0, atol)
    assert found.get_potential_energy() == pytest.approx(results["energy"], abs=atol)
    if "stress" in results:
        np.testing.assert_allclose(found.get_stress(), results["stress"], 0, max(atol, 1e-12))
    u = np.sqrt(np.mean((found.arrays["direct_forces"] - found.arrays["conservative_forces"]) ** 2))
    assert u == pytest.approx(found.info["force_delta"], abs=1e-7)


@pytest.mark.parametrize("structure", [acetaldehyde, small_crystal])
@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_results_are_frozen_without_an_evaluation(structure, forces):
    atoms = guarded(structure(), forces=forces)
    atoms.get_forces()
    atoms.set_constraint(FixAtoms([0]))
    found = frozen(atoms)
    assert atoms.calc.evaluations == 1
    assert_same(found, atoms)
    found.positions += 1.0
    assert atoms.calc.evaluations == 1


def test_moved_atoms_are_evaluated_once():
    atoms = guarded(acetaldehyde())
    first = frozen(atoms)
    assert atoms.calc.evaluations == 1
    atoms.rattle(0.05, seed=3)
    second = frozen(atoms)
    assert atoms.calc.evaluations == 2
    assert_same(second, atoms)
    assert first.info["force_delta"] != second.info["force_delta"]


@pytest.mark.parametrize("structure", [acetaldehyde, small_crystal])
def test_every_file_of_ase_gives_them_back(tmp_path, structure):
    atoms = guarded(structure())
    held = frozen(atoms)
    for name, atol in (("f.xyz", 1e-8), ("f.traj", 0.0), ("f.db", 0.0), ("f.json", 0.0)):
        path = tmp_path / name
        ase.io.write(path, [held, held])
        read = ase.io.read(path, ":")
        assert len(read) == 2
        assert_raw(read[1], atoms, atol)
        if name.endswith("xyz"):
            assert_same(read[1], atoms, atol)
        if name.endswith(("xyz", "traj")):
            assert read[0].info["force_delta"] == held.info["force_delta"]
            assert_same(frozen(read[1]), atoms, atol)
        else:
            with ase.db.connect(path) as database:
                assert_same(frozen(database.get(id=2)), atoms, atol)
                assert database.get(id=1).calculator == "forcedelta"
    assert atoms.calc.evaluations == 1


def assert_raw(read: Atoms, atoms: Atoms, atol: float) -> None:
    results = atoms.calc.results
    np.testing.assert_allclose(read.calc.results["forces"], results["forces"], 0, atol)
    assert read.calc.results["energy"] == pytest.approx(results["energy"], abs=atol)


def test_a_database_is_searched_by_u(tmp_path):
    atoms = guarded(acetaldehyde())
    with ase.db.connect(tmp_path / "f.db") as database:
        for seed in range(3):
            atoms.rattle(0.05, seed=seed)
            held = frozen(atoms)
            database.write(held, force_delta=held.info["force_delta"])
        u = sorted(row.force_delta for row in database.select())
        [row] = database.select(f"force_delta>{u[1]}")
        assert frozen(row).info["force_delta"] == u[2]


def test_a_recorded_frame_is_frozen_with_what_the_run_knew(tmp_path):
    atoms = guarded(acetaldehyde())
    from ase import units
    from ase.md.verlet import VelocityVerlet

    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    predicted = {"predicted_error": 0.3, "predicted_error_low": 0.1, "predicted_error_high": 0.9}

    class Predicts:
        def annotate(self, frame):
            return predicted

        def annotate_atoms(self, frame):
            unknown = np.where(frame.numbers == 8, np.nan, frame.force_deltas)
            return {"predicted_errors": 2 * unknown, "predicted_errors_low": unknown}

        def observe(self, frame, verdict):
            pass

    with attach(dynamics, [Predicts(), Recorder(tmp_path / "run.h5", every=1)]):
        dynamics.run(1)
    held = frozen(ase.io.read(tmp_path / "run.h5"))
    ase.io.write(tmp_path / "f.traj", held)
    back = frozen(ase.io.read(tmp_path / "f.traj"))
    for name, value in predicted.items():
        assert back.info[name] == value
    np.testing.assert_allclose(
        back.arrays["force_deltas"], atoms.calc.results["force_deltas"], 1e-6
    )
    for name, scale in (("predicted_errors", 2), ("predicted_errors_low", 1)):
        expected = np.where(back.numbers == 8, np.nan, scale * back.arrays["force_deltas"])
        np.testing.assert_array_equal(back.arrays[name], expected)
    assert "predicted_errors_high" not in back.arrays
    assert back.info["step"] == 1
    back.calc = atoms.calc
    assert not [name for name in frozen(back).arrays if name.startswith("predicted_errors")]


def test_an_evaluation_without_u_has_none_and_no_old_one():
    atoms = guarded(acetaldehyde(), every=2)
    held = frozen(atoms)
    held.calc = atoms.calc
    held.rattle(0.05, seed=1)
    found = frozen(held)
    assert atoms.calc.evaluations == 2
    assert "force_delta" not in found.info
    assert not set(ARRAYS[::2]) & set(found.arrays)
    np.testing.assert_array_equal(
        found.arrays["direct_forces"], atoms.calc.results["direct_forces"]
    )


def test_the_model_inside_of_a_sum():
    atoms = guarded(acetaldehyde())
    inner = atoms.calc
    atoms.calc = SumCalculator([inner, EMT()])
    found = frozen(atoms)
    assert inner.evaluations == 1
    assert found.info["force_delta"] == inner.results["force_delta"]
    assert found.get_potential_energy() == pytest.approx(atoms.calc.results["energy"], abs=1e-12)


def test_bad_input_is_told_in_one_line():
    with pytest.raises(HookError, match="frozen\\(\\) got str: pass a structure"):
        frozen("molecule.xyz")
    with pytest.raises(HookError, match="has no calculator and no results"):
        frozen(acetaldehyde())
    held = frozen(guarded(acetaldehyde()))
    held.positions[0] += 0.1
    with pytest.raises(HookError, match="of other positions"):
        frozen(held)
