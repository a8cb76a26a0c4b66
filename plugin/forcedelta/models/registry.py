"""Models by name.

Models of the libraries in `forcedelta.models.catalogue` have their published names. Other packages
add models through the entry-point group ``forcedelta.models``. An entry point is a callable

    load(dtype: torch.dtype, device: torch.device) -> LoadedModel
"""

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import torch
from ase.data import atomic_numbers
from torch import nn

from forcedelta.errors import ForceDeltaError
from forcedelta.force_delta import ForceDelta
from forcedelta.models.catalogue import LoadRequest, check_direct, families, family_for, family_of
from forcedelta.models.files import load_network
from forcedelta.models.hashing import hash_of
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.metadata import check_cutoff, check_numbers, check_periodic
from forcedelta.models.plugins import describe_error
from forcedelta.models.scripted_code import reason, records
from forcedelta.models.tuned import is_tuned, load_tuned
from forcedelta.versions import __version__

ENTRY_POINTS = "forcedelta.models"

ModelLoader = Callable[[torch.dtype, torch.device], LoadedModel]


def embedded_models() -> dict[str, Path]:
    """Files of the networks that come with the package, by name."""
    folder = Path(__file__).parent / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def registered_models() -> dict[str, EntryPoint]:
    """Entry points of models in other packages, by name; none of their code is run."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def model_names() -> list[str]:
    """All names that ``load_model`` accepts, sorted; the libraries of some may not be installed."""
    published = (model.name for family in families() for model in family.published)
    return sorted({*embedded_models(), *published, *registered_models()})


def is_name(model: str) -> bool:
    """Whether ``load_model`` reads a string as the name of a model, not as a path."""
    return (
        model in embedded_models() or family_of(model) is not None or model in registered_models()
    )


def load_model(
    model: "str | Path | ForceDelta | LoadedModel",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    architecture: str | None = None,
    trust: bool = False,
    compile: bool = False,
) -> LoadedModel:
    """Load a model by name or from a file, or accept one in memory.

    Embedded names precede published ones, these precede names of other packages, and names precede
    files. Networks from files are frozen: their parameters require no gradient. A module in memory
    is used unchanged.

    >>> model = load_model("acac")
    >>> model.symbols, model.cutoff, model.periodic
    (['H', 'C', 'O'], 5.0, False)

    Args:
        model: a name, the path of a file, or a model in memory.
        dtype: of positions and weights.
        device: on which it runs.
        architecture: the network in a local file of another library: one of
            `forcedelta.models.catalogue.Family.architectures`, or a published name. Our own files,
            TorchScript and metatomic models need none.
        trust: allow a local file to run code while it is loaded, as those of some libraries do.
            Published names do not need it.
        compile: pass the network to ``torch.compile``, where the library supports it.

    Raises:
        ForceDeltaError: an unknown name (the message suggests the nearest ones), a library that is
            not installed, weights that cannot be downloaded, a file without a network, a module of
            another dtype or device, or a missing or invalid cutoff, elements or periodicity.
    """
    loaded = _load(
        model,
        dtype,
        torch.device(device),
        architecture=architecture,
        trust=trust,
        compile=compile,
    )
    where = f"model '{loaded.name}'"
    check_cutoff(loaded.cutoff, where)
    check_periodic(loaded.periodic, where)
    if loaded.elements is not None:
        check_numbers(loaded.elements, where)
    return loaded


def _load(
    model: "str | Path | ForceDelta | LoadedModel",
    dtype: torch.dtype,
    device: torch.device,
    *,
    architecture: str | None,
    trust: bool,
    compile: bool,
) -> LoadedModel:
    if isinstance(model, LoadedModel):
        _check_module(model.module, model.name, dtype, device)
        return model
    if isinstance(model, ForceDelta):
        return _from_module(model.model, dtype, device)
    if isinstance(model, nn.Module):
        raise ForceDeltaError(
            f"the model is a bare {type(model).__name__}: wrap it, ForceDelta(model)"
        )
    name = os.fspath(model)
    embedded = embedded_models()
    if architecture is not None and name in model_names():
        raise ForceDeltaError(
            f"--architecture is for local checkpoints only: omit it for model '{name}'"
        )
    if name in embedded:
        return _from_file(embedded[name], name, dtype, device)
    request = LoadRequest(name, None, architecture, dtype, device, trust, compile)
    family = family_of(name)
    if family is not None:
        return family.load(request)
    registered = registered_models()
    if name in registered:
        return _from_entry_point(registered[name], dtype, device)
    path = Path(name)
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return _from_path(path, replace(request, name=path.stem, file=path))
    check_direct(name)
    names = model_names()
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ForceDeltaError(
        f"no model is called '{name}': {hint}'forcedelta models' lists all names; for a file, pass its "
        "path"
    )


def _from_path(path: Path, request: LoadRequest) -> LoadedModel:
    """A model from a file, by the architecture that the user gave or else by its format."""
    if not path.is_file():
        raise ForceDeltaError(f"{path}: no such file")
    if is_tuned(path):
        return load_tuned(request, load_model)
    if request.architecture is not None:
        return family_for(request.architecture).load(request)
    if path.suffix == ".safetensors":
        return _from_file(path, path.stem, request.dtype, request.device)
    if _is_torchscript(path):
        adapter = importlib.import_module("forcedelta.models.torchscript")
        loaded: LoadedModel = adapter.load(request)
        return loaded
    raise ForceDeltaError(
        f"{path} is not a file of forcedelta, TorchScript or metatomic: for a checkpoint of another "
        "library, name its network with --architecture "
        f"({', '.join(name for family in families() for name in family.architectures)})"
    )


def _is_torchscript(path: Path) -> bool:
    """Whether the file is an archive that contains code; checkpoints contain none.

    Raises:
        ForceDeltaError: a truncated archive.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    try:
        return any(name.startswith("code/") for name in records(path)[1])
    except (RuntimeError, ValueError) as error:
        raise ForceDeltaError(
            f"{path} is not a complete file of torch ({reason(error)}): copy or download it again"
        ) from error


def _from_file(path: Path, name: str, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    file = load_network(path, dtype, device)
    return LoadedModel(
        module=file.network.requires_grad_(False),
        name=name,
        weights_hash=file.weights_hash,
        elements=frozenset(atomic_numbers[symbol] for symbol in file.metadata["elements"]),
        cutoff=float(file.metadata["cutoff"]),
        periodic=file.metadata["periodic"],
        library=f"forcedelta {__version__}",
        metadata=file.metadata,
    )


def _from_entry_point(point: EntryPoint, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    package = point.dist.name if point.dist else point.value
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout may carry our JSON
            loader: ModelLoader = point.load()
            loaded = loader(dtype, device)
    except (ForceDeltaError, KeyboardInterrupt):
        raise
    except BaseException as error:  # any error, SystemExit included, is reported with its package
        raise ForceDeltaError(
            f"model '{point.name}' of {package} could not be loaded ({describe_error(error)})"
        ) from error
    if not isinstance(loaded, LoadedModel):
        raise ForceDeltaError(
            f"model '{point.name}' of {package}: its entry point must return a LoadedModel, "
            f"not {type(loaded).__name__}"
        )
    return loaded


def _from_module(module: nn.Module, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    name = type(module).__name__
    cutoff = getattr(module, "cutoff", None)
    if not isinstance(cutoff, float | int):
        raise ForceDeltaError(
            f"{name} has no cutoff: give it an attribute `cutoff` in Å, or pass a LoadedModel"
        )
    _check_module(module, name, dtype, device)
    index = getattr(module, "element_index", None)
    elements = None
    if isinstance(index, torch.Tensor):
        elements = frozenset(torch.nonzero(index >= 0)[:, 0].tolist())
    return LoadedModel(
        module=module,
        name=name,
        weights_hash=hash_of(module),
        elements=elements,
        cutoff=float(cutoff),
        periodic=None,
        library=type(module).__module__.partition(".")[0],
    )


def _check_module(module: nn.Module, name: str, dtype: torch.dtype, device: torch.device) -> None:
    """A module of the caller's must already have the dtype and device; it is not converted."""
    for parameter in module.parameters():
        if parameter.is_floating_point() and parameter.dtype != dtype:
            raise ForceDeltaError(
                f"{name} has {str(parameter.dtype).removeprefix('torch.')} parameters, but "
                f"{str(dtype).removeprefix('torch.')} was requested; convert the module or request the other dtype"
            )
        if parameter.device.type != device.type:
            raise ForceDeltaError(
                f"{name} is on {parameter.device}, but {device} was requested; move the module or request the "
                "other"
            )
