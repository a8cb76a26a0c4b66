"""Pictures, reports, calibrations, exports: a kill or a full disk leaves the old file or the new one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]

START = """
import contextlib, importlib, io, os, resource, sys, warnings
from pathlib import Path
import torch
torch.set_num_threads(1)
import killed
warnings.simplefilter("ignore")  # torch deprecates TorchScript
from forcedelta.cli import status

command, names = sys.argv[1].split(), sys.argv[2].split()

def once(module, name):
    # what takes long and writes nothing is done in the parent, for all the attempts in its forks
    module = importlib.import_module(module)
    real, answers = getattr(module, name), []
    def kept(*arguments, **options):
        if not answers:
            answers.append(real(*arguments, **options))
        return answers[0]
    setattr(module, name, kept)

once(*{
    "plot": ("forcedelta.report.run_figure", "draw"),
    "report": ("forcedelta.report.html", "_section"),
    "calibrate": ("forcedelta.calibration.calibrate", "from_labels"),
    "export": ("forcedelta.openmm.export", "load_model"),
}[sys.argv[3]])

def work(expected=0):
    with contextlib.redirect_stdout(io.StringIO()):
        found = status([*command, "--overwrite"])
    assert found == expected, found
"""

KILLS = """
work()
new = {name: os.path.getsize(name) for name in names}
kinds = {name: open(name, "rb").read(8) for name in names}
kills, untouched, replaced = 0, 0, 0
def check():
    global kills, untouched, replaced
    kills += 1
    for name in names:
        content = open(name, "rb").read()
        if content == b"old":
            untouched += 1
        else:  # all of it: pictures and archives have no time in them, reports of one length
            assert len(content) == new[name] and content[:8] == kinds[name], (name, len(content))
            replaced += 1
        Path(name).write_bytes(b"old")
    for left in Path().glob("*.part"):
        left.unlink()
for name in names:
    Path(name).write_bytes(b"old")
for _ in killed.at_each_operation(work):
    check()
for _ in killed.at_sizes(work, [0, 100, *(size // 2 for size in new.values()), min(new.values()) - 1]):
    check()
assert untouched and (replaced or len(names) == 1), (untouched, replaced)
print(kills)
"""

FULL = """
before = sorted(os.listdir())
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for limit in map(int, sys.argv[4:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    work(2)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert sorted(os.listdir()) == before, os.listdir()
for name in names:
    assert open(name, "rb").read() == b"old"
"""

COMMANDS = {
    "plot": ("plot run.h5 --out run.png", "run.png"),
    "report": ("plot run.h5 --out run.html", "run.html run.png"),
    "calibrate": ("calibrate labelled.xyz --tolerance 1000 --risk 0.1 --out c.json --plot c.png", "c.json c.png"),
    "export": ("export wet.safetensors --out wet.pt", "wet.pt"),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(files, tmp_path_factory) -> Path:
    """A folder with a run, labelled frames and a model."""
    import ase.io
    import numpy as np
    from ase.build import molecule
    from ase.calculators.singlepoint import SinglePointCalculator

    from forcedelta.cli import status

    folder = tmp_path_factory.mktemp("made")
    shutil.copy(files / "wet.safetensors", folder)
    run = [
        "run",
        str(files / "water.xyz"),
        "--model",
        str(files / "wet.safetensors"),
        "--steps",
        "5",
    ]
    assert status([*run, "--out", str(folder / "run.h5")]) == 0
    frames = []
    rng = np.random.default_rng(0)
    for index in range(60):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=index)
        error = 1500.0 if index > 50 else 1.0
        direct = rng.normal(size=(3, 3))
        atoms.info |= {"force_delta": 0.1 + 0.01 * index, "model": "wet", "weights_hash": "hash:1"}
        atoms.set_array("direct_forces", direct)
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=direct + error)
        frames.append(atoms)
    ase.io.write(folder / "labelled.xyz", frames)
    return folder


@pytest.fixture
def child(made, here):
    """Runs a script with one of the commands in a process of its own."""

    def call(script, kind, *more):
        shutil.copytree(made, here, dirs_exist_ok=True)
        command, names = COMMANDS[kind]
        for name in names.split():
            Path(name).write_text("old")
        arguments = [command, names, kind, *map(str, more)]
        done = subprocess.run(
            [sys.executable, "-c", START + script, *arguments], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    return call


@pytest.mark.parametrize("kind", ["report", "calibrate", "export"])  # report draws as plot does
def test_a_kill_leaves_the_old_file_or_the_new_one(child, kind):
    if kind == "export":
        pytest.importorskip("openmm", reason="export needs OpenMM")
    assert int(child(KILLS, kind).stdout.splitlines()[-1]) > 5


@pytest.mark.parametrize("kind", ["plot", "calibrate", "export"])
def test_a_full_disk_is_one_line_and_leaves_no_part(child, kind):
    """A limit on the size of files stands for it."""
    if kind == "export":
        pytest.importorskip("openmm", reason="export needs OpenMM")
    # the last limit: the calibration, but not its picture, would fit
    lines = child(FULL, kind, 0, 12_000 if kind == "calibrate" else 2000).stderr.splitlines()
    assert len(lines) == 2, lines
    for line in lines:
        assert line.startswith("error: ")
        assert "cannot be written (File too large)" in line
