"""Published EquiformerV2 models and local checkpoints of fairchem-core 1.x."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from forcedelta.errors import ForceDeltaError
from forcedelta.models.catalogue import LoadRequest
from forcedelta.models.downloads import from_hub
from forcedelta.models.eqv2.catalogue import FAMILY, HUB, PAGE
from forcedelta.models.eqv2.library import import_fairchem
from forcedelta.models.hashing import hash_of
from forcedelta.models.loaded import LoadedModel

_LONGEST_REASON = 200


def load(request: LoadRequest) -> LoadedModel:
    """A model by its published name, or from a local checkpoint.

    Raises:
        ForceDeltaError: the weights cannot be downloaded; the file is not a checkpoint of an
            EquiformerV2 with direct forces, or needs ``trust``; or the network does not support the
            settings.
    """
    if request.compile:
        raise ForceDeltaError(
            "EquiformerV2 cannot be compiled, because its gradient is written by hand: omit --compile"
        )
    if request.dtype not in (torch.float32, torch.float64):
        raise ForceDeltaError(f"EquiformerV2 runs in float32 or float64, not {request.dtype}")
    path = request.file if request.file is not None else download(request.name)
    import_fairchem()
    from forcedelta.models.eqv2.checkpoint import read_checkpoint
    from forcedelta.models.eqv2.module import EquiformerV2

    # a published file is as trusted as the library that would load it
    trust = request.trust or request.file is None
    checkpoint = read_checkpoint(path, trust)
    network = checkpoint.network
    weights_hash = hash_of(network, repr(checkpoint.scales))
    backbone = network.backbone
    metadata: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "layers": backbone.num_layers,
        "lmax": max(backbone.lmax_list),
        "mmax": max(backbone.mmax_list),
        "neighbours": backbone.max_neighbors,
        "file": path.name,
    }
    notes = [model.note for model in FAMILY.published if model.name == request.name]
    if notes:
        metadata["training_set"] = notes[0]
    network.to(request.dtype)
    module = EquiformerV2(
        network,
        network.output_heads[checkpoint.energy],
        network.output_heads[checkpoint.forces],
        checkpoint.scales,
        checkpoint.references,
    ).to(request.device)

    def calculator() -> Any:
        from forcedelta.models.eqv2.library_calculator import LibraryCalculator

        return LibraryCalculator(read_checkpoint(path, trust), request.device)

    return LoadedModel(
        module=module,
        name=request.name,
        weights_hash=weights_hash,
        elements=checkpoint.elements,
        cutoff=module.cutoff,
        periodic=None,
        library=f"{FAMILY.distribution} {version(FAMILY.distribution)}",
        metadata=metadata,
        calculator=calculator,
    )


def download(name: str) -> Path:
    """The file of a published model, from the cache or the hub.

    Raises:
        ForceDeltaError: it cannot be downloaded; the message names the remedy.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    file = next(model.weights for model in FAMILY.published if model.name == name)
    try:
        return from_hub(HUB, file)
    except GatedRepoError as error:
        reason, remedy = (
            "the licence must be accepted on the hub first",
            f"accept it at {PAGE}, log in with 'hf auth login' and try again",
        )
        raise ForceDeltaError(_not_had(name, file, reason, remedy)) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        remedy = f"accept the licence on its page, {PAGE}"
        raise ForceDeltaError(_not_had(name, file, reason, remedy)) from error


def _not_had(name: str, file: str, reason: str, remedy: str) -> str:
    return (
        f"the weights of '{name}' could not be downloaded ({file} of {HUB}: {reason}): {remedy}; or "
        f"pass a copy of the file, --model PATH/{file} --architecture eqV2"
    )
