"""Consistency tuning of a PET with random weights, exported by metatrain."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest

pytest.importorskip("metatrain", reason="needs metatrain: pip install '.[pet]'")

import torch
from random_pet import random_pet
from systems import acetaldehyde

from forcedelta import Evaluator, ForceDelta, ForceDeltaError, load_model, tune

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
]


def test_a_pet_is_tuned(here: Path) -> None:
    base = random_pet(here / "pet.pt", torch.float32)
    ase.io.write("frames.xyz", [acetaldehyde(seed) for seed in range(10)])
    result = tune(base, "frames.xyz", "energy", "tuned.pt", epochs=2, batch_size=3)
    assert result.after["held_out"] < 0.9 * result.before["held_out"]
    models = [load_model(name) for name in (base, "tuned.pt")]
    evaluators = [Evaluator(model, torch.float32) for model in models]
    graph = evaluators[0].graph_of([acetaldehyde(20)])
    plain, tuned = (evaluator.evaluate(graph)[0] for evaluator in evaluators)
    assert np.array_equal(plain.direct_forces, tuned.direct_forces)
    assert models[1].script is not None
    scripted = ForceDelta(models[1].script())(*graph)
    for name in ("direct_forces", "conservative_forces"):
        assert np.allclose(scripted[name].numpy(), getattr(tuned, name), atol=2e-5)
    with pytest.raises(ForceDeltaError, match="pass --reach energy or shared"):
        tune(base, "frames.xyz", "head", "head.pt")
