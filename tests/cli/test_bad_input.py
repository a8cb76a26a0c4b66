"""Bad input: one line that names the fix, exit status 2, nothing lost."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from md_hooks import Trajectory

STRUCTURES = {
    "text.xyz": "this is no structure\n",
    "empty.xyz": "",
    "noatoms.xyz": "0\n\n",
    "nan.xyz": "2\n\nO 0 0 nan\nH 0 0 1\n",
    "close.xyz": "3\n\nO 0 0 0\nH 0 0 1\nH 0 0 1.01\n",
    "gold.xyz": "2\n\nO 0 0 0\nAu 0 0 2\n",
    "nocell.xyz": '1\nProperties=species:S:1:pos:R:3 pbc="T T T"\nSi 0 0 0\n',
    "periodic.xyz": '1\nLattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3\nO 0 0 0\n',
}


def fails(done: tuple[int, str, str]) -> str:
    """The line on stderr of a command that fails as it should."""
    code, out, err = done
    assert code == 2
    assert out == ""
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in err
    return line


@pytest.mark.parametrize(
    ("name", "model", "said"),
    [
        ("missing.xyz", "wet", "missing.xyz does not exist"),
        (
            "text.xyz",
            "wet",
            "text.xyz: expected the number of atoms, found 'this is no structure': give",
        ),
        ("empty.xyz", "wet", "empty.xyz"),
        ("noatoms.xyz", "wet", "holds no atoms"),
        ("nan.xyz", "wet", "not a finite number"),
        ("close.xyz", "wet", "atoms 1 (H) and 2 (H)"),
        ("gold.xyz", "wet", "does not support Au"),
        ("nocell.xyz", "solid", "cell"),
        ("periodic.xyz", "wet", "made for molecules"),
        ("gold.xyz", "missing", "no such file"),
    ],
)
def test_structures_and_models(forcedelta, files, here, name, model, said):
    if name in STRUCTURES:
        Path(name).write_text(STRUCTURES[name])
    Path("run.h5").write_bytes(b"precious")
    command = ["run", name, "--model", files / f"{model}.safetensors", "--steps", "5"]
    line = fails(forcedelta(*command, "--overwrite"))
    assert said in line
    assert Path("run.h5").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--stop-above", "0.1", "--flag-above", "0.2"], "must lie below"),
        (["--stop-above", "much"], "give a number in eV/Å, auto or none"),
        (["--stop-above", "-1"], "number >= 0"),
        (["--stop-above", "auto"], "more --steps, or a shorter --burn-in"),
        (["--patience", "3"], "k/n"),
        (["--patience", "3/2"], "1 <= k <= n"),
        (["--ensemble", "npt"], "periodic in all three directions"),
        (["--ensemble", "nve", "--ramp-to", "900"], "nve has no thermostat"),
        (["--ensemble", "bussi", "--temperature", "0"], "cannot start at 0 K"),
        (["--ensemble", "nvt"], "'nve', 'langevin', 'bussi', 'npt'"),
        (["--temperature", "-1"], "0 or more"),
        (["--timestep", "0"], "above 0"),
        (["--tau", "nan"], "above 0"),
        (["--engine", "openmm", "--barostat-tau", "9"], "has no meaning with OpenMM"),
        (["--steps", "0"], "--steps is 0: give a whole number above 0"),
        (["--every", "2", "--forces", "conservative"], "every must be 1"),
        (["--every", "adaptive", "--forces", "conservative"], "every must be 1"),
        (["--every", "adaptive", "--forces", "mts", "--inner", "4"], "omit every"),
        (["--every", "auto"], "a whole number of steps of 1 or more, or adaptive"),
        (["--every", "1.5"], "a whole number of steps of 1 or more, or adaptive"),
        (["--every", "0"], "--every is 0: give a whole number above 0"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--out", "nowhere/run.h5"], "make the folder nowhere first"),
        (["--out", "/proc/run.h5"], "/proc/run.h5 cannot be"),
        (["--out", ".", "--overwrite"], "choose a file"),
        (["--flags", "nowhere/f.xyz"], "make the folder nowhere first"),
        (["--colour", "red"], "No such option"),
    ],
)
def test_settings(forcedelta, water, here, change, said):
    line = fails(forcedelta(*water, "--steps", "5", *change))
    assert said in line
    assert not list(here.iterdir())


def test_what_is_missing(forcedelta, files, here):
    water = str(files / "water.xyz")
    assert "--model" in fails(forcedelta("run", water, "--steps", "5"))
    assert "--steps" in fails(forcedelta("run", water, "--model", "x"))
    assert "no structure" in fails(forcedelta("run", "--model", "x", "--steps", "5"))


def test_an_unknown_model_gives_the_nearest_names(forcedelta, files, here, monkeypatch):
    monkeypatch.setattr(
        "forcedelta.models.registry.embedded_models",
        lambda: {"acac": files / "wet.safetensors", "mlearn": files / "solid.safetensors"},
    )
    line = fails(forcedelta("run", files / "water.xyz", "--model", "acca", "--steps", "5"))
    assert "no model is called 'acca': did you mean acac?" in line


def test_output_that_exists(forcedelta, water):
    assert forcedelta(*water, "--steps", "3")[0] == 0
    before = Path("run.h5").read_bytes()
    line = fails(forcedelta(*water, "--steps", "5"))
    assert "run.h5 exists" in line
    assert "--restart" in line
    assert "--overwrite" in line
    assert Path("run.h5").read_bytes() == before
    assert forcedelta(*water, "--steps", "5", "--overwrite")[0] == 0
    assert Trajectory("run.h5").series["step"][-1] == 5


def test_a_file_that_no_run_wrote(forcedelta, water):
    Path("run.h5").write_text("a diary")
    line = fails(forcedelta(*water, "--steps", "5", "--restart"))
    assert "run.h5" in line
    assert Path("run.h5").read_text() == "a diary"


# Written out often, whatever the clock says: the first rows fit on the disk.
PROGRAM = (
    "from md_hooks import recorder; recorder.MAX_ROWS = 20\nfrom forcedelta.cli import main; main()"
)


@pytest.mark.slow
def test_a_disk_that_is_full(forcedelta, water):
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *water, "--steps", "1000000", "--record-every", "1"],
        capture_output=True, text=True, preexec_fn=limit, timeout=600, check=False,
    )  # fmt: skip
    line = fails((ended.returncode, ended.stdout, ended.stderr))
    assert "run.h5 cannot be written to" in line
    assert "free some space" in line
    steps = Trajectory("run.h5").series["step"]
    assert len(steps) > 1
    assert forcedelta("run", "--restart", "--steps", str(steps[-1] + 5))[0] == 0
