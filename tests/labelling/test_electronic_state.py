"""Charge, multiplicity and magnetic moments on their way from a structure to its label."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.verlet import VelocityVerlet
from references import Spring

from md_hooks import Action, HookError, Recorder, Trajectory, Verdict, run
from md_hooks.electronic_state import ElectronicState, whole
from md_hooks.recalculation import Journal, RecalculationQueue, key_of

pytest.importorskip("tblite")

BAND = ["--flag-above", "1e-6", "--stop-above", "500"]
RUN = [*BAND, "--model", "acac", "--temperature", "10", "--seed", "1", "--record-every", "2"]


def hydronium() -> Atoms:
    """H3O+, a closed shell as a cation; with moments, for those to be seen again."""
    atoms = Atoms("OH3", [[0, 0, 0.1], [0.9, 0, 0], [-0.45, 0.8, 0], [-0.45, -0.8, 0]])
    atoms.info.update(charge=1, spin=1)
    atoms.set_initial_magnetic_moments([0.5, 0.0, -0.25, 0.0])
    return atoms


@pytest.fixture
def cation(tmp_path):
    ase.io.write(tmp_path / "h3o.xyz", hydronium())
    return tmp_path / "h3o.xyz"


def state(atoms):
    known = ElectronicState.of(atoms)
    moments = known.magnetic_moments
    return known.charge, known.spin, None if moments is None else moments.tolist()


THEIRS = (1, 1, [0.5, 0.0, -0.25, 0.0])


@pytest.mark.parametrize("engine", ["ase", "openmm"])
def test_from_the_structure_to_the_label_on_every_way(forcedelta, cation, engine):
    from tblite.ase import TBLite

    if engine == "openmm":
        pytest.importorskip("openmm")
    code, _, err = forcedelta(
        "run", cation, *RUN, "--steps", 4, "--engine", engine, "--out", "run.h5",
        "--flags", "flags.xyz",
    )  # fmt: skip
    assert code == 0, err
    assert state(ase.io.read("run.h5")) == THEIRS
    assert state(ase.io.read("flags.xyz")) == THEIRS
    assert forcedelta("audit", "run.h5", "--model", "acac", *BAND, "--out", "audit.h5")[0] == 0
    assert forcedelta("audit", "flags.xyz", "--model", "acac", *BAND, "--out", "again.h5")[0] == 0
    sources = ("run.h5", "flags.xyz", "audit.h5", "again.h5")
    for source in sources if engine == "ase" else sources[:1]:
        out = f"{source}.labelled.xyz"
        code, _, err = forcedelta(
            "recalc", source, "--calculator", "tblite", "--select", 1, *BAND, "--out", out
        )
        assert code == 0, err
        atoms = ase.io.read(out)
        assert state(atoms) == THEIRS
        right = atoms.copy()
        right.calc = TBLite(method="GFN2-xTB", charge=1, multiplicity=1, verbosity=0)
        np.testing.assert_allclose(atoms.get_forces(), right.get_forces(), atol=1e-4)
        neutral = atoms.copy()
        neutral.calc = TBLite(method="GFN2-xTB", charge=0, multiplicity=2, verbosity=0)
        assert np.abs(atoms.get_forces() - neutral.get_forces()).max() > 1.0


def test_a_continued_run_keeps_them(forcedelta, cation):
    assert forcedelta("run", cation, *RUN, "--steps", 2, "--out", "run.h5")[0] == 0
    for structure in ([], [cation]):
        steps = 4 + 2 * len(structure)
        code, _, err = forcedelta(
            "run", *structure, "--restart", "--steps", steps, "--out", "run.h5"
        )
        assert code == 0, err
    for frame in Trajectory("run.h5").frames():
        assert (frame.charge, frame.spin) == (1, 1)
        assert frame.magnetic_moments.tolist() == THEIRS[2]


def test_runs_without_them_store_nothing(forcedelta, tmp_path):
    atoms = hydronium()
    atoms.info.clear()
    atoms.set_initial_magnetic_moments(None)
    ase.io.write(tmp_path / "bare.xyz", atoms)
    assert forcedelta("run", "bare.xyz", *RUN, "--steps", 2, "--out", "run.h5")[0] == 0
    assert state(ase.io.read("run.h5")) == (None, None, None)
    frame = Trajectory("run.h5").frame(0)
    assert frame.charge is frame.spin is frame.magnetic_moments is None


def test_a_foreign_file_has_a_charge_for_each_frame(forcedelta, tmp_path):
    frames = [hydronium() for _ in range(4)]
    frames[1].info.update(charge=-1, spin=3)
    frames[2].info.update(charge="a lot")
    frames[3].info.clear()
    frames[3].set_initial_magnetic_moments(None)
    for shift, atoms in enumerate(frames):
        atoms.rattle(0.02, seed=shift)
    # in another file, where the moments of a finished calculation are told
    found = frames[3].copy()
    found.calc = SinglePointCalculator(found, energy=0.0, magmoms=[1.0, 0.0, 0.0, 0.0])
    ase.io.write(tmp_path / "foreign.xyz", frames)
    ase.io.write(tmp_path / "computed.xyz", found)
    assert forcedelta("audit", "foreign.xyz", "--model", "acac", *BAND, "--out", "a.h5")[0] == 0
    assert forcedelta("audit", "computed.xyz", "--model", "acac", *BAND, "--out", "b.h5")[0] == 0
    audited = Trajectory("a.h5")
    assert [frame.charge for frame in audited.frames()] == [1, -1, None, None]
    assert [frame.spin for frame in audited.frames()] == [1, 3, 1, None]
    assert audited.frame(2).magnetic_moments.tolist() == THEIRS[2]  # what can be used is kept
    (remark,) = [found for found in audited.remarks() if found.kind == "charge and spin"]
    assert remark.frame == 2
    assert "must be a whole number of e, not 'a lot'" in remark.text
    assert Trajectory("b.h5").frame(0).magnetic_moments.tolist() == [1.0, 0.0, 0.0, 0.0]


def test_flags_go_before_what_frames_say_and_that_is_told(forcedelta, cation):
    assert forcedelta("run", cation, *RUN, "--steps", 2, "--out", "run.h5")[0] == 0
    code, out, _ = forcedelta(
        "recalc", "run.h5", "--calculator", "tblite", "--select", 1, *BAND, "--charge", -1,
        "--spin", 1, "--json",
    )  # fmt: skip
    assert code == 0
    assert (
        "1 of 1 frames have charge 1 and are labelled with --charge -1"
        in json.loads(out)["warnings"]
    )
    (told,) = json.loads(out)["frames"]
    assert (told["charge"], told["spin"]) == (-1, 1)
    assert state(ase.io.read("labelled.xyz"))[:2] == (-1, 1)
    code, _, err = forcedelta(
        "recalc", "run.h5", "--calculator", "tblite", "--select", 1, *BAND, "--charge", 0
    )
    assert code == 2  # the multiplicity of the frame is left, and 11 electrons are no singlet
    assert "11 electrons, which cannot have the multiplicity 1" in err


def test_a_queue_labels_what_the_structure_is(tmp_path):
    atoms = Atoms("Cu2", [[0, 0, 0], [2.5, 0, 0]])
    atoms.info.update(charge=-1, spin=2)
    atoms.set_initial_magnetic_moments([1.0, -1.0])
    atoms.calc = EMT()
    atoms.calc.calculate(atoms)

    class Flag:
        """Flags every frame."""

        def __call__(self, frame):
            return Verdict(Action.FLAG, "wanted")

    with ThreadPoolExecutor(1) as executor:
        queue = RecalculationQueue(
            tmp_path / "labelled.xyz", Spring(), 1, executor=executor, spacing=0.0
        )
        run(VelocityVerlet(atoms, 1.0), 2, [Flag(), queue, Recorder(tmp_path / "run.h5")])
    assert state(ase.io.read(tmp_path / "labelled.xyz")) == (-1, 2, [1.0, -1.0])
    journal = Journal(tmp_path / "labelled.xyz.journal")
    journal.close()
    (queued,) = journal.frames.values()
    assert state(queued) == (-1, 2, [1.0, -1.0])


def test_the_identity_of_a_job_has_charge_spin_and_moments():
    atoms = hydronium()
    keys = {key_of(atoms)}
    for change in ({"charge": 0, "spin": 2}, {"charge": 1, "spin": 3}):
        atoms.info.update(change)
        keys.add(key_of(atoms))
    atoms.set_initial_magnetic_moments([-0.5, 0.0, 0.25, 0.0])
    keys.add(key_of(atoms))
    assert len(keys) == 4
    bare = hydronium()
    bare.info.clear()
    bare.set_initial_magnetic_moments(None)
    told = bare.copy()
    told.info["charge"] = 0
    told.set_initial_magnetic_moments([0.0] * 4)
    assert key_of(bare) == key_of(told)  # labels of earlier versions are found again


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1), (-2.0, -2), ("3", 3), (np.int64(1), 1), (0.5, None), ("a", None), (np.nan, None),
     (None, None), ([1, 2], None), (np.inf, None)],
)  # fmt: skip
def test_whole_numbers(value, number):
    assert whole(value) == number


def test_what_a_structure_says():
    atoms = Atoms("NaCl", [[0, 0, 0], [2.4, 0, 0]])
    assert state(atoms) == (None, None, None)
    atoms.set_initial_charges([1.0, 0.0])  # ASE's convention
    assert state(atoms)[0] == 1
    atoms.set_initial_charges([0.7, -0.4])  # of a part of a system
    assert state(atoms)[0] is None
    for wrong in ({"charge": 0.5}, {"spin": 0}, {"spin": "x"}):
        atoms.info = wrong
        with pytest.raises(HookError, match="must be a whole number"):
            ElectronicState.of(atoms)
    atoms.info.clear()
    atoms.set_initial_magnetic_moments(np.ones((2, 3)))
    with pytest.raises(HookError, match="only collinear ones"):
        ElectronicState.of(atoms)


def test_an_unusable_charge_ends_a_run_before_it_begins(forcedelta, cation, tmp_path):
    atoms = hydronium()
    atoms.info["charge"] = 0.5
    ase.io.write(tmp_path / "half.xyz", atoms)
    code, _, err = forcedelta("run", "half.xyz", *RUN, "--steps", 2, "--out", "run.h5")
    assert code == 2
    assert "must be a whole number of e, not '0.5'" in err
    assert not (tmp_path / "run.h5").exists()


def test_an_unusable_charge_in_a_file_of_frames_names_the_frame(forcedelta, tmp_path):
    frames = [hydronium(), hydronium()]
    frames[1].info["spin"] = "triplet"
    ase.io.write(tmp_path / "frames.xyz", frames)
    code, _, err = forcedelta("recalc", "frames.xyz", "--calculator", "tblite", *BAND)
    assert code == 2
    assert "frames.xyz, frame 1 (counted from 0): the spin multiplicity must be a whole" in err


def test_a_simulation_of_openmm_has_the_charge_of_its_force():
    openmm = pytest.importorskip("openmm")
    from openmm import app

    from forcedelta.openmm import add_force_delta
    from forcedelta.openmm import run as run_openmm

    atoms = hydronium()
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    monitor = add_force_delta(system, "acac", atoms.numbers.tolist(), charge=1, spin=1)
    topology = app.Topology()
    residue = topology.addResidue("ION", topology.addChain())
    for number in atoms.numbers:
        element = app.Element.getByAtomicNumber(int(number))
        topology.addAtom(element.symbol, element, residue)
    simulation = app.Simulation(
        topology, system, openmm.VerletIntegrator(0.0005),
        openmm.Platform.getPlatformByName("Reference"),
    )  # fmt: skip
    simulation.context.setPositions(atoms.positions / 10)
    frames = []
    run_openmm(simulation, 1, [lambda frame: frames.append(frame)])
    assert [(frame.charge, frame.spin) for frame in frames] == [(1, 1)] * 2
    text = openmm.XmlSerializer.serialize(system)  # the force and what it says survive a file
    again = openmm.XmlSerializer.deserialize(text)
    assert again.getNumForces() == system.getNumForces()
    assert monitor.electronic_state.charge == 1
