"""Labels of parts of a System: in the field of the charges around them, or in vacuum and said so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule

from forcedelta.cli import status
from forcedelta.errors import ForceDeltaError
from forcedelta.labelling import reference
from forcedelta.labelling.label_frames import label
from forcedelta.labelling.level_of_theory import difference
from md_hooks import (
    Environment,
    FlagStore,
    Frame,
    Guard,
    HookChain,
    RecalculationQueue,
    Recorder,
    RunInfo,
    RunResult,
)
from md_hooks.environment import Surroundings
from md_hooks.recalculation import Failure, Job, Label, run_job

COULOMB = units.Hartree * units.Bohr
"""e^2 / (4 pi epsilon_0), eV Å."""

BOX = 12.0
HF = {"xc": "hf", "basis": "sto-3g", "dispersion": "none", "density_fit": False, "conv_tol": 1e-11}


def ions(positions: Any, charges: Any, cell: float = 0.0) -> Environment:
    charges = np.asarray(charges, dtype=float)
    return Environment(
        np.full(len(charges), 11), np.asarray(positions, dtype=float), charges,
        np.arange(len(charges)), np.eye(3) * cell,
    )  # fmt: skip


def put(atoms: Atoms, environment: Environment | None, others: int = 0) -> Atoms:
    others = len(environment) if environment is not None else others
    Surroundings(len(atoms), len(atoms) + others, environment).put(atoms)
    return atoms


def water(environment: Environment | None, others: int = 0) -> Atoms:
    """At a corner of a periodic box, with its oxygen in another image."""
    atoms = molecule("H2O", cell=[BOX] * 3, pbc=True)
    atoms.positions[0] += [0, BOX, -BOX]
    return put(atoms, environment, others)


def around_water(seed: int = 0) -> Environment:
    """12 charges at 3 to 5 Å, in any image."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(12, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    positions = directions * rng.uniform(3, 5, (12, 1)) + BOX * rng.integers(-2, 3, (12, 3))
    return ions(positions, rng.uniform(-0.8, 0.8, 12), BOX)


@pytest.fixture
def in_pyscf(tmp_path):
    pytest.importorskip("pyscf")

    def call(atoms: Atoms, **settings: Any) -> Label | Failure:
        made = reference("pyscf", {**HF, **settings}).embedded()
        return run_job(Job("a", atoms, made, str(tmp_path / "jobs" / "a")))

    return call


def test_forces_in_the_field_are_finite_differences_of_the_energy(in_pyscf):
    """On all atoms, with fixed charges."""
    environment, step = around_water(), 2e-3
    here = in_pyscf(water(environment))
    vacuum = in_pyscf(water(environment), point_charges=False)
    assert (here.point_charges, vacuum.point_charges) == (12, 0)
    assert np.abs(here.forces - vacuum.forces).max() > 0.1
    for atom, axis in ((0, 0), (2, 2)):
        energies = []
        for sign in (1, -1):
            moved = water(environment)
            moved.positions[atom, axis] += sign * step
            energies.append(in_pyscf(moved).energy)
        slope = (energies[0] - energies[1]) / (2 * step)
        assert here.forces[atom, axis] == pytest.approx(-slope, abs=2e-4)


@pytest.mark.parametrize("image", [0, 1])
def test_an_ion_in_the_field_of_a_charge(image, in_pyscf):
    """Coulomb's law between Li+ and the nearest image of a charge: the units, and the image."""
    pytest.importorskip("pyscf")
    cell, distance, charge = 60.0, 12.0, 0.5
    at = [[1.0 + distance - 60.0 * image, 1.0, 1.0]]
    lithium = Atoms("Li", [[1.0, 1.0, 1.0]], info={"charge": 1})
    alone = in_pyscf(lithium.copy(), point_charges=False)
    found = in_pyscf(put(lithium, ions(at, [charge], cell)))
    assert found.energy - alone.energy == pytest.approx(COULOMB * charge / distance, rel=1e-3)
    assert found.forces[0, 0] == pytest.approx(-COULOMB * charge / distance**2, rel=1e-3)


def test_a_charge_on_an_atom_is_a_failure_in_words(in_pyscf):
    outcome = in_pyscf(water(ions([[0.2, 0.0, 0.0]], [1.0], BOX)))
    assert isinstance(outcome, Failure)
    assert "Å from atom" in outcome.message


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"charge_cutoff": -1.0}, "charge_cutoff"), ({"point_charges": 3}, "point_charges")],
)
def test_settings_are_checked(settings, words):
    pytest.importorskip("pyscf")
    with pytest.raises(ForceDeltaError, match=words):
        reference("pyscf", {**HF, **settings})


def test_the_level_of_theory_names_the_field():
    pytest.importorskip("pyscf")
    plain = reference("pyscf", HF)
    embedded = plain.embedded()
    assert embedded.level == f"{plain.level} in MM point charges"
    assert "nearest images" in embedded.description
    assert "within 8 Å" in reference("pyscf", {**HF, "charge_cutoff": 8.0}).embedded().description
    assert "point charges" not in plain.description
    assert difference(plain.description, embedded.description) == "environment"
    assert reference("pyscf", {**HF, "point_charges": False}).embedded().level == plain.level


# --- frames on their way -------------------------------------------------------------------------


def recorded_frames(environments: list[Environment | None]) -> list[Frame]:
    """Frames of water with growing U, far apart in time."""
    return [
        Frame(
            step=100 * number, time=100.0 * number, numbers=atoms.numbers, positions=atoms.positions,
            velocities=None, masses=atoms.get_masses(), cell=atoms.cell.array, pbc=atoms.pbc,
            energy=0.0, forces=np.zeros((3, 3)), temperature=None, force_delta=0.1 + 0.1 * number,
            force_deltas=np.full(3, 0.1), direct_forces=np.zeros((3, 3)),
            **Surroundings.usable(atoms).frame_fields(),
        )
        for number, atoms in enumerate(water(one, 12) for one in environments)
    ]  # fmt: skip


def run_through(frames: list[Frame], *hooks: Any, environment: bool = True) -> None:
    chain = HookChain([Guard(flag_above=0.05), *hooks])
    settings = {"system_particles": 15, "environment": environment}
    chain.open(RunInfo(model={"name": "m", "level_of_theory": "HF/sto-3g"}, settings=settings))
    for frame in frames:
        chain.dispatch(frame)
    chain.close(RunResult("finished", 0, 0.0))


@pytest.fixture(params=["run.h5", "flagged.xyz"])
def source(request, tmp_path) -> Path:
    """A recorded run, or its flagged frames, with an environment of its own for each frame."""
    frames = recorded_frames([around_water(seed) for seed in range(2)])
    run_through(frames, Recorder(tmp_path / "run.h5", every=1), FlagStore(tmp_path / "flagged.xyz"))
    return tmp_path / request.param


ALL = {"select": 2, "flag_above": 0.05, "stop_above": 9.0}


def test_recalc_labels_in_the_field(source, tmp_path, in_pyscf):
    out = tmp_path / "labelled.xyz"
    settings = {**HF, "conv_tol": 1e-9}
    result = label(source, "pyscf", out=out, settings=settings, **ALL)
    assert result.counts == (2, 0, 0)
    assert [line for line in result.warnings if "vacuum" in line] == []
    assert any("the environment differs" in line for line in result.warnings)
    found = {atoms.info["step"]: atoms for atoms in ase.io.read(out, ":")}
    assert "in MM point charges" in found[0].info["reference"]
    for step, seed in ((0, 0), (100, 1)):
        assert found[step].info["labelled_in"] == "the field of 12 point charges of its System"
        expected = in_pyscf(water(around_water(seed)))
        assert found[step].get_potential_energy() == pytest.approx(expected.energy, abs=1e-5)
        np.testing.assert_allclose(found[step].get_forces(), expected.forces, atol=1e-4)
    again = label(f"{out}.journal", "pyscf", out=out, settings=settings)
    assert again.counts == (2, 0, 0)
    assert again.reference == result.reference
    with pytest.raises(Exception, match="labels of another reference"):
        label(source, "pyscf", out=out, settings={**settings, "point_charges": False}, **ALL)


def test_other_references_say_that_they_label_in_vacuum(source, tmp_path, capfd):
    pytest.importorskip("tblite")
    out = tmp_path / "labelled.xyz"
    code = status(
        ["recalc", str(source), "--calculator", "tblite", "--select", "2", "--flag-above", "0.05",
         "--stop-above", "9", "--out", str(out), "--json"]
    )  # fmt: skip
    assert code == 0
    (line,) = (w for w in json.loads(capfd.readouterr().out)["warnings"] if "vacuum" in w)
    assert line.startswith(
        "2 of 2 frames are parts of a System and are labelled in vacuum: the reference"
    )
    atoms = ase.io.read(out, 0)
    assert atoms.info["labelled_in"] == "vacuum, without the 12 other particles of its System"
    from tblite.ase import TBLite

    alone = molecule("H2O")
    alone.calc = TBLite(method="GFN2-xTB", verbosity=0)
    assert atoms.get_potential_energy() == pytest.approx(alone.get_potential_energy(), abs=1e-5)


def test_a_part_without_environment_is_labelled_in_vacuum_and_said_so(tmp_path):
    pytest.importorskip("pyscf")
    run_through(recorded_frames([None]), Recorder(tmp_path / "run.h5", every=1), environment=False)
    out = tmp_path / "labelled.xyz"
    result = label(tmp_path / "run.h5", "pyscf", out=out, settings=HF, **{**ALL, "select": 1})
    assert result.counts == (1, 0, 0)
    assert "environment is not recorded" in result.warnings[0]
    assert "vacuum" in ase.io.read(out).info["labelled_in"]
    assert "point charges" not in ase.io.read(out).info["reference"]


def test_a_code_that_ignores_periodicity_gets_a_whole_molecule(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    made = reference("references:Gathering", {})
    whole = made.calculate(molecule("H2O"), 1)
    found = made.calculate(water(around_water()), 1)
    assert found["energy"] == pytest.approx(whole["energy"])
    np.testing.assert_allclose(found["forces"], whole["forces"], atol=1e-9)


def test_frames_with_and_without_are_not_mixed(tmp_path):
    pytest.importorskip("pyscf")
    run_through(recorded_frames([None, around_water()]), Recorder(tmp_path / "run.h5", every=1))
    with pytest.raises(ForceDeltaError, match="label frames without one apart"):
        label(tmp_path / "run.h5", "pyscf", out=tmp_path / "l.xyz", settings=HF, **ALL)


def test_the_queue_labels_in_the_field(tmp_path, in_pyscf):
    queue = RecalculationQueue(tmp_path / "live.xyz", reference("pyscf", HF), 2, spacing=10.0)
    run_through(recorded_frames([around_water(seed) for seed in range(2)]), queue)
    found = ase.io.read(tmp_path / "live.xyz", ":")
    assert len(found) == 2
    for atoms in found:
        assert "in MM point charges" in atoms.info["reference"]
        assert atoms.info["labelled_in"] == "the field of 12 point charges of its System"
