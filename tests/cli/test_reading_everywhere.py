"""Format, cells and atoms of a file, said on the command line: every command then sees the same molecule."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from md_hooks import Trajectory

PLAIN, ODD = "plain.xyz", "odd.frames"
SAID = ["--format", "extxyz", "--no-pbc", "--select", "element O H"]
FRAMES = 24


def shaken(seed: int) -> Atoms:
    """Water with made-up labels."""
    rng = np.random.default_rng(seed)
    atoms = molecule("H2O")
    atoms.positions += rng.normal(scale=0.05, size=(3, 3))
    forces = rng.normal(scale=0.5, size=(3, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=forces)
    return atoms


def crowded(atoms: Atoms, ions: int) -> Atoms:
    """The same in a small periodic box, with ions after it that the models do not support."""
    box = Atoms(
        [*atoms.symbols, *["Na"] * ions], np.vstack([atoms.positions, np.full((ions, 3), 2.5)])
    )
    box.set_cell([3.0, 3.0, 3.0])
    box.pbc = True
    forces = np.vstack([atoms.calc.results["forces"], np.zeros((ions, 3))])
    box.calc = SinglePointCalculator(box, energy=-1.0, forces=forces)
    return box


@pytest.fixture
def both(files, here) -> list[str]:
    """A plain file, and one of the same molecules that must be explained; arguments of the model."""
    frames = [shaken(seed) for seed in range(FRAMES)]
    ase.io.write(PLAIN, frames)
    ase.io.write(ODD, [crowded(atoms, 1) for atoms in frames], format="extxyz")
    pytest.importorskip("MDAnalysis", reason="reads selections")
    return ["--model", str(files / "wet.safetensors")]


def two(forcedelta, *command: object, out: str = "", said: list[str] = SAID) -> list[dict]:
    """The JSON of a command on the plain file, and on the other one with what it does not say."""
    found = []
    for k, (file, options) in enumerate(((PLAIN, []), (ODD, said))):
        words = [file if word == "FILE" else word for word in command]
        where = ["--out", out.replace("N", str(k))] if out else []
        code, printed, err = forcedelta(*words, *options, *where, "--json")
        assert code in (0, 3, 4), err
        found.append(json.loads(printed))
    return found


def test_not_without_saying_so(both, forcedelta):
    for command in ("audit", "screen", "attack", "run"):
        code, _, err = forcedelta(
            command, ODD, *both, *(["--steps", 1] if command == "run" else [])
        )
        assert code == 2, command
        assert ODD in err


def test_audit_and_run(both, forcedelta):
    two(forcedelta, "audit", "FILE", *both, out="aN.h5")
    one, other = (Trajectory(f"a{k}.h5").series["force_delta"] for k in (0, 1))
    assert len(one) == FRAMES
    np.testing.assert_allclose(other, one, rtol=1e-4)
    two(forcedelta, "run", "FILE", *both, "--steps", 3, "--seed", 1, out="rN.h5")
    one, other = (Trajectory(f"r{k}.h5").series["force_delta"] for k in (0, 1))
    np.testing.assert_allclose(other, one, rtol=1e-3)
    code, _, err = forcedelta("run", "--restart", "--steps", 5, "--out", "r1.h5")
    assert code == 0, err
    assert Trajectory("r1.h5").metadata["settings"]["select"] == SAID[-1]


def test_screen(both, forcedelta):
    one, other = two(forcedelta, "screen", "FILE", *both, out="sN.csv")
    values = [sorted(row["force_delta"] for row in found["rows"]) for found in (one, other)]
    assert len(values[0]) == FRAMES
    np.testing.assert_allclose(values[1], values[0], rtol=1e-3)


def test_check(both, forcedelta):
    one, other = two(forcedelta, "check", both[1], "FILE", "--quick")
    assert one["verdict"] == other["verdict"]


def test_attack_and_its_restart(both, forcedelta):
    options = ["--steps", 2, "--starts", 1, "--seed", 4, "--picks", 0]
    two(forcedelta, "attack", "FILE", *both, *options, out="tN.h5")
    one, other = (Trajectory(f"t{k}.h5").series["force_delta"] for k in (0, 1))
    np.testing.assert_allclose(other, one, rtol=1e-3)
    code, _, err = forcedelta("attack", "--restart", "--out", "t1.h5")
    assert code == 0, err
    code, _, err = forcedelta("attack", ODD, "--restart", "--out", "t1.h5", "--select", "0:2")
    assert code == 2
    assert "select 0:2 differs" in err


def test_tune(both, forcedelta):
    one, other = two(forcedelta, "tune", both[1], "FILE", "--epochs", 1, out="uN.pt")
    assert one["frames"] == other["frames"]
    for name, value in one["before"].items():
        assert other["before"][name] == pytest.approx(value, rel=1e-3)


def test_compare(both, forcedelta):
    """The labels of the selected atoms go with them."""
    two(forcedelta, "compare", "FILE", *both, out="comparedN")
    rows = [Path(f"compared{k}/structures.csv").read_text().splitlines() for k in (0, 1)]
    heads = rows[0][0].split(",")
    for name in ("force_delta", "epsilon"):
        column = next(k for k, head in enumerate(heads) if head.startswith(name))
        values = [[float(row.split(",")[column]) for row in lines[1:]] for lines in rows]
        assert len(values[0]) == FRAMES
        np.testing.assert_allclose(values[1], values[0], rtol=1e-3)
    # what is there is used again
    code, _, err = forcedelta("compare", ODD, *both, *SAID, "--out", "compared1", "--json")
    assert code == 0, err


def test_calibrate(both, forcedelta):
    frames = ase.io.read(PLAIN, ":")
    ase.io.write(ODD, [crowded(atoms, 0) for atoms in frames], format="extxyz")
    one, other = two(forcedelta, "calibrate", "FILE", *both, said=SAID[:3])
    assert one["quality"].keys() == other["quality"].keys()
    assert other["quality"]["factor"] == pytest.approx(one["quality"]["factor"], rel=1e-3)
    code, _, err = forcedelta("calibrate", ODD, *both, *SAID[:2], "--json")
    assert code == 2
    assert "--no-pbc" in err


def test_recalc(both, forcedelta):
    pytest.importorskip("tblite")
    code, _, err = forcedelta(
        "audit", ODD, *both, "--format", "extxyz", "--select", "0:3", "--out", "a.h5", "--no-pbc",
        "--flag-above", 0, "--flags", "flagged.xyz",
    )  # fmt: skip
    assert code == 0, err
    frames = ase.io.read("flagged.xyz", ":")
    for atoms in frames:
        atoms.set_cell([3.0, 3.0, 3.0])
        atoms.pbc = True
    ase.io.write("boxed.xyz", frames)
    energies = []
    for source, options in (("flagged.xyz", []), ("boxed.xyz", ["--no-pbc"])):
        out = f"labelled-{source}"
        code, _, err = forcedelta(
            "recalc", source, "--calculator", "tblite", "--select", 1, "--flag-above", 0,
            "--stop-above", 9, "--out", out, *options,
        )  # fmt: skip
        assert code == 0, err
        energies.append(ase.io.read(out).get_potential_energy())
        assert not ase.io.read(out).pbc.any()
    assert energies[1] == pytest.approx(energies[0], abs=1e-6)


def test_settings_of_a_file_and_of_a_restart(both, forcedelta):
    """Under the names of the flags."""
    Path("run.toml").write_text('format = "extxyz"\nno-pbc = true\nselect = "0:3"\nsteps = 1\n')
    code, _, err = forcedelta("run", ODD, *both, "--config", "run.toml", "--out", "r.h5")
    assert code == 0, err
    code, _, err = forcedelta("run", "--restart", "--out", "r.h5", "--format", "xyz", "--steps", 2)
    assert code == 2
    assert "--format xyz differs from the run in r.h5, which has extxyz" in err


def test_an_unknown_format(both, forcedelta):
    for command in (["run", ODD, "--steps", 1], ["attack", ODD]):
        code, _, err = forcedelta(*command, *both, "--format", "docx")
        assert code == 2
        assert "--format docx: no format of ASE" in err
