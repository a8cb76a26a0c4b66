"""Models from TorchScript files of any origin.

A file of ``torch.jit.save`` is a model of forcedelta when

- its module is called ``module(positions, numbers, cell, edge_index, edge_shift, batch)`` and
  returns ``(energy [S] eV, direct forces [N, 3] eV/Å)``, all as described in
  `forcedelta.ForceDelta`; scripted, traced or frozen, with the energy connected to the
  positions in the autograd graph; and
- it has an extra file ``model.json`` with an object of these entries:

  - ``cutoff``: Å, of the edges that the module takes.
  - ``dtype``: "float32" or "float64", of its arguments.
  - ``elements``: symbols, or absent where the module takes any.
  - ``periodic``: true: only for structures that are periodic in three directions; false: only for
    molecules; absent: for both.
  - ``stress``: false if the energy does not depend on ``cell``: the model then has no stress.
  - other entries (``level_of_theory``, ``training_set``, ``licence``, ...) go into the metadata.

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
    abbreviated,
    check_cutoff,
    check_periodic,
    check_symbols,
    parse_json,
)
from forcedelta.models.scripted_code import load_script, reason, records

DESCRIPTION = "model.json"
"""Name of the extra file that describes a model."""

# forcedelta.openmm.export.DESCRIPTION, which cannot be imported without OpenMM
_OPENMM = "forcedelta.json"
_METATOMIC = "metatomic-version"
_KNOWN = ("cutoff", "dtype", "elements", "periodic", "stress")


class ScriptedModel(nn.Module):
    """A TorchScript module whose first calls round as later ones do.

    The optimising executor of TorchScript rounds its first calls differently, and a restarted run
    would differ from an uninterrupted one.
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
        ForceDeltaError: a file that is truncated, of `forcedelta export`, without its description or with
            another call; code that does more than compute, without ``trust``; another dtype than the file's; or what
            `forcedelta.models.metatomic.exported.load` raises.
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
    if DESCRIPTION not in extras:
        raise ForceDeltaError(
            f"{path} is TorchScript without a description: save it with an extra file {DESCRIPTION} "
            "(cutoff, dtype, elements), as forcedelta.models.torchscript describes, or export it with "
            "metatomic"
        )
    if request.compile:
        raise ForceDeltaError(f"{path}: torch.compile does not accept TorchScript; omit --compile")
    with torch_state_kept():
        return _load(path, request)


def _load(path: Path, request: LoadRequest) -> LoadedModel:
    extra: dict[str, Any] = {DESCRIPTION: ""}
    module = load_script(path, request.device, request.trust, extra)
    text = extra[DESCRIPTION]
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
        metadata={name: value for name, value in description.items() if name not in _KNOWN},
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
    where = f"{path}: {DESCRIPTION}"
    description = parse_json(text, f"{where} in it")
    asked = str(dtype).removeprefix("torch.")
    if not isinstance(description, dict):
        raise ForceDeltaError(f"{where} must give an object, not {abbreviated(description)}")
    check_cutoff(description.get("cutoff"), where)
    if description.get("dtype") not in ("float32", "float64"):
        raise ForceDeltaError(
            f"{where} must give the dtype 'float32' or 'float64', not {abbreviated(description.get('dtype'))}"
        )
    if description.get("elements") is not None:
        check_symbols(description["elements"], where)
    check_periodic(description.get("periodic"), where)
    if not isinstance(description.get("stress", True), bool):
        raise ForceDeltaError(
            f"{where} must give stress as true or false, not {abbreviated(description['stress'])}"
        )
    if description["dtype"] != asked:
        raise ForceDeltaError(
            f"{path}: the model computes in {description['dtype']}, but {asked} was requested; use "
            f"{description['dtype']}"
        )
    return description


def _check_call(module: Any, path: Path) -> None:
    """Check for six tensors in and two out; the values are checked when the model is called."""
    if not module._c._has_method("forward"):
        raise ForceDeltaError(
            f"{path}: the module has no method forward and cannot be called; save one that has"
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
