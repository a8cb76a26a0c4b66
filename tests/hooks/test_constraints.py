"""Constraints on the atoms: kept in every file of a run, and given back."""

from __future__ import annotations

import json

import ase.constraints as held
import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from helpers import argon, langevin

from md_hooks import (
    Action,
    FlagStore,
    HookError,
    Recorder,
    RunInfo,
    Trajectory,
    load_checkpoint,
    restore,
    run,
)
from md_hooks.constraints import constraint_records, put_constraints, same_constraints
from md_hooks.extxyz import frame_text
from md_hooks.recalculation import Journal, Label, labelled

ETHANOL = molecule("CH3CH2OH")
ALL = {
    "atoms": lambda: held.FixAtoms([0, 1]),
    "centre": held.FixCom,
    "centre of some": lambda: held.FixSubsetCom([1, 2]),
    "bonds as they are": lambda: held.FixBondLengths([[0, 1], [1, 2]]),
    "bonds": lambda: held.FixBondLengths([[0, 1]], bondlengths=[1.5]),
    "plane": lambda: held.FixedPlane(2, (0, 0, 1)),
    "line": lambda: held.FixedLine([2, 3], (0, 1, 1)),
    "internals": lambda: held.FixInternals(
        bonds=[[1.5, [0, 1]]], angles_deg=[[None, [0, 1, 2]]], dihedrals_deg=[[60.0, [0, 1, 2, 3]]]
    ),
    "combination": lambda: held.FixInternals(bondcombos=[[0.3, [[0, 1, 1.0], [1, 2, -1.0]]]]),
    "spring": lambda: held.Hookean(0, 1, k=5.0, rt=1.2),
    "spring to a point": lambda: held.Hookean(0, (0.0, 0.0, 1.0), k=5.0, rt=0.1),
    "spring to a plane": lambda: held.Hookean(0, (0, 0, 1, 0.5), k=5.0),
    "mode": lambda: held.FixedMode(np.arange(27.0).reshape(9, 3)),
    "triatomic": lambda: held.FixLinearTriatomic([(0, 1, 2)]),
    "cartesian": lambda: held.FixCartesian(0, (True, False, True)),
    "pull": lambda: held.ExternalForce(0, 1, 0.5),
    "relations": lambda: held.FixCartesianParametricRelations.from_expressions(
        [0], ["x"], ["x", "0", "0"]
    ),
}


def forces_under(constraint: object, atoms: Atoms) -> np.ndarray:
    atoms = atoms.copy()
    atoms.set_constraint(constraint)
    forces = np.random.default_rng(1).normal(size=(len(atoms), 3))
    for one in atoms.constraints:
        one.adjust_forces(atoms, forces)
    return forces


@pytest.mark.parametrize("name", ALL)
def test_a_record_makes_a_constraint_that_acts_the_same(name):
    records = json.loads(json.dumps(constraint_records([ALL[name]()])))
    atoms = ETHANOL.copy()
    put_constraints(atoms, records)
    assert "missing_constraints" not in atoms.info
    assert constraint_records(atoms.constraints) == tuple(records)
    np.testing.assert_array_equal(
        forces_under(atoms.constraints, ETHANOL), forces_under(ALL[name](), ETHANOL)
    )


def test_symmetry_comes_back():
    pytest.importorskip("spglib")
    crystal = bulk("Si", cubic=True)
    records = json.loads(json.dumps(constraint_records([held.FixSymmetry(crystal)])))
    atoms = crystal.copy()
    put_constraints(atoms, records)
    np.testing.assert_array_equal(
        forces_under(atoms.constraints, crystal), forces_under(held.FixSymmetry(crystal), crystal)
    )


class OnAShelf:
    """A constraint of the user's own, without todict."""

    def get_removed_dof(self, atoms):
        return 3

    def adjust_positions(self, atoms, new):
        new[0] = atoms.positions[0]

    def adjust_momenta(self, atoms, momenta):
        momenta[0] = 0.0

    def adjust_forces(self, atoms, forces):
        forces[0] = 0.0


class Unwritable(OnAShelf):
    def todict(self):
        return {"name": "Unwritable", "kwargs": {"what": object()}}


class Stranger(OnAShelf):
    def todict(self):
        return {"name": "os.system", "kwargs": {"command": "true"}}


@pytest.mark.parametrize("kind", [OnAShelf, Unwritable, Stranger])
def test_what_cannot_be_kept_is_named(tmp_path, kind, caplog):
    atoms = argon()
    atoms.set_constraint([held.FixAtoms([2]), kind()])
    run(langevin(atoms), 4, [Recorder(tmp_path / "run.h5", every=1)])
    name = "os.system" if kind is Stranger else kind.__name__
    assert f"cannot keep the constraint {name}" in caplog.text
    assert len(caplog.messages) == 1
    read = ase.io.read(tmp_path / "run.h5")
    assert read.info["missing_constraints"] == name
    assert [type(one) for one in read.constraints] == [held.FixAtoms]


def test_every_reader_of_a_run_gives_them_back(tmp_path):
    atoms = argon()
    atoms.set_constraint([held.FixAtoms([0, 3]), held.Hookean(1, 2, k=2.0, rt=3.0)])
    flagged = FlagStore(tmp_path / "flagged.xyz")
    always = lambda frame: Action.FLAG  # noqa: E731
    run(langevin(atoms), 3, [Recorder(tmp_path / "run.h5", every=1), always, flagged])
    expected = constraint_records(atoms.constraints)
    for read in ase.io.read(tmp_path / "run.h5", ":"):
        assert constraint_records(read.constraints) == expected
        # as in other files of ASE: the forces are raw, and get_forces() applies the constraints
        assert np.abs(read.calc.results["forces"][[0, 3]]).min() > 0
        assert not read.get_forces()[[0, 3]].any()
    for frame in Trajectory(tmp_path / "run.h5").frames():
        assert frame.constraints == expected
        np.testing.assert_array_equal(frame.positions[[0, 3]], atoms.positions[[0, 3]])
    for read in ase.io.read(tmp_path / "flagged.xyz", ":"):
        assert list(read.constraints[0].index) == [0, 3]
        assert "Hookean" in read.info["constraints"]


def test_a_restart_with_constraints_equals_no_restart(tmp_path):
    """The bond lengths are those of the first step, to the last bit."""

    def begun():
        atoms = argon()
        atoms.set_constraint([held.FixBondLengths([[0, 1], [2, 3]]), held.FixAtoms([7])])
        return atoms

    whole = tmp_path / "whole.h5"
    run(langevin(begun()), 20, [Recorder(whole, every=1)])
    parts = tmp_path / "parts.h5"
    run(langevin(begun()), 10, [Recorder(parts, every=1)])
    stored = Trajectory(parts).frame(-1)
    continued = begun()
    reference = continued.calc.reference
    continued = ase.io.read(parts)
    continued.calc = begun().calc
    continued.calc.reference = reference
    assert constraint_records(continued.constraints) == stored.constraints
    dynamics = langevin(continued)
    checkpoint = load_checkpoint(parts)
    restore(dynamics, checkpoint)
    info = RunInfo(restart_step=checkpoint.step, restart_time=checkpoint.time)
    run(dynamics, 10, [Recorder(parts, every=1, mode="append")], info)
    a, b = Trajectory(whole).frame(-1), Trajectory(parts).frame(-1)
    assert a.constraints == b.constraints
    np.testing.assert_allclose(a.positions, b.positions, rtol=0, atol=1e-12)


def test_constraints_may_change_between_legs(tmp_path):
    """A layer is held while the rest is heated, and then released."""
    path = tmp_path / "run.h5"
    atoms = argon()
    dynamics = langevin(atoms)
    atoms.set_constraint(held.FixAtoms([0]))
    recorder = Recorder(path, every=1)
    from md_hooks import attach

    with attach(dynamics, [recorder]):
        dynamics.run(3)
        atoms.set_constraint()
        dynamics.run(3)
        atoms.set_constraint(held.FixAtoms([1]))
        dynamics.run(2)
    found = [frame.constraints for frame in Trajectory(path).frames()]
    [first, second] = (constraint_records([held.FixAtoms([i])]) for i in (0, 1))
    assert found == [first] * 4 + [()] * 3 + [second] * 2
    checkpoint = load_checkpoint(path)
    assert checkpoint.step == 8


def test_a_large_frozen_layer_fits(tmp_path):
    """Its indices alone would exceed the 64 kB of HDF5's attributes."""
    atoms = Atoms("Ar20000", positions=np.arange(60000.0).reshape(-1, 3) * 5)
    atoms.set_constraint(held.FixAtoms(np.arange(15000)))
    atoms.calc = LennardJones(epsilon=0.01, sigma=3.4, rc=4.0)
    run(langevin(atoms), 0, [Recorder(tmp_path / "run.h5")])
    assert len(ase.io.read(tmp_path / "run.h5").constraints[0].index) == 15000


def test_a_run_without_constraints_and_an_old_one_are_read_as_before(tmp_path):
    run(langevin(argon()), 2, [Recorder(tmp_path / "free.h5", every=1)])
    assert ase.io.read(tmp_path / "free.h5").constraints == []
    with h5py.File(tmp_path / "free.h5") as file:
        assert "constraints" not in file["parameters"]
    # earlier versions kept those of a run in its settings
    records = constraint_records([held.FixAtoms([4])])
    info = RunInfo(settings={"constraints": records})
    run(langevin(argon()), 2, [Recorder(tmp_path / "old.h5", every=1)], info)
    assert list(ase.io.read(tmp_path / "old.h5").constraints[0].index) == [4]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"[0, 3]", b"[0, 2]"),
        lambda text: text.replace(b'"step": 0', b'"step": 1'),
        lambda text: text[:-9],
        lambda text: b"[" * 100_000,
        lambda text: b"\xff" * len(text),
        lambda text: b'{"step": 0, "checksum": 1, "constraints": 5}\n',
        lambda text: b"",
    ],
)
def test_damaged_constraints_are_refused_in_one_line(tmp_path, change):
    path = tmp_path / "run.h5"
    atoms = argon()
    atoms.set_constraint(held.FixAtoms([0, 3]))
    run(langevin(atoms), 2, [Recorder(path, every=1)])
    with h5py.File(path, "r+") as file:
        lines = file["parameters/constraints"][()].tobytes()
        del file["parameters/constraints"]
        changed = change(lines)
        assert changed != lines
        file["parameters/constraints"] = np.frombuffer(changed, dtype="u1")
    for read in (ase.io.read, Trajectory, lambda at: Recorder(at, mode="append").open(RunInfo())):
        with pytest.raises(HookError, match="constraints") as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert "use a complete copy" in str(caught.value)


def test_labels_of_held_atoms_are_raw_and_the_structure_keeps_its_constraints(tmp_path):
    atoms = argon()
    atoms.set_constraint([held.FixAtoms([0]), held.FixBondLengths([[1, 2]], bondlengths=[3.7])])
    journal = Journal(tmp_path / "j", "reference")
    key = journal.add_frame(atoms)
    journal.close()
    reread = Journal(tmp_path / "j")
    reread.close()
    frame = reread.frames[key]
    assert constraint_records(frame.constraints) == constraint_records(atoms.constraints)
    forces = np.random.default_rng(1).normal(size=(8, 3))
    found = labelled(frame, Label(-1.0, forces, None, 1.0), "reference")
    (tmp_path / "labelled.xyz").write_bytes(frame_text(found))
    read = ase.io.read(tmp_path / "labelled.xyz")
    assert list(read.constraints[0].index) == [0]
    assert "3.7" in read.info["constraints"]
    np.testing.assert_allclose(read.get_forces(apply_constraint=False), forces, atol=1e-8)


def test_open_values_agree_with_any():
    begun = constraint_records([held.FixBondLengths([[0, 1]])])
    later = constraint_records([held.FixBondLengths([[0, 1]], bondlengths=[1.5])])
    other = constraint_records([held.FixBondLengths([[0, 2]], bondlengths=[1.5])])
    longer = constraint_records([held.FixBondLengths([[0, 1]], bondlengths=[1.6])])
    assert same_constraints(begun, later)
    assert not same_constraints(other, later)
    assert not same_constraints(longer, later)
    assert not same_constraints((), later)


@pytest.mark.slow
def test_a_flipped_bit_frees_no_atom(tmp_path):
    """Wherever the constraints are damaged: a clear error, or exactly what was recorded."""
    path, spoilt = tmp_path / "run.h5", tmp_path / "spoilt.h5"
    atoms = argon()
    atoms.set_constraint(held.FixAtoms([0, 3]))
    run(langevin(atoms), 2, [Recorder(path, every=1)])
    expected = [frame.constraints for frame in Trajectory(path).frames()]
    data = path.read_bytes()
    refused = 0
    at = data.index(b'{"step": 0, "checksum"')
    places = range(at, at + 120, 3)
    for place in [*places, data.index(b"constraints\0"), data.index(b"constraints\0") + 5]:
        flipped = bytearray(data)
        flipped[place] ^= 4
        spoilt.write_bytes(flipped)
        try:
            found = [frame.constraints for frame in Trajectory(spoilt).frames()]
        except HookError as error:
            refused += "\n" not in str(error)
        else:
            assert found == expected
    assert refused > 30
