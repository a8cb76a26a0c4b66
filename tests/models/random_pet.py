"""A small PET of metatrain with random weights, exported by it."""

import warnings
from pathlib import Path

import torch


def random_pet(path: Path, dtype: torch.dtype = torch.float64) -> Path:
    """Energies of atoms and scales are those of no training: 0 and 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from metatrain.pet import PET
        from metatrain.utils.architectures import get_default_hypers
        from metatrain.utils.data import DatasetInfo
        from metatrain.utils.data.target_info import (
            get_energy_target_info,
            get_generic_target_info,
        )
        from omegaconf import OmegaConf

        small = dict.fromkeys(("d_pet", "d_head", "d_node", "d_feedforward"), 16)
        hypers = get_default_hypers("pet")["model"] | small | {"cutoff": 4.0, "num_heads": 2}
        force = {
            "quantity": "force",
            "unit": "eV/Angstrom",
            "type": {"cartesian": {"rank": 1}},
            "num_subtargets": 1,
            "sample_kind": "atom",
            "per_atom": True,
            "description": "",
        }
        name = "non_conservative_force"
        targets = {
            "energy": get_energy_target_info("energy", {"unit": "eV"}),
            name: get_generic_target_info(name, OmegaConf.create(force)),
        }
        info = DatasetInfo(length_unit="angstrom", atomic_types=[1, 6, 8, 29], targets=targets)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = PET(hypers, info).to(dtype).eval()
        made.export().save(path)
    return path
