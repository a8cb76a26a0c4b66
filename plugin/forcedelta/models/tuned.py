"""Models whose energy was tuned to agree with their direct forces, and the files of such models.

A file is in the safetensors format, whatever its ending, and holds what was trained. Its header names
the base model, by name or path and by the hash of its weights: without the base the file is of no use,
and another base is refused.

Three reaches, with the module that each makes of the base:

- ``head``: the base with a `ResidualHead` on its features. No further pass.
- ``energy``: the direct forces of the base and the energy of a copy with weights of its own
  (`TunedEnergy`). One more forward pass per evaluation; the backward pass is that of the copy alone.
- ``shared``: the base with other weights throughout, and other direct forces.

An adapter states in ``tunable`` of its module which reaches it supports, see `Tunable`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from forcedelta.errors import ForceDeltaError
from forcedelta.models.catalogue import LoadRequest
from forcedelta.models.hashing import hash_of_tensors
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.metadata import abbreviated, parse_json
from md_hooks.replacing import replace_file

Reach = Literal["head", "energy", "shared"]
REACHES: tuple[str, ...] = get_args(Reach)
FORMAT = "forcedelta tuned 1"
_HEADER = "tuning"
_WIDTH = 256


class Tunable(Protocol):
    """What the module of an adapter offers to be tuned.

    ``energy`` and ``shared`` need parameters that lead to the energy, and an energy that is
    differentiable with respect to them. ``head`` needs features of the network: the module
    adds the output of a head [N, F] -> [N, 1], in eV, to the atomic energies. Models with
    ``first_order_only`` are trained by finite differences of first derivatives.

    Attributes:
        tunable: the supported reaches.
        feature_width: F, the number of rotation-invariant features of an atom (``head`` only).
    """

    tunable: tuple[str, ...]
    feature_width: int

    def add_energy_head(self, head: nn.Module) -> None:
        """Add the output of a head to the energy from now on (``head`` only)."""


class ResidualHead(nn.Module):
    """A correction of the energy [N, 1] in eV from the features [N, F] of the atoms; zero at first."""

    def __init__(self, features: int, width: int = _WIDTH) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.last = nn.Linear(width, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor) -> Tensor:
        """[N, F] -> [N, 1] eV."""
        return self.last(self.layers(features))


class TunedEnergy(nn.Module):
    """The direct forces of one model with the energy of another of the same kind."""

    def __init__(self, base: nn.Module, path: nn.Module, cutoff: float) -> None:
        super().__init__()
        self.base, self.path = base, path
        self.cutoff = cutoff
        for name in (
            "takes_charge_spin", "gives_expected_errors", "gives_energy_uncertainty", "first_order_only", "foreign",
        ):  # fmt: skip
            setattr(self, name, bool(getattr(base, name, False)))

    def forward(self, *graph: Tensor) -> tuple[Tensor, ...]:
        """Arguments and results as of the base; see `forcedelta.ForceDelta`."""
        return (self.energy_alone(*graph), *self.without_energy(*graph))

    def energy_alone(self, *graph: Tensor) -> Tensor:
        """The energy without the rest, at half the cost."""
        energy: Tensor = self.path(*graph)[0]
        return energy

    def without_energy(self, *graph: Tensor) -> tuple[Tensor, ...]:
        """The same without the energy, at half the cost."""
        _, *others = self.base(*graph)
        return tuple(others)


class _Scripted(nn.Module):
    """`TunedEnergy` for TorchScript, which has no variable number of arguments."""

    def __init__(self, base: nn.Module, path: nn.Module) -> None:
        super().__init__()
        self.base, self.path = base, path

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        direct = self.base(positions, numbers, cell, edge_index, edge_shift, batch)[1]
        energy = self.path(positions, numbers, cell, edge_index, edge_shift, batch)[0]
        return energy, direct


class _ChargedScripted(nn.Module):
    """The same with charge and spin."""

    def __init__(self, base: nn.Module, path: nn.Module) -> None:
        super().__init__()
        self.base, self.path = base, path

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
        charge_spin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        direct = self.base(positions, numbers, cell, edge_index, edge_shift, batch, charge_spin)[1]
        energy = self.path(positions, numbers, cell, edge_index, edge_shift, batch, charge_spin)[0]
        return energy, direct


@dataclass(frozen=True)
class Assembled:
    """A base model with the part that is tuned.

    Attributes:
        model: the tuned model, whose energy and forces are still those of the base.
        part: the module whose weights are trained, a part of the model.
        energy: a module with the tuned energy as its first result.
    """

    model: LoadedModel
    part: nn.Module
    energy: nn.Module


def assemble(reach: str, load: Callable[[], LoadedModel]) -> Assembled:
    """Prepare a model for tuning, or for tuned weights.

    Args:
        reach: one of `REACHES`.
        load: gives the base model with modules of its own at each call.

    Raises:
        ForceDeltaError: an unknown reach, or one that the adapter does not support.
    """
    if reach not in REACHES:
        raise ForceDeltaError(
            f"reach must be one of {', '.join(REACHES)}, not {abbreviated(reach)}"
        )
    base = load()
    if "tuned" in base.metadata:
        raise ForceDeltaError(f"{base.name} is tuned already: tune its base model instead")
    possible = tuple(getattr(base.module, "tunable", ()))
    if reach not in possible:
        instead = f"pass --reach {' or '.join(possible)}" if possible else "choose another model"
        raise ForceDeltaError(
            f"model '{base.name}' ({base.library}) cannot be tuned with the reach '{reach}': {instead}"
        )
    model = replace(base, calculator=None)  # that of the library has the energy of the base
    if reach == "shared":
        return Assembled(model, base.module, base.module)
    if reach == "head":
        module = cast("Tunable", base.module)
        like = next(base.module.parameters())
        head = ResidualHead(module.feature_width).to(like.device, like.dtype)
        module.add_energy_head(head)
        return Assembled(model, head, base.module)
    path = load()
    paired = TunedEnergy(base.module, path.module, base.cutoff).eval()

    def script() -> nn.Module:
        parts = [one.module if one.script is None else one.script() for one in (base, path)]
        return _ChargedScripted(*parts) if base.takes_charge_spin else _Scripted(*parts)

    return Assembled(replace(model, module=paired, script=script), path.module, path.module)


def save_tuned(
    path: Path,
    reach: str,
    base: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    report: Mapping[str, Any],
) -> None:
    """Write a tuned model; the file appears complete or not at all.

    Args:
        path: an existing file is replaced.
        reach: one of `REACHES`.
        base: ``model`` (name or absolute path), ``architecture`` and ``weights_hash``.
        weights: the trained parameters, see `Assembled.part`, by their names there.
        report: further entries, JSON-able.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    stated = {"format": FORMAT, "reach": reach, "base": dict(base)}
    header = {
        _HEADER: json.dumps({**stated, "report": dict(report)}),
        "checksum": hash_of_tensors(tensors, json.dumps(stated)),
    }
    replace_file(path, save(tensors, header), error=ForceDeltaError)


def is_tuned(path: Path) -> bool:
    """Whether a file holds a tuned model; nothing but its header is read."""
    try:
        with path.open("rb") as file:
            if file.read(9)[8:] != b"{":
                return False
        with safe_open(path, framework="pt") as opened:
            return _HEADER in (opened.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return False


def load_tuned(request: LoadRequest, load: Callable[..., LoadedModel]) -> LoadedModel:
    """A tuned model on its base.

    Args:
        request: its file, dtype, device, and whether to trust the base.
        load: `forcedelta.load_model`.

    Raises:
        ForceDeltaError: the file is damaged, its base is missing or has other weights, or the base
            cannot be loaded.
    """
    path = request.file
    assert path is not None
    if request.architecture is not None or request.compile:
        flag = "--compile" if request.compile else "--architecture"
        raise ForceDeltaError(f"{path} is a tuned model, which names its base itself: omit {flag}")
    header, tensors = _read(path)
    base, reach = header["base"], header["reach"]
    known = _base_of(path, base["model"])

    def loaded() -> LoadedModel:
        found = load(
            known, request.dtype, request.device,
            architecture=base["architecture"], trust=request.trust,
        )  # fmt: skip
        if found.weights_hash != base["weights_hash"]:
            raise ForceDeltaError(
                f"{path} was tuned from {base['model']} with the weights {base['weights_hash']}, but "
                f"those of {known} are {found.weights_hash}: restore the base model, or tune again"
            )
        return found

    assembled = assemble(reach, loaded)
    parameters = dict(assembled.part.named_parameters())
    for key, value in tensors.items():
        if key not in parameters or parameters[key].shape != value.shape:
            raise ForceDeltaError(
                f"{path} does not fit its base model {base['model']} ({key}): tune again"
            )
        with torch.no_grad():
            parameters[key].copy_(value)
    assembled.model.module.requires_grad_(False)
    stated = {key: header[key] for key in ("format", "reach", "base")}
    return replace(
        assembled.model,
        name=request.name,
        weights_hash=hash_of_tensors(tensors, json.dumps(stated)),
        metadata={**assembled.model.metadata, "tuned": header},
    )


def _base_of(path: Path, model: str) -> str:
    """Name or path of the base; a file that was moved together with the tuned one is found beside it."""
    given = Path(model)
    beside = path.parent / given.name
    if given.is_absolute() and not given.exists() and beside.is_file():
        return str(beside)
    return model


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and weights.

    Raises:
        ForceDeltaError: the file is damaged, or was not written by `save_tuned`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ForceDeltaError(f"{path} is not a complete tuned model: copy it again") from error
    header = parse_json(metadata[_HEADER], f"{path}: its header")
    keys = {"model": str, "architecture": str | None, "weights_hash": str}
    base = header.get("base") if isinstance(header, dict) else None
    if (
        not isinstance(base, dict)
        or header.get("format") != FORMAT
        or not all(isinstance(base.get(key, 0), kind) for key, kind in keys.items())
    ):
        raise ForceDeltaError(f"{path}: its header is not that of a tuned model: tune again")
    stated = {key: header.get(key) for key in ("format", "reach", "base")}
    if metadata.get("checksum") != hash_of_tensors(tensors, json.dumps(stated)):
        raise ForceDeltaError(
            f"{path}: the checksum of the weights differs from the stored one: the file is damaged, "
            "copy it again"
        )
    return header, tensors
