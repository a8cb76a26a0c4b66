"""Reading and checking checkpoints of fairchem-core 1.x.

A file of its trainers is a dictionary with ``config`` (under "model" the arguments of HydraModel: a
backbone and its heads), ``state_dict``, ``normalizers`` and ``elementrefs`` by the name of what is
predicted. A prediction is ``output * rmsd + mean``, plus, for energies, a reference for each atom.
"""

import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairchem.core.common.registry import registry
from fairchem.core.models.base import HydraModel
from fairchem.core.models.equiformer_v2.equiformer_v2 import EquiformerV2Backbone
from fairchem.core.models.equiformer_v2.equiformer_v2_dens import DeNSScalarHead, DeNSVectorHead
from fairchem.core.models.equiformer_v2.heads import (
    EqV2ScalarHead,
    EqV2VectorHead,
    Rank2SymmetricTensorHead,
)
from torch import Tensor, nn

from forcedelta.errors import ForceDeltaError
from forcedelta.models.eqv2.library import quiet_fairchem
from forcedelta.models.isolation import torch_state_kept

_PACKAGE = "fairchem.core.models.equiformer_v2."
_ENERGY_HEADS = (EqV2ScalarHead, DeNSScalarHead)
_FORCE_HEADS = (EqV2VectorHead, DeNSVectorHead)
_HEADS = (*_ENERGY_HEADS, *_FORCE_HEADS, Rank2SymmetricTensorHead)
_OLD_NAMES = {"target": "energy", "grad_target": "forces"}

# numbers of numpy, such as those of the validation, under both of the names that numpy gave them
_MAKE_NUMBER = np.float64().__reduce__()[0]
_HARMLESS: list[Any] = [
    (_MAKE_NUMBER, "numpy._core.multiarray.scalar"),
    (_MAKE_NUMBER, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]


@dataclass(frozen=True)
class Checkpoint:
    """A network and how its outputs become energies and forces.

    Attributes:
        network: the library's HydraModel with the weights, float32, in evaluation mode.
        energy: the name of its head of energies.
        forces: the name of its head of direct forces.
        scales: mean and root mean square of "energy" (eV) and "forces" (eV/Å), where normalised.
        references: [Z] eV, float64, the energy of each element by atomic number; None without.
    """

    network: Any
    energy: str
    forces: str
    scales: Mapping[str, tuple[float, float]]
    references: Tensor | None

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers. Elements without a reference were not in the training set."""
        known = range(1, int(self.network.backbone.max_num_elements))
        if self.references is None or not bool(self.references.any()):
            return frozenset(known)
        fitted = set(torch.nonzero(self.references)[:, 0].tolist())
        return frozenset(fitted.intersection(known))


def read_checkpoint(path: Path, trust: bool) -> Checkpoint:
    """Reads a checkpoint with an EquiformerV2 that has heads for energies and direct forces.

    Args:
        path: of the file.
        trust: load a file that holds more than tensors, numbers and texts, which runs code from it.

    Raises:
        ForceDeltaError: anything else than that, or weights that are not all there.
    """
    content = _content(path, trust)
    with torch_state_kept(), quiet_fairchem():
        network = _network(path, content["config"]["model"])
    energy = _head(path, network, "energy", _ENERGY_HEADS)
    forces = _head(path, network, "forces", _FORCE_HEADS)
    _load_weights(path, network, content["state_dict"])
    normalizers: Any = content.get("normalizers") or {}
    named: Any = content.get("elementrefs") or {}
    if not isinstance(normalizers, Mapping) or not isinstance(named, Mapping):
        raise ForceDeltaError(f"{path}: its normalizers and elementrefs are not dictionaries")
    scales = {
        str(_OLD_NAMES.get(name, name)): _scale(path, name, state)
        for name, state in normalizers.items()
        if _OLD_NAMES.get(name, name) in ("energy", "forces")
    }
    references = named.get("energy")
    return Checkpoint(
        network=network.eval().requires_grad_(False),
        energy=energy,
        forces=forces,
        scales=scales,
        references=None if references is None else _references(path, references),
    )


def _content(path: Path, trust: bool) -> dict[str, Any]:
    """The dictionary in the file, with a model of the kind that we know under config."""
    broken = f"{path}: not a complete checkpoint of fairchem-core 1.x"
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ForceDeltaError(f"{path}: no such file") from error
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is None:
            raise ForceDeltaError(f"{broken}; download it again") from error
        content = _content_with_code(path, foreign[1], trust)
    except Exception as error:  # half a pickle can raise anything
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ForceDeltaError(f"{broken} ({first}); download it again") from error
    if not (isinstance(content, dict) and {"config", "state_dict"} <= content.keys()):
        raise ForceDeltaError(f"{broken}: it has no config and no state_dict")
    config = content["config"]
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict):
        raise ForceDeltaError(
            f"{path}: holds a model of the kind '{model}', not one with a backbone and heads "
            "(hydra), as the EquiformerV2 models of OMat24 are"
        )
    return content


def _content_with_code(path: Path, foreign: str, trust: bool) -> Any:
    if foreign.startswith("fairchem.core.units"):
        raise ForceDeltaError(
            f"{path}: a checkpoint of fairchem-core 2.x, which has no EquiformerV2; it is loaded in "
            "an environment with fairchem-core 2.x"
        )
    if not trust:
        raise ForceDeltaError(
            f"{path}: holds Python objects ({foreign}) beside weights, and loading these runs "
            "whatever code the file names; if you know its source, pass --trust"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the code in the file raises
        raise ForceDeltaError(
            f"{path}: cannot be loaded ({type(error).__name__}: {error})"
        ) from error


def _network(path: Path, model: dict[str, Any]) -> Any:
    """The network that the configuration describes, with random weights."""
    kind = model.get("name")
    backbone, heads = model.get("backbone"), model.get("heads")
    if kind != "hydra" or not isinstance(backbone, dict) or not isinstance(heads, dict):
        raise ForceDeltaError(
            f"{path}: holds a model of the kind '{kind}', not one with a backbone and heads "
            "(hydra), as the EquiformerV2 models of OMat24 are"
        )
    if model.get("finetune_config"):
        raise ForceDeltaError(
            f"{path} refers to the checkpoint from which its training started: convert it with "
            "fairchem's convert_hydra_to_release.py"
        )
    named = backbone.get("model")
    if not _is_a(named, (EquiformerV2Backbone,)):
        raise ForceDeltaError(f"{path} holds a network of the kind '{named}', not EquiformerV2")
    for name, head in heads.items():
        module = head.get("module") if isinstance(head, dict) else None
        if not _is_a(module, _HEADS):
            raise ForceDeltaError(
                f"{path}: its head '{name}' is of the kind '{module}', which EquiformerV2 does not have"
            )
    try:
        return HydraModel(
            backbone=backbone,
            heads=heads,
            pass_through_head_outputs=bool(model.get("pass_through_head_outputs", False)),
        )
    except Exception as error:  # the library checks none of these values
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ForceDeltaError(
            f"{path}: fairchem-core 1.10 cannot build the network of its config ({first})"
        ) from error


def _is_a(name: Any, classes: tuple[type, ...]) -> bool:
    """Whether the library builds one of these classes for a name or path in a config.

    A path may name any code, which would be called: only paths within EquiformerV2 are followed.
    """
    if not isinstance(name, str) or ("." in name and not name.startswith(_PACKAGE)):
        return False
    try:
        found = registry.get_model_class(name)
    except RuntimeError:
        return False
    return isinstance(found, type) and issubclass(found, classes)


def _head(path: Path, network: Any, output: str, classes: tuple[Any, ...]) -> str:
    names = [
        name
        for name, head in network.output_heads.items()
        if isinstance(head, classes) and head.output_name == output
    ]
    if len(names) == 1:
        return str(names[0])
    if output == "forces" and not names:
        raise ForceDeltaError(
            f"{path}: the network has no head for direct forces, and U cannot be computed; choose a "
            "checkpoint that has one"
        )
    raise ForceDeltaError(
        f"{path}: the network has {len(names) or 'no'} heads for {output}, but needs exactly one"
    )


def _load_weights(path: Path, network: nn.Module, state: Any) -> None:
    """Load all weights; a missing one would leave random values in a head."""
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ForceDeltaError(f"{path}: its state_dict does not consist of tensors")
    # one prefix for each wrapper around the network during training
    while state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    expected = network.state_dict()
    for what, keys in (
        ("lacks weights of", [key for key in expected if key not in state]),
        ("has weights that are not of", [key for key in state if key not in expected]),
        (
            "has weights of another shape than",
            [key for key in expected if key in state and state[key].shape != expected[key].shape],
        ),
    ):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ForceDeltaError(
                f"{path}: {what} the network in its config: {', '.join(keys[:3])}{more}"
            )
    network.load_state_dict(state)


def _scale(path: Path, name: str, state: Mapping[str, Any]) -> tuple[float, float]:
    """Mean and root mean square of a normaliser; old files name the latter std."""
    try:
        mean, scale = float(state["mean"]), float(state["rmsd" if "rmsd" in state else "std"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ForceDeltaError(
            f"{path}: the normaliser of '{name}' has no single mean and rmsd"
        ) from error
    if not (math.isfinite(mean) and math.isfinite(scale) and scale > 0):
        raise ForceDeltaError(
            f"{path}: the normaliser of '{name}' has a mean of {mean} and an rmsd of {scale}"
        )
    return mean, scale


def _references(path: Path, state: Mapping[str, Any]) -> Tensor:
    references = state.get("element_references") if isinstance(state, Mapping) else None
    if not isinstance(references, Tensor) or references.dim() != 1:
        raise ForceDeltaError(f"{path}: the energies of its elements are not a list of numbers")
    return references.double()
