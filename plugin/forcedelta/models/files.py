"""Networks on disk: safetensors files whose header says what the weights are.

The header holds two JSON strings: ``hyperparameters``, the arguments of ``DirectForceNetwork``, and
``metadata``: name, training_set, source, level_of_theory, elements (symbols), cutoff (Å), periodic
(whether it was made for structures that are periodic in three directions, or for molecules), regime
(the losses), tests (numbers by name, units in the names) and licence.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from forcedelta.errors import ForceDeltaError
from forcedelta.models.network import DirectForceNetwork
from md_hooks.replacing import replace_file

_GIVEN = (
    "name",
    "training_set",
    "source",
    "level_of_theory",
    "periodic",
    "regime",
    "tests",
    "licence",
)
_TAKEN = ("elements", "cutoff")  # from the network itself


@dataclass(frozen=True)
class NetworkFile:
    """A network from a file.

    Attributes:
        network: in evaluation mode.
        metadata: as in the header.
        weights_hash: `hash_of` its weights and hyperparameters; the same in every dtype.
    """

    network: DirectForceNetwork
    metadata: Mapping[str, Any]
    weights_hash: str


def save_network(path: Path, network: DirectForceNetwork, metadata: Mapping[str, Any]) -> None:
    """Writes weights, hyperparameters and metadata; the file appears complete or not at all.

    Args:
        path: a file that exists is replaced.
        network: on any device; the file holds the dtypes it has.
        metadata: the keys of the module's description except elements and cutoff, which are taken
            from the network, and any others that JSON can hold.

    Raises:
        ForceDeltaError: keys that are missing, or a path that cannot be written.
    """
    missing = [key for key in _GIVEN if key not in metadata]
    if missing:
        raise ForceDeltaError(f"{path}: not saved, as the metadata lacks {', '.join(missing)}")
    hyperparameters = hyperparameters_of(network)
    described = dict(metadata) | {
        "elements": [chemical_symbols[number] for number in hyperparameters["elements"]],
        "cutoff": hyperparameters["cutoff"],
    }
    header = {"hyperparameters": json.dumps(hyperparameters), "metadata": json.dumps(described)}
    tensors = {
        key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()
    }
    replace_file(path, save(tensors, header), error=ForceDeltaError)


def load_network(
    path: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> NetworkFile:
    """Reads a file of ``save_network``; the network is in evaluation mode.

    Args:
        dtype: float32 or float64. Reference energies stay float64 in both.

    Raises:
        ForceDeltaError: a file that is missing, truncated, of another kind or whose weights do not
            fit its hyperparameters.
    """
    header, metadata = _read_header(path)
    try:
        with torch.random.fork_rng(devices=()):  # first weights are random, and then overwritten
            network = DirectForceNetwork(**json.loads(header["hyperparameters"]))
        with safe_open(path, framework="pt") as file:
            keys = file.keys()
            network.load_state_dict({key: file.get_tensor(key) for key in keys})
        weights_hash = hash_of(network, header["hyperparameters"])
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ForceDeltaError(
            f"{path}: the weights do not fit the hyperparameters in the header ({first})"
        ) from error
    if dtype == torch.float64:
        network = network.double()
    elif dtype != torch.float32:
        raise ForceDeltaError(f"networks run in float32 or float64, not {dtype}")
    return NetworkFile(network.to(device).eval(), metadata, weights_hash)


def read_metadata(path: Path) -> Mapping[str, Any]:
    """Metadata of a file, without its weights. Raises ForceDeltaError as ``load_network`` does."""
    return _read_header(path)[1]


def hyperparameters_of(network: DirectForceNetwork) -> dict[str, Any]:
    """The arguments that build a network of the same shape; elements are atomic numbers."""
    index = network.element_index
    known = torch.nonzero(index >= 0)[:, 0]
    first = network.interactions[0]
    return {
        "elements": known[torch.argsort(index[known])].tolist(),
        "cutoff": network.cutoff,
        "features": network.features,
        "channels": first.channels,
        "layers": len(network.interactions),
        "radial": network.radial,
        "tensors": network.tensors,
        "force_layers": len(network.force_interactions),
    }


def hash_of(module: nn.Module, more: str = "") -> str:
    """16 hex digits of a SHA-256 over parameters and buffers, and over ``more``.

    Not of a file: two files of the same weights differ in the order of their headers.
    """
    return hash_of_tensors(module.state_dict(), more)


def hash_of_tensors(tensors: Mapping[str, torch.Tensor], more: str = "") -> str:
    """`hash_of` for weights that are in no module."""
    digest = hashlib.sha256(more.encode())
    for key, value in sorted(tensors.items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _read_header(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    if not path.is_file():
        raise ForceDeltaError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ForceDeltaError(
            f"{path}: not a complete safetensors file ({str(error).splitlines()[0]})"
        ) from error
    try:
        metadata = json.loads(header["metadata"])
        missing = [key for key in (*_GIVEN, *_TAKEN) if key not in metadata]
    except (KeyError, TypeError, ValueError) as error:
        raise ForceDeltaError(
            f"{path}: a safetensors file, but not one of a forcedelta network; train one with "
            "`python -m forcedelta.training`"
        ) from error
    if missing or "hyperparameters" not in header:
        raise ForceDeltaError(
            f"{path}: the header lacks {', '.join(missing) or 'hyperparameters'}; write the file "
            "with save_network"
        )
    return header, metadata
