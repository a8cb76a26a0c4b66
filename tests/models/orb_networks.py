"""Orb networks with random weights: small ones in memory, real ones in orb-models' own files."""

import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from forcedelta.graph import Graphs
from forcedelta.models import LoadedModel

pytest.importorskip(
    "orb_models", reason="needs orb-models: pip install '.[orb]'", exc_type=ImportError
)
with warnings.catch_warnings():
    # what its downloader and its spherical harmonics say as they are imported
    warnings.simplefilter("ignore")
    from orb_models.forcefield import pretrained
    from orb_models.forcefield.atomic_system import SystemConfig
    from orb_models.forcefield.direct_regressor import DirectForcefieldRegressor

from forcedelta.models.orb.module import OrbModel, default_dtype
from forcedelta.models.orb.network import OrbNetwork
from forcedelta.models.orb.reference import calculator
from forcedelta.models.orb.scripted import scripted

KINDS = ("v2", "v3", "omol")


def regressor(
    kind: str, most: int = 20, dtype: torch.dtype = torch.float64
) -> DirectForcefieldRegressor:
    """A small network of one of orb-models' architectures; the same at each call."""
    config = SystemConfig(radius=6.0, max_num_neighbors=most)
    with torch.random.fork_rng(), default_dtype(torch.float32):
        torch.manual_seed(5)
        if kind == "v2":
            made = pretrained.orb_v2_architecture(1, device="cpu", system_config=config)
        else:
            made = pretrained.orb_v3_direct_architecture(
                latent_dim=32,
                base_mlp_hidden_dim=48,
                head_mlp_hidden_dim=32,
                num_message_passing_steps=2,
                has_charge_spin_cond=kind == "omol",
                has_stress=kind != "omol",
                device="cpu",
                system_config=config,
            )
    made.requires_grad_(False)
    return made.to(dtype).eval()


def small(kind: str, most: int = 20, dtype: torch.dtype = torch.float64) -> LoadedModel:
    model = OrbModel(OrbNetwork(regressor(kind, most, dtype))).eval()
    return LoadedModel(
        module=model,
        name=f"small {kind}",
        weights_hash="0" * 16,
        elements=frozenset(range(1, 84)),
        cutoff=model.cutoff,
        periodic=None,
        library="tests",
        script=partial(scripted, model),
        calculator=partial(
            calculator, partial(regressor, kind, most, dtype), torch.device("cpu"), dtype
        ),
    )


def expected(
    kind: str, atoms: Atoms, most: int = 20, dtype: torch.dtype = torch.float64
) -> dict[str, Any]:
    """What orb-models' own calculator says, with the same weights."""
    theirs = calculator(partial(regressor, kind, most, dtype), torch.device("cpu"), dtype)
    theirs.calculate(atoms)
    return theirs.results


NETWORKS = {
    "orb-v2": partial(pretrained.orb_v2_architecture),
    "orb-d3-sm-v2": partial(pretrained.orb_v2_architecture, 10),
    "orb-d3-xs-v2": partial(pretrained.orb_v2_architecture, 5),
    "orb-v3-direct-20": partial(pretrained.orb_v3_direct_architecture),
    "orb-v3-direct-omol": partial(
        pretrained.orb_v3_direct_architecture, has_charge_spin_cond=True, has_stress=False
    ),
    "conservative": partial(pretrained.orb_v3_conservative_architecture),
}
SAME = {"orb-d3-v2": "orb-v2", "orb-v3-direct-inf": "orb-v3-direct-20"}


@cache
def weights(network: str) -> dict[str, Tensor]:
    """Random weights of real size, as orb-models' training writes them."""
    with torch.random.fork_rng(), default_dtype(torch.float32):
        torch.manual_seed(7)
        return dict(NETWORKS[network](device="cpu").state_dict())


def checkpoint(folder: Path, architecture: str) -> Path:
    path = folder / f"{architecture}.ckpt"
    torch.save(weights(SAME.get(architecture, architecture)), path)
    return path


def acetaldehyde() -> Atoms:
    """Seven atoms without a cell; charge and spin for the models that want them."""
    atoms = molecule("CH3CHO")
    atoms.rattle(0.05, seed=1)
    atoms.info.update(charge=-1, spin=2)
    return atoms


def rock_salt() -> Atoms:
    """Eight atoms far off their places, moved out of the cell."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.rattle(0.1, seed=2)
    atoms.positions += [7.0, 0.0, -3.0]
    atoms.info.update(charge=0, spin=1)
    return atoms


def small_cell() -> Atoms:
    """Two atoms in a skewed cell that is smaller than the cutoff, one of them outside of it."""
    atoms = bulk("Si")
    atoms.set_cell(np.array([[3.4, 0, 0], [0.7, 3.2, 0], [-0.6, 0.5, 3.6]]), scale_atoms=True)
    atoms.rattle(0.1, seed=0)
    atoms.positions[1] += atoms.cell[0]
    atoms.info.update(charge=0, spin=1)
    return atoms


STRUCTURES = {"molecule": acetaldehyde, "crystal": rock_salt, "small cell": small_cell}


def graph(
    atoms: Atoms | list[Atoms], model: LoadedModel, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    """The arguments of the model."""
    structures = atoms if isinstance(atoms, list) else [atoms]
    return Graphs(model, dtype, torch.device("cpu")).batch(structures)
