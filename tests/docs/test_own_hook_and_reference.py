"""A hook and a reference method in packages of their own, installed by pip, used from the command line."""

import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.fd import calculate_numerical_forces
from command_line import PROGRAM
from own_packages import installed, run

from forcedelta import Trajectory

pytestmark = pytest.mark.slow

LONGEST, PATIENCE = 1.1, 5  # of guarded_water.py


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With a model, a hook and a reference method, each from its package."""
    folder = tmp_path_factory.mktemp("installed")
    return installed(folder, "example-bonds", "example-distance", "example-springs")


@pytest.fixture
def water(tmp_path: Path) -> Path:
    """A working directory with a water molecule."""
    (tmp_path / "water.xyz").write_text("3\n\nO 0 0 0\nH 0.97 0 0\nH -0.24 0.93 0\n")
    return tmp_path


def guarded_water(environment: dict[str, str], folder: Path, steps: int) -> list[str]:
    """Reason and last step of the hook's run."""
    command = ["guarded-water", "../water.xyz", "example-bonds", str(steps)]
    folder.mkdir(exist_ok=True)
    return run(command, environment, folder).stdout.split()[:2]


def test_the_hook_records_the_distance_and_stops(environment: dict[str, str], water: Path) -> None:
    reason, step = guarded_water(environment, water / "once", 2000)
    assert reason == "stopped"
    recorded = Trajectory(water / "once" / "run.h5")
    distances = recorded.series["distance_0_1"]
    assert len(distances) == int(step) + 1
    frame = recorded.frame(-1)
    assert frame.step == int(step)
    oxygen, hydrogen = frame.positions[:2]
    assert distances[-1] == pytest.approx(np.linalg.norm(oxygen - hydrogen), abs=1e-5)
    apart = distances > LONGEST
    assert apart[-PATIENCE:].all()
    windows = np.lib.stride_tricks.sliding_window_view(apart[:-1], PATIENCE)
    assert not windows.all(axis=1).any(), "it stopped late"
    np.testing.assert_array_equal(recorded.flags, np.flatnonzero(apart)[:-1])
    assert {"hook": "distance_0_1", "longest": LONGEST, "patience": PATIENCE} in recorded.policies


def test_the_hook_survives_a_restart(environment: dict[str, str], water: Path) -> None:
    _, stop = guarded_water(environment, water / "once", 2000)
    within = int(stop) - 2  # the bond is too long already
    assert guarded_water(environment, water / "twice", within) == ["finished", str(within)]
    assert guarded_water(environment, water / "twice", 2000) == ["stopped", stop]
    once, twice = (Trajectory(water / name / "run.h5").series for name in ("once", "twice"))
    np.testing.assert_array_equal(once["distance_0_1"], twice["distance_0_1"])


@pytest.mark.parametrize("atoms", ["0, 0", "-1, 1", "0, 3"])
def test_the_hook_refuses_atoms_that_are_not_there(
    environment: dict[str, str], water: Path, atoms: str
) -> None:
    code = (
        "from example_distance import Distance\nfrom forcedelta import guarded_run\n"
        f"guarded_run('water.xyz', 'example-bonds', 5, hooks=[Distance({atoms}, longest=1.2)])"
    )
    done = run([sys.executable, "-c", code], environment, water, status=1)
    assert "HookError" in done.stderr.splitlines()[-1]
    assert "pass" in done.stderr.splitlines()[-1]


def recalc(environment: dict[str, str], folder: Path, *arguments: str, status: int = 0) -> str:
    command = ["recalc", "run.h5", "--calculator", "example_springs:Springs", *arguments]
    done = run([*PROGRAM, *command], environment, folder, status)
    return done.stdout + done.stderr


@pytest.fixture
def recorded(environment: dict[str, str], water: Path) -> Path:
    """A working directory with a run of which frames are flagged."""
    command = "run water.xyz --model example-bonds --steps 400 --temperature 600 --seed 1"
    thresholds = "--flag-above 0.05 --stop-above 5"
    run([*PROGRAM, *command.split(), *thresholds.split()], environment, water)
    return water


def test_the_reference_method_labels_frames(environment: dict[str, str], recorded: Path) -> None:
    recalc(environment, recorded, "--set", "stiffness=25", "--select", "2")
    labelled = ase.io.read(recorded / "labelled.xyz", ":")
    assert len(labelled) == 2
    for atoms in labelled:
        assert "stiffness=25" in atoms.info["reference"]
        assert "example_springs 0.1.0" in atoms.info["reference"]
        stretch = atoms.get_distances(0, [1, 2]) - (0.66 + 0.31)  # of the covalent radii
        energy = 0.5 * 25 * (stretch**2).sum()
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-6)
        difference = atoms.arrays["direct_forces"] - atoms.get_forces()
        assert atoms.info["epsilon"] == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-5)


def test_a_charge_is_refused_in_one_line(environment: dict[str, str], recorded: Path) -> None:
    output = recalc(environment, recorded, "--charge", "1", "--spin", "2", status=2)
    assert output.startswith("error: example_springs:Springs takes no charge from a frame")


def test_forces_of_the_reference_method_are_the_gradient(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], water: Path
) -> None:
    monkeypatch.syspath_prepend(environment["PYTHONPATH"].split(":")[0])
    from example_springs import Springs

    atoms = ase.io.read(water / "water.xyz")
    atoms.rattle(0.05, seed=0)
    atoms.calc = Springs(stiffness=25.0)
    expected = calculate_numerical_forces(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-6)
