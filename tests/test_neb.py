"""Nudged elastic bands of a direct-force model."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.mep import NEB
from ase.optimize import FIRE
from systems import acetaldehyde, small_network

from forcedelta import Guard, HookError, LoadedModel, Recorder, Trajectory
from forcedelta.ase import ForceDeltaCalculator, frozen
from md_hooks import run

IMAGES = 5


def band(shared: bool, **settings: object) -> list[Atoms]:
    network = small_network()
    model = LoadedModel(network, "small", "small", None, network.cutoff, None, "none")
    first, last = acetaldehyde(), acetaldehyde(seed=1)
    images = [first, *(first.copy() for _ in range(IMAGES - 2)), last]
    calculators = [
        ForceDeltaCalculator(model, dtype="float64", **settings)
        for _ in range(1 if shared else IMAGES)
    ]
    for number, image in enumerate(images):
        image.calc = calculators[0 if shared else number]
    return images


def neb(images: list[Atoms], shared: bool) -> NEB:
    made = NEB(images, method="improvedtangent", climb=True, allow_shared_calculator=shared)
    made.interpolate()
    return made


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_one_evaluation_of_each_image_and_step(tmp_path, shared, forces):
    images = band(shared, forces=forces)
    hooks = [Guard(stop_above=100.0), Recorder(tmp_path / "neb.h5", every=1)]
    result = run(FIRE(neb(images, shared), logfile=None), 4, hooks, fmax=1e-9)
    assert result.reason == "out of steps"
    assert result.evaluations == (IMAGES - 2) * 5 + 2
    trajectory = Trajectory(tmp_path / "neb.h5")
    assert trajectory.metadata["model"]["name"] == "small"
    each = [trajectory.series[f"force_delta_image_{k}"] for k in range(IMAGES)]
    np.testing.assert_array_equal(trajectory.series["force_delta"], np.max(each, axis=0))
    last = trajectory.frame(-1)
    number = int(last.extra["image"])
    np.testing.assert_array_equal(last.positions, images[number].positions)
    assert frozen(images[number]).info["force_delta"] == pytest.approx(last.force_delta, rel=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_images_do_not_move_in_time(shared):
    images = band(shared, every="adaptive")
    with pytest.raises(HookError, match="do not move in time, which adaptive monitoring needs"):
        run(FIRE(neb(images, shared), logfile=None), 4, [Guard(stop_above=100.0)])
