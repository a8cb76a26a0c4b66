"""Loads Orb models with orb-models' own loaders, after checks of their files."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from forcedelta.errors import ForceDeltaError
from forcedelta.models.catalogue import LoadRequest
from forcedelta.models.downloads import announce, reach
from forcedelta.models.hashing import hash_of_tensors
from forcedelta.models.isolation import torch_state_kept
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.orb.catalogue import ARCHITECTURES, FAMILY

if TYPE_CHECKING:
    from orb_models.forcefield.direct_regressor import DirectForcefieldRegressor

_BISMUTH, _ACTINIDES = 83, range(89, 95)
_PRECISIONS = {torch.float32: "float32-highest", torch.float64: "float64"}


def load(request: LoadRequest) -> LoadedModel:
    """A published direct model, or one from a local checkpoint.

    Raises:
        ForceDeltaError: the weights cannot be downloaded; the file is not a checkpoint, has another
            architecture, or lacks the heads for energy and direct forces.
    """
    if request.dtype not in _PRECISIONS:
        raise ForceDeltaError(f"Orb models run in float32 or float64, not {request.dtype}")
    architecture = request.name if request.file is None else request.architecture
    if architecture is None:
        raise ForceDeltaError(
            f"{request.file}: name its network with --architecture ({', '.join(ARCHITECTURES)})"
        )
    file = request.file if request.file is not None else _downloaded(architecture)
    with torch_state_kept(), _quiet():
        from orb_models.forcefield.pretrained import ORB_PRETRAINED_MODELS

        from forcedelta.models.orb.module import OrbModel
        from forcedelta.models.orb.network import OrbNetwork
        from forcedelta.models.orb.reference import calculator
        from forcedelta.models.orb.scripted import scripted

        builder = ORB_PRETRAINED_MODELS[ARCHITECTURES.get(architecture, architecture)]
        weights = _read(file)
        _check_direct(file, weights)
        build = partial(_build, builder, file, request)
        try:
            regressor = build()
        except RuntimeError as error:  # keys or shapes that do not fit
            raise _misfit(file, architecture, weights, str(error)) from error
        _check_heads(file, regressor, weights)
        model = OrbModel(OrbNetwork(regressor), compiled=request.compile).eval()
    published = next((one for one in FAMILY.published if one.name == architecture), None)
    metadata: dict[str, Any] = {"architecture": architecture, "neighbours": model.network.most}
    if published is not None:
        metadata |= {"licence": published.licence, "note": published.note}
    actinides = set() if model.takes_charge_spin else set(_ACTINIDES)
    return LoadedModel(
        module=model,
        name=request.name,
        weights_hash=hash_of_tensors(weights),
        elements=frozenset({*range(1, _BISMUTH + 1), *actinides}),
        cutoff=model.cutoff,
        periodic=None,
        library=f"orb-models {version('orb-models')}",
        metadata=metadata,
        script=partial(scripted, model),
        calculator=partial(calculator, build, request.device, request.dtype),
    )


def _build(
    builder: Callable[..., DirectForcefieldRegressor], file: Path, request: LoadRequest
) -> DirectForcefieldRegressor:
    """The network that orb-models' loader builds from the file."""
    with torch_state_kept(), _quiet():
        # some constants of the network are rounded to this dtype before they are converted
        torch.set_default_dtype(torch.float32)
        return builder(
            weights_path=str(file),
            device=request.device,
            precision=_PRECISIONS[request.dtype],
            compile=request.compile,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings of orb-models about settings that are restored, and its log of downloads."""
    log = logging.getLogger("cached_path")
    level = log.level
    log.setLevel(logging.CRITICAL)  # our own error contains the cause
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Setting global torch default dtype", UserWarning)
            warnings.filterwarnings("ignore", "Consider passing 'precision", UserWarning)
            # from a cloud client that its downloader imports
            warnings.filterwarnings("ignore", "Please install grpcio-status", ImportWarning)
            # it compiles its spherical harmonics when it is imported
            warnings.filterwarnings("ignore", ".*torch.jit.*", DeprecationWarning)
            warnings.filterwarnings("ignore", ".*torch.jit.*", FutureWarning)
            yield
    finally:
        log.setLevel(level)


def _downloaded(name: str) -> Path:
    """The file of a published model, from the cache of orb-models' loaders or the network."""
    weights = next(model.weights for model in FAMILY.published if model.name == name)
    address = _address(weights)
    with _quiet():
        from cached_path import cached_path
        from cached_path.util import find_latest_cached

        try:
            known = find_latest_cached(address)
            if known is not None:
                return Path(known)
            announce(weights, urlsplit(address).hostname or address)
            reach(address)
            terminal = sys.stderr is not None and sys.stderr.isatty()
            return Path(cached_path(address, quiet=not terminal))
        except Exception as error:  # of any client: network, server, disk
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ForceDeltaError(
                f"the weights of '{name}' cannot be downloaded ({first:.120}): fetch {weights} from "
                f"{address} where there is a network, and pass --model {weights} --architecture {name}"
            ) from error


def _address(weights: str) -> str:
    """Address of a file in orb-models; read from its source, as its import takes seconds."""
    text = Path(
        str(distribution(FAMILY.distribution).locate_file("orb_models/forcefield/pretrained.py"))
    ).read_text(encoding="utf-8")
    found = re.search(rf'"(https://[^"]+/{re.escape(weights)})"', text)
    assert found is not None  # a test compares the catalogue with the library
    return found[1]


def _read(file: Path) -> dict[str, Tensor]:
    """All weights of a checkpoint; no code of the file is run."""
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch have no common base
        raise ForceDeltaError(
            f"{file} is not a complete checkpoint ({type(error).__name__}): pass a file that "
            "orb-models publishes or that its training wrote"
        ) from error
    if not isinstance(weights, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
    ):
        raise ForceDeltaError(
            f"{file}: not weights of orb-models, a dictionary of tensors; give the file that it "
            "publishes or its training wrote"
        )
    return dict(weights)


def _check_direct(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse conservative models by the keys of their weights (``node_head`` in v2)."""
    if any(key.startswith(("heads.forces.", "node_head.")) for key in weights):
        return
    heads = sorted({key.split(".")[1] for key in weights if key.startswith("heads.")})
    raise ForceDeltaError(
        f"{file} has no head for direct forces (its heads: {', '.join(heads) or 'none'}): "
        "U cannot be computed for conservative models; choose a direct model"
    )


def _check_heads(
    file: Path, regressor: DirectForcefieldRegressor, weights: Mapping[str, Tensor]
) -> None:
    """Refuse incomplete heads, in which the loader would leave random weights."""
    from orb_models.forcefield.load import load_forcefield_state_dict

    missing = load_forcefield_state_dict(regressor, weights, strict=False).missing_keys
    lost = {key.split(".")[1] for key in missing}
    if lost & {"energy", "forces"}:
        raise ForceDeltaError(
            f"{file}: the heads for energy and forces are not complete ({missing[0]} is missing): "
            "pass another file"
        )
    for name in lost:  # stress and expected errors are optional
        del regressor.heads[name]


def _misfit(
    file: Path, architecture: str, weights: Mapping[str, Tensor], message: str
) -> ForceDeltaError:
    fitting = _architectures_like(weights)
    advice = f"pass --architecture {' or '.join(fitting)}"
    if not fitting or ARCHITECTURES.get(architecture, architecture) in fitting:
        advice = "pass another file"
    last = message.strip().splitlines()[-1].partition(": copying")[0].strip()
    return ForceDeltaError(f"{file} does not hold the network of {architecture} ({last}): {advice}")


def _architectures_like(weights: Mapping[str, Tensor]) -> list[str]:
    """Architectures with the number of layers and the kind of basis of a checkpoint."""
    found = (re.search(r"gnn_stacks\.(\d+)\.", key) for key in weights)
    layers = 1 + max((int(match[1]) for match in found if match), default=-1)
    if not any(key.endswith("bessel_weights") for key in weights):
        return {
            15: ["orb-v2", "orb-d3-v2"],
            10: ["orb-d3-sm-v2"],
            5: ["orb-d3-xs-v2"],
        }.get(layers, [])
    if layers != 5:
        return []
    if any("conditioner" in key for key in weights):
        return ["orb-v3-direct-omol"]
    return ["orb-v3-direct-20", "orb-v3-direct-inf"]
