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

_CHARGED = "omol"  # the data set for whose task fairchem asks for a charge and a spin
_PERIODIC = {"omol": False, "oc25": True}
_KNOWN = {"omol": range(1, 84)}  # H to Bi; its references go on beyond what it was trained on
_NO_REFERENCE = 1e-6  # eV; what a fit of reference energies leaves for elements that do not occur


def load(request: LoadRequest) -> LoadedModel:
    """A direct-force model of fairchem-core.

    Published names go through the library's own download and cache. A local file is a pickle, and
    needs ``request.trust``.

    Raises:
        ForceDeltaError: no leave to run the code of a file; weights that cannot be had; a file that
            is no complete checkpoint, or one without direct forces; ``compile`` for a network that
            cannot be.
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
    """Settings of fairchem's, each that matters said: its presets compile, and merge experts."""
    from fairchem.core.units.mlip_unit.api.inference import InferenceSettings

    return InferenceSettings(
        tf32=False,
        activation_checkpointing=False,
        merge_mole=False,
        compile=False,  # here, afterwards: its predict unit would do it with the first structure
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
    torch.set_default_dtype(request.dtype)  # of constants that are made while it is built
    try:
        averaged, _ = load_inference_model(
            str(path), {"backbone": backbone}, use_ema=True, preloaded_checkpoint=checkpoint
        )
        network: Any = averaged.module
        network.setup_tasks(checkpoint.tasks_config)
    except Exception as error:  # whatever the library raises: the file is at fault
        raise ForceDeltaError(
            f"{path}: its weights and its configuration do not go together "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    energy, forces = _tasks(network, path)
    network.prepare_for_inference(None, settings)  # would look at a structure to merge experts
    network.eval().requires_grad_(False).to(request.dtype)
    charged = _CHARGED in energy.datasets and kind != "EScAIP"
    if request.compile:
        network = torch.compile(network, dynamic=True)
    build = EdgeModel if kind == "eSEN" else OwnGraphModel
    return build(network, energy, forces, charged).to(request.device).eval()


def _own_graph_settings(config: Any) -> dict[str, Any]:
    """For AllScAIP and EScAIP: neither padded nor compiled, and attention that has a gradient.

    The library takes the attention of plain products itself where it differentiates. A place for
    each neighbour that the soft ranks can let in, as EScAIP has no test for too many: twice k
    where atoms are equally far, k + 20 in the variant that saves memory.
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
            f"{path}: predicts {', '.join(sorted(tasks)) or 'nothing'}, but no {missing[0]}; both "
            "energy and direct forces are needed"
        )
    return tasks["energy"], tasks["forces"]


def _elements(module: FairchemModel) -> frozenset[int]:
    """Those with an embedding and a reference energy; of some data sets it is known better."""
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
        unit._lazy_init(None)  # the first structure would, and log the settings
        calculator = FAIRChemCalculator(unit)
    if _CHARGED not in unit.dataset_to_tasks:
        # what atoms.info says is passed on to any network, also to those that only ever saw zeros
        calculator.a2g = partial(calculator.a2g, r_data_keys=None)
    return calculator
