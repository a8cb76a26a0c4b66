"""What is said of EquiformerV2 where its library is missing, or where another one has its name."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from forcedelta.errors import ForceDeltaError
from forcedelta.models.catalogue import family_for, family_of
from forcedelta.models.eqv2.catalogue import FAMILY
from forcedelta.models.registry import load_model

NAMES = {
    "eqV2_dens_31M_mp",
    "eqV2_dens_86M_mp",
    "eqV2_dens_153M_mp",
    "eqV2_31M_mp",
    "eqV2_31M_omat",
    "eqV2_86M_omat",
    "eqV2_153M_omat",
    "eqV2_31M_omat_mp_salex",
    "eqV2_86M_omat_mp_salex",
    "eqV2_153M_omat_mp_salex",
}


def _fairchem() -> str:
    try:
        return version("fairchem-core")
    except PackageNotFoundError:
        return ""


def test_all_models_of_the_paper_are_known() -> None:
    assert {model.name for model in FAMILY.published} == NAMES
    assert all(family_of(name) == FAMILY for name in NAMES)
    assert family_for("eqV2") == FAMILY


def test_files_are_those_that_the_library_would_download() -> None:
    if FAMILY.problem():
        pytest.skip(FAMILY.problem())
    from forcedelta.models.eqv2.library import import_fairchem

    import_fairchem()
    from fairchem.core.models.model_registry import MODEL_REGISTRY

    published = {
        model.filename
        for model in MODEL_REGISTRY.models.values()
        if getattr(model, "filename", "").startswith("eqV2")
    }
    assert {model.weights for model in FAMILY.published} == published


@pytest.mark.skipif(_fairchem().startswith("1.10"), reason="fairchem-core 1.10 is installed")
def test_without_the_library_the_error_says_what_to_install(tmp_path: Path) -> None:
    file = tmp_path / "best.pt"
    file.write_bytes(b"anything")
    for ask in (
        lambda: load_model("eqV2_31M_omat"),
        lambda: load_model(file, architecture="eqV2"),
    ):
        with pytest.raises(ForceDeltaError) as caught:
            ask()
        text = str(caught.value)
        assert "pip install --no-deps 'fairchem-core==1.10.*'" in text
        assert "has the same import name" in text
        assert f"fairchem-core {_fairchem()} is installed" in text or not _fairchem()
