"""Models from TorchScript files of any origin.

A file of ``torch.jit.save`` is a model of forcedelta when

- its module is called ``module(positions, numbers, cell, edge_index, edge_shift, batch)`` and
  returns ``(energy [S] eV, direct forces [N, 3] eV/Å)``, all as described in
  `forcedelta.ForceDelta`; scripted, traced or frozen, with the energy connected to the positions in
  the autograd graph; and
- it has an extra file ``model.json`` with a JSON object of these keys:

  - ``cutoff``: Å, of the module's edges.
  - ``dtype``: "float32" or "float64", of the module's arguments.
  - ``elements``: symbols; absent if the module takes any.
  - ``periodic``: true: only for structures that are periodic in three directions; false: only for
    molecules; absent: for both.
  - ``stress``: false if the energy does not depend on ``cell`` and there is no stress.
  - any others (``level_of_theory``, ``training_set``, ``licence``, ...) go into the metadata.

The code in a file may only compute: code that writes or reads files, prints, or needs C++ classes of other
libraries is refused unless the user trusts the file (`forcedelta.models.scripted_code`).

To write a file::

    description = {"cutoff": 5.0, "dtype": "float32", "elements": ["H", "O"], "licence": "MIT"}
    torch.jit.save(module, "model.pt", _extra_files={"model.json": json.dumps(description)})

Files of metatomic, also with the ending ``.pt``, are recognised and loaded by
`forcedelta.models.metatomic.exported`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers
from torch import Tensor, nn

from forcedelta.errors import ForceDeltaError
from forcedelta.models.catalogue import LoadRequest
from forcedelta.models.hashing import hash_of
from forcedelta.models.isolation import torch_state_kept
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.metadata import (
    check_cutoff,
    check_periodic,
    check_symbols,
    parse_json,
    shown,
)
from forcedelta.models.scripted_code import load_script, reason, records

FACTS = "model.json"
"""Name of the extra file that describes a model."""

_OPENMM = "forcedelta.json"  # forcedelta.openmm.export.FACTS, whose import needs OpenMM
_METATOMIC = "metatomic-version"
_KNOWN = ("cutoff", "dtype", "elements", "periodic", "stress")


class ScriptedModel(nn.Module):
    """A TorchScript module whose first calls round in the same way as later ones.

    With TorchScript's optimising executor they do not, and a restarted run would differ from an
    uninterrupted one.
    """

    foreign = True

    def __init__(self, scripted: torch.jit.ScriptModule, cutoff: float) -> None:
        super().__init__()
        self.scripted = scripted
        self.cutoff = cutoff

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        """Arguments and results as described in `forcedelta.ForceDelta`."""
        with torch.jit.optimized_execution(False):
            energy, direct = self.scripted(*graph)
        return energy, direct


def load(request: LoadRequest) -> LoadedModel:
    """A model from a TorchScript file as described above, or from one of metatomic.

    Raises:
        ForceDeltaError: the file is truncated, was written by `forcedelta export`, or lacks its
            description; the module has another call; code does more than compute, without
            ``trust``; the dtype differs from the file's; or an error of
            `forcedelta.models.metatomic.exported.load`.
    """
    path = request.file
    assert path is not None
    extras = _extra_files(path)
    if _METATOMIC in extras:
        from forcedelta.models.metatomic.exported import load as load_exported

        return load_exported(request)
    if _OPENMM in extras:
        raise ForceDeltaError(
            f"{path} was written by 'forcedelta export' for OpenMM, with OpenMM's units and a "
            "neighbour list: use it with add_force_delta(..., path='torchscript'), and pass the "
            "original model here"
        )
    if FACTS not in extras:
        raise ForceDeltaError(
            f"{path} is TorchScript without a description: save it with an extra file {FACTS} (cutoff, "
            "dtype, elements), see forcedelta.models.torchscript, or export it with metatomic"
        )
    if request.compile:
        raise ForceDeltaError(f"{path}: torch.compile does not accept TorchScript: omit --compile")
    with torch_state_kept():
        return _load(path, request)


def _load(path: Path, request: LoadRequest) -> LoadedModel:
    extra: dict[str, Any] = {FACTS: ""}
    module = load_script(path, request.device, request.trust, extra)
    text = extra[FACTS]
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    description = _checked_description(text, path, request.dtype)
    _check_call(module, path)
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    symbols = description.get("elements")
    cutoff = float(description["cutoff"])
    return LoadedModel(
        module=ScriptedModel(module, cutoff).eval(),
        name=request.name,
        weights_hash=hash_of(module, text),
        elements=None if symbols is None else frozenset(atomic_numbers[name] for name in symbols),
        cutoff=cutoff,
        periodic=description.get("periodic"),
        library=f"torch {torch.__version__} (TorchScript)",
        metadata={key: value for key, value in description.items() if key not in _KNOWN},
        stress=description.get("stress", True),
        script=lambda: module,
    )


def _extra_files(path: Path) -> set[str]:
    try:
        _, names = records(path)
    except (RuntimeError, ValueError, OSError) as error:
        raise ForceDeltaError(
            f"{path} is not a complete TorchScript file ({reason(error)}): copy or export it again"
        ) from error
    return {name.removeprefix("extra/") for name in names if name.startswith("extra/")}


def _checked_description(text: str, path: Path, dtype: torch.dtype) -> dict[str, Any]:
    where = f"{path}: {FACTS}"
    given = parse_json(text, where)
    requested = str(dtype).removeprefix("torch.")
    if not isinstance(given, dict):
        raise ForceDeltaError(f"{where} must be a JSON object, not {shown(given)}")
    check_cutoff(given.get("cutoff"), where)
    if given.get("dtype") not in ("float32", "float64"):
        raise ForceDeltaError(
            f"{where} must give the dtype 'float32' or 'float64', not {shown(given.get('dtype'))}"
        )
    if given.get("elements") is not None:
        check_symbols(given["elements"], where)
    check_periodic(given.get("periodic"), where)
    if not isinstance(given.get("stress", True), bool):
        raise ForceDeltaError(
            f"{where} must give stress as true or false, not {shown(given['stress'])}"
        )
    if given["dtype"] != requested:
        raise ForceDeltaError(
            f"{path}: the model computes in {given['dtype']}, but {requested} was requested: request "
            f"{given['dtype']}"
        )
    return given


def _check_call(module: Any, path: Path) -> None:
    """Check for six tensors in and two out; the values are checked when the model is called."""
    if not module._c._has_method("forward"):
        raise ForceDeltaError(
            f"{path}: the module has no method forward and cannot be called: save one that has it"
        )
    schema = module._c._get_method("forward").schema
    arguments = [str(argument.type) for argument in schema.arguments[1:]]
    answer = [str(value.type) for value in schema.returns]
    if arguments != ["Tensor"] * 6 or answer != ["Tuple[Tensor, Tensor]"]:
        raise ForceDeltaError(
            f"{path}: the module takes ({', '.join(arguments)}) and returns "
            f"{', '.join(answer)}; a model of forcedelta takes six tensors and returns two, see "
            "forcedelta.models.torchscript"
        )
