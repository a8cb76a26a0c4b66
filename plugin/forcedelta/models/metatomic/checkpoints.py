"""Checkpoints of PET written by metatrain: the published ones of upet, and local files."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from forcedelta.errors import ForceDeltaError
from forcedelta.models.catalogue import LoadRequest, Published
from forcedelta.models.downloads import from_hub
from forcedelta.models.isolation import torch_state_kept
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.metatomic import exported
from forcedelta.models.metatomic.catalogue import FAMILY
from forcedelta.models.scripted_code import records

_REPOSITORY, _FOLDER = "lab-cosmo/upet", "models"


def load(request: LoadRequest) -> LoadedModel:
    """A PET by its published name, or from a local checkpoint; upet must be installed.

    It runs in float32 or float64, independently of the dtype of its training.

    Raises:
        ForceDeltaError: weights that cannot be downloaded; a local checkpoint, which is a pickle,
            without ``trust``; a file that is not a checkpoint of metatrain; or an error of
            `forcedelta.models.metatomic.exported.load`.
    """
    if request.file is not None and _is_exported(request.file):
        return exported.load(request)
    if request.file is not None and not request.trust:
        raise ForceDeltaError(
            f"{request.file}: checkpoints of metatrain are pickles, which can run code when they are "
            "loaded; pass --trust (trust=True) if you know its source, or export it with "
            "`mtt export`"
        )
    published = next((model for model in FAMILY.published if model.name == request.name), None)
    path = request.file
    if path is None:
        assert published is not None
        path = _download(published)
    # upet also identifies models by the names of files
    published = next((model for model in FAMILY.published if model.weights == path.name), None)
    with torch_state_kept(), _fusion_kept():
        model = _export(path, published is not None)
        weights_hash = exported.weights_hash_of(model)
        # as in upet's own calculator
        model._capabilities.dtype = str(request.dtype).removeprefix("torch.")
        loaded = exported.describe(model.to(dtype=request.dtype), request)
    libraries = f"upet {version('upet')}, metatrain {version('metatrain')}"
    described = {"weights": path.name}
    if published is not None:
        described["licence"] = published.licence
    return replace(
        loaded,
        weights_hash=weights_hash,
        library=libraries,
        periodic=None if published is None else published.periodic,
        metadata={**loaded.metadata, **described},
    )


def _download(model: Published) -> Path:
    """The file of a published model, from the cache of huggingface_hub or the network."""
    name = model.weights
    try:
        return from_hub(_REPOSITORY, name, _FOLDER)
    except Exception as error:  # of the hub, of its HTTP library, or of the disk
        first = (str(error).strip().splitlines() or [""])[0]
        raise ForceDeltaError(
            f"the weights of '{model.name}', {name}, are not in the cache and cannot be downloaded "
            f"({type(error).__name__}: {first}); fetch {_FOLDER}/{name} from {_REPOSITORY} on the "
            f"Hugging Face hub, and pass --model /path/to/{name} --architecture pet --trust"
        ) from error


def _export(path: Path, published: bool) -> Any:
    """The checkpoint as metatomic's AtomisticModel, in TorchScript.

    upet adds the citations of its own checkpoints, which would be wrong for any other.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            # users cannot act on the deprecations within the libraries, nor on the messages about the
            # GPU from NVIDIA's warp, a requirement of upet
            warnings.simplefilter("ignore")
            if published:
                from upet import get_upet

                return torch.jit.script(get_upet(checkpoint_path=path))
            from metatrain.utils.io import load_model

            return torch.jit.script(load_model(path).export().eval())
    except Exception as error:  # a damaged or foreign pickle can raise anything
        first = (str(error).strip().splitlines() or [""])[0].partition(". ")[0]
        raise ForceDeltaError(
            f"{path} is not a complete checkpoint, or this version of metatrain cannot read it "
            f"({type(error).__name__}: {first})"
        ) from error


@contextlib.contextmanager
def _fusion_kept() -> Iterator[None]:
    """Restore TorchScript's fusion of kernels, which upet changes process-wide at its import."""
    before = _set_fusion([("STATIC", 2), ("DYNAMIC", 10)])  # the only way to read the setting
    _set_fusion(before)
    try:
        yield
    finally:
        _set_fusion(before)


def _set_fusion(strategy: list[tuple[str, int]]) -> list[tuple[str, int]]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        before: list[tuple[str, int]] = torch.jit.set_fusion_strategy(strategy)
        return before


def _is_exported(path: Path) -> bool:
    try:
        return "extra/metatomic-version" in records(path)[1]
    except (RuntimeError, ValueError, OSError):
        return False
