"""fairchem-core 2: checkpoints and their errors, charges, references, limits of neighbours."""

import dataclasses
import logging
import os
import pickle
import random
from pathlib import Path
from typing import Any

import fairchem_checkpoints as checkpoints
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from forcedelta import ForceDelta, ForceDeltaError
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.graph import Graphs
from forcedelta.models import LoadedModel, load_model
from forcedelta.models.catalogue import LoadRequest
from forcedelta.models.fairchem.catalogue import FAMILY
from forcedelta.models.fairchem.library import import_library

needs_library = pytest.mark.skipif(bool(FAMILY.problem()), reason=FAMILY.problem())

KINDS = {
    "esen": (checkpoints.esen("omol"), "omol"),
    "allscaip": (checkpoints.allscaip("omol"), "omol"),
    "escaip": (checkpoints.escaip("omol", use_pbc=False), "omol"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("fairchem")
    return {
        kind: checkpoints.write(folder / f"{kind}.pt", config, dataset)
        for kind, (config, dataset) in KINDS.items()
    }


def load(path: Path, dtype: torch.dtype = torch.float64, **options: Any) -> LoadedModel:
    return load_model(path, dtype, architecture="fairchem", trust=True, **options)


def radical(charge: int = 0, spin: int = 2) -> Atoms:
    atoms = molecule("CH3")
    atoms.rattle(0.05, seed=1)
    atoms.info.update(charge=charge, spin=spin)
    return atoms


def evaluated(model: LoadedModel, atoms: Atoms) -> dict[str, Any]:
    dtype = next(model.module.parameters()).dtype
    return ForceDelta(model.module)(*Graphs(model, dtype, torch.device("cpu")).batch([atoms]))


# -- what is published ---------------------------------------------------------------------------


@needs_library
def test_the_catalogue_has_the_direct_models_that_the_library_publishes() -> None:
    import_library()
    from fairchem.core.calculate import pretrained_mlip

    registry = pretrained_mlip._MODEL_CKPTS.checkpoints
    ours = {model.name: model for model in FAMILY.published}
    assert {name for name in registry if "-direct-" in name} == set(ours)
    for name, model in ours.items():
        assert registry[name].filename == model.weights
        assert registry[name].repo_id in model.licence
        assert model.charge_spin == name.endswith("-omol") == (model.periodic is False)


def test_an_absent_or_older_library_is_named_with_the_command() -> None:
    absent = dataclasses.replace(FAMILY, distribution="fairchem-core-that-nobody-has")
    request = LoadRequest("esen-sm-direct-all-omol", None, None, torch.float32, torch.device("cpu"))
    with pytest.raises(ForceDeltaError, match="is not installed: pip install") as caught:
        absent.load(request)
    assert "EquiformerV2" in str(caught.value)
    # any package serves to show that the version is looked at
    other = dataclasses.replace(FAMILY, distribution="torch", versions=">=99")
    with pytest.raises(ForceDeltaError, match=r"is installed, but >=99 is needed: pip install"):
        other.load(request)


@needs_library
def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from fairchem.core.calculate import pretrained_mlip

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pretrained_mlip, "CACHE_DIR", str(tmp_path))
    with pytest.raises(
        ForceDeltaError, match=r"esen_sm_direct_all\.pt could not be downloaded"
    ) as caught:
        load_model("esen-sm-direct-all-omol")
    text = str(caught.value)
    assert "\n" not in text
    assert "facebook/OMol25" in text
    assert "--model path/to/esen_sm_direct_all.pt --architecture esen-sm-direct-all-omol" in text
    assert "--trust" in text


@needs_library
def test_a_published_name_loads_what_the_library_has_in_its_cache(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file in the layout of the library's cache stands for the download."""
    import huggingface_hub
    from fairchem.core.calculate import pretrained_mlip

    repository = tmp_path / "models--facebook--OMol25"
    snapshot = repository / "snapshots" / ("a" * 40) / "checkpoints"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    os.link(files["esen"], snapshot / "esen_sm_direct_all.pt")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pretrained_mlip, "CACHE_DIR", str(tmp_path))
    published = load_model("esen-sm-direct-all-omol", torch.float64)
    assert published.name == "esen-sm-direct-all-omol"
    assert published.weights_hash == load(files["esen"]).weights_hash
    assert published.library.startswith("fairchem-core 2.")
    assert (published.periodic, published.takes_charge_spin) == (False, True)


# -- what is in a file ---------------------------------------------------------------------------


class Explosive:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_code_in_a_file_runs_with_leave_only(tmp_path: Path) -> None:
    path, trace = tmp_path / "checkpoint.pt", tmp_path / "code_was_run"
    torch.save(Explosive(trace), path)
    with pytest.raises(ForceDeltaError, match=r"run the code that is in.*--trust"):
        load_model(path, architecture="fairchem")
    assert not trace.exists()
    if not FAMILY.problem():
        with pytest.raises(ForceDeltaError, match="not an inference checkpoint"):
            load(path)
        assert trace.exists()


def _drop_force_head(checkpoint: Any) -> None:
    weights = checkpoint.ema_state_dict
    for key in [key for key in weights if "output_heads.forces" in key]:
        del weights[key]


def _only_energy(checkpoint: Any) -> None:
    checkpoint.tasks_config = checkpoint.tasks_config[:1]


def _misnamed_task(checkpoint: Any) -> None:
    checkpoint.tasks_config[1]["name"] = "omol_forces"


def _of_uma(checkpoint: Any) -> None:
    checkpoint.model_config["backbone"]["num_experts"] = 32


def _conservative(checkpoint: Any) -> None:
    checkpoint.model_config["backbone"]["direct_forces"] = False


def _unknown_network(checkpoint: Any) -> None:
    checkpoint.model_config["backbone"]["model"] = "fairchem.core.models.gemnet_oc.GemNetOC"


def _other_network(checkpoint: Any) -> None:
    checkpoint.model_config["backbone"]["model"] = "torch.nn.Linear"


@needs_library
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop_force_head, "weights and its configuration do not go together"),
        (_only_energy, "predicts energy, but no forces"),
        (_of_uma, "a UMA model .a mixture of 32 experts"),
        (_conservative, "its forces are the gradient of its energy"),
        (_unknown_network, "holds the network 'fairchem.core.models.gemnet_oc.GemNetOC'"),
        (_other_network, "holds the network 'torch.nn.Linear'"),
    ],
)
def test_checkpoints_without_what_is_needed(change: Any, message: str, tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path / "checkpoint.pt", *KINDS["esen"], change=change)
    with pytest.raises(ForceDeltaError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_library
def test_checkpoints_of_several_data_sets(tmp_path: Path) -> None:
    config = checkpoints.esen("omol", dataset_list=["omol", "omat"])
    tasks = [
        checkpoints.task("energy", "energy", "omol"),
        checkpoints.task("forces", "forces", "omat"),
    ]
    path = checkpoints.write(tmp_path / "checkpoint.pt", config, "omol", tasks)
    with pytest.raises(ForceDeltaError, match=r"tasks of 2 data sets \(omat, omol\)"):
        load(path)


@needs_library
def test_a_task_without_a_head(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path / "checkpoint.pt", *KINDS["esen"], change=_misnamed_task)
    with pytest.raises(ForceDeltaError, match="a task 'omol_forces', but no head"):
        evaluated(load(path), radical())


@needs_library
@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "directory", "v1", "foreign"])
def test_files_that_are_no_checkpoints(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    expected = "not a complete checkpoint"
    if kind == "truncated":
        path.write_bytes(files["esen"].read_bytes()[:-3000])
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("energy: -1.0\n")
    elif kind == "directory":
        path.mkdir()
        expected = "no such file"
    elif kind == "v1":
        torch.save({"config": {}, "state_dict": {}, "normalizers": {}}, path)
        expected = "a checkpoint of fairchem-core 1"
    else:
        # a class of a package that is not here
        path.write_bytes(pickle.dumps(torch.nn.Linear).replace(b"Linear", b"Lineal"))
        expected = "not a complete checkpoint|needs code that is not installed here"
    with pytest.raises(ForceDeltaError, match=expected) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@needs_library
@pytest.mark.parametrize("kind", ["allscaip", "escaip"])
def test_networks_that_cannot_be_compiled(kind: str, files: dict[str, Path]) -> None:
    with pytest.raises(ForceDeltaError, match="only be compiled for one number of atoms"):
        load(files[kind], compile=True)


# -- the process around --------------------------------------------------------------------------


@needs_library
@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_outside_of_the_model_changes(
    kind: str, dtype: torch.dtype, files: dict[str, Path]
) -> None:
    """Nothing is printed; log handlers and levels, numbers of all generators, kernels stay."""

    def state() -> list[Any]:
        return [
            list(logging.getLogger().handlers),
            list(logging.getLogger().filters),
            logging.getLogger().level,
            logging.getLogger("torch").level,
            logging.getLogger("torch._dynamo").level,
            torch._logging._internal.log_state.artifact_names.copy(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.random.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            random.getstate(),
            os.environ.copy(),
        ]

    before = state()
    model = load(files[kind], dtype)
    evaluated(model, radical())
    assert state() == before


@needs_library
def test_attention_kernels_of_the_user_stay(files: dict[str, Path]) -> None:
    model = load(files["allscaip"], torch.float32)
    flash, efficient = (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
    )
    torch.backends.cuda.enable_flash_sdp(not flash)
    torch.backends.cuda.enable_mem_efficient_sdp(not efficient)
    try:
        evaluated(model, radical())
        assert torch.backends.cuda.flash_sdp_enabled() != flash
        assert torch.backends.cuda.mem_efficient_sdp_enabled() != efficient
    finally:
        torch.backends.cuda.enable_flash_sdp(flash)
        torch.backends.cuda.enable_mem_efficient_sdp(efficient)


# -- energies and forces -------------------------------------------------------------------------


@needs_library
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_same_in_both_precisions(kind: str, files: dict[str, Path]) -> None:
    single, double = load(files[kind], torch.float32), load(files[kind], torch.float64)
    assert single.weights_hash == double.weights_hash
    assert evaluated(double, radical())["conservative_forces"].dtype == torch.float64


@needs_library
def test_other_weights_have_another_hash(files: dict[str, Path], tmp_path: Path) -> None:
    other = checkpoints.write(tmp_path / "other.pt", *KINDS["esen"], seed=1)
    assert load(other).weights_hash != load(files["esen"]).weights_hash


@needs_library
@pytest.mark.parametrize("kind", KINDS)
def test_scales_and_references(kind: str, files: dict[str, Path]) -> None:
    """By hand: what the heads give, times the scale, plus the elements' references."""
    model, atoms = load(files[kind]), radical()
    raw: dict[str, Any] = {}
    module: Any = model.module
    module.network.register_forward_hook(lambda network, inputs, output: raw.update(output))
    found = evaluated(model, atoms)
    references = sum(checkpoints.reference_energy(number) for number in atoms.numbers)
    energy = raw["energy"]["energy"].item() * checkpoints.ENERGY_SCALE + references
    assert found["energy"].item() == pytest.approx(energy, abs=1e-9)
    forces = raw["forces"]["forces"].detach() * checkpoints.FORCE_SCALE
    torch.testing.assert_close(found["direct_forces"], forces, rtol=1e-12, atol=0)


@needs_library
def test_escaip_is_what_the_library_makes_of_it(files: dict[str, Path]) -> None:
    """fairchem's predict unit cannot load EScAIP, so that there is no calculator to compare with."""
    import_library()
    from fairchem.core.datasets.atomic_data import AtomicData
    from fairchem.core.units.mlip_unit.utils import load_inference_model

    atoms = radical()
    with torch.no_grad():
        averaged, checkpoint = load_inference_model(
            str(files["escaip"]),
            {"backbone": {"use_compile": False, "use_padding": False}},
            use_ema=True,
        )
        network = averaged.module.eval()
        network.setup_tasks(checkpoint.tasks_config)
        data = AtomicData.from_ase(atoms, task_name="omol")
        output = network(data)
    model = load(files["escaip"], torch.float32)
    assert model.calculator is None
    found = evaluated(model, atoms)
    forces = output["forces"]["forces"] * checkpoints.FORCE_SCALE
    torch.testing.assert_close(found["direct_forces"], forces, rtol=1e-4, atol=1e-5)
    energy = network.tasks["energy"].element_references.undo_refs(
        data, network.tasks["energy"].normalizer.denorm(output["energy"]["energy"])
    )
    assert found["energy"].item() == pytest.approx(energy.item(), abs=1e-4)


@needs_library
@pytest.mark.parametrize("kind", ["esen", "allscaip"])
def test_charge_and_spin_change_the_energy_and_are_required(
    kind: str, files: dict[str, Path]
) -> None:
    model = load(files[kind])
    neutral, cation, quartet = (
        evaluated(model, radical(charge, spin))["energy"].item()
        for charge, spin in ((0, 2), (1, 1), (0, 4))
    )
    assert len({round(neutral, 6), round(cation, 6), round(quartet, 6)}) == 3
    atoms = radical()
    del atoms.info["charge"]
    atoms.calc = ForceDeltaCalculator(model, dtype="float64")
    with pytest.raises(ForceDeltaError, match="needs the total charge and the spin"):
        atoms.get_forces()


@needs_library
@pytest.mark.parametrize(
    ("charge", "spin", "message"),
    [
        (101, 2, "a total charge beyond .* from -100 to 100"),
        (-101, 2, "a total charge beyond"),
        (0, 101, "a spin multiplicity beyond .* from 0 to 100"),
    ],
)
def test_charges_without_an_embedding(
    charge: int, spin: int, message: str, files: dict[str, Path]
) -> None:
    model = load(files["esen"])
    graph = Graphs(model, torch.float64, torch.device("cpu")).batch([radical()])
    state = torch.tensor([[charge, spin]], dtype=torch.float64)
    with pytest.raises(ForceDeltaError, match=message):
        ForceDelta(model.module)(*graph[:6], state)


@needs_library
def test_a_single_atom_is_refused(files: dict[str, Path]) -> None:
    atoms = Atoms("H", info={"charge": 0, "spin": 2})
    with pytest.raises(ForceDeltaError, match="a single atom without a cell"):
        evaluated(load(files["esen"]), atoms)


@needs_library
@pytest.mark.parametrize("direction", [[1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]])
def test_bonds_along_the_axes(direction: list[int], files: dict[str, Path]) -> None:
    """Frames of edges are singular there in other networks."""
    model = load(files["esen"])
    step = 1e-4

    def dimer(length: float) -> dict[str, Any]:
        atoms = Atoms("N2", [[0, 0, 0], np.array(direction) * length])
        atoms.info.update(charge=0, spin=1)
        return evaluated(model, atoms)

    slope = (dimer(1.1 + step)["energy"] - dimer(1.1 - step)["energy"]).item() / (2 * step)
    forces = dimer(1.1)["conservative_forces"]
    expected = torch.tensor(direction, dtype=torch.float64) * -slope
    torch.testing.assert_close(forces[1], expected, rtol=1e-6, atol=1e-8)


@needs_library
def test_random_numbers_of_a_thermostat_are_not_used_up(files: dict[str, Path]) -> None:
    model = load(files["esen"], torch.float32)
    first = evaluated(model, radical())
    torch.rand(5)
    again = evaluated(model, radical())
    assert all(torch.equal(first[key], again[key]) for key in first)


@needs_library
def test_the_nearest_neighbours_are_those_of_the_library(tmp_path: Path) -> None:
    config = checkpoints.esen("oc25", max_neighbors=10)
    model = load(checkpoints.write(tmp_path / "few.pt", config, "oc25"), torch.float32)
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.2, seed=3)
    graph = Graphs(model, torch.float32, torch.device("cpu")).batch([atoms])
    selected, _ = model.module.select(*graph[:1], *graph[2:])  # type: ignore[operator]
    counts = torch.bincount(selected[0])
    assert len(selected[0]) < 0.3 * graph[3].shape[1]
    assert counts.min() >= 11
    assert counts.max() < 20
    assert model.calculator is not None
    expected = atoms.copy()
    expected.calc = model.calculator()
    found = evaluated(model, atoms)
    assert found["energy"].item() == pytest.approx(expected.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(found["direct_forces"], expected.get_forces(), atol=1e-5)


@needs_library
def test_forces_and_stress_with_few_neighbours_are_derivatives(tmp_path: Path) -> None:
    """Steps that are too small for neighbours to swap."""
    config = checkpoints.esen("oc25", max_neighbors=10)
    model = load(checkpoints.write(tmp_path / "few.pt", config, "oc25"))
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.2, seed=3)
    graphs = Graphs(model, torch.float64, torch.device("cpu"))
    graph = graphs.batch([atoms])
    found = ForceDelta(model.module)(*graph, stress=True)
    generator = np.random.default_rng(0)

    def slope(directions: np.ndarray, strain: np.ndarray, step: float = 1e-5) -> float:
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions += sign * step * directions
            moved.set_cell(atoms.cell.array @ (np.eye(3) + sign * step * strain), scale_atoms=True)
            energies.append(evaluated(model, moved)["energy"].item())
        return (energies[0] - energies[1]) / (2 * step)

    for _ in range(3):
        way = generator.normal(size=(4, 3))
        expected = -(found["conservative_forces"].numpy() * way).sum()
        assert slope(way, np.zeros((3, 3))) == pytest.approx(expected, abs=1e-7)
        strain = generator.normal(size=(3, 3))
        strain += strain.T
        expected = atoms.get_volume() * (found["stress"][0].numpy() * strain).sum()
        assert slope(np.zeros((4, 3)), strain) == pytest.approx(expected, abs=1e-6)


@needs_library
def test_elements(tmp_path: Path, files: dict[str, Path]) -> None:
    """OMol25: H to Bi. Else those with a reference energy, or an embedding where there is none."""
    assert load(files["esen"]).elements == frozenset(range(1, 84))
    tasks = [
        checkpoints.task("energy", "energy", "oc25"),
        checkpoints.task("forces", "forces", "oc25"),
    ]
    references = tasks[0]["element_references"]["element_references"]["_args_"][0]
    references[2] = references[10] = 1e-16  # as a fit leaves it
    config = checkpoints.esen("oc25")
    some = load(checkpoints.write(tmp_path / "some.pt", config, "oc25", tasks))
    assert some.elements == frozenset(range(1, 84)) - {2, 10}
    assert (some.periodic, some.takes_charge_spin) == (True, False)
    del tasks[0]["element_references"]
    free = load(checkpoints.write(tmp_path / "free.pt", config, "oc25", tasks))
    assert free.elements == frozenset(range(1, 100))
