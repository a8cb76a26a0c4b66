"""Fields of other programs that have our names and any content: no reader breaks on them."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from forcedelta.calibration.labels import read_labels
from forcedelta.checks import check_atoms
from forcedelta.errors import ForceDeltaError
from forcedelta.labelling.selection import open_candidates
from forcedelta.trajectories.base import from_atoms
from md_hooks.electronic_state import ElectronicState
from md_hooks.errors import HookError
from md_hooks.foreign_fields import finite, step_of

VALUES = [
    "00:00:00",
    "opt-0",
    "1e20",
    "9" * 30,
    "-3",
    "nan",
    "T",
    "n/a",
    '"1 2 3"',
    '"[[1, 2]]"',
    '""',
    "{a}",
]
FIELDS = ["step", "time", "force_delta", "model_energy", "worst_atom", "run", "source", "run_id", "model",
          "weights_hash", "level_of_theory"]  # fmt: skip


def headers(field, values=VALUES):
    atoms = molecule("H2O")
    text = ""
    for k, value in enumerate(values):
        atoms.positions += 0.01 * k
        text += f'3\nProperties=species:S:1:pos:R:3 {field}={value} pbc="F F F"\n'
        text += "".join(f"{a.symbol} {a.x} {a.y} {a.z}\n" for a in atoms)
    return text


@pytest.mark.parametrize("field", FIELDS)
def test_frames_to_be_labelled(tmp_path, field):
    path = tmp_path / "foreign.xyz"
    path.write_text(headers(field))
    source = open_candidates(path)
    assert len(source) == len(VALUES)
    assert source.steps.dtype == np.int64
    assert np.isfinite(source.finite).all()
    for atoms in source.read(list(range(len(VALUES)))):
        assert len(atoms) == 3


def test_what_is_a_number_is_kept(tmp_path):
    path = tmp_path / "flagged.xyz"
    atoms = molecule("H2O")
    atoms.info |= {
        "step": 7,
        "time": 3.5,
        "force_delta": 0.25,
        "model_energy": np.nan,
        "run_id": "a",
    }
    ase.io.write(path, atoms)
    source = open_candidates(path)
    assert (source.steps[0], source.times[0], source.force_delta[0]) == (7, 3.5, 0.25)
    assert not source.finite[0]


@pytest.mark.parametrize("field", ["force_deltas", "direct_forces", "conservative_forces"])
def test_arrays_of_another_shape_are_no_predictions(tmp_path, field):
    atoms = molecule("H2O")
    atoms.new_array(field, np.array(["a", "b", "c"]))
    ase.io.write(tmp_path / "a.xyz", atoms)
    assert not open_candidates(tmp_path / "a.xyz").read([0])[0].has(field)


def test_steps_and_times_of_a_trajectory():
    atoms = molecule("H2O")
    for value in (
        "00:00:00",
        "opt-0",
        1e20,
        10**400,
        -1,
        np.nan,
        True,
        np.arange(3),
        {},
        None,
        1 + 2j,
    ):
        atoms.info = {"step": value, "time": value}
        frame = from_atoms(3, atoms)
        assert frame.step is None, value
        assert frame.time is None or np.isfinite(frame.time)
    assert (step_of(5.0), step_of(np.int64(5)), step_of(5.5)) == (5, 5, None)
    assert (finite(2), finite(np.float32(0.5)), finite(np.inf)) == (2.0, 0.5, None)


@pytest.mark.parametrize("field", ["step", "time", "run", "source", "run_id"])
def test_calibration_ignores_them(tmp_path, field):
    frames = []
    for k, value in enumerate(("00:00:00", 1e20, np.array([1, 2]), True)):
        atoms = molecule("H2O")
        atoms.positions[0, 0] += 0.01 * k
        atoms.info |= {field: value, "force_delta": 0.1, "model": "m", "weights_hash": "hash:0"}
        atoms.new_array("direct_forces", np.full((3, 3), 0.1))
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.full((3, 3), 0.2))
        frames.append(atoms)
    ase.io.write(tmp_path / "labelled.xyz", frames)
    labels = read_labels([tmp_path / "labelled.xyz"])
    assert len(labels.force_delta) == 4
    assert labels.epsilon == pytest.approx(0.1)


def columns(path, name, kind, width, value):
    lines = [f"{symbol} 0 0 {k} " + " ".join([value] * width) for k, symbol in enumerate("OHH")]
    header = f'Properties=species:S:1:pos:R:3:{name}:{kind}:{width} pbc="F F F"'
    path.write_text("\n".join(["3", header, *lines, ""]))
    return path


@pytest.mark.parametrize("name", ["masses", "momenta", "initial_magmoms"])
@pytest.mark.parametrize(("kind", "width", "value"), [("S", 1, "a"), ("R", 2, "1.5")])
def test_arrays_that_are_no_masses_momenta_or_moments(tmp_path, name, kind, width, value):
    path = columns(tmp_path / "a.xyz", name, kind, width, value)
    atoms = ase.io.read(path)
    with pytest.raises((ForceDeltaError, HookError), match=r"masses|momenta|magnetic moments"):
        _check(atoms)
    frame = from_atoms(0, atoms)  # an audit goes on without them
    assert frame.velocities is None
    assert frame.atoms.get_masses().shape == (3,)
    if name != "initial_magmoms":  # without which a reference calculation would be another
        [read] = open_candidates(path).read([0])
        assert read.get_masses().shape == (3,)


def _check(atoms):
    """What a run asks of a structure."""
    ElectronicState.of(atoms)
    check_atoms(atoms)
