"""Libraries of models: what is said about them, and what is answered when one is missing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from forcedelta import ForceDeltaError, load_model
from forcedelta.models import catalogue, model_names
from forcedelta.models.catalogue import Family, Published, families, family_for

pytestmark = pytest.mark.usefixtures("silent")

ABSENT = Family(
    key="absent",
    title="Absent (no-such-distribution)",
    distribution="no-such-distribution",
    versions=">=1",
    install="pip install no-such-distribution",
    loader="no_such_module:load",
    published=(Published("absent-1", "all", None, "none", "absent-1.ckpt"),),
    architectures=("absent",),
    apart="it cannot live beside torch",
)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for module in (catalogue, sys.modules["forcedelta.models.registry"]):
        monkeypatch.setattr(module, "families", lambda: (ABSENT,))
    return monkeypatch


@pytest.mark.usefixtures("known")
def test_a_missing_library_is_named_with_its_command() -> None:
    with pytest.raises(ForceDeltaError) as caught:
        load_model("absent-1")
    assert "no-such-distribution is not installed: pip install no-such-dist" in str(caught.value)
    assert "cannot live beside torch" in str(caught.value)


@pytest.mark.usefixtures("known")
def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "version", lambda name: "0.9")
    with pytest.raises(ForceDeltaError, match=r"0\.9 is installed, but >=1 is needed"):
        load_model("absent-1")


@pytest.mark.usefixtures("known")
def test_a_file_goes_by_its_architecture(tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ForceDeltaError, match="--architecture"):
        load_model(path)
    with pytest.raises(ForceDeltaError, match="model 'weights' needs the library Absent"):
        load_model(path, architecture="absent")
    with pytest.raises(ForceDeltaError, match="model 'weights' needs the library Absent"):
        load_model(path, architecture="absent-1")
    with pytest.raises(ForceDeltaError, match=r"no architecture is called 'other': .* absent"):
        load_model(path, architecture="other")
    with pytest.raises(ForceDeltaError, match="no such file"):
        load_model(tmp_path / "gone.ckpt", architecture="absent")


def test_names_are_unique() -> None:
    names = [model.name for family in families() for model in family.published]
    assert len(names) == len(set(names))
    assert set(names) <= set(model_names())
    architectures = [name for family in families() for name in family.architectures]
    assert len(architectures) == len(set(architectures))
    for family in families():
        for name in family.architectures:
            assert family_for(name).key == family.key


def test_listing_imports_no_library() -> None:
    code = (
        "import sys; from forcedelta.models import catalogue; catalogue.families(); "
        "bad = {'torch', 'orb_models', 'fairchem', 'metatomic', 'upet'} & set(sys.modules); "
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
