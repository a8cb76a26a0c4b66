"""Networks on disk: safetensors files whose header describes the weights.

The header holds two JSON strings: ``hyperparameters``, the arguments of ``DirectForceNetwork``, and
``metadata``: name, training_set, source, level_of_theory, elements (symbols), cutoff (Å), periodic
(whether it was made for structures that are periodic in three directions, or for molecules), regime
(the losses), tests (numbers by name, units in the names) and licence. A third, ``checksum``, is
`hash_of_tensors` of the weights in the file, to detect damage.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from forcedelta.errors import ForceDeltaError
from forcedelta.models.hashing import hash_of, hash_of_tensors
from forcedelta.models.metadata import (
    abbreviated,
    check_cutoff,
    check_numbers,
    check_periodic,
    check_symbols,
    parse_json,
)
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
    """Write weights, hyperparameters and metadata; the file appears complete or not at all.

    Args:
        path: an existing file is replaced.
        network: on any device; the file keeps its dtypes.
        metadata: the keys listed at the top of this module except elements and cutoff, which come
            from the network, and any others that JSON can hold.

    Raises:
        ForceDeltaError: missing keys, or a path that cannot be written.
    """
    missing = [key for key in _GIVEN if key not in metadata]
    if missing:
        raise ForceDeltaError(f"{path}: not saved: the metadata lacks {', '.join(missing)}")
    hyperparameters = hyperparameters_of(network)
    described = dict(metadata) | {
        "elements": [chemical_symbols[number] for number in hyperparameters["elements"]],
        "cutoff": hyperparameters["cutoff"],
    }
    tensors = {
        key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()
    }
    stated = json.dumps(hyperparameters)
    header = {
        "hyperparameters": stated,
        "metadata": json.dumps(described),
        "checksum": hash_of_tensors(tensors, stated),
    }
    replace_file(path, save(tensors, header), error=ForceDeltaError)


def load_network(
    path: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> NetworkFile:
    """Read a file of ``save_network``; the network is in evaluation mode.

    Args:
        path: of the file.
        dtype: float32 or float64. Reference energies stay float64 in both.
        device: of the network.

    Raises:
        ForceDeltaError: the file is missing, truncated or of another kind; its header is invalid;
            its weights do not match the header, are not finite or are damaged.
    """
    header, metadata = _read_header(path)
    hyperparameters = _checked_hyperparameters(header["hyperparameters"], path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ForceDeltaError(
            f"{path}: its weights cannot be read ({_first_line(error)})"
        ) from error
    _check_tensors(tensors, hyperparameters, path)
    checksum = header.get("checksum")
    if checksum is not None and checksum != hash_of_tensors(tensors, header["hyperparameters"]):
        raise ForceDeltaError(
            f"{path}: the checksum of the weights differs from the stored one: the file is damaged, "
            "copy it again"
        )
    if (sorted(hyperparameters["elements"]), hyperparameters["cutoff"]) != (
        sorted(check_symbols(metadata["elements"], f"{path}: the metadata")),
        metadata["cutoff"],
    ):
        raise ForceDeltaError(
            f"{path}: the metadata and the hyperparameters differ in elements or cutoff; write the "
            "file with save_network"
        )
    try:
        with torch.random.fork_rng(devices=()):  # the initial weights are random
            network = DirectForceNetwork(**hyperparameters)
        network.load_state_dict(tensors)
        weights_hash = hash_of(network, header["hyperparameters"])
    except (RuntimeError, TypeError, ValueError) as error:
        raise _misfit(path, _first_line(error)) from error
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


def _read_header(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Header and metadata.

    Raises:
        ForceDeltaError: the file is missing, not a safetensors file, or not a forcedelta network.
    """
    if not path.is_file():
        raise ForceDeltaError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ForceDeltaError(
            f"{path}: not a complete safetensors file ({_first_line(error)})"
        ) from error
    if "metadata" not in header:
        raise ForceDeltaError(
            f"{path} is a safetensors file, but does not hold a forcedelta network; train one with "
            "`python -m forcedelta.training`"
        )
    where = f"{path}: the metadata"
    metadata = parse_json(header["metadata"], f"{where} of its header")
    if not isinstance(metadata, dict):
        raise ForceDeltaError(f"{where} must be an object, not {abbreviated(metadata)}")
    missing = [key for key in (*_GIVEN, *_TAKEN) if key not in metadata]
    if missing or "hyperparameters" not in header:
        raise ForceDeltaError(
            f"{path}: the header lacks {', '.join(missing) or 'hyperparameters'}; write the file "
            "with save_network"
        )
    check_cutoff(metadata["cutoff"], where)
    check_symbols(metadata["elements"], where)
    check_periodic(metadata["periodic"], where)
    level = metadata["level_of_theory"]
    if level is not None and not isinstance(level, str):
        raise ForceDeltaError(
            f"{where} must give level_of_theory as text, not {abbreviated(level)}"
        )
    return header, metadata


def _checked_hyperparameters(text: str, path: Path) -> dict[str, Any]:
    """The arguments of `DirectForceNetwork`, with checked types.

    Raises:
        ForceDeltaError: an argument is missing, unknown, or of another type or size.
    """
    where = f"{path}: the hyperparameters"
    given = parse_json(text, f"{where} of its header")
    known = inspect.signature(DirectForceNetwork).parameters
    needed = [name for name, one in known.items() if one.default is inspect.Parameter.empty]
    if not isinstance(given, dict) or not set(needed) <= given.keys() <= known.keys():
        raise _misfit(path, f"they are {abbreviated(given)}, not {', '.join(known)}")
    check_numbers(given["elements"], where)
    check_cutoff(given["cutoff"], where)
    for name, value in given.items():
        if name in needed:
            continue
        least = 0 if name in ("tensors", "force_layers") else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ForceDeltaError(
                f"{where} must give {name} as a whole number, not {abbreviated(value)}"
            )
    return {name: one.default for name, one in known.items() if name not in needed} | given


def _check_tensors(tensors: Mapping[str, torch.Tensor], given: dict[str, Any], path: Path) -> None:
    """Compare the weights with the hyperparameters before a network of that size is built.

    Raises:
        ForceDeltaError: tensors of other shapes, or weights that are not finite.
    """
    width, density = given["features"], given["radial"] * given["channels"]
    shapes = {
        "embedding.weight": [len(given["elements"]), width],
        "basis.frequencies": [given["radial"]],
        "interactions.0.send_scalars.weight": [given["channels"], width],
        "interactions.0.mix_scalars.weight": [width, density],
    }
    if given["tensors"]:
        shapes["interactions.0.tensor_products.left.weight"] = [given["tensors"], density]
    for key, shape in shapes.items():
        found = list(tensors[key].shape) if key in tensors else None
        if found != shape:
            raise _misfit(path, f"{key} has the shape {found}, not {shape}")
    for kind, count in (("", given["layers"]), ("force_", given["force_layers"])):
        named = {key.split(".")[1] for key in tensors if key.startswith(f"{kind}interactions.")}
        if len(named) != count:
            raise _misfit(path, f"{len(named)} {kind}interactions, not {abbreviated(count)}")
    for key, value in tensors.items():
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise ForceDeltaError(
                f"{path}: {key} holds {'values that are not finite' if value.is_floating_point() else value.dtype}"
                ", but weights must be finite floating-point numbers: the file is damaged, or its "
                "training failed"
            )


def _misfit(path: Path, what: str) -> ForceDeltaError:
    return ForceDeltaError(
        f"{path}: the weights do not match the hyperparameters in the header ({what})"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
