"""Models from TorchScript files, whatever made them.

A file of ``torch.jit.save`` is a model of forcedelta when

- its module is called ``module(positions, numbers, cell, edge_index, edge_shift, batch)`` and
  returns ``(energy [S] eV, direct forces [N, 3] eV/Å)``, all as described in
  `forcedelta.ForceDelta`; scripted, traced or frozen, but with the way of autograd from the energy
  to the positions intact; and
- it has an extra file ``model.json`` with an object of these facts:

  - ``cutoff``: Å, of the edges that the module wants.
  - ``dtype``: "float32" or "float64", of the numbers it is called with.
  - ``elements``: symbols, or absent where the module takes any.
  - ``periodic``: true: only for structures that are periodic in three directions; false: only for
    molecules; absent: for both.
  - ``stress``: false where the energy does not depend on ``cell``, so that there is no stress.
  - anything else (``level_of_theory``, ``training_set``, ``licence``, ...) goes into the metadata.

To write one::

    facts = {"cutoff": 5.0, "dtype": "float32", "elements": ["H", "O"], "licence": "MIT"}
    torch.jit.save(module, "model.pt", _extra_files={"model.json": json.dumps(facts)})

Files of metatomic, ``.pt`` as well, are recognised and loaded by
`forcedelta.models.metatomic.exported`.
"""

from __future__ import annotations

import json
import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers
from torch import Tensor, nn

from forcedelta.errors import ForceDeltaError
from forcedelta.models.catalogue import LoadRequest
from forcedelta.models.files import hash_of
from forcedelta.models.isolation import torch_state_kept
from forcedelta.models.loaded import LoadedModel

FACTS = "model.json"
"""Name of the extra file that describes a model."""

_OPENMM = "forcedelta.json"  # forcedelta.openmm.export.FACTS, which cannot be had without OpenMM
_METATOMIC = "metatomic-version"
_KNOWN = ("cutoff", "dtype", "elements", "periodic", "stress")


class ScriptedModel(nn.Module):
    """A TorchScript module that rounds its first calls as it does later ones.

    The optimising executor of TorchScript does not, so that a run that was restarted would not
    repeat the one that was not.
    """

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
    """A model from a TorchScript file: one of ours, as described above, or of metatomic.

    Raises:
        ForceDeltaError: a file that is truncated, of `forcedelta export`, without its facts or with
            another call; another dtype than the file's; or what
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
            f"{path} was written by 'forcedelta export' for OpenMM, in OpenMM's units and with its "
            "own neighbour list: use it with add_force_delta(..., path='torchscript'), and load the "
            "model that it was made from here"
        )
    if FACTS not in extras:
        raise ForceDeltaError(
            f"{path} is TorchScript, but does not tell what it is: save it with an extra file {FACTS} "
            "(cutoff, dtype, elements), as forcedelta.models.torchscript describes, or export it with "
            "metatomic"
        )
    if request.compile:
        raise ForceDeltaError(
            f"{path}: torch.compile does not take TorchScript; leave out --compile"
        )
    with torch_state_kept():
        return _load(path, request)


def _load(path: Path, request: LoadRequest) -> LoadedModel:
    extra: dict[str, Any] = {FACTS: ""}
    try:
        with warnings.catch_warnings():
            # the file is TorchScript: nothing that a user could do about it
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            module = torch.jit.load(str(path), map_location=request.device, _extra_files=extra)
    except (RuntimeError, ValueError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise ForceDeltaError(
            f"{path}: not a complete TorchScript file, or one that needs a library that is not loaded "
            f"({first})"
        ) from error
    text = extra[FACTS]
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    facts = _checked_facts(text, path, request.dtype)
    _check_call(module, path)
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    symbols = facts.get("elements")
    cutoff = float(facts["cutoff"])
    return LoadedModel(
        module=ScriptedModel(module, cutoff).eval(),
        name=request.name,
        weights_hash=hash_of(module, text),
        elements=None if symbols is None else frozenset(atomic_numbers[name] for name in symbols),
        cutoff=cutoff,
        periodic=facts.get("periodic"),
        library=f"torch {torch.__version__} (TorchScript)",
        metadata={name: fact for name, fact in facts.items() if name not in _KNOWN},
        stress=facts.get("stress", True),
        script=lambda: module,
    )


def _extra_files(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ForceDeltaError(
            f"{path}: not a complete TorchScript file ({error}); copy or export it again"
        ) from error
    return {name.partition("/extra/")[2] for name in names if "/extra/" in name}


def _checked_facts(text: str, path: Path, dtype: torch.dtype) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise ForceDeltaError(f"{path}: {FACTS} in it is no JSON ({error})") from error
    asked = str(dtype).removeprefix("torch.")

    def wrong(name: str, what: str) -> ForceDeltaError:
        value = facts.get(name) if isinstance(facts, dict) else facts
        return ForceDeltaError(f"{path}: {FACTS} must give {what}, not {value!r}")

    if not isinstance(facts, dict):
        raise wrong("", "an object of facts")
    cutoff = facts.get("cutoff")
    if isinstance(cutoff, bool) or not isinstance(cutoff, int | float):
        raise wrong("cutoff", "the cutoff in Å")
    if not (math.isfinite(cutoff) and cutoff > 0):
        raise wrong("cutoff", "a positive cutoff in Å")
    if facts.get("dtype") not in ("float32", "float64"):
        raise wrong("dtype", "the dtype 'float32' or 'float64'")
    elements = facts.get("elements")
    if elements is not None and (
        not isinstance(elements, list)
        or not elements
        or not all(isinstance(name, str) and atomic_numbers.get(name, 0) > 0 for name in elements)
    ):
        raise wrong("elements", "a list of element symbols, or none at all")
    if facts.get("periodic") not in (None, True, False):
        raise wrong("periodic", "periodic as true or false, or not at all")
    if not isinstance(facts.get("stress", True), bool):
        raise wrong("stress", "stress as true or false")
    if facts["dtype"] != asked:
        raise ForceDeltaError(
            f"{path}: the model computes in {facts['dtype']}, and {asked} was asked for; ask for "
            f"{facts['dtype']}"
        )
    return facts


def _check_call(module: Any, path: Path) -> None:
    """Six tensors in, two out; what they hold is checked when the model is called."""
    schema = module.forward.schema
    arguments = [str(argument.type) for argument in schema.arguments[1:]]
    answer = [str(value.type) for value in schema.returns]
    if arguments != ["Tensor"] * 6 or answer != ["Tuple[Tensor, Tensor]"]:
        raise ForceDeltaError(
            f"{path}: the module is called with ({', '.join(arguments)}) and returns "
            f"{', '.join(answer)}; a model of forcedelta takes six tensors and returns two, see "
            "forcedelta.models.torchscript"
        )
