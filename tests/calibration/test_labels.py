"""Labelled files: what is read, what is evaluated, and what is refused."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from forcedelta import epsilon
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.calibration.labels import evaluated, read_labels
from forcedelta.errors import ForceDeltaError


@pytest.fixture
def wet(files):
    return ForceDeltaCalculator(files / "wet.safetensors")


def test_stored_and_evaluated_predictions_are_the_same(files, wet, silent):
    stored = read_labels([files / "full.xyz"])
    anew = read_labels([files / "plain.xyz"], wet)
    for name in ("force_delta", "epsilon", "force_rms", "energy"):
        np.testing.assert_allclose(getattr(stored, name), getattr(anew, name), rtol=1e-5, atol=1e-5)
    assert stored.model == anew.model == {
        "name": "wet", "weights_hash": wet.model.weights_hash,
    }  # fmt: skip
    assert (stored.reference, anew.reference) == ("gradient", None)


def test_the_error_is_that_of_equation_two(files, wet):
    import torch

    frame = ase.io.read(files / "plain.xyz", 7)
    labels = evaluated([frame], wet)
    wet.calculate(frame.copy(), ["force_delta"])
    direct = torch.tensor(wet.results["direct_forces"])
    expected = epsilon(direct, torch.tensor(frame.get_forces()), torch.zeros(3, dtype=torch.long))
    assert labels.epsilon[0] == pytest.approx(float(expected[0]), rel=1e-12)
    assert labels.force_delta[0] == wet.results["force_delta"]
    assert labels.force_rms[0] == pytest.approx(np.sqrt(np.mean(direct.numpy() ** 2)))


def test_energies_are_compared_within_a_composition(files, wet):
    frames = ase.io.read(files / "plain.xyz", ":6")
    for index in (1, 3):
        hydrogen = molecule("H2")
        hydrogen.rattle(0.05, seed=index)
        hydrogen.calc = SinglePointCalculator(hydrogen, energy=0.0, forces=np.zeros((2, 3)))
        frames[index] = hydrogen
    labels = evaluated(frames, wet)
    water, other = [0, 2, 4, 5], [1, 3]
    assert labels.energy[water].min() == 0
    assert labels.energy[other].min() == 0
    assert (labels.energy >= 0).all()
    energies = []
    for index in water:
        wet.calculate(frames[index].copy(), ["energy"])
        energies.append(wet.results["energy"] / 3)
    np.testing.assert_allclose(np.diff(labels.energy[water]), np.diff(energies), atol=1e-12)


def test_several_files_are_one_set(files, here):
    frames = ase.io.read(files / "full.xyz", ":")
    ase.io.write("first.xyz", frames[:50])
    ase.io.write("second.xyz", frames[50:])
    labels = read_labels(["first.xyz", "second.xyz"])
    np.testing.assert_array_equal(labels.force_delta, read_labels([files / "full.xyz"]).force_delta)
    assert labels.source == [None] * 120
    assert np.isnan(labels.time).all()
    with pytest.raises(
        ForceDeltaError, match=r"first.*frame 0 .*same structure as .*full.*frame 0"
    ):
        read_labels([files / "full.xyz", "first.xyz"])


def test_labels_whose_reference_is_not_named(files, here, wet):
    frames = ase.io.read(files / "full.xyz", ":4")
    del frames[1].info["reference"]
    ase.io.write("some.xyz", frames)
    expected = "gradient, and 1 labels of an unnamed reference"
    assert read_labels(["some.xyz"], wet).reference == expected


def test_source_and_time(files, here):
    frames = ase.io.read(files / "full.xyz", ":4")
    for step, atoms in enumerate(frames):
        atoms.info.update(source="audit.h5", step=10 * step, time=5.0 * step)
    ase.io.write("some.xyz", frames)
    labels = read_labels(["some.xyz"])
    assert labels.source == ["audit.h5"] * 4
    assert list(labels.time) == [0, 5, 10, 15]
    assert list(labels.subset(np.array([0, 2])).time) == [0, 10]


def without_forces(frame):
    frame.calc = None


def nan_forces(frame):
    frame.calc.results["forces"][0, 0] = np.nan


def without_u(frame):
    del frame.info["force_delta"]


def without_direct_forces(frame):
    del frame.arrays["direct_forces"]


def nan_u(frame):
    frame.info["force_delta"] = np.nan


def other_model(frame):
    frame.info["model"] = "other"


def other_hash(frame):
    frame.info["weights_hash"] = "hash:1234"


def other_reference(frame):
    frame.info["reference"] = "PBE"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_forces, r"frame 2 \(counted from 0\) has no reference forces"),
        (nan_forces, "frame 2 .*reference forces that are not finite"),
        (without_u, "frame 2 .*has no force_delta: pass --model"),
        (without_direct_forces, "frame 2 .*has no direct_forces: pass --model"),
        (nan_u, "frame 2 .*prediction that is not finite"),
        (other_model, "frame 2 .*has model other, but .*frame 0 .*has wet"),
        (other_hash, "frame 2 .*has weights_hash hash:1234.*--model"),
        (
            other_reference,
            "frame 2 .*has reference PBE, but .*has gradient: calibrate each separately$",
        ),
    ],
)
def test_frames_that_are_refused(files, here, spoil, said):
    frames = ase.io.read(files / "full.xyz", ":4")
    spoil(frames[2])
    ase.io.write("bad.xyz", frames)
    with pytest.raises(ForceDeltaError, match=said):
        read_labels(["bad.xyz"])


def test_a_model_takes_the_labels_of_another(files, here, wet):
    frames = ase.io.read(files / "full.xyz", ":4")
    other_model(frames[2])
    without_u(frames[1])
    ase.io.write("mixed.xyz", frames)
    labels = read_labels(["mixed.xyz"], wet)
    np.testing.assert_allclose(
        labels.force_delta, read_labels([files / "full.xyz"]).force_delta[:4], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "missing.xyz does not exist"),
        ("", "holds no frames|cannot be read"),
        ("not a structure\n", "cannot be read after 0 frames"),
    ],
)
def test_files_that_are_refused(here, text, said):
    if text is not None:
        Path("missing.xyz").write_text(text)
    with pytest.raises(ForceDeltaError, match=said):
        read_labels(["missing.xyz"])


def test_a_truncated_file_says_where_it_ends(files, here):
    whole = (files / "full.xyz").read_text().splitlines(keepends=True)
    Path("cut.xyz").write_text("".join(whole[: 5 * 3 + 3]))
    with pytest.raises(ForceDeltaError, match=r"cut\.xyz cannot be read after 3 frames"):
        read_labels(["cut.xyz"])


@pytest.mark.parametrize(
    ("fields", "time"),
    [
        ({"time": "00:00:00"}, np.nan),
        ({"step": "opt-0"}, np.nan),
        ({"time": "n/a", "step": 7}, 7.0),
        ({"step": 1e20}, 1e20),
        ({"time": np.array([1.0, 2.0]), "step": True}, np.nan),
        ({"time": np.inf}, np.nan),
        ({"step": 10**400}, np.nan),
    ],
)
def test_fields_of_other_programs_are_no_times(files, fields, time):
    atoms = ase.io.read(files / "full.xyz", 0)
    atoms.info.update(fields, source=["foreign", 3], model_energy="n/a", reference=np.arange(3))
    calculator = ForceDeltaCalculator(files / "wet.safetensors")
    labels = evaluated([atoms], calculator)
    np.testing.assert_equal(labels.time[0], time)


def test_no_tracebacks_from_fields_of_other_programs_in_stored_predictions(files, here):
    frames = ase.io.read(files / "full.xyz", ":4")
    for name, value in {"force_delta": "n/a", "model_energy": "x", "time": "T"}.items():
        other = [atoms.copy() for atoms in frames]
        for atoms, original in zip(other, frames, strict=True):
            atoms.calc = original.calc
            atoms.info[name] = value
        ase.io.write("foreign.xyz", other)
        if name == "force_delta":
            with pytest.raises(ForceDeltaError, match=r"frame 0 .*prediction that is not finite"):
                read_labels(["foreign.xyz"])
        else:
            assert len(read_labels(["foreign.xyz"])) == 4


def test_forces_of_fixed_atoms_are_those_of_the_reference(files, here, wet):
    """A constraint takes them off what `Atoms.get_forces` gives."""
    frame = ase.io.read(files / "plain.xyz", 7)
    free = evaluated([frame], wet)
    frame.set_constraint(FixAtoms([0, 1]))
    assert frame.get_forces()[0].tolist() == [0, 0, 0]
    ase.io.write("fixed.xyz", frame)
    for labels in (evaluated([frame], wet), read_labels(["fixed.xyz"], wet)):
        np.testing.assert_allclose(labels.epsilon, free.epsilon, rtol=1e-6)


def test_forces_of_zero_everywhere_are_no_labels(files, wet):
    frames = ase.io.read(files / "plain.xyz", ":3")
    for atoms in frames:
        atoms.calc.results["forces"] = np.zeros((3, 3))
    with pytest.raises(ForceDeltaError, match="forces of all frames are zero"):
        evaluated(frames, wet)


def run_frames(files, **info):
    """Frames of full.xyz, each with its item of these lists in ``info``."""
    frames = ase.io.read(files / "full.xyz", f":{len(next(iter(info.values())))}")
    for index, atoms in enumerate(frames):
        atoms.info.update({name: values[index] for name, values in info.items()})
    return frames


def test_runs_are_told_apart_by_their_id(files, here):
    ids = ["a" * 32] * 3 + ["b" * 32] * 3
    frames = run_frames(files, run_id=ids, run=["run.h5"] * 6, step=[0, 10, 20] * 2)
    ase.io.write("one.xyz", frames[::2])
    ase.io.write("two.xyz", frames[1::2])
    labels = read_labels(["one.xyz", "two.xyz"])
    assert labels.source == [ids[i] for i in (0, 2, 4, 1, 3, 5)]
    assert labels.time.tolist() == [0, 20, 10, 10, 0, 20]


def test_runs_without_an_id(files, here):
    """Names in different files are different runs; in one file they have to follow each other."""
    steps = [0, 10, 20] * 2
    frames = run_frames(files, run=["run.h5"] * 6, step=steps)
    ase.io.write("together.xyz", frames)
    labels = read_labels(["together.xyz"])
    assert len(set(labels.source[:3])) == len(set(labels.source[3:])) == 1
    assert len(set(labels.source)) == 2
    assert labels.time.tolist() == steps
    ase.io.write("one.xyz", frames[:3])
    ase.io.write("two.xyz", frames[3:])
    labels = read_labels(["one.xyz", "two.xyz"])
    assert len(set(labels.source)) == 2
    ase.io.write("mixed.xyz", [frames[i] for i in (0, 3, 2, 1, 5, 4)])
    labels = read_labels(["mixed.xyz"])
    assert len(set(labels.source)) == 1
    assert np.isnan(labels.time).all()


def test_predictions_are_no_labels(files, here, wet):
    frames = ase.io.read(files / "full.xyz", ":4")
    for atoms in frames:
        atoms.calc.results["forces"] = atoms.arrays["direct_forces"]
    ase.io.write("own.xyz", frames)
    with pytest.raises(ForceDeltaError, match="the model's own predictions"):
        read_labels(["own.xyz"])


def test_structures_that_the_model_does_not_know(wet):
    methane = molecule("CH4")
    methane.calc = SinglePointCalculator(methane, energy=0.0, forces=np.zeros((5, 3)))
    with pytest.raises(ForceDeltaError, match=r"frame 0 .*does not know C"):
        evaluated([methane], wet)
    with pytest.raises(ForceDeltaError, match="no labelled frames"):
        evaluated([], wet)
