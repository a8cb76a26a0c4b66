"""A PET, trained for some epochs by metatrain, from its checkpoint and from its exported file."""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from openmm import unit
from systems import Counting, acetaldehyde, small_crystal

from forcedelta import ForceDelta, ForceDeltaError, load_model
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.cli import status
from forcedelta.graph import Graphs
from forcedelta.models import LoadedModel
from forcedelta.openmm.force import add_force_delta

with warnings.catch_warnings():
    # metatomic is TorchScript, which torch deprecates
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
    pytest.importorskip("metatomic_ase", reason="needs metatomic")
    pytest.importorskip("metatrain", reason="needs metatrain")
    from metatomic_ase import MetatomicCalculator

pytestmark = [
    pytest.mark.usefixtures("silent"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]

SINGLE, DOUBLE = torch.float32, torch.float64
CPU = torch.device("cpu")
STEP = 1e-4  # Å, of finite differences
DERIVATIVE = 1e-6  # of the largest force
SAME = 1e-10
OPTIONS = """
seed: 1
architecture:
  name: pet
  model:
    cutoff: 4.0
    d_pet: 16
    d_head: 16
    d_node: 16
    d_feedforward: 16
    num_heads: 2
    num_attention_layers: 1
    num_gnn_layers: 2
  training: {num_epochs: 30, batch_size: 8, learning_rate: 0.003}
training_set:
  systems: {read_from: train.xyz, length_unit: angstrom}
  targets:
    energy: {key: energy, unit: eV, forces: {key: forces}}
    non_conservative_force:
      quantity: force
      read_from: train.xyz
      key: forces
      unit: eV/Angstrom
      type: {cartesian: {rank: 1}}
      per_atom: true
validation_set: 0.2
test_set: 0.0
"""


def copper() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    return atoms


def small_copper() -> Atoms:
    """Two atoms in a triclinic cell that is smaller than the cutoff, one of them outside of it."""
    atoms = small_crystal()
    atoms.numbers[:] = 29
    return atoms


STRUCTURES = [acetaldehyde, copper, small_copper]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pet.ckpt and pet.pt, float32, as metatrain leaves them."""
    where = tmp_path_factory.mktemp("pet")
    frames = []
    for seed in range(5):
        for start in (molecule("CH3CHO"), bulk("Cu", cubic=True)):
            start.rattle(0.05, seed=seed)
            start.calc = EMT()
            frame = start.copy()
            frame.info["energy"] = start.get_potential_energy()
            frame.arrays["forces"] = start.get_forces()
            frames.append(frame)
    ase.io.write(where / "train.xyz", frames, format="extxyz")
    (where / "options.yaml").write_text(OPTIONS)
    command = [shutil.which("mtt", path=str(Path(sys.executable).parent)), "train", "options.yaml"]
    done = subprocess.run(
        [*command, "-o", "pet.pt"], cwd=where, capture_output=True, text=True, timeout=600
    )
    assert (where / "pet.ckpt").is_file(), done.stdout + done.stderr
    return where


@pytest.fixture(scope="module")
def pet(folder: Path) -> LoadedModel:
    """In float64, as its checkpoint allows."""
    return load_model(folder / "pet.ckpt", DOUBLE, architecture="pet", trust=True)


def graph(model: LoadedModel, *structures: Atoms, dtype: torch.dtype = DOUBLE) -> Any:
    return Graphs(model, dtype, CPU).batch(structures)


def close(one: Any, other: Any, tolerance: float) -> bool:
    one, other = torch.as_tensor(one), torch.as_tensor(other)
    return bool((one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("fixed", [False, True], ids=["rebuilt", "fixed"])
@pytest.mark.parametrize("make", STRUCTURES)
def test_conservative_forces_are_minus_the_gradient(
    make: Callable[[], Atoms], fixed: bool, pet: LoadedModel
) -> None:
    """With the graph of each displacement, and with that of the structure."""
    atoms = make()
    start, *rest = graph(pet, atoms)
    forces = ForceDelta(pet.module)(start, *rest)["conservative_forces"]

    def energy(i: int, k: int, by: float) -> float:
        if fixed:
            moved = start.clone()
            moved[i, k] += by
            given = (moved, *rest)
        else:
            displaced = atoms.copy()
            displaced.positions[i, k] += by
            given = graph(pet, displaced)
        with torch.no_grad():
            return float(pet.module(*given)[0])

    expected = np.array(
        [
            [(energy(i, k, -STEP) - energy(i, k, STEP)) / (2 * STEP) for k in range(3)]
            for i in range(len(atoms))
        ]
    )
    largest = np.abs(expected).max()
    assert largest > 5e-3
    assert np.abs(forces.numpy() - expected).max() < DERIVATIVE * largest


@pytest.fixture
def unoptimised() -> Iterator[None]:
    """The library's own calculator would spend seconds with optimising the model for each shape."""
    with torch.jit.optimized_execution(False):
        yield


@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize("make", [*STRUCTURES, lambda: Atoms("Cu", [[1.0, 2, 3]])])
def test_it_is_what_the_library_computes(
    make: Callable[[], Atoms], pet: LoadedModel, folder: Path
) -> None:
    """Energy, both forces and stress: of the exported file in float32, and in float64."""
    atoms = make()
    exported = load_model(folder / "pet.pt")
    single = {
        how: MetatomicCalculator(
            folder / "pet.pt", non_conservative=how, do_gradients_with_energy=False
        )
        for how in (False, "forces")
    }
    assert pet.calculator is not None
    double = pet.calculator()
    found = ForceDelta(exported.module)(*graph(exported, atoms, dtype=SINGLE), stress=True)
    exact = ForceDelta(pet.module)(*graph(pet, atoms), stress=True)
    for key, how in (("conservative_forces", False), ("direct_forces", "forces")):
        atoms.calc = single[how]
        assert close(found["energy"], [atoms.get_potential_energy()], 1e-6)
        assert close(found[key], atoms.get_forces(), 1e-5), key
        assert close(found[key], exact[key].float(), 1e-5), key
    if atoms.pbc.all():
        atoms.calc = single[False]
        assert close(found["stress"][0], atoms.get_stress(voigt=False), 1e-5)
    atoms.calc = double
    assert close(exact["energy"], [atoms.get_potential_energy()], SAME)
    assert close(exact["direct_forces"], atoms.get_forces(), SAME)
    assert found["direct_forces"].sum(0).abs().max() < 1e-5


def test_symmetries_and_batches(pet: LoadedModel) -> None:
    structures = [acetaldehyde(), copper(), small_copper(), Atoms("O"), acetaldehyde(1)]
    together = ForceDelta(pet.module)(*graph(pet, *structures), stress=True)
    alone = [ForceDelta(pet.module)(*graph(pet, atoms), stress=True) for atoms in structures]
    for key, value in together.items():
        expected = torch.cat([each[key] for each in alone])
        assert torch.allclose(value, expected, rtol=SAME, atol=SAME, equal_nan=True), key
    for atoms, expected in zip(structures, alone, strict=True):
        order = np.random.default_rng(0).permutation(len(atoms))
        moved = atoms[order]
        moved.positions += [3.0, -40.0, 7.0]
        if atoms.pbc.all():
            moved.positions += np.arange(len(atoms))[:, None] * atoms.cell[0]
        found = ForceDelta(pet.module)(*graph(pet, moved))
        assert close(found["energy"], expected["energy"], SAME)
        for key in ("direct_forces", "conservative_forces"):
            assert close(found[key], expected[key][order], SAME), key


def test_first_calls_are_rounded_like_later_ones(folder: Path) -> None:
    model = load_model(folder / "pet.pt")
    force_delta, given = ForceDelta(model.module), graph(model, copper(), dtype=SINGLE)
    first, *later = (force_delta(*given, stress=True) for _ in range(4))
    for result in later:
        assert all(torch.equal(result[key], value) for key, value in first.items())


def test_one_forward_one_backward_and_no_gradients_of_parameters(pet: LoadedModel) -> None:
    counting = Counting(pet.module)
    ForceDelta(counting)(*graph(pet, copper()), stress=True)
    assert (counting.forwards, counting.backwards) == (1, 1)
    assert len(list(pet.module.parameters())) > 10
    assert not any(parameter.requires_grad for parameter in pet.module.parameters())
    assert all(parameter.grad is None for parameter in pet.module.parameters())


def test_the_gradient_of_u(pet: LoadedModel) -> None:
    atoms = small_copper()
    start, *rest = graph(pet, atoms)
    force_delta = ForceDelta(pet.module)
    live = start.clone().requires_grad_(True)
    u = force_delta(live, *rest, create_graph=True)["force_delta"]
    (gradient,) = torch.autograd.grad(u.sum(), [live])
    for i, k in ((0, 0), (1, 2)):
        sides = []
        for by in (-STEP, STEP):
            moved = start.clone()
            moved[i, k] += by
            sides.append(float(force_delta(moved, *rest)["force_delta"]))
        assert float(gradient[i, k]) == pytest.approx((sides[1] - sides[0]) / (2 * STEP), rel=1e-4)


def test_the_process_is_as_before(folder: Path) -> None:
    """Loading and evaluation change no setting, and take no random numbers."""

    def state() -> tuple[Any, ...]:
        fusion = torch.jit.set_fusion_strategy([("DYNAMIC", 3)])
        torch.jit.set_fusion_strategy(fusion)
        return (
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.is_grad_enabled(),
            torch.random.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            fusion,
            list(warnings.filters),
            torch._C._get_graph_executor_optimize(),
        )

    before = state()
    model = load_model(folder / "pet.ckpt", architecture="pet", trust=True)
    ForceDelta(model.module)(*graph(model, copper(), dtype=SINGLE))
    assert state() == before


def test_a_run_of_molecular_dynamics(folder: Path) -> None:
    atoms = copper()
    atoms.calc = ForceDeltaCalculator(folder / "pet.pt")
    VelocityVerlet(atoms, 0.5 * units.fs).run(3)
    assert atoms.calc.evaluations == 4
    assert atoms.calc.results["force_delta"] > 1e-3
    assert atoms.calc.model_info["library"].startswith("metatomic-torch")


def test_hashes(folder: Path, pet: LoadedModel) -> None:
    """The same weights, whatever precision they are used in."""
    single = load_model(folder / "pet.ckpt", architecture="pet", trust=True)
    assert single.weights_hash == pet.weights_hash == load_model(folder / "pet.pt").weights_hash
    assert single.metadata["references"] == {"architecture": ["https://arxiv.org/abs/2305.19302v3"]}


OFFLINE = """
import sys
from forcedelta import ForceDeltaError, load_model
model = load_model("pet-mad-xs")
print(model.name, model.weights_hash, model.metadata["licence"], model.metadata["name"])
try:
    load_model("pet-mad-s")
except ForceDeltaError as error:
    print(error)
"""


def test_a_published_name(folder: Path, tmp_path: Path, pet: LoadedModel) -> None:
    """From the cache of the hub, where upet would have put it, without a network."""
    cache = tmp_path / "models--lab-cosmo--upet"
    snapshot = cache / "snapshots" / "0" / "models"
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0")
    shutil.copy(folder / "pet.ckpt", snapshot / "pet-mad-xs-v1.6.0.ckpt")
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        env=environment, capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    said, error = done.stdout.strip().splitlines()
    assert said == f"pet-mad-xs {pet.weights_hash} BSD-3-Clause PET-MAD-XS v1.6.0"
    assert "pet-mad-s-v1.6.0.ckpt, are not in the cache and cannot be downloaded" in error
    assert "--model /path/to/pet-mad-s-v1.6.0.ckpt --architecture pet --trust" in error


def test_checkpoints_that_are_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "pet.ckpt"
    with pytest.raises(ForceDeltaError, match="pass --trust"):
        load_model(path, architecture="pet")
    with pytest.raises(ForceDeltaError, match=r"--architecture \(.*pet"):
        load_model(path)
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ForceDeltaError, match="not a complete checkpoint"):
        load_model(cut, architecture="pet", trust=True)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(ForceDeltaError, match="not a complete checkpoint"):
        load_model(tmp_path / "other.ckpt", architecture="pet", trust=True)


def test_torchscript_gives_the_same(pet: LoadedModel) -> None:
    """In the form without metatomic's classes, which can be frozen."""
    assert pet.script is not None
    scripted = torch.jit.script(ForceDelta(pet.script()))
    given = graph(pet, acetaldehyde(), copper(), small_copper())
    expected = ForceDelta(pet.module)(*given, stress=True)
    for _ in range(3):  # the executor optimises after the first calls
        found = scripted(*given, stress=True)
        for key, value in expected.items():
            assert torch.allclose(found[key], value, rtol=SAME, atol=SAME, equal_nan=True), key
    torch.jit.freeze(torch.jit.script(pet.script()))


OPENMM = """
import sys
for name in ("forcedelta", "metatomic", "metatensor", "metatrain"):
    sys.modules[name] = None  # as on a machine that does not have them
import torch
torch.set_num_threads(1)
module = torch.jit.load("openmm.pt")
atoms, numbers, positions, box, expected = torch.load("case.pt")
module.bind(atoms, numbers, False)
energy, direct = module(positions, box, torch.tensor(2.0))
_, conservative = module(positions, box, torch.tensor(3.0))
kj = 96.48533212331  # kJ/mol, 1 eV
assert abs(energy / kj - expected["energy"][0]) < 1e-4
assert (direct / kj / 10 - expected["direct_forces"]).abs().max() < 1e-5
assert (conservative / kj / 10 - expected["conservative_forces"]).abs().max() < 1e-5
"""


def test_an_exported_pet_needs_no_metatomic(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The file for OpenMM, in a process that has neither this package nor metatomic."""
    model = load_model(folder / "pet.pt")
    atoms = copper()
    expected = ForceDelta(model.module)(*graph(model, atoms, dtype=SINGLE))
    assert status(["export", str(folder / "pet.pt"), "--out", str(tmp_path / "openmm.pt")]) == 0
    assert "pet, float32" in capfd.readouterr().out
    case = (
        torch.arange(len(atoms)),
        torch.tensor(atoms.numbers),
        torch.tensor(atoms.positions * 0.1),
        torch.tensor(atoms.cell.array * 0.1),
        expected,
    )
    torch.save(case, tmp_path / "case.pt")
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OPENMM], cwd=tmp_path, check=True, timeout=600
    )


def test_openmm_with_python_force(folder: Path) -> None:
    atoms = copper()
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    system.setDefaultPeriodicBoxVectors(*(atoms.cell.array * 0.1))
    add_force_delta(system, str(folder / "pet.pt"), atoms.numbers, periodic=True)
    context = openmm.Context(system, openmm.VerletIntegrator(0.0005))
    context.setPositions(atoms.positions * 0.1)
    state = context.getState(energy=True, forces=True)
    atoms.calc = ForceDeltaCalculator(folder / "pet.pt")
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    assert energy * units.kJ / units.mol == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    assert close(forces * units.kJ / units.mol / 10, atoms.get_forces(), 1e-5)
