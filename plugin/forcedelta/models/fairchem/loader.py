"""Loads direct-force models of fairchem-core 2.x, by published name or from a checkpoint."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from forcedelta.errors import ForceDeltaError
from forcedelta.models.catalogue import LoadRequest
from forcedelta.models.fairchem.checkpoint import find_checkpoint, kind_of, read_checkpoint
from forcedelta.models.fairchem.library import import_library, quiet_loading
from forcedelta.models.hashing import hash_of_tensors
from forcedelta.models.isolation import torch_state_kept
from forcedelta.models.loaded import LoadedModel

if TYPE_CHECKING:
    from forcedelta.models.fairchem.network import FairchemModel

_CHARGED = "omol"  # the data set for whose task fairchem requires charge and spin
_PERIODIC = {"omol": False, "oc25": True}
_KNOWN = {"omol": range(1, 84)}  # H to Bi; its references include elements without training data
_NO_REFERENCE = 1e-6  # eV; fitted reference energy of elements that do not occur


def load(request: LoadRequest) -> LoadedModel:
    """A direct-force model of fairchem-core.

    Published names use the library's own cache. A local file is a pickle and needs
    ``request.trust``.

    Raises:
        ForceDeltaError: a local file without ``trust``; weights that cannot be downloaded; a file
            that is not a complete checkpoint, or has no direct forces; ``compile`` for a network
            that does not support it.
    """
    if request.dtype not in (torch.float32, torch.float64):
        raise ForceDeltaError(f"models of fairchem run in float32 or float64, not {request.dtype}")
    path = find_checkpoint(request)  # before ten seconds of importing
    with torch_state_kept():
        import_library()
        with quiet_loading():
            checkpoint = read_checkpoint(path)
            kind = kind_of(checkpoint, path)
            if request.compile and kind != "eSEN":
                raise ForceDeltaError(
                    f"{path}: {kind} can only be compiled for one number of atoms; omit --compile"
                )
            weights_hash = hash_of_tensors(
                checkpoint.ema_state_dict, f"{checkpoint.model_config}{checkpoint.tasks_config}"
            )
            module = _build(checkpoint, kind, path, request)
    backbone: Any = module.network.backbone
    dataset = module.dataset
    return LoadedModel(
        module=module,
        name=request.name,
        weights_hash=weights_hash,
        elements=_elements(module),
        cutoff=float(backbone.cutoff),
        periodic=module.periodic if module.periodic is not None else _PERIODIC.get(dataset),
        library=f"fairchem-core {version('fairchem-core')}",
        metadata={
            "network": kind,
            "training_set": dataset,
            "max_neighbors": int(backbone.max_neighbors),
        },
        calculator=partial(_calculator, path, request) if _has_calculator(kind, request) else None,
    )


def _settings(request: LoadRequest, edges: bool) -> Any:
    """fairchem's settings, stated explicitly, as its presets compile and merge experts."""
    from fairchem.core.units.mlip_unit.api.inference import InferenceSettings

    return InferenceSettings(
        tf32=False,
        activation_checkpointing=False,
        merge_mole=False,
        compile=False,  # done in `_build`; the predict unit would compile at the first structure
        external_graph_gen=edges,
        base_precision_dtype=request.dtype,
    )


def _build(checkpoint: Any, kind: str, path: Path, request: LoadRequest) -> FairchemModel:
    from fairchem.core.units.mlip_unit.utils import (
        get_backbone_class_from_checkpoint,
        load_inference_model,
    )

    from forcedelta.models.fairchem.network import EdgeModel, OwnGraphModel

    settings = _settings(request, edges=kind == "eSEN")
    backbone = get_backbone_class_from_checkpoint(checkpoint).build_inference_settings(settings)
    if kind != "eSEN":
        backbone |= _own_graph_settings(checkpoint.model_config["backbone"])
    torch.set_default_dtype(request.dtype)  # of constants that the network creates
    try:
        averaged, _ = load_inference_model(
            str(path), {"backbone": backbone}, use_ema=True, preloaded_checkpoint=checkpoint
        )
        network: Any = averaged.module
        network.setup_tasks(checkpoint.tasks_config)
    except Exception as error:  # the library may raise anything for such a file
        raise ForceDeltaError(
            f"{path}: its weights do not match its configuration "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    energy, forces = _tasks(network, path)
    network.prepare_for_inference(None, settings)  # needs a structure only to merge experts
    network.eval().requires_grad_(False).to(request.dtype)
    charged = _CHARGED in energy.datasets and kind != "EScAIP"
    if request.compile:
        network = torch.compile(network, dynamic=True)
    build = EdgeModel if kind == "eSEN" else OwnGraphModel
    return build(network, energy, forces, charged).to(request.device).eval()


def _own_graph_settings(config: Any) -> dict[str, Any]:
    """Settings for AllScAIP and EScAIP: no padding, no compilation, differentiable attention.

    The library also selects plain attention when it differentiates. The number of places covers all
    neighbours that the soft ranks can admit, as EScAIP does not test for too many: twice k if atoms
    are equally far, k + 20 in the variant that saves memory.
    """
    nearest = int(config["knn_k"])
    places = max(int(config.get("knn_pad_size", 0)), nearest + max(nearest, 20))
    return {
        "use_compile": False,
        "use_padding": False,
        "atten_name": "math",
        "knn_pad_size": places,
    }


def _tasks(network: Any, path: Path) -> tuple[Any, Any]:
    """The tasks for energy and forces of the one data set."""
    datasets = sorted(network.dataset_to_tasks)
    if len(datasets) != 1:
        raise ForceDeltaError(
            f"{path}: holds tasks of {len(datasets)} data sets ({', '.join(datasets)}); only "
            "checkpoints of one are supported"
        )
    tasks = {task.property: task for task in network.tasks.values()}
    missing = [name for name in ("energy", "forces") if name not in tasks]
    if missing:
        raise ForceDeltaError(
            f"{path} predicts {', '.join(sorted(tasks)) or 'nothing'}, but not {missing[0]}: both "
            "energy and direct forces are needed"
        )
    return tasks["energy"], tasks["forces"]


def _elements(module: FairchemModel) -> frozenset[int]:
    """Elements with an embedding and a reference energy; for some data sets an explicit list."""
    config: Any = module.network.backbone
    known = set(range(1, int(config.max_num_elements)))
    if module.references is not None:
        references: Any = module.references.element_references
        known &= set(torch.nonzero(references.abs() > _NO_REFERENCE)[:, 0].tolist())
    return frozenset(known & set(_KNOWN.get(module.dataset, known)))


def _has_calculator(kind: str, request: LoadRequest) -> bool:
    """fairchem's predict unit cannot load EScAIP, nor run AllScAIP in float64."""
    return kind == "eSEN" or (kind == "AllScAIP" and request.dtype == torch.float32)


def _calculator(path: Path, request: LoadRequest) -> Any:
    """fairchem's own calculator with the same weights."""
    from fairchem.core.calculate.ase_calculator import FAIRChemCalculator
    from fairchem.core.units.mlip_unit import load_predict_unit

    with torch_state_kept(), quiet_loading():
        unit = load_predict_unit(path, _settings(request, edges=False), device=request.device.type)
        unit._lazy_init(None)  # otherwise done at the first structure, with a log of the settings
        calculator = FAIRChemCalculator(unit)
    if _CHARGED not in unit.dataset_to_tasks:
        # charge and spin in atoms.info would also reach networks trained with zeros only
        calculator.a2g = partial(calculator.a2g, r_data_keys=None)
    return calculator
