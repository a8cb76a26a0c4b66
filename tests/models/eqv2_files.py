"""Checkpoints of EquiformerV2 with random weights, in the format of the library's own trainers.

`python eqv2_files.py 31M eqV2_31M_random.pt` writes one, for benchmarks.

The configurations are those that fairchem published for the models of OMat24; the small ones differ
in sizes only. Weights that a network begins its training with make energies that jump at every
0.02 Å, the width of its Gaussians, and hardly depend on directions. Here the weights of the
Gaussians are smooth functions of the distance instead, as training makes them.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

BACKBONE: dict[str, Any] = {
    "model": "equiformer_v2_backbone",
    "use_pbc": True,
    "use_pbc_single": True,
    "otf_graph": True,
    "enforce_max_neighbors_strictly": False,
    "max_neighbors": 20,
    "max_radius": 12.0,
    "max_num_elements": 96,
    "avg_num_nodes": 31.17,
    "avg_degree": 61.95,
    "num_layers": 8,
    "sphere_channels": 128,
    "attn_hidden_channels": 64,
    "num_heads": 8,
    "attn_alpha_channels": 64,
    "attn_value_channels": 16,
    "ffn_hidden_channels": 128,
    "norm_type": "layer_norm_sh",
    "lmax_list": [4],
    "mmax_list": [2],
    "grid_resolution": 18,
    "num_sphere_samples": 128,
    "edge_channels": 128,
    "use_atom_edge_embedding": True,
    "share_atom_edge_embedding": False,
    "use_m_share_rad": False,
    "distance_function": "gaussian",
    "num_distance_basis": 512,
    "attn_activation": "silu",
    "use_s2_act_attn": False,
    "use_attn_renorm": True,
    "ffn_activation": "silu",
    "use_gate_act": False,
    "use_grid_mlp": True,
    "use_sep_s2_act": True,
    "alpha_drop": 0.1,
    "drop_path_rate": 0.1,
    "proj_drop": 0.0,
    "weight_init": "uniform",
}
"""Of eqV2_31M_omat."""

SIZES = {
    "31M": {},
    "86M": {"num_layers": 10, "lmax_list": [6], "mmax_list": [4]},
    "153M": {"num_layers": 20, "lmax_list": [6], "mmax_list": [3]},
    "small": {
        "num_layers": 2,
        "sphere_channels": 12,
        "attn_hidden_channels": 12,
        "num_heads": 2,
        "attn_alpha_channels": 8,
        "attn_value_channels": 6,
        "ffn_hidden_channels": 12,
        "edge_channels": 12,
        "max_radius": 6.0,
        "lmax_list": [3],
        "grid_resolution": 10,
    },
}

HEADS: dict[str, dict[str, Any]] = {
    "energy": {"module": "equiformer_v2_energy_head"},
    "forces": {"module": "equiformer_v2_force_head"},
    "stress": {
        "module": "rank2_symmetric_head",
        "output_name": "stress",
        "use_source_target_embedding": True,
        "decompose": True,
    },
}

_DENS = "fairchem.core.models.equiformer_v2.equiformer_v2_dens."
DENS_BACKBONE = {
    "model": _DENS + "EqV2DeNSBackbone",
    "use_force_encoding": True,
    "use_noise_schedule_sigma_encoding": False,
}
DENS_HEADS: dict[str, dict[str, Any]] = {
    "energy": {"module": _DENS + "DeNSScalarHead", "use_denoising": True},
    "forces": {"module": _DENS + "DeNSVectorHead"},
    "stress": HEADS["stress"] | {"module": _DENS + "DeNSRank2Head", "use_denoising": False},
}

ELEMENTS = [1, 6, 8, 14]
ENERGY_SCALE, FORCE_SCALE = (0.3, 1.7), (0.0, 0.4)  # mean and rmsd, eV and eV/Å


def backbone(size: str, denoising: bool = False, **changes: Any) -> dict[str, Any]:
    return BACKBONE | SIZES[size] | (DENS_BACKBONE if denoising else {}) | changes


def network(config: dict[str, Any], seed: int = 0) -> nn.Module:
    """The library's network of a model's configuration, with random weights."""
    from forcedelta.models.eqv2.library import import_fairchem, quiet_fairchem

    import_fairchem()
    from fairchem.core.models.base import HydraModel

    with torch.random.fork_rng(), quiet_fairchem():
        torch.manual_seed(seed)
        made = HydraModel(**{key: value for key, value in config.items() if key != "name"})
        with torch.no_grad():
            _make_smooth(made)
    return made


def _make_smooth(made: nn.Module) -> None:
    """Weights that make forces of eV/Å, which come from angles as much as from distances."""
    from fairchem.core.models.equiformer_v2.radial_function import RadialFunction

    for name, parameter in made.named_parameters():
        if parameter.dim() > 1 and "rad_func" not in name and "embedding.weight" not in name:
            parameter.mul_(2.0)
    waves = (torch.arange(8)[:, None] * torch.linspace(0, torch.pi, 600)).cos()
    for module in made.modules():
        if isinstance(module, RadialFunction):
            first = module.net[0].weight
            first[:, : waves.shape[1]] = 0.1 * torch.randn(len(first), len(waves)) @ waves
            module.net[-1].weight.mul_(3.0)
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(std=0.5)


def write_checkpoint(
    path: Path,
    size: str = "small",
    denoising: bool = False,
    heads: dict[str, Any] | None = None,
    seed: int = 0,
    **changes: Any,
) -> dict[str, Any]:
    """Writes what the library's trainer would write of such a network; returns what it wrote."""
    model = {
        "name": "hydra",
        "pass_through_head_outputs": True,
        "otf_graph": True,
        "backbone": backbone(size, denoising, **changes),
        "heads": heads or (DENS_HEADS if denoising else HEADS),
    }
    made = network(model, seed)
    references = torch.zeros(119)
    references[ELEMENTS] = torch.tensor([-1.1, -7.3, -5.2, -4.9])
    content = {
        # of a network in DistributedDataParallel
        "state_dict": {f"module.{key}": value for key, value in made.state_dict().items()},
        "normalizers": {
            "energy": _normalizer(*ENERGY_SCALE),
            "forces": _normalizer(*FORCE_SCALE),
            "stress_isotropic": _normalizer(0.1, 0.2),
        },
        "elementrefs": {"energy": {"element_references": references}},
        "config": {"model": model, "trainer": "equiformerv2_forces", "outputs": {"energy": {}}},
        "val_metrics": {"energy_mae": {"metric": np.float64(0.01), "numel": np.int64(7)}},
        "amp": None,
    }
    torch.save(content, path)
    return content


def _normalizer(mean: float, rmsd: float) -> dict[str, torch.Tensor]:
    return {"mean": torch.tensor(mean), "rmsd": torch.tensor(rmsd)}


if __name__ == "__main__":
    write_checkpoint(Path(sys.argv[2]), sys.argv[1])
