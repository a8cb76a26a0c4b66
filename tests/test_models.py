"""Models by name, from files and in memory, and what they can be asked for."""

import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from safetensors.torch import save_file
from systems import CUTOFF, Springs, acetaldehyde, graph_of, small_network
from torch import nn

from forcedelta import ForceDelta, ForceDeltaError
from forcedelta.checks import check_structure, check_supported
from forcedelta.models import LoadedModel, load_model, model_names, registry
from forcedelta.models.files import load_network, read_metadata, save_network
from forcedelta.models.registry import embedded_models

pytestmark = pytest.mark.usefixtures("silent")

METADATA: dict[str, Any] = {
    "name": "toy",
    "training_set": "none",
    "source": "random numbers",
    "level_of_theory": "none",
    "periodic": False,
    "regime": "untrained",
    "tests": {"direct_mae_meV_per_A": 1.5},
    "licence": "MIT",
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "toy.safetensors"
    save_network(path, small_network(torch.float32), METADATA)
    return path


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tensors", [0, 3])
def test_saved_network_gives_the_same_numbers(
    tmp_path: Path, dtype: torch.dtype, tensors: int
) -> None:
    network = small_network(torch.float32, tensors=tensors)
    save_network(tmp_path / "toy.safetensors", network, METADATA)
    loaded = load_network(tmp_path / "toy.safetensors", dtype).network
    network = network.to(dtype)
    graph = graph_of([acetaldehyde()], dtype)
    assert all(torch.equal(a, b) for a, b in zip(loaded(*graph), network(*graph), strict=True))
    assert loaded.reference_energies.dtype == torch.float64


def test_header_holds_metadata(saved: Path) -> None:
    expected = METADATA | {"elements": ["H", "C", "O", "Si"], "cutoff": CUTOFF}
    assert read_metadata(saved) == expected
    assert load_network(saved).metadata == expected


def test_hash_belongs_to_the_weights(saved: Path, tmp_path: Path) -> None:
    assert re.fullmatch("[0-9a-f]{16}", load_network(saved).weights_hash)
    other = tmp_path / "other.safetensors"
    save_network(other, small_network(torch.float32, seed=1), METADATA)
    assert load_network(other).weights_hash != load_network(saved).weights_hash
    save_network(other, small_network(torch.float32), METADATA)
    assert load_network(other).weights_hash == load_network(saved).weights_hash


def test_saving_without_metadata_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    metadata = {key: METADATA[key] for key in METADATA if key not in ("source", "tests")}
    with pytest.raises(ForceDeltaError, match="lacks source, tests"):
        save_network(saved, small_network(), metadata)
    assert saved.read_bytes() == before


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(ForceDeltaError, match="cannot be written"):
        save_network(tmp_path / "no" / "folder.safetensors", small_network(), METADATA)


def broken(kind: str, saved: Path, path: Path) -> None:
    if kind == "truncated":
        path.write_bytes(saved.read_bytes()[:-100])
    elif kind == "text":
        path.write_text("5\nsome molecule\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "foreign":
        save_file({"weight": torch.zeros(3)}, path)
    elif kind == "no hyperparameters":
        full = json.dumps(METADATA | {"elements": ["H"], "cutoff": 5.0})
        save_file({"weight": torch.zeros(3)}, path, {"metadata": full})
    elif kind == "no licence":
        some = {key: METADATA[key] for key in METADATA if key != "licence"}
        save_file({}, path, {"metadata": json.dumps(some), "hyperparameters": "{}"})
    elif kind == "other weights":
        full = json.dumps(METADATA | {"elements": ["H"], "cutoff": 5.0})
        shape = json.dumps({"elements": [1], "cutoff": 5.0})
        save_file({"weight": torch.zeros(3)}, path, {"metadata": full, "hyperparameters": shape})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("truncated", "not a complete safetensors file"),
        ("text", "not a complete safetensors file"),
        ("empty", "not a complete safetensors file"),
        ("foreign", "does not hold a forcedelta network"),
        ("no hyperparameters", "header lacks hyperparameters"),
        ("no licence", "header lacks licence"),
        ("other weights", "weights do not match the hyperparameters"),
    ],
)
def test_files_that_are_not_networks(saved: Path, tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "broken.safetensors"
    broken(kind, saved, path)
    with pytest.raises(ForceDeltaError, match=message) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_network_runs_in_two_dtypes_only(saved: Path) -> None:
    with pytest.raises(ForceDeltaError, match="float32 or float64"):
        load_network(saved, torch.float16)


# --- names --------------------------------------------------------------------------------------


def test_loaded_from_a_file(saved: Path) -> None:
    for model in (load_model(saved), load_model(str(saved))):
        assert model.name == "toy"
        assert model.elements == {1, 6, 8, 14}
        assert model.symbols == ["H", "C", "O", "Si"]
        assert (model.cutoff, model.periodic) == (CUTOFF, False)
        assert model.library.startswith("forcedelta ")
        assert not any(parameter.requires_grad for parameter in model.module.parameters())
        assert load_model(model) is model


@pytest.fixture
def embedded(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"acac": saved, "acac-direct": saved, "mlearn": saved}
    monkeypatch.setattr(registry, "embedded_models", lambda: files)


@pytest.mark.usefixtures("embedded")
def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ForceDeltaError, match="did you mean acac") as caught:
        load_model("acacc")
    assert "'forcedelta models' lists all names" in str(caught.value)
    with pytest.raises(ForceDeltaError, match="no model is called 'xyz': 'forcedelta models'"):
        load_model("xyz")


@pytest.mark.usefixtures("embedded")
def test_path_that_does_not_exist_is_no_name() -> None:
    for path in ("mine.safetensors", "models/mine"):
        with pytest.raises(ForceDeltaError, match="no such file"):
            load_model(path)


def third_party(dtype: torch.dtype, device: torch.device) -> LoadedModel:
    module = Springs().to(device)
    return LoadedModel(module, "springs", "0" * 16, None, 4.0, None, "springs 1.0")


def faulty(dtype: torch.dtype, device: torch.device) -> LoadedModel:
    raise ImportError("no module named springs_core")


def not_a_model(dtype: torch.dtype, device: torch.device) -> str:
    return "springs"


@pytest.fixture
def _entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    group = registry.ENTRY_POINTS
    points = [
        EntryPoint(name, f"test_models:{function}", group)
        for name, function in [
            ("springs", "third_party"),
            ("faulty", "faulty"),
            ("odd", "not_a_model"),
            ("gone", "does_not_exist"),
        ]
    ]
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [p for p in points if p.group == group]
    )


@pytest.mark.usefixtures("_entry_points")
def test_models_of_other_packages() -> None:
    assert {"springs", "faulty", "odd", "gone"} <= set(model_names())
    assert load_model("springs").cutoff == 4.0
    with pytest.raises(ForceDeltaError, match=r"'faulty' of .* \(ImportError: no module named"):
        load_model("faulty")
    with pytest.raises(ForceDeltaError, match=r"'gone' of .* could not be loaded \(AttributeError"):
        load_model("gone")
    with pytest.raises(ForceDeltaError, match="must return a LoadedModel, not str"):
        load_model("odd")


def test_group_of_entry_points() -> None:
    assert registry.ENTRY_POINTS == "forcedelta.models"


@pytest.mark.parametrize("name", sorted(embedded_models()))
def test_embedded_model(name: str) -> None:
    model = load_model(name)
    assert name in model_names()
    assert model.metadata["name"] == name
    assert model.metadata["tests"]
    assert model.elements
    assert sum(path.stat().st_size for path in embedded_models().values()) < 10e6
    number = min(model.elements)
    lone = Atoms([number], cell=[9, 9, 9], pbc=bool(model.periodic))
    check_structure(lone, model)
    with pytest.raises(ForceDeltaError, match="does not support Xe"):
        check_structure(Atoms("Xe", cell=[9, 9, 9], pbc=bool(model.periodic)), model)


# --- in memory ----------------------------------------------------------------------------------


def test_model_in_memory() -> None:
    network = small_network(torch.float32)
    model = load_model(ForceDelta(network))
    assert model.module is network
    assert model.elements == {1, 6, 8, 14}
    assert model.periodic is None
    assert model.weights_hash == load_model(ForceDelta(small_network(torch.float32))).weights_hash
    other = small_network(torch.float32, seed=1)
    assert model.weights_hash != load_model(ForceDelta(other)).weights_hash
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_module_of_another_dtype_is_not_converted() -> None:
    network = small_network(torch.float64)
    with pytest.raises(ForceDeltaError, match="has float64 parameters, but float32 was requested"):
        load_model(ForceDelta(network))
    assert network.energy_head[0].weight.dtype == torch.float64
    load_model(ForceDelta(network), torch.float64)


def test_module_that_needs_help() -> None:
    with pytest.raises(ForceDeltaError, match=r"wrap it, ForceDelta\(model\)"):
        load_model(small_network())  # type: ignore[arg-type]
    with pytest.raises(ForceDeltaError, match="Linear has no cutoff"):
        load_model(ForceDelta(nn.Linear(2, 2)))


# --- checks of structures -----------------------------------------------------------------------


def model_for(periodic: bool | None) -> LoadedModel:
    elements = frozenset({1, 6, 8, 14})
    return LoadedModel(Springs(), "toy", "0" * 16, elements, CUTOFF, periodic, "tests")


def slab() -> Atoms:
    return Atoms("Si2", [[0, 0, 0], [2, 0, 0]], cell=[4, 4, 4], pbc=[True, True, False])


def test_structures_that_are_fine() -> None:
    check_structure(acetaldehyde(), model_for(False))
    check_structure(bulk("Si"), model_for(True))
    for atoms in (acetaldehyde(), bulk("Si"), slab()):
        check_structure(atoms, model_for(None))
    check_structure(Atoms("Si", cell=[1000, 1000, 1000], pbc=True), model_for(True))


def with_positions(atoms: Atoms, place: int, value: Any) -> Atoms:
    atoms.positions[place] = value
    return atoms


@pytest.mark.parametrize(
    ("atoms", "periodic", "message"),
    [
        (Atoms(), None, "the structure is empty"),
        (molecule("CH3Cl"), None, r"does not support Cl \(first: atom 1.*\), only H, C, O, Si"),
        (bulk("Si"), False, "periodic in 3 directions; set pbc=False"),
        (slab(), False, "periodic in 2 directions"),
        (acetaldehyde(), True, "periodic in three directions, not in 0; put the atoms into a cell"),
        (slab(), True, "not in 2"),
        (with_positions(acetaldehyde(), 3, np.nan), None, "position of atom 3"),
        (Atoms("Si", pbc=True), None, "cell vectors of .* are missing"),
        (Atoms("Si", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True), None, "span a volume"),
        (
            Atoms("HO", [[0, 0, 0], [0, 0, 0.1]]),
            None,
            r"atoms 0 \(H\) and 1 \(O\).* only 0.10 Å apart",
        ),
        (
            Atoms("Si", cell=[4, 4, 0.2], pbc=True),
            None,
            r"atom 0 \(Si\) and its own periodic image",
        ),
    ],
    ids=str,
)
def test_structures_that_are_not(atoms: Atoms, periodic: bool | None, message: str) -> None:
    with pytest.raises(ForceDeltaError, match=message) as caught:
        check_structure(atoms, model_for(periodic))
    assert "\n" not in str(caught.value)


def test_overlap_is_no_matter_of_support() -> None:
    """Within a run atoms may come close; only its start is checked."""
    atoms = Atoms("HO", [[0, 0, 0], [0, 0, 0.1]])
    check_supported(atoms.numbers, atoms.pbc, model_for(False))
