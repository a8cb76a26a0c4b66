"""Small models of fairchem-core, and what tests ask them."""

from pathlib import Path
from typing import Any

import fairchem_checkpoints as checkpoints
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from forcedelta import ForceDelta
from forcedelta.graph import Graphs
from forcedelta.models import LoadedModel, load_model
from forcedelta.models.fairchem.catalogue import FAMILY

needs_library = pytest.mark.skipif(bool(FAMILY.problem()), reason=FAMILY.problem())

KINDS = {
    "esen": (checkpoints.esen("omol"), "omol"),
    "allscaip": (checkpoints.allscaip("omol"), "omol"),
    "escaip": (checkpoints.escaip("omol", use_pbc=False), "omol"),
}


def write_each(folder: Path) -> dict[str, Path]:
    """A checkpoint of each kind."""
    return {
        kind: checkpoints.write(folder / f"{kind}.pt", config, dataset)
        for kind, (config, dataset) in KINDS.items()
    }


def load(path: Path, dtype: torch.dtype = torch.float64, **options: Any) -> LoadedModel:
    return load_model(path, dtype, architecture="fairchem", trust=True, **options)


def radical(charge: int = 0, spin: int = 2) -> Atoms:
    atoms = molecule("CH3")
    atoms.rattle(0.05, seed=1)
    atoms.info.update(charge=charge, spin=spin)
    return atoms


def evaluated(model: LoadedModel, atoms: Atoms) -> dict[str, Any]:
    dtype = next(model.module.parameters()).dtype
    return ForceDelta(model.module)(*Graphs(model, dtype, torch.device("cpu")).batch([atoms]))
