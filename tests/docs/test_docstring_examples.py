"""The examples of the docstrings run, and print what they show but for its numbers."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

import forcedelta
from forcedelta import ForceDeltaCalculator, Trajectory, guarded_run

ROOT = Path(__file__).parents[2]
FOLDERS = {"forcedelta": ROOT / "plugin" / "forcedelta", "md_hooks": ROOT / "md_hooks"}
NEEDS = {"forcedelta.labelling.label_frames": "tblite", "forcedelta.openmm": "openmm"}
"""Libraries without which the examples of a module, or of all below it, cannot run."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
]


def _modules() -> list[str]:
    """Modules with an example."""
    found = []
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            if re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), re.MULTILINE):
                parts = (package, *path.relative_to(folder).with_suffix("").parts)
                found.append(".".join(parts).removesuffix(".__init__"))
    return found


class Output(doctest.OutputChecker):
    """Compares an output with the one that is shown, whatever their numbers are."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(_plain(want), _plain(got), optionflags)


def _plain(text: str) -> str:
    """Without numbers, and without numpy's names of their types."""
    text = re.sub(r"np\.float(32|64)\((.*?)\)", r"\2", text)
    return re.sub(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", "0", text)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples read: a structure, a run, a trajectory, labelled frames, candidates."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(ROOT / "examples" / "acetylacetone.xyz", folder / "molecule.xyz")
    guarded_run(
        folder / "molecule.xyz", "acac", 200, temperature=500, flag_above=0.03, stop_above=1.0,
        record_every=5, seed=1, out=folder / "run.h5",
    )  # fmt: skip
    frames = list(Trajectory(folder / "run.h5").frames())
    start = ase.io.read(folder / "molecule.xyz")
    moving = []
    for frame in frames:
        moving.append(start.copy())
        moving[-1].positions = frame.positions
    ase.io.write(folder / "old_run.traj", moving)
    ase.io.write(folder / "labelled.xyz", _labelled(start))
    (folder / "candidates").mkdir()
    ase.io.write(folder / "candidates" / "silicon.cif", bulk("Si", cubic=True))
    return folder


def _labelled(start: ase.Atoms, count: int = 60) -> list[ase.Atoms]:
    """Frames of growing disorder with predictions, and labels that differ from them in proportion."""
    calculator = ForceDeltaCalculator("acac")
    random = np.random.default_rng(0)
    frames = []
    for index in range(count):
        atoms = start.copy()
        atoms.rattle(0.002 + 0.08 * index / count, seed=index)
        calculator.calculate(atoms, ["force_delta"])
        results = calculator.results
        size = results["force_delta"]
        forces = results["direct_forces"] + random.normal(scale=size, size=atoms.positions.shape)
        atoms.calc = SinglePointCalculator(atoms, energy=results["energy"], forces=forces)
        atoms.info.update(
            force_delta=size, model_energy=results["energy"], model="acac", reference="noise",
            weights_hash=f"hash:{calculator.model.weights_hash}",
        )  # fmt: skip
        for name in ("direct_forces", "conservative_forces", "force_deltas"):
            atoms.arrays[name] = results[name]
        frames.append(atoms)
    return frames


@pytest.mark.parametrize("name", _modules())
def test_examples_of_a_module(
    name: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, library in NEEDS.items():
        if f"{name}.".startswith(f"{module}.") and importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    module = importlib.import_module(name)
    monkeypatch.chdir(shutil.copytree(files, tmp_path / "here"))
    runner = doctest.DocTestRunner(Output(), optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for examples in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        examples.globs["forcedelta"] = forcedelta
        runner.run(examples, out=report.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(report)
