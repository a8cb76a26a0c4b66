"""A model in a package of its own, installed by pip, found through its entry point."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PROGRAM
from own_packages import PACKAGES, installed, run

pytestmark = pytest.mark.slow

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
    """With the package on the path."""
    return installed(tmp_path_factory.mktemp("installed"), "example-bonds")


def test_it_is_listed_and_loaded_by_name(environment: dict[str, str], tmp_path: Path) -> None:
    listed = json.loads(run([*PROGRAM, "models", "--json"], environment, tmp_path).stdout)
    (found,) = (model for model in listed if model["name"] == "example-bonds")
    assert found == {"name": "example-bonds", "package": "example-bonds 1.2.3"}
    loaded = run([sys.executable, "-c", LOAD], environment, tmp_path)
    assert loaded.stdout == "example-bonds 1.2.3 H O\n"


def test_a_run_with_it(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "water.xyz").write_text("3\n\nO 0 0 0\nH 0.97 0 0\nH -0.24 0.93 0\n")
    arguments = ["run", "water.xyz", "--model", "example-bonds", "--steps", "5", "--out", "run.h5"]
    run([*PROGRAM, *arguments], environment, tmp_path)
    assert (tmp_path / "run.h5").is_file()


def test_check_finds_its_conservative_forces_sound(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "water.xyz").write_text("3\n\nO 0 0 0\nH 0.97 0 0\nH -0.24 0.93 0\n")
    arguments = ["check", "example-bonds", "water.xyz", "--quick", "--json"]
    found = json.loads(run([*PROGRAM, *arguments], environment, tmp_path).stdout)
    assert found["verdict"] in ("usable", "usable with caveats"), found


def conformance(environment: dict[str, str], folder: Path, status: int) -> str:
    """The output of the package's own tests, run as its author runs them."""
    file = "test_example_bonds.py"
    (folder / file).write_bytes((PACKAGES / "example-bonds" / file).read_bytes())
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    return run(command, environment, folder, status).stdout


def test_it_passes_the_conformance_suite(environment: dict[str, str], tmp_path: Path) -> None:
    assert " passed" in conformance(environment, tmp_path, 0)


def test_the_conformance_suite_finds_a_cutoff_without_a_switch(
    environment: dict[str, str], tmp_path: Path
) -> None:
    code = (PACKAGES / "example-bonds" / "example_bonds.py").read_text(encoding="utf-8")
    smooth = "1 - x**3 * (10 - 15 * x + 6 * x**2)"
    assert smooth in code
    abrupt = code.replace(smooth, "torch.ones_like(x)")
    (tmp_path / "example_bonds.py").write_text(abrupt, encoding="utf-8")
    output = conformance(environment, tmp_path, 1)  # the folder comes first on the path
    failed = {
        line.split("::")[2].split("[")[0]
        for line in output.splitlines()
        if line.startswith("FAILED")
    }
    assert failed == {"test_neighbours_come_and_go_without_a_jump"}


def test_without_the_package_the_name_is_unknown(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import forcedelta; forcedelta.load_model('example-bonds')"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert "no model is called 'example-bonds'" in done.stderr
