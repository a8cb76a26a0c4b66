"""Constraints of a structure, from the file of a run to the next run, its restart and its labels."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms, FixBondLengths, FixCom, FixedPlane, FixInternals

from forcedelta import ForceDeltaError, guarded_run
from forcedelta.labelling.label_frames import label
from forcedelta.structures import read_structures
from md_hooks import Trajectory
from md_hooks.constraints import constraint_records


def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.02, seed=1)
    return atoms


HELD = {
    "atoms": lambda: [FixAtoms([0])],
    "centre of mass": lambda: [FixCom()],
    "bonds": lambda: [FixBondLengths([[0, 1], [0, 2]])],
    "plane": lambda: [FixedPlane([1, 2], (1, 1, 0))],
    "angle": lambda: [FixInternals(angles_deg=[[None, [1, 0, 2]]])],
}


def same_run(a: str, b: str, rtol: float) -> None:
    first, second = Trajectory(a), Trajectory(b)
    for name in first.series:
        np.testing.assert_allclose(first.series[name], second.series[name], rtol, err_msg=name)
    one, other = first.frame(-1), second.frame(-1)
    assert one.constraints == other.constraints
    for name in ("positions", "velocities"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol, rtol)


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("given", [True, False])
def test_a_restart_holds_the_same_with_and_without_the_structure(here, files, name, given):
    def begin() -> Atoms:
        atoms = water()
        atoms.set_constraint(HELD[name]())
        return atoms

    model = files / "wet.safetensors"
    guarded_run(begin(), model, 12, out="whole.h5", seed=1)
    guarded_run(begin(), model, 6, out="run.h5", seed=1)
    guarded_run(begin() if given else None, model, 12, out="run.h5", restart=True)
    # ASE tells angles in degrees and holds them in radians
    same_run("whole.h5", "run.h5", rtol=1e-9 if name == "angle" else 0.0)


def test_a_new_run_and_an_audit_of_a_recorded_one_hold_its_atoms(forcedelta, files):
    atoms = water()
    atoms.set_constraint([FixAtoms([0]), FixBondLengths([[1, 2]], bondlengths=[1.5])])
    atoms.positions[2] = atoms.positions[1] + [0, 1.5, 0]
    atoms.write("held.traj")
    model = files / "wet.safetensors"
    assert forcedelta("run", "held.traj", "--model", model, "--steps", 5, "--out", "old.h5")[0] == 0
    code, _, err = forcedelta("run", "old.h5", "--model", model, "--steps", 20)
    assert code == 0, err
    old, new = Trajectory("old.h5").frame(-1), Trajectory("run.h5").frame(-1)
    assert old.constraints == new.constraints
    np.testing.assert_array_equal(old.positions[0], new.positions[0])
    assert np.linalg.norm(new.positions[2] - new.positions[1]) == pytest.approx(1.5, abs=1e-9)
    assert np.abs(new.positions[1:] - old.positions[1:]).max() > 1e-4
    code, _, err = forcedelta("audit", "run.h5", "--model", model, "--out", "audit.h5")
    assert code == 0, err
    assert Trajectory("audit.h5").frame(0).constraints == old.constraints


def test_what_no_file_keeps_needs_the_structure_again(forcedelta, files):
    atoms = water()
    atoms.set_constraint(OnAShelf())
    model = str(files / "wet.safetensors")
    guarded_run(atoms, model, 4, out="run.h5", seed=1)
    code, _, err = forcedelta("run", "--restart", "--steps", 8)
    assert code == 2
    assert "the constraint OnAShelf, which no file keeps" in err
    assert err.count("\n") == 1
    guarded_run(atoms, model, 8, out="run.h5", restart=True)
    frames = list(Trajectory("run.h5").frames())
    np.testing.assert_array_equal(frames[0].positions[0], frames[-1].positions[0])
    with pytest.raises(ForceDeltaError, match="other constraints"):
        guarded_run(water(), model, 9, out="run.h5", restart=True)
    code, _, err = forcedelta("run", "run.h5", "--model", model, "--steps", 2, "--out", "new.h5")
    assert code == 0
    assert "warning: run.h5 has lost the constraint OnAShelf" in err


class OnAShelf(FixAtoms):
    """A constraint of the user's own, which nothing but its program can make."""

    def __init__(self) -> None:
        super().__init__([0])

    def todict(self) -> dict[str, object]:
        raise NotImplementedError


@pytest.mark.parametrize("source", ["run.h5", "flagged.xyz"])
def test_labels_are_raw_and_keep_the_constraints(here, files, source):
    atoms = water()
    atoms.set_constraint([FixAtoms([0]), FixedPlane([1], (0, 0, 1))])
    guarded_run(
        atoms, files / "wet.safetensors", 30, out="run.h5", seed=1, flags="flagged.xyz",
        flag_above=0.0, record_every=5,
    )  # fmt: skip
    calculator = "ase.calculators.lj:LennardJones"
    result = label(
        source,
        calculator,
        settings={"rc": 5.0},
        select=2,
        flag_above=0.0,
        stop_above=9.0,
        spacing=1.0,
        by="u",
    )
    assert result.counts == (2, 0, 0)
    for labelled in ase.io.read("labelled.xyz", ":"):
        raw = labelled.get_forces()  # as programs call it that train
        assert np.abs(raw[0]).max() > 1e-3
        free = labelled.copy()
        free.set_constraint()
        free.calc = _lennard_jones()
        np.testing.assert_allclose(raw, free.get_forces(), rtol=1e-6, atol=1e-6)
        difference = labelled.arrays["direct_forces"] - raw
        assert labelled.info["epsilon"] == pytest.approx(np.sqrt(np.mean(difference**2)), rel=1e-5)
    for frame in [*result.frames, *read_structures("labelled.xyz@:")]:
        assert constraint_records(frame.constraints) == constraint_records(atoms.constraints)


def _lennard_jones():
    from ase.calculators.lj import LennardJones

    return LennardJones(rc=5.0)


def test_openmm_holds_atoms_and_tells_the_file(here, files: Path):
    pytest.importorskip("openmm")
    atoms = water()
    atoms.set_constraint(FixAtoms([0]))
    model = files / "wet.safetensors"
    guarded_run(atoms, model, 6, out="run.h5", seed=1, engine="openmm")
    guarded_run(None, model, 12, out="run.h5", restart=True)
    last = Trajectory("run.h5").frame(-1)
    assert last.constraints == constraint_records(atoms.constraints)
    np.testing.assert_allclose(last.positions[0], atoms.positions[0], rtol=0, atol=1e-12)
    assert list(ase.io.read("run.h5").constraints[0].index) == [0]
    atoms.set_constraint(FixBondLengths([[0, 1]]))
    with pytest.raises(ForceDeltaError, match="OpenMM does not support the structure's FixBond"):
        guarded_run(atoms, model, 6, out="other.h5", engine="openmm")
