"""Finding, reading and checking checkpoints of fairchem-core 2.x."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch

from forcedelta.errors import ForceDeltaError
from forcedelta.models.catalogue import LoadRequest
from forcedelta.models.downloads import from_hub
from forcedelta.models.fairchem.catalogue import FAMILY


def find_checkpoint(request: LoadRequest) -> Path:
    """The local file of a request: the user's, or one from the library's cache or the hub.

    Raises:
        ForceDeltaError: a local file without ``trust``, or published weights that cannot be
            downloaded.
    """
    if request.file is not None:
        if not request.trust:
            raise ForceDeltaError(
                f"{request.file}: checkpoints of fairchem are pickles, which run the code that is in "
                "them when they are loaded; if you trust its source, pass --trust"
            )
        return request.file
    place = _published(request.name)
    try:
        return from_hub(
            place["repo_id"],
            place["filename"],
            place.get("subfolder"),
            revision=place.get("revision"),
            cache=_cache(),
        )
    except (OSError, ValueError) as error:  # those of huggingface_hub are among them
        published = next(model for model in FAMILY.published if model.name == request.name)
        raise ForceDeltaError(
            f"model '{request.name}': {published.weights} could not be downloaded "
            f"({_first_line(error)}). Its licence: {published.licence}. Request access there and log "
            f"in with 'hf auth login', or pass a copy: --model path/to/{published.weights} "
            f"--architecture {request.name} --trust"
        ) from error


def _published(name: str) -> dict[str, str]:
    """Place of a model in the library's list, read without the library's import of ten seconds."""
    library = distribution(FAMILY.distribution)
    listed = Path(str(library.locate_file("fairchem/core/calculate/pretrained_models.json")))
    place: dict[str, str] = json.loads(listed.read_text(encoding="utf-8"))[name]
    return place


def _cache() -> str:
    """The library's cache, which a program may have changed."""
    library: Any = sys.modules.get("fairchem.core.calculate.pretrained_mlip")
    if library is not None:
        return str(library.CACHE_DIR)
    usual = Path.home() / ".cache" / "fairchem"
    return os.environ.get("FAIRCHEM_CACHE_DIR", str(usual))


def read_checkpoint(path: Path) -> Any:
    """An inference checkpoint (``MLIPInferenceCheckpoint``); code in the file is run.

    Raises:
        ForceDeltaError: the file cannot be read, is incomplete, or is not such a checkpoint.
    """
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise ForceDeltaError(
            f"{path} needs code that is not installed here ({_first_line(error)}); it may come from "
            "another version of fairchem-core"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ForceDeltaError(
            f"{path} is not a complete checkpoint ({_first_line(error)}): copy or download it again"
        ) from error
    if isinstance(checkpoint, MLIPInferenceCheckpoint):
        return checkpoint
    if isinstance(checkpoint, Mapping) and {"config", "state_dict"} <= set(checkpoint):
        raise ForceDeltaError(
            f"{path}: a checkpoint of fairchem-core 1, whose models need an environment of their own; "
            "load it there and pass --architecture"
        )
    raise ForceDeltaError(
        f"{path} holds a {type(checkpoint).__name__}, not an inference checkpoint of fairchem-core 2: "
        "pass the inference_ckpt.pt of a training run"
    )


def kind_of(checkpoint: Any, path: Path) -> str:
    """The network of a checkpoint with direct forces: "eSEN", "AllScAIP" or "EScAIP".

    Raises:
        ForceDeltaError: another network, a mixture of experts (UMA), or conservative forces.
    """
    from fairchem.core.models.allscaip.AllScAIP import AllScAIPBackbone
    from fairchem.core.models.escaip.EScAIP import EScAIPBackbone
    from fairchem.core.models.uma.escn_md import eSCNMDBackbone
    from fairchem.core.units.mlip_unit.utils import get_backbone_class_from_checkpoint

    config = checkpoint.model_config.get("backbone") or {}
    kinds = {eSCNMDBackbone: "eSEN", AllScAIPBackbone: "AllScAIP", EScAIPBackbone: "EScAIP"}
    try:
        network = get_backbone_class_from_checkpoint(checkpoint)
        kind = next(kind for known, kind in kinds.items() if issubclass(network, known))
    except (ValueError, RuntimeError, StopIteration) as error:
        raise ForceDeltaError(
            f"{path}: holds the network {config.get('model')!r}; only {', '.join(kinds.values())} with "
            "direct forces are supported"
        ) from error
    if config.get("num_experts", 0):
        raise ForceDeltaError(
            f"{path} is a UMA model (a mixture of {config['num_experts']} experts); its forces are the "
            "gradient of its energy, or it serves several data sets: use an eSEN or AllScAIP model "
            "with direct forces"
        )
    if not config.get("direct_forces", kind == "eSEN"):
        raise ForceDeltaError(
            f"{path}: its forces are the gradient of its energy, and U is zero by definition: "
            "choose a checkpoint with direct forces ('-direct-' in the published names)"
        )
    return kind


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
