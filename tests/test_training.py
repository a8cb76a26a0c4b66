"""Training on structures labelled by an analytic potential, from files to a file of weights."""

from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian, Hookean
from typer.testing import CliRunner

from forcedelta.cli.training import app
from forcedelta.errors import ForceDeltaError
from forcedelta.force_delta import ForceDelta
from forcedelta.models.network import DirectForceNetwork
from forcedelta.models.registry import load_model
from forcedelta.ranking import auroc, spearman, worst_tenth
from forcedelta.training.data import (
    collect,
    mixed_levels,
    read_labelled,
    reference_energies,
    to_batch,
)
from forcedelta.training.loop import Settings, loss_of, mean_norm, train
from forcedelta.training.quality import measure, summary
from forcedelta.training.recipe import read_recipe, shipped_recipes
from forcedelta.training.tasks import split, train_recipe

RECIPE = """
training = ["copper.xyz"]
validation = 0.2

[network]
cutoff = 4.0
features = 16
channels = 8
layers = 2

[settings]
epochs = 6
warm_up = 5
learning_rate = 5e-3

[metadata]
name = "copper"
training_set = "rattled copper"
source = "this test"
licence = "MIT"
level_of_theory = "EMT"
regime = "energy, direct forces and gradient"
periodic = true
"""


def labelled(atoms: Atoms) -> Atoms:
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a labelled file of rattled copper and a recipe for it."""
    path = tmp_path_factory.mktemp("training")
    frames = []
    for seed in range(30):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.rattle(0.08, seed=seed)
        frames.append(labelled(atoms))
    ase.io.write(path / "copper.xyz", frames)
    (path / "recipe.toml").write_text(RECIPE)
    return path


def run_training(folder: Path, out: Path) -> str:
    result = CliRunner().invoke(
        app,
        ["train", str(folder / "recipe.toml"), "--data", str(folder), "--out", str(out)],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_a_recipe_makes_the_same_weights_twice(folder: Path, tmp_path: Path) -> None:
    output = run_training(folder, tmp_path / "a.safetensors")
    run_training(folder, tmp_path / "b.safetensors")
    assert "24 training frames, 6 held out" in output
    first, second = (load_model(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    for one, other in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(one, other)
    assert first.metadata["training_frames"] == 24
    assert first.metadata["tests"]["held_out"]["frames"] == 6
    assert first.periodic


def test_training_lowers_the_errors_of_both_forces(folder: Path) -> None:
    recipe = read_recipe(str(folder / "recipe.toml"))
    training, held_out = split(recipe, folder)
    parts, tests = ([to_batch(a, 4.0) for a in frames] for frames in (training, held_out))
    torch.manual_seed(0)
    network = DirectForceNetwork([29], **recipe.network)
    network.reference_energies.copy_(torch.from_numpy(reference_energies(training, [29], [])))
    before = summary(measure(network, tests))
    settings = Settings(epochs=25, warm_up=5, learning_rate=5e-3, average=0.9)
    after = summary(measure(train(network, parts, settings, lambda *_: None), tests))
    for name in ("direct_mae_meV_per_A", "conservative_mae_meV_per_A"):
        assert after[name] < 0.3 * before[name]


def test_held_out_frames_are_not_trained_on(folder: Path) -> None:
    training, held_out = split(read_recipe(str(folder / "recipe.toml")), folder)
    seen = {atoms.positions.tobytes() for atoms in training}
    assert len(seen) == 24
    assert not seen & {atoms.positions.tobytes() for atoms in held_out}


def test_held_out_frames_are_written_with_their_labels(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "held_out.xyz"
    command = ["held-out", str(folder / "recipe.toml"), "--data", str(folder), "--out", str(out)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.output == f"6 frames written to {out}\n"
    expected = split(read_recipe(str(folder / "recipe.toml")), folder)[1]
    for atoms, other in zip(read_labelled(out), expected, strict=True):
        np.testing.assert_allclose(atoms.positions, other.positions, atol=1e-7)
        np.testing.assert_allclose(atoms.get_forces(), other.get_forces(), atol=1e-7)
        assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy())


def test_a_batch_has_the_loss_of_its_structures(folder: Path) -> None:
    parts = [to_batch(atoms, 4.0) for atoms in read_labelled(folder / "copper.xyz")[:4]]
    network = DirectForceNetwork([29], cutoff=4.0, features=16, channels=8)
    settings = Settings(epochs=1)
    single = torch.stack([loss_of(ForceDelta(network), part, settings) for part in parts]).mean()
    together = loss_of(ForceDelta(network), collect(parts), settings)
    torch.testing.assert_close(together, single, rtol=1e-4, atol=1e-5)


def test_without_gradient_weight_no_gradient_is_taken(folder: Path) -> None:
    part = to_batch(read_labelled(folder / "copper.xyz")[0], 4.0)
    network = DirectForceNetwork([29], cutoff=4.0, features=16, channels=8)
    loss = loss_of(ForceDelta(network), part, Settings(epochs=1, gradient_weight=0.0))
    energy, direct = network(*part.graph)
    expected = 10.0 * ((energy - part.energy) / 8).abs().mean()
    expected = expected + (direct - part.forces).norm(dim=1).mean()
    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-5, atol=1e-5)


def test_the_consistency_term_needs_no_force_labels_and_pulls_on_both_heads(folder: Path) -> None:
    part = to_batch(read_labelled(folder / "copper.xyz")[0], 4.0)
    torch.manual_seed(0)
    network = DirectForceNetwork([29], cutoff=4.0, features=16, channels=8)
    settings = Settings(
        epochs=1, energy_weight=0.0, direct_weight=0.0, gradient_weight=0.0, consistency_weight=0.7
    )
    loss = loss_of(ForceDelta(network), part, settings)
    result = ForceDelta(network)(*part.graph)
    difference = result["direct_forces"] - result["conservative_forces"]
    torch.testing.assert_close(loss, 0.7 * difference.norm(dim=1).mean(), rtol=1e-5, atol=1e-5)
    unlabelled = replace(part, forces=torch.zeros_like(part.forces))
    assert torch.equal(loss, loss_of(ForceDelta(network), unlabelled, settings))
    loss.backward()
    for head in (network.energy_head[0].weight, network.force_head.weight):
        assert head.grad is not None
        assert head.grad.abs().max() > 0


def test_without_consistency_weight_training_is_what_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss to the last bit; without gradient_weight no gradient of the energy is computed."""
    part = to_batch(read_labelled(folder / "copper.xyz")[0], 4.0)
    torch.manual_seed(0)
    network = DirectForceNetwork([29], cutoff=4.0, features=16, channels=8)
    settings = Settings(epochs=1)
    result = ForceDelta(network)(
        part.positions.clone().requires_grad_(True), *part.graph[1:], create_graph=True
    )
    expected = mean_norm(result["conservative_forces"] - part.forces)
    per_atom = ((result["energy"] - part.energy) / 8).to(torch.float32)
    expected = expected + 10.0 * per_atom.abs().mean()
    expected = expected + mean_norm(result["direct_forces"] - part.forces)
    assert torch.equal(loss_of(ForceDelta(network), part, settings), expected)

    def no_gradient(*arguments: object, **options: object) -> None:
        raise AssertionError("a gradient of the energy was computed")

    monkeypatch.setattr(ForceDelta, "forward", no_gradient)
    loss_of(ForceDelta(network), part, replace(settings, gradient_weight=0.0))


def test_the_consistency_term_lowers_u(folder: Path, tmp_path: Path) -> None:
    recipe = read_recipe(str(folder / "recipe.toml"))
    direct = RECIPE.replace("epochs = 6", "epochs = 15\ngradient_weight = 0.0")
    values = []
    for weight in (0.0, 0.5):
        text = direct.replace("epochs", f"consistency_weight = {weight}\nepochs")
        (tmp_path / "recipe.toml").write_text(text)
        result = train_recipe(tmp_path / "recipe.toml", folder)
        tests = [to_batch(atoms, 4.0) for atoms in split(recipe, folder)[1]]
        values.append(measure(result.network, tests).force_delta.mean())
    assert values[1] < 0.5 * values[0]


def test_reference_energies_leave_nothing_that_counts_of_atoms_explain() -> None:
    frames = [labelled(molecule(name)) for name in ("CH4", "C2H6", "H2O", "CO")]
    elements = [1, 6, 8]
    isolated = [labelled(Atoms("H")), labelled(Atoms("C")), labelled(Atoms("O"))]
    reference = reference_energies(frames, elements, isolated)
    counts = np.array([[np.sum(a.numbers == z) for z in elements] for a in frames])
    left = [a.get_potential_energy() for a in frames] - counts @ reference
    np.testing.assert_allclose(counts.T @ left, 0.0, atol=1e-8)


def test_auroc_and_spearman_of_perfect_and_of_useless_predictors() -> None:
    error = np.linspace(0.1, 1.0, 50)
    assert auroc(error**2, worst_tenth(error)) == 1.0
    assert auroc(-error, worst_tenth(error)) == 0.0
    assert auroc(np.ones(50), worst_tenth(error)) == 0.5
    assert spearman(error**3, error) == pytest.approx(1.0)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_can_be_read(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.metadata["name"] == name
    assert recipe.settings.epochs > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training = [", "not valid TOML"),
        (RECIPE + "\n[extra]\n", "unknown keys"),
        (RECIPE.replace("epochs = 6", "epoch = 6"), r"\[settings\]"),
        ('training = ["copper.xyz"]', "missing keys"),
        (
            RECIPE.replace("epochs", "consistency_weight = -0.1\nepochs"),
            "consistency_weight must be a non-negative number",
        ),
    ],
)
def test_a_recipe_that_is_wrong_says_how(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ForceDeltaError, match=message):
        read_recipe(str(tmp_path / "recipe.toml"))


def test_structures_without_labels_are_refused(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "bare.xyz", molecule("CH4"))
    with pytest.raises(ForceDeltaError, match="frame 0 has no energy or no forces"):
        read_labelled(tmp_path / "bare.xyz")
    other_keys = molecule("CH4")
    other_keys.info["REF_energy"] = -1.0
    other_keys.arrays["REF_forces"] = np.zeros((5, 3))
    ase.io.write(tmp_path / "other.xyz", other_keys)
    with pytest.raises(ForceDeltaError, match="its labels: REF_energy, REF_forces"):
        read_labelled(tmp_path / "other.xyz")
    with pytest.raises(ForceDeltaError, match="no such recipe"):
        read_recipe("acacia")


def smeared(seed: int, free_energy: float | None = -43.5) -> Atoms:
    """A labelled slab whose lower layers are held, and a spring between two atoms."""
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=seed)
    results = {"energy": -43.0, "forces": np.random.default_rng(seed).normal(size=(8, 3))}
    if free_energy is not None:
        results["free_energy"] = free_energy
    atoms.set_constraint(
        [FixAtoms([0, 1, 2]), FixCartesian(3, [1, 0, 1]), Hookean(4, 5, k=5.0, rt=0.1)]
    )
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.mark.parametrize("name", ["labels.xyz", "labels.traj"])
def test_labels_are_raw_forces_and_the_energy_whose_gradient_they_are(
    tmp_path: Path, name: str
) -> None:
    frames = [smeared(seed) for seed in range(2)]
    for atoms in frames if name.endswith("xyz") else []:
        del atoms.constraints[1:]  # extended XYZ has only those that hold atoms
    ase.io.write(tmp_path / name, frames)
    for atoms, written in zip(read_labelled(tmp_path / name), frames, strict=True):
        assert atoms.constraints
        batch = to_batch(atoms, 4.0)
        forces = written.calc.results["forces"]
        np.testing.assert_allclose(batch.forces.numpy(), forces, atol=1e-6)
        assert float(batch.energy[0]) == pytest.approx(-43.5)
        assert reference_energies([atoms], [14], []) == pytest.approx([-43.5 / 8])


def test_labels_that_do_not_go_together(tmp_path: Path) -> None:
    mixed = [smeared(0), smeared(1, None)]
    for atoms in mixed:
        atoms.set_constraint()
    ase.io.write(tmp_path / "mixed.xyz", mixed)
    with pytest.raises(ForceDeltaError, match="frame 0 has a free_energy that differs"):
        read_labelled(tmp_path / "mixed.xyz")
    mixed[0].calc.results["energy"] = np.nan
    mixed[0].calc.results["free_energy"] = np.nan
    ase.io.write(tmp_path / "nan.xyz", mixed[:1])
    with pytest.raises(ForceDeltaError, match="energy or forces of frame 0 are not finite"):
        read_labelled(tmp_path / "nan.xyz")
    for atoms, level in zip(
        mixed, ["VASP: PBE; MPStaticSet", "VASP: PBE+U (Ni 6.2 eV)"], strict=True
    ):
        atoms.info["reference"] = level
    assert "mixed (Hubbard U): VASP: PBE; MPStaticSet | VASP: PBE+U" in str(mixed_levels(mixed))
    assert mixed_levels(mixed[:1]) is None
    assert mixed_levels([bulk("Si")]) is None


def test_labels_of_other_names(folder: Path, tmp_path: Path) -> None:
    """By the recipe or the call: the same weights as from ASE's own names."""
    frames = ase.io.read(folder / "copper.xyz", ":")
    for atoms in frames:
        results, atoms.calc = atoms.calc.results, None
        atoms.info["REF_energy"] = results["energy"]
        atoms.arrays["REF_forces"] = results["forces"]
    ase.io.write(tmp_path / "copper.xyz", frames, format="extxyz")
    expected = train_recipe(folder / "recipe.toml", folder).network
    keys = {"energy_key": "REF_energy", "forces_key": "REF_forces"}
    text = "".join(f'{name} = "{key}"\n' for name, key in keys.items())
    (tmp_path / "recipe.toml").write_text(text + RECIPE)
    lines: list[str] = []
    for recipe, given in ((tmp_path / "recipe.toml", {}), (folder / "recipe.toml", keys)):
        found = train_recipe(recipe, tmp_path, report=lines.append, **given).network
        for one, other in zip(found.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert "labels: REF_energy; REF_forces of all atoms, without constraints" in lines
    with pytest.raises(ForceDeltaError, match="pass --energy-key and --forces-key"):
        train_recipe(folder / "recipe.toml", tmp_path)
    with pytest.raises(ForceDeltaError, match=r"frame 0 .* no finite number under 'TEI'"):
        train_recipe(folder / "recipe.toml", tmp_path, energy_key="TEI")
    out = tmp_path / "held.xyz"
    command = ["held-out", str(folder / "recipe.toml"), "--data", str(tmp_path), "--out", str(out)]
    options = ["--energy-key", "REF_energy", "--forces-key", "REF_forces"]
    result = CliRunner().invoke(app, [*command, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert all(np.isfinite(atoms.get_potential_energy()) for atoms in ase.io.read(out, ":"))
