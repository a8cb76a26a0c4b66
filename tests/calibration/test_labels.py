"""Labelled files: what is read, what is evaluated, and what is refused."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

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
    expected = "gradient, and 1 labels of a reference that is not named"
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
        (without_u, "frame 2 .*has no force_delta: say --model"),
        (without_direct_forces, "frame 2 .*has no direct_forces: say --model"),
        (nan_u, "frame 2 .*prediction that is not finite"),
        (other_model, "frame 2 .*has model other, but .*frame 0 .*has wet"),
        (other_hash, "frame 2 .*has weights_hash hash:1234.*--model"),
        (
            other_reference,
            "frame 2 .*has reference PBE, but .*has gradient: calibrate each by itself$",
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
