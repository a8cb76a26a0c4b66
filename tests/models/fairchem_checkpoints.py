"""Inference checkpoints of fairchem-core with random weights, in the library's own format."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from forcedelta.models.fairchem.library import import_library, quiet_loading
from forcedelta.models.isolation import torch_state_kept

_CORE = "fairchem.core"
_ESEN = f"{_CORE}.models.uma.escn_md"
_ALLSCAIP = f"{_CORE}.models.allscaip.AllScAIP"
_ESCAIP = f"{_CORE}.models.escaip.EScAIP"
_MLIP = f"{_CORE}.units.mlip_unit.mlip_unit"
_NORMALIZATION = f"{_CORE}.modules.normalization"

ENERGY_SCALE, FORCE_SCALE = 1.423, 1.1  # eV, eV/Å
Config = dict[str, Any]


def esen(dataset: str = "omol", channels: int = 16, **backbone: Any) -> Config:
    """eSEN with direct forces; 128 channels and 4 layers are the published small size."""
    return {
        "_target_": f"{_CORE}.models.base.HydraModel",
        "backbone": {
            "model": f"{_CORE}.models.uma.escn_moe.eSCNMDMoeBackbone",
            "num_experts": 0,
            "max_num_elements": 100,
            "sphere_channels": channels,
            "lmax": 2,
            "mmax": 2,
            "otf_graph": True,
            "max_neighbors": 300,
            "cutoff": 6.0,
            "edge_channels": channels,
            "num_distance_basis": 16,
            "regress_forces": True,
            "direct_forces": True,
            "num_layers": 2,
            "hidden_channels": channels,
            "norm_type": "rms_norm_sh",
            "act_type": "gate",
            "ff_type": "spectral",
            "chg_spin_emb_type": "rand_emb",
            "cs_emb_grad": True,
            "dataset_list": [dataset],
        }
        | backbone,
        "heads": {
            "energy": {"module": f"{_ESEN}.MLP_Energy_Head"},
            "forces": {"module": f"{_ESEN}.Linear_Force_Head"},
        },
    }


def allscaip(dataset: str = "omol", **backbone: Any) -> Config:
    """AllScAIP with direct forces, as it is trained: padded and compiled."""
    return {
        "_target_": f"{_CORE}.models.base.HydraModel",
        "backbone": _attention(_ALLSCAIP, "AllScAIPBackbone", dataset) | backbone,
        "heads": {
            "energy": {"module": f"{_ALLSCAIP}.AllScAIPEnergyHead"},
            "forces": {"module": f"{_ALLSCAIP}.AllScAIPDirectForceHead"},
        },
    }


def escaip(dataset: str = "oc20", use_pbc: bool = True, **backbone: Any) -> Config:
    """EScAIP with direct forces, as it is trained: padded and compiled."""
    soft = {
        "use_pbc": use_pbc,
        "knn_soft": True,
        "knn_sigmoid_scale": 0.2,
        "knn_lse_scale": 0.1,
        "knn_use_low_mem": True,
    }
    return {
        "_target_": f"{_CORE}.models.base.HydraModel",
        "backbone": _attention(_ESCAIP, "EScAIPBackbone", dataset) | soft | backbone,
        "heads": {
            "energy": {"module": f"{_ESCAIP}.EScAIPEnergyHead"},
            "forces": {"module": f"{_ESCAIP}.EScAIPDirectForceHead"},
        },
    }


def _attention(module: str, name: str, dataset: str) -> Config:
    return {
        "model": f"{module}.{name}",
        "regress_forces": True,
        "direct_forces": True,
        "hidden_size": 32,
        "num_layers": 2,
        "dataset_list": [dataset],
        "max_num_elements": 100,
        "max_atoms": 50,
        "max_batch_size": 8,
        "max_radius": 6.0,
        "knn_k": 16,
        "knn_pad_size": 20,
        "atten_name": "memory_efficient",
        "atten_num_heads": 2,
        "freequency_list": [6, 5, 5],
        "edge_distance_expansion_size": 16,
        "use_compile": True,
        "use_padding": True,
    }


def reference_energy(number: int) -> float:
    """eV, of the elements that a checkpoint has a reference for."""
    return -13.0 - 9.5 * number**1.5 if 0 < number < 84 else 0.0


def task(name: str, what: str, dataset: str) -> Config:
    """A task of the checkpoint: what the library does with the output of a head."""
    energy = what == "energy"
    config: Config = {
        "_target_": f"{_MLIP}.Task",
        "name": name,
        "level": "system" if energy else "atom",
        "property": what,
        "out_spec": {
            "_target_": f"{_MLIP}.OutputSpec",
            "dim": [1] if energy else [3],
            "dtype": "float32",
        },
        "normalizer": {
            "_target_": f"{_NORMALIZATION}.normalizer.Normalizer",
            "mean": 0.0,
            "rmsd": ENERGY_SCALE if energy else FORCE_SCALE,
        },
        "datasets": [dataset],
        "metrics": ["mae"],
    }
    if energy:
        config["element_references"] = {
            "_target_": f"{_NORMALIZATION}.element_references.ElementReferences",
            "element_references": {
                "_target_": "torch.DoubleTensor",
                "_args_": [[reference_energy(number) for number in range(101)]],
            },
        }
    return config


def write(
    path: Path,
    config: Config,
    dataset: str,
    tasks: list[Config] | None = None,
    change: Callable[[Any], object] | None = None,
    seed: int = 0,
) -> Path:
    """An inference checkpoint of a network with random weights; ``change`` edits it before."""
    import_library()
    import hydra
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

    with torch_state_kept(), quiet_loading():
        torch.manual_seed(seed)
        model = hydra.utils.instantiate(copy.deepcopy(config))
        averaged = torch.optim.swa_utils.AveragedModel(model)
    checkpoint = MLIPInferenceCheckpoint(
        model_config=copy.deepcopy(config),
        model_state_dict=model.state_dict(),
        ema_state_dict=averaged.state_dict(),
        tasks_config=tasks
        or [task("energy", "energy", dataset), task("forces", "forces", dataset)],
    )
    if change is not None:
        change(checkpoint)
    torch.save(checkpoint, path)
    return path
