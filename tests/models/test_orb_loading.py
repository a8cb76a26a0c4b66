"""Orb models from files in orb-models' own format and real size, and what is refused."""

import logging
import os
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from orb_networks import (
    NETWORKS,
    SAME,
    acetaldehyde,
    checkpoint,
    default_dtype,
    graph,
    pretrained,
    rock_salt,
    weights,
)
from urllib3.util.retry import Retry

from forcedelta import ForceDelta, ForceDeltaError
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.models import load_model
from forcedelta.models.orb.catalogue import ARCHITECTURES, FAMILY

pytestmark = pytest.mark.usefixtures("silent")


def test_the_catalogue_is_that_of_orb_models() -> None:
    """All but the first generation, which it refuses itself, and corrections that are no models."""
    published = {model.name: model for model in FAMILY.published}
    theirs = pretrained.ORB_PRETRAINED_MODELS
    others = {name for name in theirs if name.startswith("separate-")}
    others |= {name for name in theirs if "v1" in name}
    assert set(published) | set(FAMILY.conservative) | others == set(theirs)
    for name, model in published.items():
        address = signature(theirs[name]).parameters["weights_path"].default
        assert address.endswith(f"/{model.weights}")
    assert set(ARCHITECTURES.values()) <= set(published)
    assert [name for name, model in published.items() if model.charge_spin] == [
        "orb-v3-direct-omol"
    ]


def test_names_are_listed_without_the_library() -> None:
    code = (
        "import sys, forcedelta.models.catalogue as c\n"
        "assert [f.key for f in c.families()].count('orb') == 1\n"
        "assert not any(name.startswith('orb_models') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def forces_by_difference(model: Any, atoms: Atoms, direction: np.ndarray) -> float:
    step = 1e-3
    values = []
    for times in (-2, -1, 1, 2):
        moved = atoms.copy()
        moved.positions += times * step * direction
        with torch.no_grad():
            values.append(float(model.module(*graph(moved, model))[0]))
    return -(values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_real_size_from_a_file(architecture: str, tmp_path: Path) -> None:
    """Through the loader, against its own calculator and finite differences."""
    path = checkpoint(tmp_path, architecture)
    model = load_model(path, torch.float64, architecture=architecture)
    assert model.name == architecture
    many = architecture in ("orb-v3-direct-inf", "orb-v3-direct-omol")
    assert model.metadata["neighbours"] == (120 if many else 20)
    assert model.takes_charge_spin == ("omol" in architecture)
    atoms = acetaldehyde()
    result = ForceDelta(model.module)(*graph(atoms, model))
    theirs = model.calculator()
    theirs.calculate(atoms)
    assert float(result["energy"]) == pytest.approx(theirs.results["energy"], abs=1e-10)
    np.testing.assert_allclose(
        result["direct_forces"].numpy(), theirs.results["forces"], atol=1e-11
    )
    assert ("expected_errors" in result) == ("v3" in architecture)
    forces = result["conservative_forces"].numpy()
    direction = np.random.default_rng(0).normal(size=forces.shape)
    direction /= np.linalg.norm(direction)
    assert forces_by_difference(model, atoms, direction) == pytest.approx(
        (forces * direction).sum(), abs=1e-6 * np.linalg.norm(forces)
    )
    assert all(not parameter.requires_grad for parameter in model.module.parameters())

    single = load_model(path, torch.float32, architecture=architecture)
    assert single.weights_hash == model.weights_hash
    rounded = ForceDelta(single.module)(*graph(atoms, single, torch.float32))
    for key in ("direct_forces", "conservative_forces"):
        torch.testing.assert_close(rounded[key].double(), result[key], rtol=0, atol=1e-4)
    # the repulsion of v3 loses digits at the lengths of bonds, in orb-models itself, too
    torch.testing.assert_close(rounded["energy"], result["energy"], rtol=0, atol=2e-3)


def settings() -> list[Any]:
    return [
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.random.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        logging.getLogger("cached_path").level,
    ]


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_settings_of_the_process_stay(dtype: str, default: torch.dtype, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "orb-d3-xs-v2")
    with default_dtype(default):
        before = settings()
        model = load_model(path, getattr(torch, dtype), architecture="orb-d3-xs-v2")
        assert settings() == before
        atoms = rock_salt()
        atoms.calc = ForceDeltaCalculator(model, dtype=dtype)
        atoms.get_forces()
        assert settings() == before


def test_a_published_name_says_which_network_a_file_holds(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "orb-v3-direct-inf").rename(tmp_path / "mine.ckpt")
    model = load_model(path, architecture="orb-v3-direct-inf-mpa")
    assert (model.name, model.metadata["neighbours"]) == ("mine", 120)
    assert model.metadata["licence"] == "Apache-2.0"
    assert model.elements is not None
    assert {1, 83, 92} <= model.elements
    assert not {84, 88, 95} & model.elements


def altered(folder: Path, architecture: str, change: str, *prefixes: str) -> Path:
    """A checkpoint without some of its keys, or with others."""
    state = dict(weights(architecture))
    for key in list(state):
        if change == "without" and key.startswith(prefixes):
            del state[key]
        if change == "only" and not key.startswith(prefixes):
            del state[key]
    path = folder / "altered.ckpt"
    torch.save(state, path)
    return path


def refusal(path: Path, architecture: str) -> str:
    with pytest.raises(ForceDeltaError) as caught:
        load_model(path, architecture=architecture)
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    return text


def test_a_checkpoint_without_direct_forces_is_refused(tmp_path: Path) -> None:
    """orb-models loads each of these, and leaves a random head."""
    text = refusal(checkpoint(tmp_path, "conservative"), "orb-v3-direct-20")
    assert "no head for direct forces (its heads: confidence, energy): " in text
    headless = altered(tmp_path, "orb-v3-direct-20", "without", "heads.forces")
    assert "no head for direct forces" in refusal(headless, "orb-v3-direct-20")
    for architecture in ("orb-v3-direct-20", "orb-d3-xs-v2"):
        for part in ("heads.forces.mlp.NN-1.bias", "heads.energy.", "heads.energy.reference"):
            path = altered(tmp_path, architecture, "without", part)
            assert "not complete" in refusal(path, architecture)


def test_heads_that_are_not_needed_may_be_missing(tmp_path: Path) -> None:
    whole = load_model(checkpoint(tmp_path, "orb-v3-direct-20"), architecture="orb-v3-direct-20")
    path = altered(tmp_path, "orb-v3-direct-20", "without", "heads.confidence.", "heads.stress.")
    model = load_model(path, architecture="orb-v3-direct-20")
    atoms = rock_salt()
    result = ForceDelta(model.module)(*graph(atoms, model, torch.float32))
    assert "expected_errors" not in result
    assert "expected_errors" in ForceDelta(whole.module)(*graph(atoms, whole, torch.float32))
    assert model.weights_hash != whole.weights_hash


def test_the_names_of_heads_of_the_second_generation(tmp_path: Path) -> None:
    """orb-models also reads files whose heads are called node_head, graph_head and stress_head."""
    names = {"forces": "node_head", "energy": "graph_head", "stress": "stress_head"}
    old = {}
    for key, value in weights("orb-d3-xs-v2").items():
        for new, name in names.items():
            key = key.replace(f"heads.{new}.", f"{name}.")
        old[key] = value
    torch.save(old, tmp_path / "old.ckpt")
    same = load_model(checkpoint(tmp_path, "orb-d3-xs-v2"), architecture="orb-d3-xs-v2")
    model = load_model(tmp_path / "old.ckpt", architecture="orb-d3-xs-v2")
    arguments = graph(rock_salt(), model, torch.float32)
    for one, other in zip(model.module(*arguments), same.module(*arguments), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("holds", "said", "advice"),
    [
        ("orb-d3-xs-v2", "orb-d3-v2", "--architecture orb-d3-xs-v2"),
        ("orb-d3-sm-v2", "orb-d3-xs-v2", "--architecture orb-d3-sm-v2"),
        ("orb-d3-v2", "orb-d3-sm-v2", "--architecture orb-v2 or orb-d3-v2"),
        ("orb-d3-xs-v2", "orb-v3-direct-20", "--architecture orb-d3-xs-v2"),
        ("orb-v3-direct-20", "orb-d3-v2", "--architecture orb-v3-direct-20 or orb-v3-direct-inf"),
        ("orb-v3-direct-20", "orb-v3-direct-omol", "--architecture orb-v3-direct-20 or"),
        ("orb-v3-direct-omol", "orb-v3-direct-20-mpa", "--architecture orb-v3-direct-omol"),
    ],
)
def test_another_architecture_is_named(holds: str, said: str, advice: str, tmp_path: Path) -> None:
    assert f"does not hold the network of {said}" in refusal(checkpoint(tmp_path, holds), said)
    assert advice in refusal(checkpoint(tmp_path, holds), said)


def test_an_architecture_of_its_own_has_no_advice(tmp_path: Path) -> None:
    path = altered(tmp_path, "orb-d3-xs-v2", "without", "model.atom_emb")
    assert refusal(path, "orb-d3-xs-v2").endswith("pass another file")


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path, "orb-d3-xs-v2")
    path = tmp_path / "bad.ckpt"
    path.write_bytes(whole.read_bytes()[:1_000_000])
    assert "not a complete checkpoint" in refusal(path, "orb-d3-xs-v2")
    path.write_bytes(b"")
    assert "not a complete checkpoint" in refusal(path, "orb-d3-xs-v2")
    path.write_text("weights, honestly")
    assert "not a complete checkpoint" in refusal(path, "orb-d3-xs-v2")
    torch.save({"epoch": 3, "state_dict": {}}, path)
    assert "not weights of orb-models" in refusal(path, "orb-d3-xs-v2")
    torch.save([torch.zeros(3)], path)
    assert "not weights of orb-models" in refusal(path, "orb-d3-xs-v2")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


def test_no_code_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Evil()}, tmp_path / "evil.ckpt")
    assert "not a complete checkpoint" in refusal(tmp_path / "evil.ckpt", "orb-d3-xs-v2")
    assert not (tmp_path / "evil").exists()


def test_conservative_models_are_refused_by_name(tmp_path: Path) -> None:
    for name in FAMILY.conservative:
        with pytest.raises(ForceDeltaError, match="predicts no direct forces"):
            load_model(name)
        with pytest.raises(ForceDeltaError, match="predicts no direct forces"):
            load_model(checkpoint(tmp_path, "orb-d3-xs-v2"), architecture=name)


def test_weights_that_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The proxy is no proxy, so that no machine reaches the network; nobody waits for it."""
    import cached_path.common

    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setattr(cached_path.common, "CACHE_DIRECTORY", tmp_path)
    monkeypatch.setattr(Retry, "sleep", lambda *_: None)
    with pytest.raises(ForceDeltaError, match="cannot be downloaded") as caught:
        load_model("orb-v3-direct-20-mpa")
    text = str(caught.value)
    file = "orb-v3-direct-20-mpa-20250404.ckpt"
    assert f"--model {file} --architecture orb-v3-direct-20-mpa" in text
    assert "\n" not in text
    assert capfd.readouterr() == ("", "")


def test_half_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ForceDeltaError, match="float32 or float64, not"):
        load_model(checkpoint(tmp_path, "orb-d3-xs-v2"), torch.float16, architecture="orb-d3-xs-v2")


def test_all_architectures_were_tested() -> None:
    assert {*NETWORKS, *SAME} == {*ARCHITECTURES, "conservative"}
