"""A model in a package of its own, installed by pip, found through its entry point."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PROGRAM

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).parents[1] / "third_party"
LOAD = """
import numpy as np
from ase.build import molecule
from forcedelta import load_model
from forcedelta.ase import ForceDeltaCalculator

model = load_model("example-bonds")
atoms = molecule("H2O")
atoms.rattle(0.05, seed=0)
atoms.calc = ForceDeltaCalculator("example-bonds", dtype="float64")
atoms.get_forces()
results = atoms.calc.results
direct, conservative = results["direct_forces"], results["conservative_forces"]
assert np.abs(conservative).max() > 0.1
assert np.allclose(direct, 0.9 * conservative)
assert np.isclose(results["force_delta"], np.sqrt((conservative**2).mean()) / 10)
print(model.library, *model.symbols)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With the package on the path; nothing is fetched."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")  # setuptools builds within the folder
    for path in PACKAGE.glob("*.*"):
        (source / path.name).write_bytes(path.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
         "--no-build-isolation", "--target", str(target), str(source)],
        check=True, timeout=600,
    )  # fmt: skip
    paths = [str(target), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def run(command: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_listed_and_loaded_by_name(environment: dict[str, str], tmp_path: Path) -> None:
    listed = json.loads(run([*PROGRAM, "models", "--json"], environment, tmp_path))
    (found,) = (model for model in listed if model["name"] == "example-bonds")
    assert found == {"name": "example-bonds", "package": "example-bonds 1.2.3"}
    assert run([sys.executable, "-c", LOAD], environment, tmp_path) == "example-bonds 1.2.3 H O\n"


def test_a_run_with_it(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "water.xyz").write_text("3\n\nO 0 0 0\nH 0.97 0 0\nH -0.24 0.93 0\n")
    arguments = ["run", "water.xyz", "--model", "example-bonds", "--steps", "5", "--out", "run.h5"]
    run([*PROGRAM, *arguments], environment, tmp_path)
    assert (tmp_path / "run.h5").is_file()


def test_without_the_package_the_name_is_unknown(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import forcedelta; forcedelta.load_model('example-bonds')"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert "no model is called 'example-bonds'" in done.stderr
