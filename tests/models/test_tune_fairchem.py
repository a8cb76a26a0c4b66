"""Consistency tuning of fairchem's networks with random weights."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from fairchem_models import KINDS, needs_library, radical, write_each

from forcedelta import Evaluator, ForceDeltaError, load_model, tune

pytestmark = needs_library


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fairchem")
    write_each(made)
    frames = []
    for seed in range(10):
        atoms = radical()
        atoms.rattle(0.05, seed=seed)
        frames.append(atoms)
    ase.io.write(made / "frames.xyz", frames)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_the_energy_is_tuned_and_the_direct_forces_stay(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    base, out = folder / f"{kind}.pt", tmp_path / "tuned.pt"
    result = tune(
        base, folder / "frames.xyz", "energy", out, epochs=2, batch_size=3,
        architecture="fairchem", trust=True,
    )  # fmt: skip
    assert result.after["held_out"] < result.before["held_out"]
    direct = []
    for model in (
        load_model(base, architecture="fairchem", trust=True),
        load_model(out, trust=True),
    ):
        evaluator = Evaluator(model, torch.float32)
        (found,) = evaluator.evaluate(evaluator.graph_of([radical()]))
        direct.append(found.direct_forces)
    assert np.array_equal(*direct)
    with pytest.raises(ForceDeltaError, match="--trust"):
        load_model(out)


def test_the_head_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ForceDeltaError, match="pass --reach energy or shared"):
        tune(
            folder / "esen.pt", folder / "frames.xyz", "head", tmp_path / "tuned.pt",
            architecture="fairchem", trust=True,
        )  # fmt: skip
