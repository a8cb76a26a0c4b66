"""Consistency tuning of embedded networks, from frames to a file that is a model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from command_line import untrained_network
from systems import CUTOFF, acetaldehyde, graph_of, small_network
from torch import nn

from forcedelta import Evaluator, ForceDeltaError, check, load_model, tune
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.tuned import REACHES, assemble
from forcedelta.restarts import check_stored_model
from forcedelta.tuning.frames import split
from forcedelta.tuning.judge import judge
from forcedelta.tuning.loop import Epoch, Target, collate, loss_of, trained_parameters
from forcedelta.tuning.own_runs import OwnRuns, own_frames

DOUBLE = torch.float64
EXAMPLE = Path(__file__).parents[2] / "examples" / "acetylacetone.xyz"


@pytest.fixture
def base(here: Path) -> Path:
    return untrained_network(here / "base.safetensors", [1, 6, 8], periodic=None)


@pytest.fixture
def frames(here: Path) -> Path:
    path = here / "frames.xyz"
    ase.io.write(path, [acetaldehyde(seed) for seed in range(30)])
    return path


def forces_of(model: str | Path, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Direct and conservative forces in float32."""
    evaluator = Evaluator(load_model(model), torch.float32)
    (found,) = evaluator.evaluate(evaluator.graph_of([atoms]))
    return found.direct_forces, found.conservative_forces


@pytest.mark.parametrize("reach", REACHES)
def test_the_two_forces_agree_better_on_held_out_frames(
    reach: str, base: Path, frames: Path
) -> None:
    result = tune(base, frames, reach, "tuned.pt", epochs=8, batch_size=5, learning_rate=3e-3)
    assert result.after["held_out"] < 0.95 * result.before["held_out"]
    assert result.frames == {"training": 27, "held_out": 3}
    assert 0 < result.best_epoch <= result.epochs <= 8


@pytest.mark.parametrize("reach", ["head", "energy"])
def test_direct_forces_are_bit_identical(reach: str, base: Path, frames: Path) -> None:
    tune(base, frames, reach, "tuned.pt", epochs=2, batch_size=5)
    atoms = acetaldehyde(99)
    direct, conservative = forces_of(base, atoms)
    tuned_direct, tuned_conservative = forces_of("tuned.pt", atoms)
    assert np.array_equal(direct, tuned_direct)
    assert np.abs(conservative - tuned_conservative).max() > 1e-4
    both = [Evaluator(load_model(name), torch.float32) for name in (base, "tuned.pt")]
    plain = [one.forward(one.graph_of([atoms]))[0].direct_forces for one in both]
    assert np.array_equal(*plain)


@pytest.mark.parametrize("reach", REACHES)
def test_the_tuned_model_passes_the_check(reach: str, base: Path, frames: Path) -> None:
    tune(base, frames, reach, "tuned.pt", epochs=2, batch_size=5)
    found = check("tuned.pt", acetaldehyde(1), quick=True)
    gradients = [one for one in found.inspection.findings if one.key.startswith("gradient_")]
    assert gradients
    assert all(one.level == "ok" for one in gradients), gradients


def test_a_shared_network_has_other_direct_forces(base: Path, frames: Path) -> None:
    tune(base, frames, "shared", "tuned.pt", epochs=2, batch_size=5)
    atoms = acetaldehyde(99)
    assert np.abs(forces_of(base, atoms)[0] - forces_of("tuned.pt", atoms)[0]).max() > 1e-4


@pytest.mark.parametrize("reach", ["head", "energy"])
def test_second_derivatives_by_finite_differences(reach: str) -> None:
    """First derivatives alone give the gradient of the loss that double backward gives."""

    def load() -> LoadedModel:
        return load_model(wrapped(small_network().requires_grad_(False).eval()), DOUBLE)

    def wrapped(network: nn.Module) -> LoadedModel:
        return LoadedModel(network, "small", "0" * 16, frozenset([1, 6, 8]), CUTOFF, None, "tests")

    torch.manual_seed(1)
    assembled = assemble(reach, load)
    assembled.part.requires_grad_(True)
    for name, parameter in assembled.part.named_parameters():
        if name.startswith("last"):  # a new head has no gradient in its first layers
            nn.init.normal_(parameter, std=0.1)
    frames = [acetaldehyde(seed) for seed in range(2)]
    target = collate([Target(graph, assembled.model.module(*graph)[1].detach()) for graph in
                      (graph_of([atoms]) for atoms in frames)])  # fmt: skip
    weights = list(assembled.part.parameters())
    gradients, losses = [], []
    for first_order_only in (False, True):
        quantity, loss = loss_of(
            assembled.energy, target, shared=False, first_order_only=first_order_only
        )
        found = torch.autograd.grad(quantity, weights, allow_unused=True)
        filled = [torch.zeros(1) if g is None else g.flatten() for g in found]
        gradients.append(torch.cat(filled))
        losses.append(loss)
    assert torch.allclose(*losses, rtol=1e-12)
    exact, differences = gradients
    assert exact.norm() > 0
    assert (exact - differences).norm() < 1e-3 * exact.norm()


def test_finite_differences_of_a_trained_network_in_single_precision() -> None:
    """A trained network is rougher than a random one, and float32 limits how short the step may be."""
    assembled = assemble("energy", lambda: load_model("acac-direct"))
    evaluator = Evaluator(assembled.model, torch.float32)
    start = ase.io.read(EXAMPLE)
    start.rattle(0.05, seed=1)
    graph = evaluator.graph_of([start])
    target = Target(graph, assembled.model.module(*graph)[1].detach())
    weights = list(trained_parameters(assembled.part, assembled.energy, target).values())
    exact, differences = (
        torch.cat(
            [
                found.flatten()
                for found in torch.autograd.grad(
                    loss_of(assembled.energy, target, shared=False, first_order_only=alone)[0],
                    weights, allow_unused=True, materialize_grads=True,
                )
            ]
        )
        for alone in (False, True)
    )  # fmt: skip
    assert (exact - differences).norm() < 2e-3 * exact.norm()


def test_frames_side_by_side_are_one_batch() -> None:
    structures = [acetaldehyde(0), acetaldehyde(1)[:5], acetaldehyde(2)]
    parts = [Target(graph_of([atoms]), torch.zeros(len(atoms), 3)) for atoms in structures]
    for mine, theirs in zip(collate(parts).graph, graph_of(structures), strict=True):
        assert torch.equal(mine, theirs)


def test_an_interrupted_tuning_continues_bit_for_bit(base: Path, frames: Path) -> None:
    options = {"reach": "energy", "epochs": 4, "batch_size": 5}
    tune(base, frames, out="whole.pt", **options)

    def interrupt(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(base, frames, out="parts.pt", report=interrupt, **options)
    with pytest.raises(ForceDeltaError, match="pass --restart"):
        tune(base, frames, out="parts.pt", **options)
    with pytest.raises(ForceDeltaError, match="other settings"):
        tune(base, frames, out="parts.pt", mode="restart", **{**options, "epochs": 5})
    seen: list[int] = []
    tune(
        base,
        frames,
        out="parts.pt",
        mode="restart",
        report=lambda e: seen.append(e.number),
        **options,
    )
    assert seen == [3, 4]
    assert load_model("whole.pt").weights_hash == load_model("parts.pt").weights_hash
    assert not Path("parts.pt.partial").exists()


def test_a_seed_repeats(base: Path, frames: Path) -> None:
    hashes = []
    for number, seed in enumerate((0, 0, 1)):
        out = f"{number}.pt"
        tune(base, frames, "head", out, epochs=1, seed=seed)
        hashes.append(load_model(out).weights_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_another_base_is_refused_and_a_moved_one_is_found(
    base: Path, frames: Path, here: Path
) -> None:
    tune(base, frames, "head", "tuned.pt", epochs=1)
    whole = forces_of("tuned.pt", acetaldehyde(5))
    other = here / "other"
    other.mkdir()
    for name in ("base.safetensors", "tuned.pt"):
        shutil.move(name, other / name)
    assert np.array_equal(forces_of(other / "tuned.pt", acetaldehyde(5)), whole)
    untrained_network(other / "base.safetensors", [1, 6, 8], periodic=None, seed=1)
    with pytest.raises(ForceDeltaError, match="restore the base model, or tune again"):
        load_model(other / "tuned.pt")
    (other / "base.safetensors").unlink()
    with pytest.raises(ForceDeltaError, match="no such file"):
        load_model(other / "tuned.pt")


def test_a_damaged_file_is_refused(base: Path, frames: Path) -> None:
    tune(base, frames, "head", "tuned.pt", epochs=1)
    content = bytearray(Path("tuned.pt").read_bytes())
    content[-10] ^= 255
    Path("damaged.pt").write_bytes(content)
    with pytest.raises(ForceDeltaError, match="damaged"):
        load_model("damaged.pt")
    Path("short.pt").write_bytes(content[:-100])
    with pytest.raises(ForceDeltaError, match=r"short\.pt"):
        load_model("short.pt")


def test_a_tuned_model_is_not_tuned_again_nor_described_by_flags(base: Path, frames: Path) -> None:
    tune(base, frames, "head", "tuned.safetensors", epochs=1)
    with pytest.raises(ForceDeltaError, match="tune its base model instead"):
        tune("tuned.safetensors", frames, "energy", "again.pt", epochs=1)
    with pytest.raises(ForceDeltaError, match="omit --architecture"):
        load_model("tuned.safetensors", architecture="orb-v2")
    # it leads to another file, which a recorded run must not choose
    with pytest.raises(ForceDeltaError, match="pass --model"):
        check_stored_model("tuned.safetensors", None, "run.h5")
    check_stored_model(str(base), None, "run.h5")


def test_an_adapter_that_cannot_is_refused() -> None:
    class Plain(nn.Module):
        cutoff = CUTOFF

    model = LoadedModel(Plain(), "plain", "0" * 16, None, CUTOFF, None, "tests")
    with pytest.raises(ForceDeltaError, match="cannot be tuned with the reach 'head'"):
        assemble("head", lambda: model)
    partly = Plain()
    partly.tunable = ("energy",)
    with pytest.raises(ForceDeltaError, match="pass --reach energy"):
        assemble("head", lambda: replace(model, module=partly))


def test_a_contiguous_tenth_of_each_trajectory_is_held_out() -> None:
    numbered = []
    for run in range(2):
        one = []
        for index in range(40):
            atoms = acetaldehyde(0)
            atoms.info["index"] = 100 * run + index
            one.append(atoms)
        numbered.append(one)
    training, held_out = split([*numbered, numbered[0][:3]], seed=3)
    indices = [atoms.info["index"] for atoms in held_out]
    assert len(training) == 75
    for part in (indices[:4], indices[4:]):
        assert part == list(range(part[0], part[0] + 4))
    with pytest.raises(ForceDeltaError, match="10 frames"):
        split([numbered[0][:9]], seed=0)


def test_labels_are_judged_and_the_models_own_forces_are_not(base: Path) -> None:
    evaluator = Evaluator(load_model(base), torch.float32)
    rng = np.random.default_rng(0)
    frames, sizes = [], np.linspace(0.1, 1.0, 20)
    for seed, size in enumerate(sizes):
        atoms = acetaldehyde(seed)
        (found,) = evaluator.evaluate(evaluator.graph_of([atoms]))
        noise = rng.choice([-size, size], found.direct_forces.shape)
        label = found.direct_forces + noise
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=label)
        frames.append(atoms)
    own = acetaldehyde(50)
    (found,) = evaluator.evaluate(evaluator.graph_of([own]))
    own.calc = SinglePointCalculator(own, energy=0.0, forces=found.direct_forces)
    judged = judge(evaluator, [*frames, own])
    assert judged.labelled == 20
    assert judged.direct_error == pytest.approx(np.sqrt(np.mean(sizes**2)), rel=1e-5)
    assert judged.ranking is not None
    assert set(judged.ranking) == {
        "force_delta", "energy_per_atom", "force_rms", "rigid_force",
    }  # fmt: skip
    assert judge(evaluator, [own]).labelled == 0


def test_the_command(forcedelta, base: Path, frames: Path, here: Path) -> None:
    status, printed, told = forcedelta(
        "tune", base, frames, "--reach", "head", "--epochs", 2, "--judge", frames, "--json"
    )
    assert status == 0, told
    result = json.loads(printed)
    assert result["after"]["held_out"] < result["before"]["held_out"]
    assert result["judged"][0]["frames"] == 30
    assert told.count("epoch") == 2
    status, _, told = forcedelta("tune", base, frames, "--epochs", 1)
    assert status == 2
    assert "pass --overwrite" in told
    ase.io.write(here / "start.xyz", acetaldehyde(0))
    status, printed, told = forcedelta(
        "run", here / "start.xyz", "--model", here / "tuned.pt", "--steps", 3, "--out", "run.h5",
        "--temperature", 10,
    )  # fmt: skip
    assert status == 0, told
    status, printed, told = forcedelta("audit", "run.h5", "--model", here / "tuned.pt")
    assert status == 0, told


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_an_exported_module_is_the_tuned_model(reach: str, base: Path, frames: Path) -> None:
    pytest.importorskip("openmm", reason="needs OpenMM")
    from forcedelta.openmm.export import FULL, OTHER, export
    from forcedelta.openmm.units import EV_PER_ANGSTROM

    tune(base, frames, reach, "tuned.pt", epochs=1)
    export("tuned.pt", "exported.pt")
    module = torch.jit.load("exported.pt")
    atoms = acetaldehyde(3)
    module.bind(torch.arange(len(atoms)), torch.tensor(atoms.numbers), False)
    points = torch.tensor(atoms.positions / 10)
    _, direct = module(points, torch.tensor(FULL))
    _, conservative = module(points, torch.tensor(OTHER))
    for scripted, eager in zip((direct, conservative), forces_of("tuned.pt", atoms), strict=True):
        assert np.allclose(scripted.numpy() / EV_PER_ANGSTROM, eager, rtol=1e-4, atol=1e-4)


def test_the_model_makes_its_own_frames(base: Path, here: Path) -> None:
    ase.io.write("start.xyz", acetaldehyde(0))
    result = tune(
        base, "start.xyz", "head", "out.pt", make_frames=20, temperatures=(50, 100), epochs=1, seed=3
    )  # fmt: skip
    assert result.frames == {"training": 36, "held_out": 4}
    made = [ase.io.read(f"out-{temperature}K.xyz", ":") for temperature in (50, 100)]
    heat = [np.mean([atoms.get_kinetic_energy() for atoms in run]) for run in made]
    assert heat[1] > heat[0] > 0
    # the same as from its own files
    again = tune(base, ["out-50K.xyz", "out-100K.xyz"], "head", "again.pt", epochs=1, seed=3)
    assert again.after == result.after
    with pytest.raises(ForceDeltaError, match="pass --overwrite"):
        tune(base, "start.xyz", "head", "out.pt", make_frames=20)
    Path("out.pt").unlink()
    with pytest.raises(ForceDeltaError, match=r"out-50K\.xyz.* pass --overwrite"):
        tune(base, "start.xyz", "head", "out.pt", make_frames=20, temperatures=(50, 100))


def test_a_run_that_blows_up_is_repeated_and_then_refused(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Direct forces of 30 eV/Å away from the centre drive the atoms apart."""

    class Exploding(nn.Module):
        cutoff = CUTOFF
        strength = 30.0

        def forward(self, positions, numbers, cell, edge_index, edge_shift, batch):  # noqa: ANN
            energy = (positions * positions).sum().reshape(1) * 1e-3
            return energy, self.strength * positions

    module = Exploding()
    model = LoadedModel(module, "exploding", "0" * 16, None, CUTOFF, None, "tests")
    settings = {"seed": 0, "dtype": "float64", "device": "cpu", "threads": 1}
    with pytest.raises(ForceDeltaError, match=r"hold for 0 frames at 300 K .*lower --temperature"):
        own_frames(
            model, [acetaldehyde(0)], OwnRuns(20, (300.0,)), here / "out.pt", settings, reuse=False
        )
    module.strength = 0.0
    files = own_frames(
        model, [acetaldehyde(0)], OwnRuns(20, (300.0,)), here / "out.pt", settings, reuse=False
    )
    assert files == [here / "out-300K.xyz"]
    assert len(ase.io.read(files[0], ":")) == 20


def test_a_temperature_that_the_direct_forces_do_not_survive_is_left_out(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Springs to the places of the start that break at 0.3 Å: at 2000 K within a vibration."""
    start = acetaldehyde(0)
    places = torch.as_tensor(start.positions - start.positions.mean(0))

    class Breaking(nn.Module):
        cutoff = CUTOFF

        def forward(self, positions, numbers, cell, edge_index, edge_shift, batch):  # noqa: ANN
            moved = positions - positions.mean(0) - places
            broken = moved.norm(dim=1, keepdim=True) > 0.3
            return (moved * moved).sum().reshape(1), torch.where(broken, 30.0, -2.0) * moved

    model = LoadedModel(Breaking(), "breaking", "0" * 16, None, CUTOFF, None, "tests")
    settings = {"seed": 0, "dtype": "float64", "device": "cpu", "threads": 1}
    runs = OwnRuns(20, (2000.0, 5.0))
    files = own_frames(model, [start], runs, here / "out.pt", settings, reuse=False)
    assert files == [here / "out-5K.xyz"]
    assert len(ase.io.read(files[0], ":")) == 20
    assert not (here / "out-2000K.xyz").exists()
    (said,) = [text for text in caplog.messages if "2000 K" in text]
    assert "left out" in said


def test_advice_for_a_single_structure_and_for_temperatures_alone(base: Path, here: Path) -> None:
    ase.io.write("start.xyz", acetaldehyde(0))
    with pytest.raises(ForceDeltaError, match="--make-frames 400"):
        tune(base, "start.xyz", "head", "out.pt")
    with pytest.raises(ForceDeltaError, match="pass --make-frames, too"):
        tune(base, "start.xyz", "head", "out.pt", temperatures=(300,))
    with pytest.raises(ForceDeltaError, match="each one different"):
        tune(base, "start.xyz", "head", "out.pt", make_frames=20, temperatures=(300, 300))


@pytest.mark.parametrize("label", ["direct_forces", "conservative_forces"])
def test_worse_conservative_forces_are_reported(label: str, base: Path, frames: Path) -> None:
    """Labels near F_nc: tuning improves F_c. Labels near the old F_c: it makes it worse."""
    evaluator = Evaluator(load_model(base), torch.float32)
    rng = np.random.default_rng(0)
    labelled = []
    for seed in range(12):
        atoms = acetaldehyde(seed)
        (found,) = evaluator.evaluate(evaluator.graph_of([atoms]))
        forces = getattr(found, label) + rng.normal(scale=1e-3, size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces)
        labelled.append(atoms)
    ase.io.write("labelled.xyz", labelled)
    result = tune(base, frames, "energy", "tuned.pt", judge_on=["labelled.xyz"], epochs=4,
                  batch_size=5, learning_rate=3e-3)  # fmt: skip
    assert set(result.before) == {"training", "held_out", "displaced"}
    assert not result.overfit
    found = {one["frames"]: one for one in result.worse}
    assert ("labelled.xyz" in found) == (label == "conservative_forces")
    for one in result.worse:
        assert one["after"] > one["before"]


def test_what_became_worse_is_printed(forcedelta, base: Path, frames: Path) -> None:
    evaluator = Evaluator(load_model(base), torch.float32)
    atoms = acetaldehyde(0)
    (found,) = evaluator.evaluate(evaluator.graph_of([atoms]))
    forces = found.conservative_forces + 1e-3
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces)
    ase.io.write("labelled.xyz", atoms)
    status, printed, told = forcedelta(
        "tune", base, frames, "--reach", "head", "--epochs", 2, "--judge", "labelled.xyz"
    )
    assert status == 0, told
    (line,) = [line for line in printed.splitlines() if line.startswith("worse: on labelled.xyz")]
    assert "the error of F_c has grown, 0.0010 -> " in line
    assert "pass --reach energy" in line
