"""Exported metatomic models: files of ``AtomisticModel.save``, usually ``.pt``."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from forcedelta.errors import ForceDeltaError
from forcedelta.installing import command
from forcedelta.models.catalogue import LoadRequest
from forcedelta.models.hashing import hash_of
from forcedelta.models.isolation import torch_state_kept
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.metadata import abbreviated, parse_json
from forcedelta.models.scripted_code import TRUST, load_script, records

EXTENSIONS = "extensions"
"""Folder beside a file with the TorchScript extensions that its model needs, named as metatrain
names it."""

_METHODS = {
    "capabilities": "classes.metatomic.ModelCapabilities",
    "metadata": "classes.metatomic.ModelMetadata",
    "requested_neighbor_lists": "List[__torch__.torch.classes.metatomic.NeighborListOptions]",
    "requested_inputs": "Dict[str, __torch__.torch.classes.metatomic.ModelOutput]",
    "forward": "Dict[str, __torch__.torch.classes.metatensor.TensorMap]",
}
_EXTENSION_LISTS = ("extra/extensions", "extra/extensions-deps")
_FORCES = ("non_conservative_force", "non_conservative_forces")  # today's name, and the older one
_INPUTS = ("charge", "spin_multiplicity")


def load(request: LoadRequest, variant: str | None = None) -> LoadedModel:
    """A model with an energy and non-conservative forces from an exported file.

    The file fixes the precision of the model, and no other can be requested. Compiled TorchScript
    extensions that it needs are searched in a folder ``extensions`` beside it and among the
    installed packages. As they are programs, they are loaded only with ``trust``.

    Args:
        request: with a file.
        variant: name of one of several energies and its forces, such as "pbe" for ``energy/pbe``.
            None: the unnamed one, or the only one.

    Raises:
        ForceDeltaError: metatomic is not installed; the file is truncated, needs missing
            extensions, or needs ``trust`` for extensions or code that does more than compute; the
            model has no energy or no non-conservative forces, does not state its units, needs
            inputs other than charge and spin multiplicity, or computes in another precision or on
            other devices.
    """
    assert request.file is not None
    with torch_state_kept():
        model = _read(request.file, request.trust)
        return describe(model, request, variant)


def describe(
    model: torch.jit.RecursiveScriptModule,
    request: LoadRequest,
    variant: str | None = None,
) -> LoadedModel:
    """A loaded model from an exported one and its own description.

    Args:
        model: ``AtomisticModel`` in TorchScript.
        request: provides name, dtype and device.
        variant: see `load`.

    Raises:
        ForceDeltaError: as `load`.
    """
    import metatomic.torch as metatomic

    from forcedelta.models.metatomic.module import MetatomicModule, UncertainMetatomicModule
    from forcedelta.models.metatomic.pet import without_metatomic

    where = str(request.file or request.name)
    if request.compile:
        raise ForceDeltaError(
            f"{where}: metatomic's models are TorchScript, which torch.compile does not accept; "
            "omit --compile"
        )
    capabilities = model.capabilities()
    energy, forces = _outputs(capabilities.outputs, where, variant)
    _check_units(capabilities, energy, forces, where)
    _check_inputs(model, where)
    _check_dtype_and_device(capabilities, request, where)
    if not model.requested_neighbor_lists():
        raise ForceDeltaError(
            f"{where}: the model requests no neighbour list, so its cutoff is unknown; "
            "export one that requests it"
        )
    model = model.to(request.device).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    plain = MetatomicModule(model, energy, forces).eval()
    uncertainty = _uncertainty(capabilities.outputs, energy)
    module = plain
    if uncertainty is not None:
        module = UncertainMetatomicModule(model, energy, forces, uncertainty).eval()
    elements = sorted(capabilities.atomic_types)

    def calculator() -> Any:
        with contextlib.redirect_stdout(io.StringIO()):  # NVIDIA's warp prints about the GPU
            from metatomic_ase import MetatomicCalculator

        return MetatomicCalculator(
            model,
            device=str(request.device),
            variants={"energy": energy.partition("/")[2] or None},
            non_conservative="forces",
            do_gradients_with_energy=False,
            uncertainty_threshold=None,
        )

    return LoadedModel(
        module=module,
        name=request.name,
        weights_hash=weights_hash_of(model),
        elements=frozenset(elements),
        cutoff=module.cutoff,
        periodic=None,
        library=f"metatomic-torch {metatomic.__version__}",
        metadata=_metadata(model, energy, forces, module.cutoffs),
        script=lambda: without_metatomic(plain, elements, request.dtype),
        calculator=calculator,
    )


def weights_hash_of(model: Any) -> str:
    """`forcedelta.models.hashing.hash_of` of weights, outputs, units and elements of a model."""
    return hash_of(model, model.capabilities().__getstate__()[0])


def _read(path: Path, trust: bool) -> torch.jit.RecursiveScriptModule:
    with warnings.catch_warnings():
        # deprecations of TorchScript itself, which users cannot act on
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        try:
            from metatomic.torch import check_atomistic_model, load_model_extensions
        except ImportError as error:  # also if it was built for another torch
            raise ForceDeltaError(
                f"{path} is a metatomic model, but metatomic cannot be imported "
                f"({_first_line(error)}): {command('metatomic')}"
            ) from error
        named = _extensions(path)
        if named and not trust:
            raise ForceDeltaError(
                f"{path}: the model needs compiled extensions ({_list(named)}), which run code "
                f"when they are loaded; {TRUST}"
            )
        try:
            if named:
                extensions = path.parent / EXTENSIONS
                load_model_extensions(str(path), str(extensions) if extensions.is_dir() else None)
            check_atomistic_model(str(path))
        except (RuntimeError, ValueError, OSError) as error:
            raise ForceDeltaError(
                f"{path}: not a complete file of an exported metatomic model "
                f"({_first_line(error)}); export or download it again"
            ) from error
        try:
            model = load_script(path, torch.device("cpu"), trust)
        except ForceDeltaError as error:
            text = str(error.__cause__)
            if "Unknown type name" in text or "Unknown builtin op" in text:
                raise ForceDeltaError(
                    f"{path}: the model needs compiled extensions that are missing; put the folder "
                    "that was collected when it was exported beside it as "
                    f"'{EXTENSIONS}', or install the package that they come from"
                ) from error
            raise
        _check_methods(model, path)
        return model


def _check_methods(model: torch.jit.RecursiveScriptModule, path: Path) -> None:
    """Check for the methods that every exported model has."""
    for name, answer in _METHODS.items():
        known: Any = model._c._get_method(name) if model._c._has_method(name) else None
        returns = "" if known is None else str(known.schema.returns[0].type.annotation_str)
        if answer not in returns:
            raise ForceDeltaError(
                f"{path}: claims to be an exported metatomic model, but lacks the method {name}; "
                "export it again"
            )


def _extensions(path: Path) -> list[str]:
    """Names of the compiled extensions that a file requires, and of their dependencies.

    Raises:
        ForceDeltaError: an incomplete file, or a list that cannot be read.
    """
    try:
        reader, names = records(path)
        texts = [reader.get_record(name) for name in _EXTENSION_LISTS if name in names]
    except (RuntimeError, ValueError, OSError) as error:
        raise ForceDeltaError(
            f"{path}: not a complete file of an exported metatomic model ({_first_line(error)}); "
            "export or download it again"
        ) from error
    named: list[str] = []
    for text in texts:
        found = parse_json(text, f"{path}: its list of extensions")
        if not isinstance(found, list):
            raise ForceDeltaError(
                f"{path}: its list of extensions is not a list, but {abbreviated(found)}"
            )
        named += [str(one.get("name", one) if isinstance(one, dict) else one) for one in found]
    return named


def _outputs(outputs: Mapping[str, Any], where: str, variant: str | None) -> tuple[str, str]:
    """Names of the energy and of the corresponding forces."""
    found: dict[str, tuple[str, str]] = {}
    energies = [name for name in outputs if name.partition("/")[0] == "energy"]
    if not energies:
        raise ForceDeltaError(
            f"{where}: the model has no output 'energy', only {_list(outputs)}: use a potential"
        )
    for energy in energies:
        suffix = energy.removeprefix("energy")
        names = [name + suffix for name in _FORCES if name + suffix in outputs]
        if names:
            found[suffix.removeprefix("/")] = (energy, names[0])
    if not found:
        raise ForceDeltaError(
            f"{where}: the model has no non-conservative forces (an output '{_FORCES[0]}' beside "
            f"{_list(energies)}), and U cannot be computed; choose a "
            "model that was trained with such a head"
        )
    if variant is None:
        variant = "" if "" in found else next(iter(found))
        if variant and len(found) > 1:
            raise ForceDeltaError(
                f"{where}: the model has several energies with non-conservative forces "
                f"({_list(found)}): choose one with forcedelta.models.metatomic.exported.load(..., "
                "variant=NAME)"
            )
    if variant not in found:
        raise ForceDeltaError(
            f"{where}: the model has no variant '{variant}' of energy and forces; it has "
            f"{_list(name or 'one without a name' for name in found)}"
        )
    return found[variant]


def _uncertainty(outputs: Mapping[str, Any], energy: str) -> str | None:
    """Name of the uncertainty of an energy that is given for whole structures, in a unit of energy."""
    name = "energy_uncertainty" + energy.removeprefix("energy")
    if name not in outputs or outputs[name].sample_kind != "system":
        return None
    from metatomic.torch import unit_conversion_factor

    try:
        unit_conversion_factor(outputs[name].unit, "eV")
    except (ValueError, RuntimeError):
        return None
    return name if outputs[name].unit else None


def _check_units(capabilities: Any, energy: str, forces: str, where: str) -> None:
    from metatomic.torch import unit_conversion_factor

    outputs = capabilities.outputs
    wanted = {
        "length": (capabilities.length_unit, "angstrom"),
        energy: (outputs[energy].unit, "eV"),
        forces: (outputs[forces].unit, "eV/angstrom"),
    }
    for what, (unit, ours) in wanted.items():
        try:
            if not unit:
                raise ValueError("none is given")
            unit_conversion_factor(unit, ours)
        except (ValueError, RuntimeError) as error:
            raise ForceDeltaError(
                f"{where}: the unit of {what} is '{unit}', which cannot be converted to {ours} "
                f"({_first_line(error)}); export the model with its units"
            ) from error


def _check_inputs(model: Any, where: str) -> None:
    inputs = model.requested_inputs(True)
    foreign = [
        name
        for name, option in inputs.items()
        if name not in _INPUTS or option.sample_kind != "system"
    ]
    if foreign:
        raise ForceDeltaError(
            f"{where}: the model needs {_list(foreign)} of the structure, which forcedelta does not "
            "provide: it supports the inputs total charge and spin multiplicity only"
        )


def _check_dtype_and_device(capabilities: Any, request: LoadRequest, where: str) -> None:
    asked = str(request.dtype).removeprefix("torch.")
    if capabilities.dtype != asked:
        raise ForceDeltaError(
            f"{where}: the model was exported for {capabilities.dtype}, but {asked} was requested; "
            f"use {capabilities.dtype}, or export it again"
        )
    devices = capabilities.supported_devices
    if request.device.type not in devices:
        raise ForceDeltaError(
            f"{where}: the model runs on {_list(devices)}, but {request.device.type} was requested"
        )


def _metadata(model: Any, energy: str, forces: str, cutoffs: list[float]) -> dict[str, Any]:
    said = model.metadata()
    entries: dict[str, Any] = {
        "name": said.name,
        "description": said.description,
        "authors": list(said.authors),
        "references": {kind: list(texts) for kind, texts in said.references.items()},
        **dict(said.extra),
    }
    return {name: value for name, value in entries.items() if value} | {
        "outputs": {"energy": energy, "direct forces": forces},
        "neighbour cutoffs": cutoffs,
        "net force": "the mean of the direct forces is taken off, as by MetatomicCalculator",
    }


def _list(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
