"""fairchem-core 2: published names, checkpoints, and those that are refused."""

import dataclasses
import os
import pickle
from pathlib import Path
from typing import Any

import fairchem_checkpoints as checkpoints
import pytest
import torch
from fairchem_models import KINDS, evaluated, load, needs_library, radical, write_each

from forcedelta import ForceDeltaError
from forcedelta.models import load_model
from forcedelta.models.catalogue import LoadRequest
from forcedelta.models.fairchem.catalogue import FAMILY
from forcedelta.models.fairchem.library import import_library


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_each(tmp_path_factory.mktemp("fairchem"))


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
    with pytest.raises(
        ForceDeltaError, match=r"run the code .* when they.*--trust|needs the library"
    ):
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
        (_drop_force_head, "weights do not match its configuration"),
        (_only_energy, "predicts energy, but not forces"),
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
